//! A model's files, wherever they are.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufReader, Cursor};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{builtin, gguf};
use crate::cache::Key;
use crate::error::plain;
use crate::{Error, Result};

/// Configurations and tokenizers are read whole; no real one comes near this size.
const MAX_TEXT: u64 = 64 << 20;
/// Files up to this size are read for the digest of a model.
const MAX_DIGESTED: u64 = 1 << 20;

/// Where a model's files are: compiled in, or in a folder laid out as diffusers does it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The default model.
    Builtin,
    /// A folder with `model_index.json` in it.
    Folder(PathBuf),
}

/// `*.safetensors.index.json`: which file holds which tensor.
#[derive(Deserialize)]
struct ShardIndex {
    weight_map: std::collections::BTreeMap<String, String>,
}

impl Source {
    /// What `text` names: `builtin`, or the path of a folder.
    ///
    /// # Errors
    /// [`Error::Request`] for an empty name and for kinds of source that are not supported;
    /// [`Error::NotFound`] if there is nothing at the path, or a folder that is not a model.
    pub fn parse(text: &str) -> Result<Self> {
        if text == "builtin" {
            if builtin::file("model_index.json").is_none() {
                return Err(Error::Request(
                    "this build has no built-in model; name a model folder, or build with the feature `builtin`".into(),
                ));
            }
            return Ok(Self::Builtin);
        }
        if text.is_empty() {
            return Err(Error::Request(
                "no model is named; use `builtin` or the path of a model folder".into(),
            ));
        }
        if text.starts_with("hf:") {
            return Err(Error::Request(format!(
                "{text}: this version does not download; get the model with \
                 `hf download {} --local-dir DIR` and name DIR",
                text.trim_start_matches("hf:")
            )));
        }
        let path = PathBuf::from(text);
        if path.is_file() {
            return Err(Error::Invalid {
                path,
                reason:
                    "a single file; name a folder in diffusers layout (with model_index.json, transformer/, \
                         vae/, text_encoder/, tokenizer/, scheduler/)"
                        .into(),
            });
        }
        let index = path.join("model_index.json");
        if !path.is_dir() {
            let hint = "name an existing model folder, or `builtin`".into();
            return Err(Error::NotFound { path, hint });
        }
        if !index.is_file() {
            let hint = "the folder is not in diffusers layout; for Wan take a repository whose name ends in \
                        -Diffusers"
                .into();
            return Err(Error::NotFound { path: index, hint });
        }
        // One name for one folder, so that it is opened once however it is spelled.
        let path = path.canonicalize().map_err(|source| Error::Io { path, source })?;
        Ok(Self::Folder(path))
    }

    /// Where `path` is, for messages.
    pub fn path(&self, path: &str) -> PathBuf {
        match self {
            Self::Builtin => Path::new("builtin").join(path),
            Self::Folder(folder) => folder.join(path),
        }
    }

    /// Whether there is such a file.
    pub fn exists(&self, path: &str) -> bool {
        match self {
            Self::Builtin => builtin::file(path).is_some(),
            Self::Folder(folder) => folder.join(path).is_file(),
        }
    }

