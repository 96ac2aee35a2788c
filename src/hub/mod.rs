//! Models on the Hugging Face hub, cached in the layout of the Python package `huggingface_hub`:
//! `models--owner--name/{refs/REVISION, snapshots/COMMIT/PATH → blobs/ETAG}`
//! (<https://huggingface.co/docs/huggingface_hub/guides/manage-cache>).

mod checksum;
mod env;
mod files;
mod http;
pub(crate) mod layout;
mod name;
pub(crate) mod pointer;
mod pull;

use std::path::{Path, PathBuf};

use hf_hub::{Cache, Repo, RepoType};

pub use name::HubName;

use self::files::Repository;
use self::name::is_commit;
use crate::{Cancel, Error, Result};

/// The largest text file that is read. Indices and configurations are much smaller.
const MAX_TEXT_BYTES: usize = 64 << 20;

/// A hub server and its cache on this machine.
#[derive(Clone, Debug)]
pub struct Hub {
    /// URL of the server.
    pub endpoint: String,
    /// Cache folder.
    pub cache: PathBuf,
    /// Access token, for models that require one.
    pub token: Option<String>,
    /// Whether only the cache is used.
    pub offline: bool,
}

/// Progress of a download.
#[derive(Clone, Debug)]
pub struct Download {
    /// The current file: its path in the repository.
    pub file: String,
    /// Bytes of the model on this machine.
    pub received: u64,
    /// Bytes of the model.
    pub total: u64,
}

impl Hub {
    /// The hub in the environment variables of `huggingface_hub`: `HF_ENDPOINT`; `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`,
    /// `HF_HOME` or `XDG_CACHE_HOME`, with `~` and `$NAME`; `HF_TOKEN` or the file at `HF_TOKEN_PATH`, which `hf auth login`
    /// writes; `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE`.
    pub fn from_env() -> Self {
        env::hub(|name| std::env::var(name).ok())
    }

    /// The folder of the last downloaded version of the model. No request is sent.
    ///
    /// # Errors
    /// [`Error::Download`] if the cache does not have the model, or not all of it.
    pub fn find(&self, name: &HubName) -> Result<PathBuf> {
        let snapshot = self.snapshot(name).filter(|folder| files::list(&mut Snapshot(folder)).is_ok());
        snapshot.ok_or_else(|| {
            let hint = match self.offline {
                true => "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE prevents the download; unset it".to_string(),
                false => format!("download it with `soragen models pull {name}`"),
            };
            failure(name, format!("the model is not on this machine, or not all of it; {hint}"))
        })
    }

    /// Downloads the missing files of the current version of the model, and returns its folder. An interrupted download
    /// is resumed.
    ///
    /// `report` receives the progress. If another process downloads the same file, this one waits for it.
    ///
    /// # Errors
    /// [`Error::Download`] if the hub is unreachable, refuses the model or sends a wrong file, or if the model is not
    /// in diffusers' layout; [`Error::Cancelled`] soon after a cancel, even if the network hangs; [`Error::Io`] if the
    /// cache cannot be written. Downloaded bytes are kept.
    pub fn pull(
        &self,
        name: &HubName,
        cancel: &Cancel,
        report: &mut dyn FnMut(&Download),
    ) -> Result<PathBuf> {
        if self.offline {
            return self.find(name);
        }
        pull::pull(self, name, cancel, report)
    }

    /// The model of `source`, if it must be pulled before it can be opened.
    ///
    /// # Errors
    /// As [`HubName::parse`].
    pub fn missing_model(&self, source: &str) -> Result<Option<HubName>> {
        Ok(HubName::parse(source)?.filter(|name| !self.offline && self.find(name).is_err()))
    }

    /// The complete models in the cache with the revisions that were requested, sorted.
    pub fn list(&self) -> Vec<HubName> {
        let entries = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names = Vec::new();
        for repository in entries(self.cache.clone()) {
            let folder = repository.file_name();
            let name = folder.to_str().and_then(|folder| folder.strip_prefix("models--")?.split_once("--"));
            let Some((owner, model)) = name else { continue };
            for revision in entries(repository.path().join("refs")) {
                let source = format!("hf:{owner}/{model}@{}", revision.file_name().to_string_lossy());
                names.extend(HubName::parse(&source).ok().flatten());
            }
        }
        names.retain(|name| self.find(name).is_ok());
        names.sort_by_key(HubName::to_string);
        names
    }

    fn repo(&self, name: &HubName) -> Repo {
        Repo::with_revision(name.repository().into(), RepoType::Model, name.revision().into())
    }

    /// The folder of the commit that the revision had at the last download.
    fn snapshot(&self, name: &HubName) -> Option<PathBuf> {
        let repo = self.repo(name);
        let folder = self.cache.join(repo.folder_name());
        let commit = match is_commit(name.revision()) {
            true => name.revision().to_string(),
            false => read(&folder.join("refs").join(name.revision()), 64).ok()?,
        };
        let commit = Some(commit.trim()).filter(|commit| is_commit(commit))?;
        Some(Cache::new(self.cache.clone()).repo(repo).pointer_path(commit))
    }
}

/// A snapshot in the cache.
struct Snapshot<'a>(&'a Path);

impl Repository for Snapshot<'_> {
    type Error = std::io::Error;

    fn has(&self, path: &str) -> bool {
        self.0.join(path).is_file()
    }

    fn read(&mut self, path: &str) -> std::io::Result<Vec<u8>> {
        Ok(read(&self.0.join(path), MAX_TEXT_BYTES as u64)?.into_bytes())
    }
}

/// Reads a text of at most `max_bytes` bytes.
fn read(path: &Path, max_bytes: u64) -> std::io::Result<String> {
    if path.metadata()?.len() > max_bytes {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    std::fs::read_to_string(path)
}

fn failure(name: &HubName, reason: impl Into<String>) -> Error {
    Error::Download { model: name.to_string(), reason: reason.into() }
}

/// The name of the model without its owner, if `folder` is a snapshot in a cache.
pub(crate) fn name_of(folder: &Path) -> Option<&str> {
    let snapshots = folder.parent().filter(|parent| parent.ends_with("snapshots"))?;
    let repository = snapshots.parent()?.file_name()?.to_str()?.strip_prefix("models--")?;
    repository.split_once("--").map(|(_, name)| name)
}
