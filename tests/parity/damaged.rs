//! Damaged, truncated and hostile files are errors that name the file. They never panic, and never allocate more memory
//! than the file has.

use std::path::{Path, PathBuf};

use soragen::checkpoint::Parts;
use soragen::{Cancel, Error, Length, Model, ModelInfo, OpenOptions, Request, Session, Size};
use soragen_tests::fixtures::{copy, miniature, path};
use soragen_tests::with;

/// A reproducible random number generator (<https://prng.di.unimi.it/splitmix64.c>).
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

/// Damages `bytes` in a random way. The first `header` bytes are the header.
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
            // A digit of a number in text.
            let digits: Vec<_> = (0..header).filter(|&i| bytes[i].is_ascii_digit()).collect();
            if let Some(&at) = digits.get(random.below(digits.len())) {
                bytes[at] = b'0' + random.below(10) as u8;
            }
        }
    }
    bytes
}

/// Opens the model and generates one frame.
fn run(model: &Path, parts: Parts) -> Result<(), Error> {
    ModelInfo::read(&model.to_string_lossy(), &parts)?;
    let model = Model::open(&model.to_string_lossy(), &with!(OpenOptions::default(); parts), &Cancel::new())?;
    let request = with!(
        Request::default();
        prompt: "a cat".into(),
        size: Some(Size { width: 64, height: 64 }),
        length: Length::Frames(1),
        steps: Some(1),
        guidance_scale: Some(1.0),
    );
    Session::new(model, request)?.next_raw_chunk(&Cancel::new(), &mut |_| {}).map(drop)
}

/// Counts the errors for `count` damaged versions of `file`. Each error has a message.
fn count_errors(model: &Path, parts: &Parts, file: &Path, header: usize, count: usize) -> usize {
    let original = std::fs::read(file).unwrap();
    let mut random = Random(original.len() as u64);
    let errors = (0..count).filter(|_| {
        std::fs::write(file, damage(&original, header, &mut random)).unwrap();
        match run(model, parts.clone()) {
            Ok(()) => false,
            Err(error) => {
                assert!(error.to_string().len() > 10, "{error}");
                true
            }
        }
    });
    let errors = errors.count();
    std::fs::write(file, original).unwrap();
    errors
}

#[test]
fn damaged_files_of_a_folder_never_panic() {
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
        let errors = count_errors(folder.path(), &Parts::default(), &folder.path().join(file), header, 25);
        assert!(errors > 3, "{file}: {errors}");
    }
    run(folder.path(), Parts::default()).unwrap();
}

#[test]
fn too_large_settings_of_a_causal_model_are_errors() {
    for (pointer, value) in [
        ("/causal/chunk", 1 << 40),
        ("/causal/window", u64::MAX),
        ("/causal/sink", u64::MAX),
        ("/natural_latents", u64::MAX),
        ("/sizes/0/0", 1 << 31),
    ] {
        let folder = miniature(|config| *config.pointer_mut(pointer).unwrap() = value.into());
        let error = run(folder.path(), Parts::default()).unwrap_err().to_string();
        assert!(error.contains("soragen.json") && error.contains("too large"), "{pointer}: {error}");
    }
}

/// The tokenizers crate panics at a reference to a missing token, when it encodes a prompt.
#[test]
fn a_tokenizer_with_missing_tokens_is_an_error() {
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
fn damaged_gguf_files_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("wan.gguf");
    super::layouts::write_gguf(&model);
    let parts = Parts {
        text_encoder: Some(path("layouts/wan-2.1")),
        autoencoder: Some(path("layouts/wan-2.1")),
        ..Default::default()
    };
    run(&model, parts.clone()).unwrap();
    let errors = count_errors(&model, &parts, &model, 4000, 150);
    assert!(errors > 50, "{errors}");
}

#[test]
fn headers_with_impossible_sizes_are_errors() {
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
    let tensor = |shape: &[u64], kind: u32| {
        let mut bytes = [&1_u64.to_le_bytes()[..], b"x", &(shape.len() as u32).to_le_bytes()].concat();
        shape.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
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
        ("shape.gguf", gguf(1, 0, &tensor(&[u64::MAX, u64::MAX], 0))),
        ("large.gguf", gguf(1, 0, &tensor(&[1 << 40], 8))),
        ("kind.gguf", gguf(1, 0, &tensor(&[1], 99))),
        ("old.gguf", [&b"GGUF\x01\0\0\0"[..], &[0; 40]].concat()),
    ] {
        let model = file(name, &bytes);
        let base = Some(path("layouts/wan-2.1"));
        let parts = Parts { text_encoder: base.clone(), autoencoder: base, ..Default::default() };
        let error = run(&model, parts).unwrap_err().to_string();
        assert!(error.contains(name), "{name}: {error}");
    }
}
