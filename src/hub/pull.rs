//! Downloading.

use std::collections::HashSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::{Cache, Repo};
use serde::Deserialize;

use super::checksum;
use super::files::{self, Repository, Unlisted};
use super::http::{Answer, Http, Piece};
use super::name::{is_commit, is_plain};
use super::{Download, Hub, HubName, MAX_TEXT, failure};
use crate::{Cancel, Error, Result};

/// How often a process looks whether another has done with a file.
const LOOK: Duration = Duration::from_millis(50);

/// What the hub says of a repository.
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

/// What the hub says of a file.
struct Remote {
    /// What stands for its content.
    etag: String,
    size: u64,
}

struct Pull<'a> {
    hub: &'a Hub,
    name: &'a HubName,
    cancel: &'a Cancel,
    http: Http,
    repo: Repo,
    commit: String,
    /// Paths of the files that there are. They are compared with, and nothing else.
    files: HashSet<String>,
    /// Where the commit's files are put.
    snapshot: PathBuf,
}

pub fn pull(
    hub: &Hub,
    name: &HubName,
    cancel: &Cancel,
    report: &mut dyn FnMut(&Download),
) -> Result<PathBuf> {
    let http = Http::new(hub.token.clone());
    let repo = hub.repo(name);
    let cache = Cache::new(hub.cache.clone()).repo(repo.clone());
    let url = format!("{}/api/{}", hub.endpoint.trim_end_matches('/'), repo_address(name));
    let answer = http.get(&url, 0, cancel)?.map_err(|reason| unreachable_hub(hub, name, &reason))?;
    refuse(hub, name, None, answer.status)?;
    let text = answer.text(MAX_TEXT, cancel)?.map_err(|reason| unreachable_hub(hub, name, &reason))?;
    let info = serde_json::from_slice::<Info>(&text).ok().filter(|info| is_commit(&info.sha));
    let info = info.ok_or_else(|| {
        failure(name, format!("{url} does not answer as the hub does; look at HF_ENDPOINT"))
    })?;
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
    pull.all(report)?;
    // Only now: until then the revision is what it was, and whole.
    if !is_commit(name.revision()) {
        let refs = hub.cache.join(pull.repo.folder_name()).join("refs").join(name.revision());
        cache.create_ref(&pull.commit).map_err(|source| Error::Io { path: refs, source })?;
    }
    Ok(pull.snapshot)
}

/// The path under `api` of the hub's address.
fn repo_address(name: &HubName) -> String {
    format!("models/{}/revision/{}", name.repository(), name.revision().replace('/', "%2F"))
}

