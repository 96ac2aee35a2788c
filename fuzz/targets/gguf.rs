#![no_main]
//! A GGUF file.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let folder = soragen_fuzz::folder().join("transformer");
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("model.gguf");
    std::fs::write(&file, [b"GGUF", data].concat()).expect("a file");
    soragen_fuzz::weights(&file, "model");
});
