//! The built-in model: files that are compiled into the program.

use std::sync::OnceLock;

/// Files by their paths in the model folder.
pub type Files = &'static [(&'static str, &'static [u8])];

static FILES: OnceLock<Files> = OnceLock::new();

/// Registers `files` as the model source `builtin` of this process. Only the first call has an effect.
///
/// The engine itself contains no weights; the crate `soragen-builtin` registers the default model.
pub fn register_builtin(files: Files) {
    // A second call registers the same model.
    let _ = FILES.set(files);
}

/// The registered files; none before [`register_builtin`].
pub fn files() -> Files {
    FILES.get().copied().unwrap_or_default()
}

/// The bytes of one of the files.
pub fn file(path: &str) -> Option<&'static [u8]> {
    files().iter().find(|(name, _)| *name == path).map(|(_, bytes)| *bytes)
}
