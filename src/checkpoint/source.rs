//! The files of a model, addressed by their paths in diffusers' layout.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use serde::de::DeserializeOwned;

use super::assembly::{self, Assembly, Parts};
use super::builtin;
use super::loader::Loader;
use super::lora::{Expert, Lora, PEFT_CONFIG};
use super::names::Part;
use super::stored::StoredTensor;
use super::tensors::Tensors;
use super::weights::Weights;
use crate::digest::Digest;
use crate::error::plain;
use crate::hub::layout::{MODEL_INDEX, SECOND_TRANSFORMER, ShardIndex};
use crate::hub::{self, Hub, HubName, pointer};
use crate::testing::{self, Event};
use crate::{Cancel, Error, Result};

/// The largest text file that is read. Configurations and tokenizers are much smaller.
const MAX_TEXT_BYTES: u64 = 64 << 20;
/// The digest of a model covers the content of files up to this size.
const MAX_DIGESTED: u64 = 1 << 20;
/// A model source: where the files of a model are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The model that [`register_builtin`](super::register_builtin) registered.
    Builtin,
    /// A folder in diffusers' layout, with `model_index.json`.
    Folder(PathBuf),
    /// Files from several places, or in another layout.
    Assembled(Arc<Assembly>),
}

/// Where one file of a model is.
enum FileLocation<'a> {
    Memory(&'a [u8]),
    Compiled(&'static [u8]),
    Path(PathBuf),
}

impl Source {
    /// Finds the model `text`: `builtin`, a folder in diffusers' or Wan's layout, a transformer file, or a
    /// [pulled](Hub::pull) model `hf:owner/name@revision`. `parts` replace parts of it.
    ///
    /// # Errors
    /// [`Error::Request`] for an empty name or an unsupported source; [`Error::NotFound`] if the path or a part does
    /// not exist; [`Error::Invalid`] for a file that has no weights, or weights of another part; [`Error::Download`]
    /// for a model that is not in the hub's cache.
    pub fn parse(text: &str, parts: &Parts) -> Result<Self> {
        if text == "builtin" {
            if builtin::file(MODEL_INDEX).is_none() {
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
                "the model is not set; use `builtin`, the path of a model folder or file, or hf:owner/name"
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
        // Equal sources are one model in memory, so a path has one spelling.
        let path = path.canonicalize().map_err(|source| Error::Io { path, source })?;
        if path.join(MODEL_INDEX).is_file() && *parts == Parts::default() {
            return Ok(Self::Folder(path));
        }
        Ok(Self::Assembled(Arc::new(assembly::assemble(&path, parts)?)))
    }

    /// The name of the model in messages and metadata.
    pub fn name(&self) -> String {
        let Some(path) = self.folder() else { return "builtin".into() };
        if let Some(name) = hub::name_of(path) {
            return name.into();
        }
        let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
        name.unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
    }

    /// The folder or file that the caller named; `None` for the built-in model.
    pub(crate) fn folder(&self) -> Option<&Path> {
        match self {
            Self::Builtin => None,
            Self::Folder(path) => Some(path),
            Self::Assembled(assembly) => Some(&assembly.path),
        }
    }

    /// The location of `path`, for messages.
    pub fn path(&self, path: &str) -> PathBuf {
        match self {
            Self::Builtin => Path::new("builtin").join(path),
            Self::Folder(folder) => folder.join(path),
            Self::Assembled(assembly) => assembly.path(path),
        }
    }

    fn find(&self, path: &str) -> Option<FileLocation<'_>> {
        let file = |path: PathBuf| path.is_file().then_some(FileLocation::Path(path));
        match self {
            Self::Builtin => builtin::file(path).map(FileLocation::Compiled),
            Self::Folder(folder) => file(folder.join(path)),
            Self::Assembled(assembly) => match assembly.texts.get(path) {
                Some(bytes) => Some(FileLocation::Memory(bytes)),
                None => file(assembly.path(path)),
            },
        }
    }

    /// Whether the model has the file `path`.
    pub fn exists(&self, path: &str) -> bool {
        self.find(path).is_some()
    }

    /// Reads a whole text file.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`]; [`Error::Invalid`] for more than 64 MiB, and for a Git LFS pointer.
    pub fn read(&self, path: &str) -> Result<Cow<'_, [u8]>> {
        match self.find(path).ok_or_else(|| self.missing(path))? {
            FileLocation::Memory(bytes) | FileLocation::Compiled(bytes) => Ok(Cow::Borrowed(bytes)),
            FileLocation::Path(full) => {
                let size = std::fs::metadata(&full).map_err(|_| self.missing(path))?.len();
                if size > MAX_TEXT_BYTES {
                    return Err(
                        self.invalid(path, format!("{size} bytes; at most {MAX_TEXT_BYTES} are read"))
                    );
                }
                let bytes =
                    std::fs::read(&full).map_err(|source| Error::Io { path: full.clone(), source })?;
                match pointer::is_pointer(&bytes) {
                    true => Err(Error::Invalid { path: full, reason: pointer::REASON.into() }),
                    false => Ok(Cow::Owned(bytes)),
                }
            }
        }
    }

    /// Reads a JSON file.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`Error::Invalid`] for other content.
    pub fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        serde_json::from_slice(&self.read(path)?)
            .map_err(|e| self.invalid(path, format!("cannot be parsed: {e}")))
    }

    /// The weights in `folder`: `STEM.safetensors`, its shards, or `STEM.gguf`, with diffusers' names or any other
    /// known names.
    ///
    /// Safetensors are memory-mapped. A tensor is converted to `dtype` when it is loaded. After a cancel every load
    /// fails with candle's `Msg("cancelled")`; the caller then checks `cancel`.
    pub fn weights(
        &self,
        folder: &str,
        stem: &str,
        dtype: DType,
        device: &Device,
        cancel: &Cancel,
    ) -> Result<VarBuilder<'static>> {
        let loader = self.loader(self.part_weights(folder, stem)?, cancel);
        Ok(VarBuilder::from_backend(Box::new(loader), dtype, device.clone()))
    }

    /// As [`weights`](Self::weights). With `quantized`, linear layers compute with the quantized blocks of a GGUF file.
    pub fn tensors(
        &self,
        folder: &str,
        stem: &str,
        dtype: DType,
        device: &Device,
        quantized: bool,
        cancel: &Cancel,
    ) -> Result<Tensors> {
        let loader = self.loader(self.part_weights(folder, stem)?, cancel);
        Ok(Tensors::new(loader, dtype, device, quantized))
    }

    fn loader(&self, weights: Weights, cancel: &Cancel) -> Loader {
        let source = self.clone();
        let before_load = move |cancel: &Cancel| testing::call(&source, Event::Load, cancel);
        Loader { weights, cancel: cancel.clone(), before_load: Arc::new(before_load) }
    }

    /// The weights in `folder`, with the LoRAs for them.
    fn part_weights(&self, folder: &str, stem: &str) -> Result<Weights> {
        let (path, weights) = self.open(folder, stem)?;
        let mut weights = weights.map_err(|e| self.invalid(&path, plain(&e)))?;
        if let (Self::Assembled(assembly), Some(Part::Transformer)) = (self, Part::of_folder(folder))
            && let Some(files) = &assembly.branch
        {
            let branch = Weights::open(Some(Part::Transformer), files);
            weights = weights.with_branch(branch.map_err(|e| self.invalid(&path, plain(&e)))?);
        }
        if let (Self::Assembled(assembly), Some(Part::Transformer)) = (self, Part::of_folder(folder)) {
            let other = if folder == SECOND_TRANSFORMER { Expert::High } else { Expert::Low };
            let loras: Vec<_> =
                assembly.loras.iter().filter(|lora| lora.expert != Some(other)).cloned().collect();
            weights.add_loras(Part::Transformer, &loras)?;
        }
        Ok(weights)
    }

    /// The shapes of the tensors in `folder` by the engine's names; nothing is loaded.
    pub fn shapes(&self, folder: &str, stem: &str) -> Result<HashMap<String, Vec<usize>>> {
        Ok(self.stored(folder, stem)?.into_iter().map(|(name, stored)| (name, stored.shape)).collect())
    }

    /// The tensors in `folder` by the engine's names; nothing is loaded.
    pub(crate) fn stored(&self, folder: &str, stem: &str) -> Result<HashMap<String, StoredTensor>> {
        Ok(self.part_weights(folder, stem)?.stored())
    }

    /// Opens the weights in `folder`; also returns their path.
    fn open(&self, folder: &str, stem: &str) -> Result<(String, candle_core::Result<Weights>)> {
        let part = Part::of_folder(folder);
        if let Self::Assembled(assembly) = self
            && let Some(paths) = assembly.weights.get(folder)
        {
            return Ok((folder.into(), Weights::open(part, paths)));
        }
        let name = |suffix: &str| format!("{folder}/{stem}.{suffix}");
        let (single, index, gguf) = (name("safetensors"), name("safetensors.index.json"), name("gguf"));
        let path = if self.exists(&gguf) { gguf } else { single };
        match self.find(&path) {
            Some(FileLocation::Compiled(bytes)) => Ok((path, Weights::compiled(part, bytes))),
            Some(FileLocation::Path(file)) => Ok((path, Weights::open(part, &[file]))),
            _ if self.exists(&index) => {
                let paths = self.shards(folder, &index)?;
                Ok((index, Weights::open(part, &paths)))
            }
            _ => Err(self.missing(&path)),
        }
    }

    /// The weights in the file `path`, as [`weights`](Self::weights).
    pub fn weights_file(
        &self,
        path: &str,
        dtype: DType,
        device: &Device,
        cancel: &Cancel,
    ) -> Result<VarBuilder<'static>> {
        let weights = match self.find(path) {
            Some(FileLocation::Compiled(bytes)) => Weights::compiled(None, bytes),
            Some(FileLocation::Path(file)) => Weights::open(None, &[file]),
            _ => return Err(self.missing(path)),
        };
        let weights = weights.map_err(|e| self.invalid(path, plain(&e)))?;
        Ok(VarBuilder::from_backend(Box::new(self.loader(weights, cancel)), dtype, device.clone()))
    }

    /// What is not applied of the LoRAs of the transformer in `folder`, one text per LoRA.
    pub(crate) fn lora_notes(&self, folder: &str, stem: &str) -> Result<Vec<String>> {
        if self.loras().is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.part_weights(folder, stem)?.lora_notes())
    }

    /// The LoRAs of the transformer.
    pub(crate) fn loras(&self) -> &[Lora] {
        match self {
            Self::Assembled(assembly) => &assembly.loras,
            _ => &[],
        }
    }

    /// The shard files in an index. Each must be a file name in the folder of the index.
    fn shards(&self, folder: &str, index: &str) -> Result<Vec<PathBuf>> {
        let map: ShardIndex = self.json(index)?;
        map.files()
            .into_iter()
            .map(|name| {
                let mut parts = Path::new(&name).components();
                if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
                    return Err(self.invalid(index, format!("lists {name:?}, which is not a file beside it")));
                }
                let path = format!("{folder}/{name}");
                if self.exists(&path) { Ok(self.path(&path)) } else { Err(self.missing(&path)) }
            })
            .collect()
    }

    /// The digest of the model, or of `folders` in it, the same on every machine. Large weight files count by samples of their content, all
    /// other files by all of it.
    pub(crate) fn digest(&self, folders: &[&str]) -> std::io::Result<Digest> {
        self.digest_with(folders, sampled)
    }

    /// A digest that changes with every large weight file that is written, also where [`digest`](Self::digest) takes no sample.
    pub(crate) fn stamp(&self) -> std::io::Result<Digest> {
        self.digest_with(&[], stamped)
    }

    fn digest_with(
        &self,
        folders: &[&str],
        of_file: impl Fn(Digest, &str, &Path) -> std::io::Result<Digest>,
    ) -> std::io::Result<Digest> {
        let counts =
            |name: &str| folders.is_empty() || folders.contains(&name.split('/').next().unwrap_or(name));
        let mut key = Digest::new("model");
        let of_folder = |mut key: Digest, root: &Path| -> std::io::Result<Digest> {
            for path in files(root, 2)? {
                // Relative, so that the folder may be moved.
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
                    let expert = format!("{:?}", lora.expert);
                    key = of_file(key, "lora", &lora.path)?.with("scale", &lora.scale.to_le_bytes());
                    let config = lora.path.with_file_name(PEFT_CONFIG);
                    if config.is_file() {
                        key = of_file(key, PEFT_CONFIG, &config)?;
                    }
                    key = key.with("noise", expert.as_bytes());
                }
                for file in assembly.branch.iter().flatten().filter(|_| counts("transformer")) {
                    key = of_file(key, "branch", file)?;
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

    /// The error for a file that cannot be used.
    pub fn invalid(&self, path: &str, reason: impl std::fmt::Display) -> Error {
        Error::Invalid { path: self.path(path), reason: reason.to_string() }
    }

    /// The error for weights in `folder` that failed to load with `error`.
    pub fn mismatch(&self, folder: &str, error: Error) -> Error {
        match error {
            Error::Compute(e) => {
                let reason = plain(&e);
                // A configuration in memory was derived from the weights.
                let expected = match self.find(&format!("{folder}/config.json")) {
                    Some(FileLocation::Memory(_)) => "each other",
                    _ => "config.json",
                };
                self.invalid(folder, format!("the weights do not match {expected}: {reason}"))
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

/// The files in `folder` and in `depth` levels of folders in it, sorted.
fn files(folder: &Path, depth: usize) -> std::io::Result<Vec<PathBuf>> {
    let mut paths =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        match path.is_dir() {
            true if depth > 1 => found.extend(files(&path, depth - 1)?),
            true => {}
            false => found.push(path),
        }
    }
    Ok(found)
}

/// The content of a file, or samples of a large one.
fn sampled(key: Digest, name: &str, path: &Path) -> std::io::Result<Digest> {
    const SAMPLES: u64 = 64;
    const SAMPLE: u64 = 16 << 10;
    let length = path.metadata()?.len();
    if length <= MAX_DIGESTED {
        return Ok(key.with(name, &std::fs::read(path)?));
    }
    let mut file = std::fs::File::open(path)?;
    let mut read = |at: u64, count: u64| -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(at))?;
        (&mut file).take(count).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    // The start has the names and shapes of the tensors.
    let mut key = key.with(name, &length.to_le_bytes()).with("start", &read(0, MAX_DIGESTED)?);
    for i in 1..=SAMPLES {
        key = key.with("sample", &read((length - SAMPLE) / SAMPLES * i, SAMPLE)?);
    }
    Ok(key)
}

/// Size and modification time of a large file.
fn stamped(key: Digest, name: &str, path: &Path) -> std::io::Result<Digest> {
    let metadata = path.metadata()?;
    if metadata.len() <= MAX_DIGESTED {
        return Ok(key);
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
    fn errors_for_a_wrong_source_name_the_remedy() {
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
    fn an_index_with_files_in_other_folders_is_an_error() {
        let root = std::env::temp_dir().join(format!("soragen-shards-{}", std::process::id()));
        std::fs::create_dir_all(root.join("transformer")).unwrap();
        let source = Source::Folder(root.clone());
        for name in ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "", ".."] {
            let index = serde_json::json!({ "weight_map": { "w": name } });
            let path = "transformer/m.safetensors.index.json";
            std::fs::write(root.join(path), index.to_string()).unwrap();
            let weights = source.weights("transformer", "m", DType::F32, &Device::Cpu, &Cancel::new());
            let error = weights.err().unwrap().to_string();
            assert!(error.contains("not a file beside it"), "{name}: {error}");
        }
        std::fs::remove_dir_all(root).unwrap();
    }
}
