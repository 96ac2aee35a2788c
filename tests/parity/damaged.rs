//! Files that are damaged, cut short, or lie: an error that names the file, never a panic, and no more memory than there is
//! in the file.

use std::path::{Path, PathBuf};

use soragen::checkpoint::Parts;
use soragen::{Cancel, Error, Length, Model, ModelInfo, OpenOptions, Request, Session, Size};
use soragen_tests::fixtures::{copy, miniature, path};

/// The same numbers each time (<https://prng.di.unimi.it/splitmix64.c>).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// One of many things that happen to `bytes`, whose first `header` are read as structure.
fn damage(bytes: &[u8], header: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let header = header.min(bytes.len());
    match random.below(5) {
        0 => bytes.truncate(random.below(bytes.len())),
        1 => {
            let at = random.below(header.saturating_sub(8));
            bytes[at..at + 8].copy_from_slice(&random.next().to_le_bytes());
        }
        2 => {
            let at = random.below(header.saturating_sub(8));
            bytes[at..at + 8].fill(0xff);
        }
        3 => bytes[random.below(header)] ^= 1 << random.below(8),
        _ => {
            // A digit of a number that is written out.
            let digits: Vec<_> = (0..header).filter(|&i| bytes[i].is_ascii_digit()).collect();
            if let Some(&at) = digits.get(random.below(digits.len())) {
                bytes[at] = b'0' + random.below(10) as u8;
            }
        }
    }
    bytes
}

/// Opens the model and makes a frame of it.
fn run(model: &Path, parts: Parts) -> Result<(), Error> {
    ModelInfo::read(&model.to_string_lossy(), &parts)?;
    let model = Model::open(&model.to_string_lossy(), &OpenOptions { parts, ..Default::default() })?;
    let request = Request {
        prompt: "a cat".into(),
        size: Some(Size { width: 64, height: 64 }),
        length: Length::Frames(1),
        steps: Some(1),
        guidance_scale: Some(1.0),
        ..Default::default()
    };
    Session::new(model, request)?.next_chunk(&Cancel::new(), &mut |_| {}).map(drop)
}

/// How many of `count` damaged versions of `file` are refused; each refusal says something.
fn refused(model: &Path, parts: &Parts, file: &Path, header: usize, count: usize) -> usize {
    let whole = std::fs::read(file).unwrap();
    let mut random = Random(whole.len() as u64);
    let refused = (0..count).filter(|_| {
        std::fs::write(file, damage(&whole, header, &mut random)).unwrap();
        match run(model, parts.clone()) {
            Ok(()) => false,
            Err(error) => {
                assert!(error.to_string().len() > 10, "{error}");
                true
            }
        }
    });
    let refused = refused.count();
    std::fs::write(file, whole).unwrap();
    refused
}

#[test]
fn every_file_of_a_folder_may_be_damaged() {
    let folder = tempfile::tempdir().unwrap();
    copy(&path("layouts/wan-2.1"), folder.path());
    for (file, header) in [
        ("model_index.json", usize::MAX),
        ("scheduler/scheduler_config.json", usize::MAX),
        ("transformer/config.json", usize::MAX),
        ("vae/config.json", usize::MAX),
        ("text_encoder/config.json", usize::MAX),
        ("tokenizer/tokenizer.json", usize::MAX),
        ("transformer/diffusion_pytorch_model.safetensors", 9000),
        ("vae/diffusion_pytorch_model.safetensors", 9000),
        ("text_encoder/model.safetensors", 2000),
    ] {
        let refused = refused(folder.path(), &Parts::default(), &folder.path().join(file), header, 25);
        assert!(refused > 3, "{file}: {refused}");
    }
    run(folder.path(), Parts::default()).unwrap();
}

#[test]
fn no_number_of_a_causal_model_is_too_much() {
    for (place, number) in [
        ("/causal/chunk", 1 << 40),
        ("/causal/window", u64::MAX),
        ("/causal/sink", u64::MAX),
        ("/natural_latents", u64::MAX),
        ("/sizes/0/0", 1 << 31),
    ] {
        let folder = miniature(|config| *config.pointer_mut(place).unwrap() = number.into());
        let error = run(folder.path(), Parts::default()).unwrap_err().to_string();
        assert!(error.contains("soragen.json") && error.contains("too large"), "{place}: {error}");
    }
}

