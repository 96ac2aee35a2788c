//! Reference values in `tests/fixtures`, created by the scripts in `tests/reference`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use soragen::autoencoder::Autoencoder;
use soragen::checkpoint::Source;
use soragen::{Cancel, Decoder, Session, Size};

/// The path of a fixture.
pub fn path(name: &str) -> PathBuf {
    let tests = std::env::var_os("SORAGEN_TESTS").unwrap_or(env!("CARGO_MANIFEST_DIR").into());
    PathBuf::from(tests).join("fixtures").join(name)
}

/// Copies a folder.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry")) {
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("a file")),
        }
    }
}

/// A copy of the miniature causal model with `change` applied to its `soragen.json`.
pub fn miniature(change: impl FnOnce(&mut serde_json::Value)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&path("miniature"), folder.path());
    let mut config = json("miniature/soragen.json");
    change(&mut config);
    std::fs::write(folder.path().join("soragen.json"), config.to_string()).expect("a file");
    folder
}

/// A copy of the model with references (`make_references.py`), with the other parts of the miniature.
pub fn puppets() -> tempfile::TempDir {
    let folder = miniature(|_| ());
    copy(&path("references"), folder.path());
    folder
}

/// The tensors of a `.safetensors` fixture.
pub fn tensors(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path(name), &Device::Cpu).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A `.json` fixture.
pub fn json(name: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A tiny pipeline: the model, and the results of diffusers.
pub struct Pipeline {
    /// The model folder.
    pub source: Source,
    /// The tensors of `expected.safetensors`; see `make_pipelines.py`.
    pub expected: HashMap<String, Tensor>,
    /// The request.
    pub request: serde_json::Value,
}

/// The names of all tiny pipelines.
pub const PIPELINES: [&str; 5] = ["t2v-unipc", "t2v-euler", "ti2v-22", "i2v-22", "i2v-21"];

impl Pipeline {
    /// One of [`PIPELINES`].
    pub fn open(name: &str) -> Self {
        let folder = format!("pipelines/{name}");
        Self {
            source: Source::Folder(path(&folder)),
            expected: tensors(&format!("{folder}/expected.safetensors")),
            request: json(&format!("{folder}/request.json")),
        }
    }
}

/// All elements as f32.
pub fn values(tensor: &Tensor) -> Vec<f32> {
    tensor
        .to_dtype(DType::F32)
        .and_then(|t| t.flatten_all())
        .and_then(|t| t.to_vec1())
        .expect("a numeric tensor")
}

/// Asserts that the tensors have the same shape and differ by at most `tolerance` per element.
#[track_caller]
pub fn assert_close(what: &str, actual: &Tensor, expected: &Tensor, tolerance: f32) {
    assert_eq!(actual.dims(), expected.dims(), "{what}: shape");
    let furthest = values(actual)
        .into_iter()
        .zip(values(expected))
        .map(|(a, b)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() })
        .fold(0.0, f32::max);
    assert!(furthest <= tolerance, "{what}: off by {furthest:e}, more than {tolerance:e}");
}

/// A VACE transformer with one block in its control branch, for the transformer of the miniature.
pub fn control_branch(folder: &Path) -> PathBuf {
    let base = tensors("miniature/transformer/diffusion_pytorch_model.safetensors");
    let mut all: HashMap<String, Tensor> = base.clone();
    for (name, tensor) in &base {
        if let Some(rest) = name.strip_prefix("blocks.1.") {
            all.insert(format!("vace_blocks.0.{rest}"), tensor.clone());
        }
    }
    let patch = &base["patch_embedding.weight"];
    let (dim, channels, _, rows, columns) = patch.dims5().unwrap();
    let wave = |count: usize, step: f32| {
        Tensor::from_vec((0..count).map(|i| (i as f32 * step).sin() * 0.2).collect(), count, &Device::Cpu)
            .unwrap()
    };
    for name in ["vace_blocks.0.proj_in", "vace_blocks.0.proj_out", "vace_patch_embedding"] {
        all.insert(format!("{name}.bias"), wave(dim, 0.3));
    }
    for (name, step) in [("vace_blocks.0.proj_in", 0.7), ("vace_blocks.0.proj_out", 1.1)] {
        all.insert(format!("{name}.weight"), wave(dim * dim, step).reshape((dim, dim)).unwrap());
    }
    let pixels = 16 * 16;
    let shape = (dim, 2 * channels + pixels, 1, rows, columns);
    let patch = wave(dim * (2 * channels + pixels) * rows * columns, 0.37).reshape(shape).unwrap();
    all.insert("vace_patch_embedding.weight".into(), patch);
    let file = folder.join("vace.safetensors");
    candle_core::safetensors::save(&all, &file).unwrap();
    file
}

/// All frames that `session` makes, f32 `[T, H, W, 3]`.
pub fn raw_frames(mut session: Session) -> Tensor {
    let Size { width, height } = session.size();
    let mut data = Vec::new();
    while let Some(frames) = session.next_raw_chunk(&Cancel::new(), &mut |_| {}).expect("a chunk") {
        data.extend_from_slice(&frames.data);
    }
    Tensor::from_vec(data, ((), height as usize, width as usize, 3), &Device::Cpu).expect("frames")
}

/// The frames that the autoencoder of the miniature makes of `latents`, with their last dimension the channels.
pub fn decoded(latents: &Tensor) -> Vec<f32> {
    let (source, cancel) = (Source::Folder(path("miniature")), Cancel::new());
    let autoencoder = Autoencoder::open(&source, Decoder::Auto, false, DType::F32, &Device::Cpu, &cancel);
    let autoencoder = autoencoder.expect("an autoencoder");
    let frames = autoencoder.decode(latents, &mut autoencoder.decoder_state(), &cancel).expect("frames");
    values(&frames.permute((0, 2, 3, 1)).expect("four dimensions"))
}
