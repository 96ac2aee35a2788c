//! Models of the hub of Hugging Face, kept where the Python package `huggingface_hub` keeps them:
//! `models--owner--name/{refs/REVISION, snapshots/COMMIT/PATH → blobs/ETAG}`
//! (<https://huggingface.co/docs/huggingface_hub/guides/manage-cache>).

mod checksum;
mod files;
mod http;
mod name;
mod pull;

use std::path::{Path, PathBuf};

use hf_hub::{Cache, Repo, RepoType};

pub use name::HubName;

use self::files::Repository;
use self::name::is_commit;
use crate::{Cancel, Error, Result};

/// Indices and configurations are read whole; no real one comes near this size.
const MAX_TEXT: usize = 64 << 20;

/// The hub, and what of it is on this machine.
#[derive(Clone, Debug)]
pub struct Hub {
    /// Its address.
    pub endpoint: String,
    /// The folder where models are kept.
    pub cache: PathBuf,
    /// What the hub knows the user by, for models that not everybody may have.
    pub token: Option<String>,
    /// Whether it is not to be asked.
    pub offline: bool,
}

/// How far a download is.
#[derive(Clone, Debug)]
pub struct Download {
    /// The file, by its path in the repository.
    pub file: String,
    /// Bytes of the model that are on this machine.
    pub received: u64,
    /// Bytes of the whole model.
    pub total: u64,
}

impl Hub {
    /// As the environment has it, in the variables of `huggingface_hub`: `HF_ENDPOINT`; `HF_HUB_CACHE`, `HF_HOME` or
    /// `XDG_CACHE_HOME`; `HF_TOKEN` or the file at `HF_TOKEN_PATH`, which is where `hf auth login` puts it;
    /// `HF_HUB_OFFLINE`.
    pub fn from_env() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|text| !text.trim().is_empty());
        let path = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        let caches = || path("XDG_CACHE_HOME").or_else(|| Some(std::env::home_dir()?.join(".cache")));
        let home = path("HF_HOME")
            .unwrap_or_else(|| caches().unwrap_or_else(std::env::temp_dir).join("huggingface"));
        let cache = path("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub"));
        let token_path = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let token = text("HF_TOKEN").or_else(|| std::fs::read_to_string(token_path).ok());
        let offline = text("HF_HUB_OFFLINE")
            .is_some_and(|text| matches!(text.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"));
        Self {
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into()),
            cache,
            token: token.map(|token| token.trim().to_string()).filter(|token| !token.is_empty()),
            offline,
        }
    }

    /// The folder with all of the model that the engine needs, as it was last downloaded; the hub is not asked.
    ///
    /// # Errors
    /// [`Error::Download`] if it is not there, or not whole.
    pub fn find(&self, name: &HubName) -> Result<PathBuf> {
        let snapshot = self.snapshot(name).filter(|folder| files::list(&mut Folder(folder)).is_ok());
        snapshot.ok_or_else(|| {
            let hint = match self.offline {
                true => "and HF_HUB_OFFLINE keeps it from being downloaded; unset that".to_string(),
                false => format!("get it with `soragen models pull {name}`"),
            };
            failure(name, format!("it is not on this machine, or not all of it; {hint}"))
        })
    }

    /// Downloads what is not here yet of the model as the hub has it now, going on where an earlier download stopped;
    /// the folder it is in afterwards.
    ///
    /// `report` is told how far it is. Another process may download the same; one waits for the other.
    ///
    /// # Errors
    /// [`Error::Download`] if the hub cannot be reached, does not give the model, gives another file than it says, or
    /// has something that is not a model in diffusers' layout; [`Error::Cancelled`], soon after a cancel, whatever the network does; [`Error::Io`]
    /// for a cache that cannot be written. What was downloaded stays.
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

    /// The model that `source` names, if it is one of the hub that has to be pulled before it can be opened.
    ///
    /// # Errors
    /// As [`HubName::parse`].
    pub fn missing_model(&self, source: &str) -> Result<Option<HubName>> {
        Ok(HubName::parse(source)?.filter(|name| !self.offline && self.find(name).is_err()))
    }

    /// The models that are on this machine, whole, by the revisions under which they were asked for; in order.
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

    /// The folder of the commit that the revision was when it was last asked for.
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

/// A snapshot on this machine.
struct Folder<'a>(&'a Path);

impl Repository for Folder<'_> {
    type Error = std::io::Error;

    fn has(&self, path: &str) -> bool {
        self.0.join(path).is_file()
    }

    fn read(&mut self, path: &str) -> std::io::Result<Vec<u8>> {
        Ok(read(&self.0.join(path), MAX_TEXT as u64)?.into_bytes())
    }
}

/// A text of at most so many bytes.
fn read(path: &Path, most: u64) -> std::io::Result<String> {
    if path.metadata()?.len() > most {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    std::fs::read_to_string(path)
}

fn failure(name: &HubName, reason: impl Into<String>) -> Error {
    Error::Download { model: name.to_string(), reason: reason.into() }
}

/// `owner/name`'s last part, where `folder` is a snapshot in a cache.
pub(crate) fn name_of(folder: &Path) -> Option<&str> {
    let snapshots = folder.parent().filter(|parent| parent.ends_with("snapshots"))?;
    let repository = snapshots.parent()?.file_name()?.to_str()?.strip_prefix("models--")?;
    repository.split_once("--").map(|(_, name)| name)
}
