#![no_main]
//! A file of weights in safetensors. The length of the header is put in place, which nobody would guess.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let folder = soragen_fuzz::folder().join("transformer");
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("model.safetensors");
    // The first byte says how much of it is no header.
    let Some((&rest, data)) = data.split_first() else { return };
    let header = data.len().saturating_sub(usize::from(rest));
    let bytes = [&(header as u64).to_le_bytes()[..], data].concat();
    std::fs::write(&file, bytes).expect("a file");
    soragen_fuzz::weights(&file, "model");
});
