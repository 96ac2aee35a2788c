//! The files of a cache: `FOLDER/KIND/AB/CDEF….safetensors`. Each has one tensor, named after its kind, and a digest.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use super::CacheEntry;
use crate::digest::Digest;
use crate::{Error, Result};

/// Digits of a key in the folder name; the rest is the file name.
const DIGITS: usize = 2;
const SUFFIX: &str = "safetensors";
/// Suffix of an incomplete entry.
const PARTIAL: &str = "part";
/// Age of an incomplete entry that no process writes any more.
const ABANDONED: Duration = Duration::from_secs(3600);
const DIGEST: &str = "blake3";

#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    size: u64,
}

/// The kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The latents of a chunk.
    Latents,
    /// The embeddings of a prompt.
    Prompt,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Latents, Self::Prompt];

    /// Name of the folder and of the tensor.
    fn name(self) -> &'static str {
        match self {
            Self::Latents => "latents",
            Self::Prompt => "prompts",
        }
    }
}

/// An entry of the cache.
#[derive(Debug)]
pub struct Entry {
    pub kind: Kind,
    pub path: PathBuf,
    pub bytes: u64,
    last_used: SystemTime,
}

impl Store {
    pub fn new(folder: PathBuf, size: u64) -> Self {
        Self { folder, size }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Maximum size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn path(&self, kind: Kind, key: &Digest) -> PathBuf {
        let hex = key.hex();
        let (folder, file) = hex.split_at(DIGITS);
        self.folder.join(kind.name()).join(folder).join(format!("{file}.{SUFFIX}"))
    }

    /// Reads the tensor of `key` and marks it as used. A damaged entry is removed.
    pub fn read(&self, kind: Kind, key: &Digest) -> Option<Tensor> {
        let path = self.path(kind, key);
        let bytes = std::fs::read(&path).ok()?;
        let Some(tensor) = parse(&bytes, kind, key) else {
            let _ = std::fs::remove_file(path);
            return None;
        };
        // An error only affects the order of removal.
        let _ = File::options().write(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(tensor)
    }

    /// The path of an entry in the folder, with `/`.
    pub fn name(&self, path: &Path) -> String {
        let parts = path.strip_prefix(&self.folder).unwrap_or(path).components();
        parts.map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
    }

    /// Writes an entry of another cache and returns its size in bytes.
    pub fn import(&self, entry: &CacheEntry) -> Result<u64> {
        let Some((kind, key)) =
            parse_name(&entry.name).filter(|(kind, key)| parse(&entry.data, *kind, key).is_some())
        else {
            let reason = "it is damaged, or not an entry of a cache of this version; export it again".into();
            return Err(Error::Invalid { path: entry.name.clone().into(), reason });
        };
        self.write_bytes(kind, &key, &entry.data)
    }

    /// Writes an entry and returns its size in bytes.
    pub fn write(&self, kind: Kind, key: &Digest, tensor: &Tensor) -> Result<u64> {
        self.write_bytes(kind, key, &serialize(tensor, kind, key)?)
    }

    fn write_bytes(&self, kind: Kind, key: &Digest, bytes: &[u8]) -> Result<u64> {
        let path = self.path(kind, key);
        let folder = path.parent().unwrap_or(&self.folder);
        let failed = |source| Error::Io { path: path.clone(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let suffix = format!(".{PARTIAL}");
        let mut file = tempfile::Builder::new().suffix(&suffix).tempfile_in(folder).map_err(failed)?;
        file.write_all(bytes).map_err(failed)?;
        file.persist(&path).map_err(|e| failed(e.error))?;
        Ok(bytes.len() as u64)
    }

    /// All entries. Abandoned incomplete entries are removed.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for kind in Kind::ALL {
            for folder in children(&self.folder.join(kind.name()))? {
                for path in children(&folder)? {
                    entries.extend(entry(kind, path));
                }
            }
        }
        Ok(entries)
    }

    /// Removes the least recently used entries until at most `size` bytes are left, and returns that number.
    pub fn shrink(&self, size: u64) -> Result<u64> {
        let mut entries = self.entries()?;
        entries.sort_by_key(|entry| entry.last_used);
        let mut bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
        for entry in entries {
            if bytes <= size {
                break;
            }
            match std::fs::remove_file(&entry.path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::Io { path: entry.path, source });
                }
                _ => bytes -= entry.bytes,
            }
        }
        Ok(bytes)
    }
}

/// Kind and key of the entry with this name.
fn parse_name(name: &str) -> Option<(Kind, Digest)> {
    let (kind, rest) = name.split_once('/')?;
    let (start, rest) = rest.split_once('/')?;
    let end = rest.strip_suffix(SUFFIX)?.strip_suffix('.')?;
    let kind = Kind::ALL.into_iter().find(|each| each.name() == kind)?;
    let key = Digest::from_hex(&format!("{start}{end}")).filter(|_| start.len() == DIGITS)?;
    Some((kind, key))
}

/// The entry at `path`, if it is a complete entry.
fn entry(kind: Kind, path: PathBuf) -> Option<Entry> {
    // Other files in the folder do not belong to the cache.
    let named = |name: Option<&OsStr>, digits: usize| {
        let name = name.and_then(OsStr::to_str).unwrap_or_default();
        name.len() == digits && name.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    if !named(path.parent().and_then(Path::file_name), DIGITS) {
        return None;
    }
    // Another process may have removed it.
    let metadata = path.metadata().ok()?;
    let last_used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    match path.extension()?.to_str()? {
        SUFFIX if named(path.file_stem(), 64 - DIGITS) => {
            return Some(Entry { kind, path, bytes: metadata.len(), last_used });
        }
        PARTIAL if last_used.elapsed().is_ok_and(|age| age > ABANDONED) => {
            let _ = std::fs::remove_file(path);
        }
        _ => {}
    }
    None
}

/// The paths in `folder`; none if it does not exist.
fn children(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |source| Error::Io { path: folder.into(), source };
    match std::fs::read_dir(folder) {
        Ok(entries) => {
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().map_err(failed)
        }
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        // A file between the folders is not an entry.
        Err(source) if source.kind() == std::io::ErrorKind::NotADirectory && folder.exists() => {
            Ok(Vec::new())
        }
        Err(source) => Err(failed(source)),
    }
}

fn serialize(tensor: &Tensor, kind: Kind, key: &Digest) -> Result<Vec<u8>> {
    let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let metadata = HashMap::from([(DIGEST.to_owned(), digest(kind, key, &data))]);
    let view = TensorView::new(safetensors::Dtype::F32, tensor.dims().to_vec(), &data);
    view.and_then(|view| safetensors::serialize([(kind.name(), view)], Some(metadata)))
        .map_err(|e| candle_core::Error::wrap(e).into())
}

/// Parses the output of [`serialize`] for `key`; `None` for anything else.
fn parse(bytes: &[u8], kind: Kind, key: &Digest) -> Option<Tensor> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).ok()?;
    let expected = metadata.metadata().as_ref()?.get(DIGEST)?.clone();
    let tensors = SafeTensors::deserialize(bytes).ok()?;
    let view = tensors.tensor(kind.name()).ok()?;
    if view.dtype() != safetensors::Dtype::F32 || digest(kind, key, view.data()) != expected {
        return None;
    }
    let values: Vec<f32> = view
        .data()
        .chunks_exact(4)
        .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
        .collect();
    Tensor::from_vec(values, view.shape(), &Device::Cpu).ok()
}

fn digest(kind: Kind, key: &Digest, data: &[u8]) -> String {
    Digest::new(kind.name()).with("key", key.hex().as_bytes()).with("data", data).hex()
}
