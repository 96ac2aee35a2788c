//! Downloads a model into the cache.

use std::collections::HashSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::{Cache, Repo};
use serde::Deserialize;

use super::checksum;
use super::files::{self, ListError, Repository};
use super::http::{HttpClient, Piece, Response};
use super::name::{is_commit, is_plain};
use super::{Download, Hub, HubName, MAX_TEXT_BYTES, failure};
use crate::{Cancel, Error, Result};

/// Interval between two attempts to lock a file.
const POLL: Duration = Duration::from_millis(50);

/// The hub's description of a repository.
#[derive(Deserialize)]
struct Info {
    /// The commit.
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// The hub's description of a file.
struct Remote {
    /// Identifies the content.
    etag: String,
    size: u64,
}

struct Pull<'a> {
    hub: &'a Hub,
    name: &'a HubName,
    cancel: &'a Cancel,
    http: HttpClient,
    repo: Repo,
    commit: String,
    /// Paths of the files in the repository. They are only compared with, never used as paths.
    files: HashSet<String>,
    /// Folder of the commit in the cache.
    snapshot: PathBuf,
}

pub fn pull(
    hub: &Hub,
    name: &HubName,
    cancel: &Cancel,
    report: &mut dyn FnMut(&Download),
) -> Result<PathBuf> {
    let http = HttpClient::new(hub.token.clone());
    let repo = hub.repo(name);
    let cache = Cache::new(hub.cache.clone()).repo(repo.clone());
    let url = format!("{}/api/{}", hub.endpoint.trim_end_matches('/'), repo_address(name));
    let response = http.get(&url, 0, cancel)?.map_err(|reason| unreachable_hub(hub, name, &reason))?;
    check_status(hub, name, None, response.status)?;
    let text =
        response.text(MAX_TEXT_BYTES, cancel)?.map_err(|reason| unreachable_hub(hub, name, &reason))?;
    let info = serde_json::from_slice::<Info>(&text).ok().filter(|info| is_commit(&info.sha));
    let info =
        info.ok_or_else(|| failure(name, format!("{url} does not answer like the hub; check HF_ENDPOINT")))?;
    let mut pull = Pull {
        hub,
        name,
        cancel,
        http,
        snapshot: cache.pointer_path(&info.sha),
        commit: info.sha,
        files: info.siblings.into_iter().map(|sibling| sibling.rfilename).collect(),
        repo,
    };
    pull.download(report)?;
    // Last, so that the revision always has a complete snapshot.
    if !is_commit(name.revision()) {
        let refs = hub.cache.join(pull.repo.folder_name()).join("refs").join(name.revision());
        cache.create_ref(&pull.commit).map_err(|source| Error::Io { path: refs, source })?;
    }
    Ok(pull.snapshot)
}

/// Path of the repository under `api`.
fn repo_address(name: &HubName) -> String {
    format!("models/{}/revision/{}", name.repository(), name.revision().replace('/', "%2F"))
}