/// The tokenizers' crate panics at a token that is referred to and is not there, and not before a prompt is read.
#[test]
fn a_tokenizer_may_refer_to_what_it_has_not() {
    let folder = tempfile::tempdir().unwrap();
    copy(&path("layouts/wan-2.1"), folder.path());
    let file = folder.path().join("tokenizer/tokenizer.json");
    let mut tokenizer: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    tokenizer["post_processor"]["special_tokens"] = serde_json::json!({});
    std::fs::write(&file, tokenizer.to_string()).unwrap();
    let error = run(folder.path(), Parts::default()).unwrap_err().to_string();
    assert!(error.contains("tokenizer/tokenizer.json is damaged"), "{error}");
}

#[test]
fn a_gguf_may_be_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("wan.gguf");
    super::layouts::write_gguf(&model);
    let parts = Parts {
        text_encoder: Some(path("layouts/wan-2.1")),
        autoencoder: Some(path("layouts/wan-2.1")),
        ..Default::default()
    };
    run(&model, parts.clone()).unwrap();
    let refused = refused(&model, &parts, &model, 4000, 150);
    assert!(refused > 50, "{refused}");
}

#[test]
fn headers_that_promise_too_much_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| -> PathBuf {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        file
    };
    let safetensors = |header: &str| [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    let gguf = |tensors: u64, entries: u64, rest: &[u8]| {
        [&b"GGUF\x03\0\0\0"[..], &tensors.to_le_bytes(), &entries.to_le_bytes(), rest].concat()
    };
    let alignment = |alignment: u32| {
        let name = b"general.alignment";
        let kind = 4_u32;
        [&(name.len() as u64).to_le_bytes()[..], name, &kind.to_le_bytes(), &alignment.to_le_bytes()].concat()
    };
    let tensor = |sides: &[u64], kind: u32| {
        let mut bytes = [&1_u64.to_le_bytes()[..], b"x", &(sides.len() as u32).to_le_bytes()].concat();
        sides.iter().for_each(|side| bytes.extend(side.to_le_bytes()));
        [&bytes[..], &kind.to_le_bytes(), &0_u64.to_le_bytes()].concat()
    };
    let huge = r#"{"x":{"dtype":"F32","shape":[99999999999,99999999999],"data_offsets":[0,4]}}"#;
    let outside = r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    for (name, bytes) in [
        ("empty.safetensors", vec![]),
        ("short.safetensors", vec![1, 2, 3]),
        ("endless.safetensors", u64::MAX.to_le_bytes().to_vec()),
        ("long.safetensors", (1_u64 << 40).to_le_bytes().to_vec()),
        ("huge.safetensors", safetensors(huge)),
        ("outside.safetensors", safetensors(outside)),
        ("text.safetensors", b"once upon a time there was a fox".to_vec()),
        ("tensors.gguf", gguf(u64::MAX, 0, &[])),
        ("entries.gguf", gguf(0, u64::MAX, &[])),
        ("many.gguf", gguf(1 << 20, 1 << 20, &[0; 64])),
        ("alignment.gguf", gguf(0, 1, &alignment(0))),
        ("alignment-3.gguf", gguf(0, 1, &alignment(3))),
        ("sides.gguf", gguf(1, 0, &tensor(&[u64::MAX, u64::MAX], 0))),
        ("large.gguf", gguf(1, 0, &tensor(&[1 << 40], 8))),
        ("kind.gguf", gguf(1, 0, &tensor(&[1], 99))),
        ("old.gguf", [&b"GGUF\x01\0\0\0"[..], &[0; 40]].concat()),
    ] {
        let model = file(name, &bytes);
        let here = Some(path("layouts/wan-2.1"));
        let parts = Parts { text_encoder: here.clone(), autoencoder: here, ..Default::default() };
        let error = run(&model, parts).unwrap_err().to_string();
        assert!(error.contains(name), "{name}: {error}");
    }
}