impl Pull<'_> {
    fn all(&mut self, report: &mut dyn FnMut(&Download)) -> Result<()> {
        let paths = files::list(self).map_err(|unlisted| match unlisted {
            Unlisted::Read(error) => error,
            Unlisted::Missing(path) => failure(
                self.name,
                format!(
                    "there is no {path}: it is not in diffusers' layout; take the repository whose name ends in -Diffusers"
                ),
            ),
            Unlisted::Index(path) => failure(self.name, format!("{path} is not one: it names no files beside it")),
        })?;
        let mut wanted = Vec::new();
        let mut at = Download { file: String::new(), received: 0, total: 0 };
        for path in paths {
            let here = self.snapshot.join(&path).metadata().ok().filter(std::fs::Metadata::is_file);
            match here {
                Some(metadata) => {
                    at.received = at.received.saturating_add(metadata.len());
                    at.total = at.total.saturating_add(metadata.len());
                }
                None => {
                    let remote = self.remote(&path)?;
                    at.total = at.total.saturating_add(remote.size);
                    wanted.push((path, remote));
                }
            }
        }
        for (path, remote) in wanted {
            let before = at.received;
            at.file = path;
            let path = at.file.clone();
            self.file(&path, &remote, &mut |received| {
                at.received = before.saturating_add(received);
                report(&at);
            })?;
            at.received = before.saturating_add(remote.size);
        }
        report(&at);
        Ok(())
    }

    fn url(&self, path: &str) -> String {
        let endpoint = self.hub.endpoint.trim_end_matches('/');
        format!("{endpoint}/{}/resolve/{}/{path}", self.name.repository(), self.commit)
    }

    /// Asks for a file's size and for what stands for its content.
    fn remote(&self, path: &str) -> Result<Remote> {
        let answer = self.http.head(&self.url(path), self.cancel)?;
        let answer = answer.map_err(|reason| unreachable_hub(self.hub, self.name, &reason))?;
        // A large file is on another server, which the hub leads to.
        if !(300..400).contains(&answer.status) {
            refuse(self.hub, self.name, Some(path), answer.status)?;
        }
        let etag = answer.header("x-linked-etag").or(answer.header("etag")).unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"');
        let size = answer.number("x-linked-size").or(answer.number("content-length"));
        match size {
            Some(size) if is_plain(etag) => Ok(Remote { etag: etag.into(), size }),
            _ => Err(failure(
                self.name,
                format!("the hub does not say what {path} is, in the way that it does; look at HF_ENDPOINT"),
            )),
        }
    }

    /// Sees to it that the file is in the snapshot. `report` is told how many bytes of it are here.
    fn file(&self, path: &str, remote: &Remote, report: &mut dyn FnMut(u64)) -> Result<()> {
        let name = self.repo.folder_name();
        let blob = self.hub.cache.join(&name).join("blobs").join(&remote.etag);
        let lock = self.hub.cache.join(".locks").join(&name).join(format!("{}.lock", remote.etag));
        let _lock = self.lock(&lock)?;
        if !blob.is_file() {
            let part = blob.with_file_name(format!("{}.incomplete", remote.etag));
            self.content(path, remote, &part, report)?;
            if !checksum::fits(&part, &remote.etag, self.cancel)? {
                std::fs::remove_file(&part).map_err(io(&part))?;
                return Err(failure(
                    self.name,
                    format!(
                        "{path} is not the file that the hub says: its digest is another; it was removed, try again"
                    ),
                ));
            }
            std::fs::rename(&part, &blob).map_err(io(&blob))?;
        }
        let link = self.snapshot.join(path);
        create_parent(&link)?;
        // One that leads nowhere.
        if link.symlink_metadata().is_ok() && !link.exists() {
            std::fs::remove_file(&link).map_err(io(&link))?;
        }
        if link.exists() { Ok(()) } else { point(&link, &blob, path).map_err(io(&link)) }
    }

    /// Waits until no other process, Python's neither, has the file in hand.
    fn lock(&self, path: &Path) -> Result<File> {
        create_parent(path)?;
        let file = File::create(path).map_err(io(path))?;
        loop {
            self.cancel.check()?;
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK),
                Err(TryLockError::Error(source)) => return Err(Error::Io { path: path.into(), source }),
            }
        }
    }

    /// Completes `part`, which has the file's first bytes already where an earlier download was ended.
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
            let broken = self.piece(path, remote, (part, &mut file), &mut received, report)?;
            // A connection that breaks is taken up again for as long as that brings anything.
            if received <= before {
                let reason = broken.unwrap_or_else(|| "it ends before its size is reached".into());
                return Err(failure(
                    self.name,
                    format!(
                        "{path} came to {received} of {} bytes: {reason}; try again, it goes on from there",
                        remote.size
                    ),
                ));
            }
        }
        file.sync_all().map_err(io(part))
    }

    /// Adds to the file what one connection brings; why it broke, if it did.
    fn piece(
        &self,
        path: &str,
        remote: &Remote,
        (part, file): (&Path, &mut File),
        received: &mut u64,
        report: &mut dyn FnMut(u64),
    ) -> Result<Option<String>> {
        let answer = match self.http.get(&self.url(path), *received, self.cancel)? {
            Ok(answer) => answer,
            Err(reason) => return Ok(Some(reason)),
        };
        refuse(self.hub, self.name, Some(path), answer.status)?;
        if *received > 0 && !goes_on(&answer, *received) {
            // It sends the whole again.
            file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0))).map_err(io(part))?;
            *received = 0;
        }
        loop {
            match answer.next(self.cancel)? {
                Piece::Bytes(bytes) => {
                    let count = bytes.len() as u64;
                    if received.saturating_add(count) > remote.size {
                        // Whatever that is, it is not the file.
                        file.set_len(0).map_err(io(part))?;
                        return Err(failure(
                            self.name,
                            format!(
                                "{path} is longer than the {} bytes that the hub says; try again",
                                remote.size
                            ),
                        ));
                    }
                    file.write_all(&bytes).map_err(io(part))?;
                    *received += count;
                    report(*received);
                }
                Piece::End => return Ok(None),
                Piece::Broken(reason) => return Ok(Some(reason)),
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
        let at = self.snapshot.join(path);
        if !at.is_file() {
            let remote = self.remote(path)?;
            if remote.size > MAX_TEXT as u64 {
                return Err(failure(
                    self.name,
                    format!("{path} has {} bytes, too many for such a file", remote.size),
                ));
            }
            self.file(path, &remote, &mut |_| {})?;
        }
        super::read(&at, MAX_TEXT as u64).map(String::into_bytes).map_err(io(&at))
    }
}

/// Whether the server gives the bytes from `from` on, as it was asked to.
fn goes_on(answer: &Answer, from: u64) -> bool {
    let range = answer.header("content-range").unwrap_or_default();
    answer.status == 206
        && range.trim().strip_prefix("bytes ").is_some_and(|r| r.starts_with(&format!("{from}-")))
}

/// An error for a status that is not a file.
fn refuse(hub: &Hub, name: &HubName, path: Option<&str>, status: u16) -> Result<()> {
    let what = path.unwrap_or("the model");
    let reason = match status {
        200..300 => return Ok(()),
        401 | 403 => format!(
            "the hub does not give {what} ({status}): look at the name, accept the model's terms at {}/{}, and set HF_TOKEN",
            hub.endpoint,
            name.repository()
        ),
        404 => format!("the hub does not have {what} (404); look at the name and the revision"),
        429 => "the hub has been asked too often (429); set HF_TOKEN, or try again later".to_string(),
        _ => format!("the hub answers with status {status} for {what}; try again later"),
    };
    Err(failure(name, reason))
}

fn unreachable_hub(hub: &Hub, name: &HubName, reason: &str) -> Error {
    failure(
        name,
        format!("{} cannot be reached: {reason}; look at the network and at HF_ENDPOINT", hub.endpoint),
    )
}

pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    |source| Error::Io { path, source }
}

fn create_parent(path: &Path) -> Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    std::fs::create_dir_all(folder).map_err(io(folder))
}

/// Makes `link`, which is at `path` in the snapshot, lead to `blob`, wherever the cache may be moved to.
#[cfg(unix)]
fn point(link: &Path, blob: &Path, path: &str) -> std::io::Result<()> {
    let up = "../".repeat(path.split('/').count() + 1);
    let etag = blob.file_name().unwrap_or_default();
    std::os::unix::fs::symlink(Path::new(&up).join("blobs").join(etag), link)
}

/// Links need rights there.
#[cfg(not(unix))]
fn point(link: &Path, blob: &Path, _path: &str) -> std::io::Result<()> {
    std::fs::rename(blob, link)
}
