#![no_main]
//! Conversion of a PyTorch file: the whole archive, or the pickle in a valid one.

use std::io::{Cursor, Write};

use libfuzzer_sys::fuzz_target;
use soragen::checkpoint::{Names, convert};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

fuzz_target!(|data: &[u8]| {
    soragen_fuzz::ignore_caught_panics();
    let folder = soragen_fuzz::folder();
    let (from, to) = (folder.join("model.pt"), folder.join("model.safetensors"));
    let bytes = if data.starts_with(b"PK") { data.to_vec() } else { archive(data) };
    std::fs::write(&from, bytes).expect("a file");
    for names in [Names::InFile, Names::Diffusers, Names::Original] {
        soragen_fuzz::value_or_message(convert(&from, &to, None, None, names));
    }
});

/// An archive as `torch.save` writes it, with 256 bytes of data.
fn archive(pickle: &[u8]) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let plain = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in [("m/data.pkl", pickle), ("m/data/0", &[0; 256]), ("m/version", b"3\n")] {
        archive.start_file(name, plain).expect("a file");
        archive.write_all(bytes).expect("bytes");
    }
    archive.finish().expect("an archive").into_inner()
}
