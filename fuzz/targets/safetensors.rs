#![no_main]
//! A safetensors file. The length of the header is filled in, because a fuzzer would not guess it.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let folder = soragen_fuzz::folder().join("transformer");
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("model.safetensors");
    // The first byte is the number of bytes after the header.
    let Some((&rest, data)) = data.split_first() else { return };
    let header = data.len().saturating_sub(usize::from(rest));
    let bytes = [&(header as u64).to_le_bytes()[..], data].concat();
    std::fs::write(&file, bytes).expect("a file");
    soragen_fuzz::weights(&file, "model");
});