impl Pull<'_> {
    fn download(&mut self, report: &mut dyn FnMut(&Download)) -> Result<()> {
        let paths = files::list(self).map_err(|error| match error {
            ListError::Read(error) => error,
            ListError::Missing(path) => failure(
                self.name,
                format!(
                    "there is no {path}: the repository is not in diffusers' layout; use the one whose name ends in -Diffusers"
                ),
            ),
            ListError::Index(path) => failure(self.name, format!("{path} is not a valid index: it may only list file names in its folder")),
        })?;
        let mut missing = Vec::new();
        let mut progress = Download { file: String::new(), received: 0, total: 0 };
        for path in paths {
            let cached = self.snapshot.join(&path).metadata().ok().filter(std::fs::Metadata::is_file);
            match cached {
                Some(metadata) => {
                    progress.received = progress.received.saturating_add(metadata.len());
                    progress.total = progress.total.saturating_add(metadata.len());
                }
                None => {
                    let remote = self.remote(&path)?;
                    progress.total = progress.total.saturating_add(remote.size);
                    missing.push((path, remote));
                }
            }
        }
        for (path, remote) in missing {
            let before = progress.received;
            progress.file = path;
            let path = progress.file.clone();
            self.file(&path, &remote, &mut |received| {
                progress.received = before.saturating_add(received);
                report(&progress);
            })?;
            progress.received = before.saturating_add(remote.size);
        }
        report(&progress);
        Ok(())
    }

    fn url(&self, path: &str) -> String {
        let endpoint = self.hub.endpoint.trim_end_matches('/');
        format!("{endpoint}/{}/resolve/{}/{path}", self.name.repository(), self.commit)
    }

    /// Requests the size and the etag of a file.
    fn remote(&self, path: &str) -> Result<Remote> {
        let response = self.http.head(&self.url(path), self.cancel)?;
        let response = response.map_err(|reason| unreachable_hub(self.hub, self.name, &reason))?;
        // The hub redirects to another server for a large file.
        if !(300..400).contains(&response.status) {
            check_status(self.hub, self.name, Some(path), response.status)?;
        }
        let etag = response.header("x-linked-etag").or(response.header("etag")).unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"');
        let size = response.number("x-linked-size").or(response.number("content-length"));
        match size {
            Some(size) if is_plain(etag) => Ok(Remote { etag: etag.into(), size }),
            _ => Err(failure(
                self.name,
                format!("the hub sends no valid size and etag of {path}; check HF_ENDPOINT"),
            )),
        }
    }

    /// Downloads a file into the snapshot, unless its content is in the cache. `report` receives its bytes on this
    /// machine.
    fn file(&self, path: &str, remote: &Remote, report: &mut dyn FnMut(u64)) -> Result<()> {
        let name = self.repo.folder_name();
        let blob = self.hub.cache.join(&name).join("blobs").join(&remote.etag);
        let lock = self.hub.cache.join(".locks").join(&name).join(format!("{}.lock", remote.etag));
        let _lock = self.lock(&lock)?;
        if !blob.is_file() {
            let part = blob.with_file_name(format!("{}.incomplete", remote.etag));
            self.content(path, remote, &part, report)?;
            if !checksum::matches_etag(&part, &remote.etag, self.cancel)? {
                std::fs::remove_file(&part).map_err(io(&part))?;
                return Err(failure(
                    self.name,
                    format!(
                        "{path} has another digest than the hub says; the download was removed, try again"
                    ),
                ));
            }
            std::fs::rename(&part, &blob).map_err(io(&blob))?;
        }
        let link = self.snapshot.join(path);
        create_parent(&link)?;
        // A broken link.
        if link.symlink_metadata().is_ok() && !link.exists() {
            std::fs::remove_file(&link).map_err(io(&link))?;
        }
        if link.exists() { Ok(()) } else { create_link(&link, &blob, path).map_err(io(&link)) }
    }

    /// Waits until no other process downloads the file; `huggingface_hub` uses the same lock.
    fn lock(&self, path: &Path) -> Result<File> {
        create_parent(path)?;
        let file = File::create(path).map_err(io(path))?;
        loop {
            self.cancel.check()?;
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => std::thread::sleep(POLL),
                Err(TryLockError::Error(source)) => return Err(Error::Io { path: path.into(), source }),
            }
        }
    }

    /// Completes `part`, which may have the first bytes from an interrupted download.
    fn content(&self, path: &str, remote: &Remote, part: &Path, report: &mut dyn FnMut(u64)) -> Result<()> {
        create_parent(part)?;
        let mut file = OpenOptions::new().create(true).append(true).open(part).map_err(io(part))?;
        let mut received = file.metadata().map_err(io(part))?.len();
        if received > remote.size {
            (received, file) = (0, File::create(part).map_err(io(part))?);
        }
        report(received);
        while received < remote.size {
            let before = received;
            let failure_reason = self.receive(path, remote, (part, &mut file), &mut received, report)?;
            // A failed connection is opened again as long as each one sends some bytes.
            if received <= before {
                let reason = failure_reason.unwrap_or_else(|| "the response ended early".into());
                return Err(failure(
                    self.name,
                    format!(
                        "{path}: received {received} of {} bytes: {reason}; try again, the download resumes from there",
                        remote.size
                    ),
                ));
            }
        }
        file.sync_all().map_err(io(part))
    }

    /// Appends the bytes of one connection to the file. Returns why the connection failed, if it did.
    fn receive(
        &self,
        path: &str,
        remote: &Remote,
        (part, file): (&Path, &mut File),
        received: &mut u64,
        report: &mut dyn FnMut(u64),
    ) -> Result<Option<String>> {
        let response = match self.http.get(&self.url(path), *received, self.cancel)? {
            Ok(response) => response,
            Err(reason) => return Ok(Some(reason)),
        };
        check_status(self.hub, self.name, Some(path), response.status)?;
        if *received > 0 && !is_resumed(&response, *received) {
            // The server sends the whole file again.
            file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0))).map_err(io(part))?;
            *received = 0;
        }
        loop {
            match response.next(self.cancel)? {
                Piece::Bytes(bytes) => {
                    let count = bytes.len() as u64;
                    if received.saturating_add(count) > remote.size {
                        // This is another file.
                        file.set_len(0).map_err(io(part))?;
                        return Err(failure(
                            self.name,
                            format!("{path} is longer than its {} bytes on the hub; try again", remote.size),
                        ));
                    }
                    file.write_all(&bytes).map_err(io(part))?;
                    *received += count;
                    report(*received);
                }
                Piece::End => return Ok(None),
                Piece::Failed(reason) => return Ok(Some(reason)),
            }
        }
    }
}

