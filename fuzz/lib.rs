//! Shared code of the fuzz targets: models on disk, with one file from the fuzzer.

use std::path::{Path, PathBuf};
use std::sync::{Once, OnceLock};

use candle_core::{DType, Device};
use soragen::checkpoint::{Parts, Source};
use soragen::{Cancel, Error, ModelInfo};
use tempfile::TempDir;

/// A model fixture of the tests.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

/// A temporary folder of the process.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().expect("a folder")).path()
}

/// A copy of the fixture `name`, created once.
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

/// Ignores panics that the engine catches, for example those of the tokenizers crate. libFuzzer's hook would abort at
/// them. Uncaught panics still abort.
pub fn ignore_caught_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(|_| {})));
}

/// The value; asserts that an error has a message.
pub fn value_or_message<T>(result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            assert!(error.to_string().len() > 5, "{error:?}");
            None
        }
    }
}

/// Uses the weight file `file` as each part of a model, and loads all its tensors.
pub fn weights(file: &Path, name: &str) {
    let base = fixture("layouts/wan-2.1");
    let part = |choose: &dyn Fn(&mut Parts) -> &mut Option<PathBuf>| {
        let mut parts = Parts::default();
        *choose(&mut parts) = Some(file.into());
        value_or_message(ModelInfo::read(&base.to_string_lossy(), &parts));
    };
    part(&|parts| &mut parts.transformer);
    part(&|parts| &mut parts.text_encoder);
    part(&|parts| &mut parts.autoencoder);

    let source = Source::Folder(folder().into());
    let Some(shapes) = value_or_message(source.shapes("transformer", name)) else { return };
    let Some(weights) = value_or_message(source.weights("transformer", name, DType::F32, &Device::Cpu, &Cancel::new())) else { return };
    for tensor in shapes.keys() {
        // An error is fine.
        let _ = weights.get_unchecked(tensor);
    }
}
