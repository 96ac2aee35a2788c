//! A model's files, wherever they are.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::assembly::{self, Assembly, Parts};
use super::builtin;
use super::lora::{Lora, Noise};
use super::names::{Part, SECOND_TRANSFORMER};
use super::tensors::Tensors;
use super::weights::{Stored, Weights};
use crate::digest::Digest;
use crate::error::plain;
use crate::hub::{self, Hub, HubName};
use crate::{Error, Result};

/// Configurations and tokenizers are read whole; no real one comes near this size.
const MAX_TEXT: u64 = 64 << 20;
/// Files up to this size are read for the digest of a model.
const MAX_DIGESTED: u64 = 1 << 20;
/// The file that makes a folder a model in diffusers' layout.
pub(crate) const INDEX: &str = "model_index.json";

/// Where a model's files are. Whatever the layout, they are asked for by their paths in a folder of diffusers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The default model.
    Builtin,
    /// A folder with `model_index.json` in it.
    Folder(PathBuf),
    /// Files from several places, or in another layout.
    Assembled(Arc<Assembly>),
}

/// A file that was found.
enum Found<'a> {
    Bytes(&'a [u8]),
    Compiled(&'static [u8]),
    At(PathBuf),
}

/// `*.safetensors.index.json`: which file holds which tensor.
#[derive(Deserialize)]
pub(crate) struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

impl ShardIndex {
    /// What it calls the files, each once.
    pub(crate) fn files(self) -> BTreeSet<String> {
        self.weight_map.into_values().collect()
    }
}

impl Source {
    /// What `text` names: `builtin`, a folder in diffusers' or in Wan's own layout, a file with a transformer, or
    /// `hf:owner/name@revision`, which was [pulled](Hub::pull); with `parts` in the place of its own.
    ///
    /// # Errors
    /// [`Error::Request`] for an empty name and for kinds of source that are not supported;
    /// [`Error::NotFound`] if there is nothing at a path, or a part is missing; [`Error::Invalid`] for a file that is
    /// no weights, or not those of that part; [`Error::Download`] for a model of the hub that is not on this machine.
    pub fn parse(text: &str, parts: &Parts) -> Result<Self> {
        if text == "builtin" {
            if builtin::file(INDEX).is_none() {
                return Err(Error::Request(crate::Setting::Model,
                    "this program has no built-in model; name a model folder, or call soragen_builtin::register()".into(),
                ));
            }
            if *parts != Parts::default() {
                return Err(Error::Request(
                    crate::Setting::Parts,
                    "the parts of the built-in model cannot be replaced; name a model folder or file too"
                        .into(),
                ));
            }
            return Ok(Self::Builtin);
        }
        if text.is_empty() {
            return Err(Error::Request(
                crate::Setting::Model,
                "no model is named; use `builtin`, the path of a model folder or file, or hf:owner/name"
                    .into(),
            ));
        }
        let path = match HubName::parse(text)? {
            Some(name) => Hub::from_env().find(&name)?,
            None => PathBuf::from(text),
        };
        if !path.exists() {
            let hint = "name an existing model folder or file, or `builtin`".into();
            return Err(Error::NotFound { path, hint });
        }
        // One name for one model, so that it is opened once however it is spelled.
        let path = path.canonicalize().map_err(|source| Error::Io { path, source })?;
        if path.join(INDEX).is_file() && *parts == Parts::default() {
            return Ok(Self::Folder(path));
        }
        Ok(Self::Assembled(Arc::new(assembly::assemble(&path, parts)?)))
    }

    /// For people.
    pub fn name(&self) -> String {
        let path = match self {
            Self::Builtin => return "builtin".into(),
            Self::Folder(path) => path,
            Self::Assembled(assembly) => &assembly.path,
        };
        if let Some(name) = hub::name_of(path) {
            return name.into();
        }
        let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
        name.unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
    }

    /// Where `path` is, for messages.
    pub fn path(&self, path: &str) -> PathBuf {
        match self {
            Self::Builtin => Path::new("builtin").join(path),
            Self::Folder(folder) => folder.join(path),
            Self::Assembled(assembly) => assembly.path(path),
        }
    }

    fn find(&self, path: &str) -> Option<Found<'_>> {
        let file = |path: PathBuf| path.is_file().then_some(Found::At(path));
        match self {
            Self::Builtin => builtin::file(path).map(Found::Compiled),
            Self::Folder(folder) => file(folder.join(path)),
            Self::Assembled(assembly) => match assembly.texts.get(path) {
                Some(bytes) => Some(Found::Bytes(bytes)),
                None => file(assembly.path(path)),
            },
        }
    }

    /// Whether there is such a file.
    pub fn exists(&self, path: &str) -> bool {
        self.find(path).is_some()
    }

    /// A whole small file.
    pub fn read(&self, path: &str) -> Result<Cow<'_, [u8]>> {
        match self.find(path).ok_or_else(|| self.missing(path))? {
            Found::Bytes(bytes) | Found::Compiled(bytes) => Ok(Cow::Borrowed(bytes)),
            Found::At(full) => {
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

    /// The weights in `folder`: `STEM.safetensors`, its shards, or `STEM.gguf`, under any names that are known for
    /// the part of the model that it is.
    ///
    /// Safetensors are mapped into memory, not read; tensors are converted to `dtype` as they are asked for.
    pub fn weights(
        &self,
        folder: &str,
        stem: &str,
        dtype: DType,
        device: &Device,
    ) -> Result<VarBuilder<'static>> {
        Ok(VarBuilder::from_backend(Box::new(self.changed(folder, stem)?), dtype, device.clone()))
    }

    /// The same for layers that may be left in the blocks of a GGUF file, as they are if `blocks` says so.
    pub fn tensors(
        &self,
        folder: &str,
        stem: &str,
        dtype: DType,
        device: &Device,
        blocks: bool,
    ) -> Result<Tensors> {
        Ok(Tensors::new(self.changed(folder, stem)?, dtype, device, blocks))
    }

    /// The weights with what is added to them.
    fn changed(&self, folder: &str, stem: &str) -> Result<Weights> {
        let (path, weights) = self.open(folder, stem)?;
        let mut weights = weights.map_err(|e| self.invalid(&path, plain(&e)))?;
        if let (Self::Assembled(assembly), Some(Part::Transformer)) = (self, Part::of_folder(folder)) {
            let other = if folder == SECOND_TRANSFORMER { Noise::High } else { Noise::Low };
            let loras: Vec<_> =
                assembly.loras.iter().filter(|lora| lora.noise != Some(other)).cloned().collect();
            weights.change(Part::Transformer, &loras)?;
        }
        Ok(weights)
    }

    /// The shapes of the tensors in `folder`, by the engine's names; nothing is loaded.
    pub fn shapes(&self, folder: &str, stem: &str) -> Result<HashMap<String, Vec<usize>>> {
        Ok(self.stored(folder, stem)?.into_iter().map(|(name, stored)| (name, stored.shape)).collect())
    }

    /// What the file says of the tensors in `folder`, by the engine's names; nothing is loaded.
    pub(crate) fn stored(&self, folder: &str, stem: &str) -> Result<HashMap<String, Stored>> {
        Ok(self.changed(folder, stem)?.stored())
    }

    /// The weights, and the path that they are at.
    fn open(&self, folder: &str, stem: &str) -> Result<(String, candle_core::Result<Weights>)> {
        let part = Part::of_folder(folder);
        if let Self::Assembled(assembly) = self
            && let Some(paths) = assembly.weights.get(folder)
        {
            return Ok((folder.into(), Weights::open(part, paths)));
        }
        let name = |suffix: &str| format!("{folder}/{stem}.{suffix}");
        let (single, index, quantised) = (name("safetensors"), name("safetensors.index.json"), name("gguf"));
        let path = if self.exists(&quantised) { quantised } else { single };
        match self.find(&path) {
            Some(Found::Compiled(bytes)) => Ok((path, Weights::compiled(part, bytes))),
            Some(Found::At(file)) => Ok((path, Weights::open(part, &[file]))),
            _ if self.exists(&index) => {
                let paths = self.shards(folder, &index)?;
                Ok((index, Weights::open(part, &paths)))
            }
            _ => Err(self.missing(&path)),
        }
    }

    /// The weights in one file.
    pub fn weights_file(&self, path: &str, dtype: DType, device: &Device) -> Result<VarBuilder<'static>> {
        let weights = match self.find(path) {
            Some(Found::Compiled(bytes)) => Weights::compiled(None, bytes),
            Some(Found::At(file)) => Weights::open(None, &[file]),
            _ => return Err(self.missing(path)),
        };
        let weights = weights.map_err(|e| self.invalid(path, plain(&e)))?;
        Ok(VarBuilder::from_backend(Box::new(weights), dtype, device.clone()))
    }

    /// What is to be added to the transformer's weights.
    pub(crate) fn loras(&self) -> &[Lora] {
        match self {
            Self::Assembled(assembly) => &assembly.loras,
            _ => &[],
        }
    }

    /// The files that the index names; each must be a plain name in the index's own folder.
    fn shards(&self, folder: &str, index: &str) -> Result<Vec<PathBuf>> {
        let map: ShardIndex = self.json(index)?;
        map.files()
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

    /// The digest of the model, or of these of its folders alone. Weights in a folder count by their file's size and
    /// time, everything else by its content: they are too large to be read for this.
    pub(crate) fn digest(&self, folders: &[&str]) -> std::io::Result<Digest> {
        let counts =
            |name: &str| folders.is_empty() || folders.contains(&name.split('/').next().unwrap_or(name));
        let mut key = Digest::new("model");
        let of_folder = |mut key: Digest, root: &Path| -> std::io::Result<Digest> {
            for path in files(root, 2)? {
                // The folder may be moved.
                let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy();
                if counts(&name) {
                    key = of_file(key, &name, &path)?;
                }
            }
            Ok(key)
        };
        match self {
            Self::Builtin => {
                for (name, bytes) in builtin::files().iter().filter(|(name, _)| counts(name)) {
                    key = key.with(name, bytes);
                }
            }
            Self::Folder(root) => key = of_folder(key, root)?,
            Self::Assembled(assembly) => {
                if let Some(base) = &assembly.base {
                    key = of_folder(key, base)?;
                }
                for (name, text) in assembly.texts.iter().filter(|(name, _)| counts(name)) {
                    key = key.with(name, text);
                }
                for lora in assembly.loras.iter().filter(|_| counts("transformer")) {
                    let noise = format!("{:?}", lora.noise);
                    key = of_file(key, "lora", &lora.path)?.with("scale", &lora.scale.to_le_bytes());
                    key = key.with("noise", noise.as_bytes());
                }
                for (name, file) in assembly.files.iter().filter(|(name, _)| counts(name)) {
                    key = of_file(key, name, file)?;
                }
                for (name, paths) in assembly.weights.iter().filter(|(name, _)| counts(name)) {
                    for path in paths {
                        key = of_file(key, name, path)?;
                    }
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

fn of_file(key: Digest, name: &str, path: &Path) -> std::io::Result<Digest> {
    let metadata = path.metadata()?;
    if metadata.len() <= MAX_DIGESTED {
        return Ok(key.with(name, &std::fs::read(path)?));
    }
    let time = metadata.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    Ok(key.with(name, format!("{} {time}", metadata.len()).as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_error(text: &str) -> String {
        Source::parse(text, &Parts::default()).unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_be_a_model_is_refused_with_what_to_do() {
        assert!(parse_error("").contains("builtin"));
        assert!(parse_error("no/such/folder").contains("no/such/folder"));
        assert!(
            parse_error("hf:soragen/there-is-none").contains("soragen models pull hf:soragen/there-is-none")
        );
        assert!(parse_error("hf:../x").contains("owner/name"));
        assert!(parse_error("src").contains("model_index.json"));
        assert!(parse_error("Cargo.toml").contains("Cargo.toml"));
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
