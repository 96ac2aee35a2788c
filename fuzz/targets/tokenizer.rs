#![no_main]
//! `tokenizer.json`, and a prompt that goes through it.

use candle_core::{DType, Device};
use libfuzzer_sys::fuzz_target;
use soragen::Cancel;
use soragen::checkpoint::Source;
use soragen::text::Umt5;

fuzz_target!(|data: &[u8]| {
    soragen_fuzz::heed_uncaught_panics_only();
    let folder = soragen_fuzz::copied("layouts/wan-2.1");
    std::fs::write(folder.join("tokenizer/tokenizer.json"), data).expect("a file");
    let opened = Umt5::open(&Source::Folder(folder), DType::F32, &Device::Cpu, &Cancel::new());
    if let Some(encoder) = soragen_fuzz::said(opened) {
        soragen_fuzz::said(encoder.tokens("A red fox runs; 雪の上を走る 🦊 <extra_id_0>"));
    }
});