    /// A whole small file.
    pub fn read(&self, path: &str) -> Result<Cow<'static, [u8]>> {
        match self {
            Self::Builtin => builtin::file(path).map(Cow::Borrowed).ok_or_else(|| self.missing(path)),
            Self::Folder(folder) => {
                let full = folder.join(path);
                let size = std::fs::metadata(&full).map_err(|_| self.missing(path))?.len();
                if size > MAX_TEXT {
                    return Err(self.invalid(path, format!("{size} bytes are too many for such a file")));
                }
                std::fs::read(&full).map(Cow::Owned).map_err(|source| Error::Io { path: full, source })
            }
        }
    }

    /// A JSON file.
    pub fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        serde_json::from_slice(&self.read(path)?)
            .map_err(|e| self.invalid(path, format!("not understood: {e}")))
    }

    /// The weights in `folder`: `STEM.safetensors`, its shards, or `STEM.gguf`.
    ///
    /// Safetensors are mapped into memory, not read; tensors are converted to `dtype` as they are asked for.
    pub fn weights(
        &self,
        folder: &str,
        stem: &str,
        dtype: DType,
        device: &Device,
    ) -> Result<VarBuilder<'static>> {
        let name = |suffix: &str| format!("{folder}/{stem}.{suffix}");
        let (single, index, quantised) = (name("safetensors"), name("safetensors.index.json"), name("gguf"));
        if self.exists(&quantised) {
            let tensors = match self {
                Self::Builtin => gguf::tensors(Cursor::new(self.read(&quantised)?), device),
                Self::Folder(root) => {
                    let path = root.join(&quantised);
                    let file = File::open(&path).map_err(|source| Error::Io { path, source })?;
                    gguf::tensors(BufReader::new(file), device)
                }
            };
            let tensors = tensors.map_err(|e| self.invalid(&quantised, plain(&e)))?;
            return Ok(VarBuilder::from_tensors(tensors, dtype, device));
        }
        if matches!(self, Self::Folder(_)) && !self.exists(&single) && self.exists(&index) {
            let paths = self.shards(folder, &index)?;
            return mapped(&paths, dtype, device).map_err(|e| self.invalid(&index, plain(&e)));
        }
        self.weights_file(&single, dtype, device)
    }

    /// The weights in one safetensors file.
    pub fn weights_file(&self, path: &str, dtype: DType, device: &Device) -> Result<VarBuilder<'static>> {
        let weights = match self {
            Self::Builtin => {
                let bytes = builtin::file(path).ok_or_else(|| self.missing(path))?;
                VarBuilder::from_slice_safetensors(bytes, dtype, device)
            }
            Self::Folder(_) if !self.exists(path) => return Err(self.missing(path)),
            Self::Folder(root) => mapped(&[root.join(path)], dtype, device),
        };
        weights.map_err(|e| self.invalid(path, plain(&e)))
    }

    /// The files that the index names; each must be a plain name in the index's own folder.
    fn shards(&self, folder: &str, index: &str) -> Result<Vec<PathBuf>> {
        let map: ShardIndex = self.json(index)?;
        let names: std::collections::BTreeSet<_> = map.weight_map.into_values().collect();
        names
            .into_iter()
            .map(|name| {
                let mut parts = Path::new(&name).components();
                if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
                    return Err(self.invalid(index, format!("names {name:?}, which is not a file beside it")));
                }
                let path = format!("{folder}/{name}");
                if self.exists(&path) { Ok(self.path(&path)) } else { Err(self.missing(&path)) }
            })
            .collect()
    }

    /// The digest of the whole model. Weights in a folder count by their file's size and time, everything else
    /// by its content: they are too large to be read for this.
    pub(crate) fn digest(&self) -> std::io::Result<Key> {
        let mut key = Key::new("model");
        match self {
            Self::Builtin => {
                for (name, bytes) in builtin::FILES {
                    key = key.with(name, bytes);
                }
            }
            Self::Folder(root) => {
                // The folder may be moved.
                for path in files(root, 2)? {
                    let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
                    let metadata = path.metadata()?;
                    key = if metadata.len() <= MAX_DIGESTED {
                        key.with(&name, &std::fs::read(&path)?)
                    } else {
                        let time = metadata.modified()?.duration_since(SystemTime::UNIX_EPOCH);
                        let time = time.unwrap_or_default().as_nanos();
                        key.with(&name, format!("{} {time}", metadata.len()).as_bytes())
                    };
                }
            }
        }
        Ok(key)
    }

    /// An error about one of the files.
    pub fn invalid(&self, path: &str, reason: impl std::fmt::Display) -> Error {
        Error::Invalid { path: self.path(path), reason: reason.to_string() }
    }

    /// What `error`, met while the weights in `folder` were loaded, says to whoever has the folder.
    pub fn unfit(&self, folder: &str, error: Error) -> Error {
        match error {
            Error::Compute(e) => {
                let reason = plain(&e);
                self.invalid(folder, format!("the weights are not those that config.json tells of: {reason}"))
            }
            other => other,
        }
    }

    fn missing(&self, path: &str) -> Error {
        Error::NotFound {
            path: self.path(path),
            hint: "the model folder is not complete; download it again".into(),
        }
    }
}

/// The files in `folder` and in those in it, so deep, in order.
fn files(folder: &Path, deep: usize) -> std::io::Result<Vec<PathBuf>> {
    let mut paths =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        match path.is_dir() {
            true if deep > 1 => found.extend(files(&path, deep - 1)?),
            true => {}
            false => found.push(path),
        }
    }
    Ok(found)
}

fn mapped(paths: &[PathBuf], dtype: DType, device: &Device) -> candle_core::Result<VarBuilder<'static>> {
    // SAFETY: the files are only read. Whoever changes a weight file under a running program gets other
    // numbers, or a signal if he cuts it short, as with every mapped file.
    unsafe { VarBuilder::from_mmaped_safetensors(paths, dtype, device) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_error(text: &str) -> String {
        Source::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_be_a_model_is_refused_with_what_to_do() {
        assert!(parse_error("").contains("builtin"));
        assert!(parse_error("no/such/folder").contains("no/such/folder"));
        assert!(parse_error("hf:Wan-AI/Wan2.1-T2V-1.3B-Diffusers").contains("hf download"));
        assert!(parse_error("src").contains("model_index.json"));
        assert!(parse_error("Cargo.toml").contains("diffusers layout"));
    }

    #[test]
    fn an_index_may_not_name_files_elsewhere() {
        let root = std::env::temp_dir().join(format!("soragen-shards-{}", std::process::id()));
        std::fs::create_dir_all(root.join("transformer")).unwrap();
        let source = Source::Folder(root.clone());
        for name in ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "", ".."] {
            let index = serde_json::json!({ "weight_map": { "w": name } });
            let path = "transformer/m.safetensors.index.json";
            std::fs::write(root.join(path), index.to_string()).unwrap();
            let weights = source.weights("transformer", "m", DType::F32, &Device::Cpu);
            let error = weights.err().unwrap().to_string();
            assert!(error.contains("not a file beside it"), "{name}: {error}");
        }
        std::fs::remove_dir_all(root).unwrap();
    }
}