impl Repository for Pull<'_> {
    type Error = Error;

    fn has(&self, path: &str) -> bool {
        self.files.contains(path)
    }

    fn read(&mut self, path: &str) -> Result<Vec<u8>> {
        let local = self.snapshot.join(path);
        if !local.is_file() {
            let remote = self.remote(path)?;
            if remote.size > MAX_TEXT_BYTES as u64 {
                return Err(failure(
                    self.name,
                    format!("{path} has {} bytes; at most {MAX_TEXT_BYTES} are read", remote.size),
                ));
            }
            self.file(path, &remote, &mut |_| {})?;
        }
        super::read(&local, MAX_TEXT_BYTES as u64).map(String::into_bytes).map_err(io(&local))
    }
}

/// Whether the server sends the bytes from `from` on, as requested.
fn is_resumed(response: &Response, from: u64) -> bool {
    let range = response.header("content-range").unwrap_or_default();
    response.status == 206
        && range.trim().strip_prefix("bytes ").is_some_and(|r| r.starts_with(&format!("{from}-")))
}

/// # Errors
/// [`Error::Download`] for a status other than success.
fn check_status(hub: &Hub, name: &HubName, path: Option<&str>, status: u16) -> Result<()> {
    let what = path.unwrap_or("the model");
    let reason = match status {
        200..300 => return Ok(()),
        401 | 403 => format!(
            "the hub refuses {what} ({status}): check the name, accept the model's terms at {}/{}, and set HF_TOKEN",
            hub.endpoint,
            name.repository()
        ),
        404 => format!("the hub does not have {what} (404); check the name and the revision"),
        429 => "too many requests to the hub (429); set HF_TOKEN, or try again later".to_string(),
        _ => format!("the hub answers with status {status} for {what}; try again later"),
    };
    Err(failure(name, reason))
}

fn unreachable_hub(hub: &Hub, name: &HubName, reason: &str) -> Error {
    failure(name, format!("{} cannot be reached: {reason}; check the network and HF_ENDPOINT", hub.endpoint))
}

pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    |source| Error::Io { path, source }
}

fn create_parent(path: &Path) -> Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    std::fs::create_dir_all(folder).map_err(io(folder))
}

/// Creates `link`, at `path` in the snapshot, to `blob`. It is relative, so that the cache may be moved.
#[cfg(unix)]
fn create_link(link: &Path, blob: &Path, path: &str) -> std::io::Result<()> {
    let up = "../".repeat(path.split('/').count() + 1);
    let etag = blob.file_name().unwrap_or_default();
    std::os::unix::fs::symlink(Path::new(&up).join("blobs").join(etag), link)
}

/// Other systems require permissions for links.
#[cfg(not(unix))]
fn create_link(link: &Path, blob: &Path, _path: &str) -> std::io::Result<()> {
    std::fs::rename(blob, link)
}
