//! Disk cache of denoised latents and encoded prompts.
//!
//! An entry is one chunk or one prompt. Its key is the digest of everything that determines it ([`Digest`]), so that
//! any process that generates the same chunk only decodes it, and an encoded prompt needs no text encoder. An entry is
//! written to a temporary file and then renamed, so it is complete or missing. A damaged entry is removed and generated
//! again. When the cache is full, the least recently used entries are removed.
//!
//! Devices and kernels round values differently, so an entry is found only by the kind of machine that made it, unless it was made in a
//! [portable](Cache::portable) cache: those of a film that several machines make are [exported](Cache::export) and
//! [imported](Cache::import), and used wherever they are.

mod store;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{Device, Tensor};

use crate::digest::Digest;
use crate::{Error, Result};
pub(crate) use store::Kind;
use store::Store;

/// A cache folder. Clones share it.
#[derive(Clone, Debug)]
pub struct Cache {
    store: Arc<Store>,
    state: Arc<Mutex<State>>,
    maker: Maker,
}

/// Who finds the entries that are written.
#[derive(Clone, Copy, Debug)]
enum Maker {
    /// Everybody.
    Anybody,
    /// Machines of this kind.
    Alike(Digest),
    /// Those that open it will tell.
    Unknown,
}

/// A file of a cache, to be moved to another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheEntry {
    /// Its path in the folder of the cache, with `/`.
    pub name: String,
    /// Its bytes; they name the entry too, so that it cannot stand for another one.
    pub data: Vec<u8>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes at the last count, plus the bytes written since; `None` before the first count.
    bytes: Option<u64>,
    /// The first write error.
    failure: Option<Arc<Error>>,
}

/// The contents of a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Number of chunks; a whole clip counts as one.
    pub chunks: u64,
    /// Number of encoded prompts.
    pub prompts: u64,
    /// Bytes of all entries.
    pub bytes: u64,
}

impl Cache {
    /// Default size in bytes: about an hour of video of the built-in model.
    pub const DEFAULT_SIZE: u64 = 1 << 30;

    /// The cache in `folder`, of at most `size` bytes. The folder is created with the first entry.
    pub fn new(folder: impl Into<PathBuf>, size: u64) -> Self {
        Self {
            store: Arc::new(Store::new(folder.into(), size)),
            state: Arc::default(),
            maker: Maker::Unknown,
        }
    }

    /// The cache in `folder`; by default the cache of the user; no cache if `folder` is empty or `none`. (gst-launch reads
    /// `cache-dir= !` as the value `!`. A folder of that name is `./none`.)
    pub fn open(folder: Option<&str>, size: u64) -> Option<Self> {
        let folder = match folder {
            None => Self::default_folder()?,
            Some("" | "none") => return None,
            Some(folder) => folder.into(),
        };
        Some(Self::new(folder, size))
    }

