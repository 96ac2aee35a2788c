//! What the targets share: models on the disk of which one file is the fuzzer's.

use std::path::{Path, PathBuf};
use std::sync::{Once, OnceLock};

use candle_core::{DType, Device};
use soragen::checkpoint::{Parts, Source};
use soragen::{Cancel, Error, ModelInfo};
use tempfile::TempDir;

/// A model of the tests, in diffusers' layout.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

/// A folder that lasts as long as the process.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().expect("a folder")).path()
}

/// A copy of the model `name` of the tests; made once.
pub fn copied(name: &str) -> PathBuf {
    let to = folder().join(name.replace('/', "-"));
    if !to.exists() {
        copy(&fixture(name), &to);
    }
    to
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() { copy(&path, &to) } else { drop(std::fs::copy(&path, &to).expect("a copy")) }
    }
}

/// Panics that the engine catches, as it must with the tokenizers of others, are no findings; the fuzzer's own hook would
/// end the process at them. Those that nobody catches still do.
pub fn heed_uncaught_panics_only() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(|_| {})));
}

/// An error says something.
pub fn said<T>(result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            assert!(error.to_string().len() > 5, "{error:?}");
            None
        }
    }
}

/// Takes `file`, of weights, for each part of a model in turn, and reads all its tensors.
pub fn weights(file: &Path, name: &str) {
    let base = fixture("layouts/wan-2.1");
    let part = |choose: &dyn Fn(&mut Parts) -> &mut Option<PathBuf>| {
        let mut parts = Parts::default();
        *choose(&mut parts) = Some(file.into());
        said(ModelInfo::read(&base.to_string_lossy(), &parts));
    };
    part(&|parts| &mut parts.transformer);
    part(&|parts| &mut parts.text_encoder);
    part(&|parts| &mut parts.autoencoder);

    let source = Source::Folder(folder().into());
    let Some(shapes) = said(source.shapes("transformer", name)) else { return };
    let Some(weights) = said(source.weights("transformer", name, DType::F32, &Device::Cpu, &Cancel::new())) else { return };
    for tensor in shapes.keys() {
        // An error is as good.
        let _ = weights.get_unchecked(tensor);
    }
}
