#![no_main]
//! A `tokenizer.json`, with a prompt.

use candle_core::{DType, Device};
use libfuzzer_sys::fuzz_target;
use soragen::Cancel;
use soragen::checkpoint::Source;
use soragen::text::Umt5;

fuzz_target!(|data: &[u8]| {
    soragen_fuzz::ignore_caught_panics();
    let folder = soragen_fuzz::copied("layouts/wan-2.1");
    std::fs::write(folder.join("tokenizer/tokenizer.json"), data).expect("a file");
    let opened = Umt5::open(&Source::Folder(folder), DType::F32, &Device::Cpu, &Cancel::new());
    if let Some(encoder) = soragen_fuzz::value_or_message(opened) {
        soragen_fuzz::value_or_message(encoder.tokens("A red fox runs; 雪の上を走る 🦊 <extra_id_0>"));
    }
});