    /// The default folder: `soragen` in the user's cache folder
    /// (<https://specifications.freedesktop.org/basedir-spec/latest/>). `None` if the user has no home, and in debug
    /// builds, whose output changes more often than their version.
    pub fn default_folder() -> Option<PathBuf> {
        if cfg!(debug_assertions) {
            return None;
        }
        let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let caches = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))?;
        Some(caches.join("soragen"))
    }

    /// The cache folder.
    pub fn folder(&self) -> &Path {
        self.store.folder()
    }

    /// The first write error, for example a full disk. After it nothing is written; entries are still read.
    pub fn failure(&self) -> Option<Arc<Error>> {
        self.lock().failure.clone()
    }

    /// The same cache; what is written from now on is found by machines of every kind.
    #[must_use]
    pub fn portable(self) -> Self {
        Self { maker: Maker::Anybody, ..self }
    }

    /// The same cache for a model whose values this `maker` rounds. A portable one stays portable.
    #[must_use]
    pub(crate) fn made_by(self, maker: Digest) -> Self {
        let maker = match self.maker {
            Maker::Anybody => Maker::Anybody,
            Maker::Alike(_) | Maker::Unknown => Maker::Alike(maker),
        };
        Self { maker, ..self }
    }

    /// Reads all entries.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder or an entry cannot be read.
    pub fn export(&self) -> Result<Vec<CacheEntry>> {
        let read = |entry: store::Entry| {
            let data = std::fs::read(&entry.path);
            let data = data.map_err(|source| Error::Io { path: entry.path.clone(), source })?;
            Ok(CacheEntry { name: self.store.name(&entry.path), data })
        };
        self.store.entries()?.into_iter().map(read).collect()
    }

    /// The name of the entry of these latents in a portable cache.
    pub(crate) fn name_of_latents(key: &Digest) -> String {
        let store = Store::new(PathBuf::new(), 0);
        store.name(&store.path(Kind::Latents, key))
    }

    /// Adds an entry that another cache exported.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an entry that is damaged or not one; [`Error::Io`] if it cannot be written.
    pub fn import(&self, entry: &CacheEntry) -> Result<()> {
        let mut state = self.lock();
        let written = self.store.import(entry)?;
        self.count(&mut state, written)
    }

    /// Counts the entries.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be read.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        for entry in self.store.entries()? {
            match entry.kind {
                Kind::Latents => usage.chunks += 1,
                Kind::Prompt => usage.prompts += 1,
            }
            usage.bytes += entry.bytes;
        }
        Ok(usage)
    }

    /// Removes all entries, and no other files. Returns what was removed.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be read or an entry cannot be removed.
    pub fn clear(&self) -> Result<Usage> {
        let usage = self.usage()?;
        self.store.shrink(0)?;
        self.lock().bytes = None;
        Ok(usage)
    }

    /// The tensor stored under `key`, f32.
    pub(crate) fn get(&self, kind: Kind, key: &Digest, device: &Device) -> Option<Tensor> {
        // An imported one first: a film that was made elsewhere is played as it is.
        let own = match self.maker {
            Maker::Alike(maker) => Some(made_by(key, &maker)),
            Maker::Anybody | Maker::Unknown => None,
        };
        let found = self.store.read(kind, key).or_else(|| self.store.read(kind, &own?));
        found?.to_device(device).ok()
    }

    /// Stores `tensor` as f32. An error is kept in [`failure`](Self::failure), and ends all writing.
    pub(crate) fn put(&self, kind: Kind, key: &Digest, tensor: &Tensor) {
        let mut state = self.lock();
        if state.failure.is_some() {
            return;
        }
        if let Err(error) = self.write(&mut state, kind, key, tensor) {
            state.failure = Some(Arc::new(error));
        }
    }

    fn write(&self, state: &mut State, kind: Kind, key: &Digest, tensor: &Tensor) -> Result<()> {
        let key = match &self.maker {
            Maker::Alike(maker) => made_by(key, maker),
            Maker::Anybody | Maker::Unknown => *key,
        };
        let written = self.store.write(kind, &key, tensor)?;
        self.count(state, written)
    }

    /// Removes entries if there are too many bytes with `written` more.
    fn count(&self, state: &mut State, written: u64) -> Result<()> {
        let bytes = match state.bytes {
            Some(bytes) => bytes + written,
            None => self.usage()?.bytes,
        };
        state.bytes = Some(if bytes > self.store.size() {
            // Some space is left, so that not every entry shrinks the cache.
            self.store.shrink(self.store.size() / 10 * 9)?
        } else {
            bytes
        });
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key of an entry that only machines of one kind use.
fn made_by(key: &Digest, maker: &Digest) -> Digest {
    key.with("maker", maker.hex().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latents(value: f32) -> Tensor {
        Tensor::full(value, (1, 4, 1, 2, 3), &Device::Cpu).unwrap()
    }

    fn key(number: u64) -> Digest {
        Digest::new("test").with("number", &number.to_le_bytes())
    }

    fn values(latents: Option<Tensor>) -> Option<Vec<f32>> {
        latents.map(|latents| latents.flatten_all().unwrap().to_vec1().unwrap())
    }

    /// The file of the only entry in `folder`.
    fn file(folder: &Path) -> PathBuf {
        let store = Store::new(folder.into(), 0);
        let mut entries = store.entries().unwrap();
        assert_eq!(entries.len(), 1);
        entries.remove(0).path
    }

    #[test]
    fn a_stored_tensor_is_read_by_another_cache() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("deep/er"), 1 << 20);
        assert_eq!(cache.usage().unwrap(), Usage::default());
        assert!(cache.get(Kind::Latents, &key(1), &Device::Cpu).is_none());
        cache.put(Kind::Latents, &key(1), &latents(1.5));
        assert!(cache.failure().is_none());

        let other = Cache::new(folder.path().join("deep/er"), 1 << 20);
        let again = other.get(Kind::Latents, &key(1), &Device::Cpu).unwrap();
        assert_eq!(again.dims(), [1, 4, 1, 2, 3]);
        assert_eq!(values(Some(again)), values(Some(latents(1.5))));
        assert!(other.get(Kind::Latents, &key(2), &Device::Cpu).is_none());
        assert_eq!(other.clear().unwrap().chunks, 1);
        assert!(cache.get(Kind::Latents, &key(1), &Device::Cpu).is_none());
    }

    #[test]
    fn only_portable_entries_are_used_by_other_machines() {
        let (folder, far) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let open = |folder: &Path| Cache::new(folder, 1 << 20);
        let [here, there] = ["avx512", "cuda"].map(Digest::new);
        let get = |cache: &Cache, number| cache.get(Kind::Latents, &key(number), &Device::Cpu);
        open(folder.path()).made_by(here).put(Kind::Latents, &key(1), &latents(1.0));
        assert!(get(&open(folder.path()).made_by(here), 1).is_some());
        assert!(get(&open(folder.path()).made_by(there), 1).is_none());

        open(far.path()).portable().made_by(there).put(Kind::Latents, &key(1), &latents(2.0));
        let entries = open(far.path()).export().unwrap();
        assert_eq!(entries.len(), 1);
        open(folder.path()).import(&entries[0]).unwrap();
        let found = get(&open(folder.path()).made_by(here), 1);
        assert_eq!(values(found).unwrap()[0], 2.0, "the imported one first");
        assert_eq!(values(get(&open(folder.path()).made_by(there), 1)).unwrap()[0], 2.0);
    }

    #[test]
    fn entries_that_are_none_are_not_imported() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let made = Cache::new(folder.path(), 1 << 20);
        made.put(Kind::Latents, &key(1), &latents(1.0));
        let entry = made.export().unwrap().remove(0);
        let cache = Cache::new(other.path(), 1 << 20);
        let mut damaged = entry.clone();
        *damaged.data.last_mut().unwrap() ^= 1;
        let renamed = |name: String| CacheEntry { name, data: entry.data.clone() };
        let entries = [
            damaged,
            renamed(entry.name.replace("latents", "prompts")),
            renamed(format!("../{}", entry.name)),
            renamed(entry.name.replace(".safetensors", "")),
            renamed("latents/ab/cd.safetensors".into()),
            renamed(String::new()),
        ];
        for entry in entries {
            let error = cache.import(&entry).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{}: {error}", entry.name);
        }
        assert_eq!(cache.usage().unwrap(), Usage::default());
        cache.import(&entry).unwrap();
        assert_eq!(cache.export().unwrap(), [entry]);
    }

    #[test]
    fn damaged_entries_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path(), 1 << 20);
        cache.put(Kind::Latents, &key(1), &latents(1.0));
        let whole = std::fs::read(file(folder.path())).unwrap();
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for damaged in [&whole[..whole.len() - 1], &whole[..9], &[], &flipped] {
            std::fs::write(file(folder.path()), damaged).unwrap();
            assert!(cache.get(Kind::Latents, &key(1), &Device::Cpu).is_none());
            assert_eq!(cache.usage().unwrap().chunks, 0);
            cache.put(Kind::Latents, &key(1), &latents(1.0));
            assert!(cache.get(Kind::Latents, &key(1), &Device::Cpu).is_some());
        }
        // The entry of another key under this name.
        cache.clear().unwrap();
        cache.put(Kind::Latents, &key(2), &latents(2.0));
        let (from, to) =
            (file(folder.path()), Store::new(folder.path().into(), 0).path(Kind::Latents, &key(1)));
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::rename(from, to).unwrap();
        assert!(cache.get(Kind::Latents, &key(1), &Device::Cpu).is_none());
    }

    #[test]
    fn the_least_recently_used_entries_are_removed_first() {
        let folder = tempfile::tempdir().unwrap();
        let one = {
            let cache = Cache::new(folder.path(), 1 << 20);
            cache.put(Kind::Latents, &key(0), &latents(0.0));
            let bytes = cache.usage().unwrap().bytes;
            cache.clear().unwrap();
            bytes
        };
        let cache = Cache::new(folder.path(), 10 * one);
        let age = |number: u64, seconds: u64| {
            let path = Store::new(folder.path().into(), 0).path(Kind::Latents, &key(number));
            let when = std::time::SystemTime::now() - std::time::Duration::from_secs(seconds);
            std::fs::File::options().write(true).open(path).unwrap().set_modified(when).unwrap();
        };
        for number in 0..10 {
            cache.put(Kind::Latents, &key(number), &latents(number as f32));
            age(number, 100 - number);
        }
        assert_eq!(cache.usage().unwrap().chunks, 10);
        // Reading the oldest entry makes it the most recently used.
        assert!(cache.get(Kind::Latents, &key(0), &Device::Cpu).is_some());
        cache.put(Kind::Latents, &key(10), &latents(10.0));
        assert_eq!(cache.usage().unwrap().chunks, 9);
        let kept: Vec<_> =
            (0..11).filter(|&n| cache.get(Kind::Latents, &key(n), &Device::Cpu).is_some()).collect();
        assert_eq!(kept, [0, 3, 4, 5, 6, 7, 8, 9, 10]);
    }

    #[test]
    fn the_first_write_error_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "not a folder").unwrap();
        let cache = Cache::new(&file, 1 << 20);
        cache.put(Kind::Latents, &key(1), &latents(1.0));
        let failure = cache.failure().unwrap();
        assert!(failure.to_string().contains("file"), "{failure}");
        cache.put(Kind::Latents, &key(2), &latents(1.0));
        assert!(Arc::ptr_eq(&failure, &cache.failure().unwrap()));
        assert!(cache.get(Kind::Latents, &key(1), &Device::Cpu).is_none());
    }

    #[test]
    fn no_cache_can_be_requested() {
        for folder in ["", "none"] {
            assert!(Cache::open(Some(folder), 1).is_none(), "{folder:?}");
        }
        assert_eq!(Cache::open(Some("./none"), 1).unwrap().folder(), Path::new("./none"));
    }

    #[test]
    fn other_files_in_the_folder_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let other_files =
            ["letter.safetensors", "latents/train/0001.safetensors", "prompts/ab/letter.safetensors"];
        for name in other_files {
            let file = folder.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "dear").unwrap();
        }
        let cache = Cache::new(folder.path(), 1);
        cache.put(Kind::Latents, &key(1), &latents(1.0));
        cache.clear().unwrap();
        assert!(other_files.iter().all(|name| folder.path().join(name).exists()));
    }
}
