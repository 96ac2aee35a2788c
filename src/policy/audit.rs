//! A tamper-evident log of decisions.
//!
//! Each line is a JSON object with the digest of the line before and, last, its own digest. `FILE.head` contains the
//! number and the digest of the last line, so that removed lines at the end are detected. Anyone who can write both
//! files can forge the log: copy the head to a safe place. A log that does not match its head is not continued; to
//! begin another log, move both files away.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Verdict;
use crate::{Error, Result};

/// A log file. Several processes may write to it.
#[derive(Clone, Debug)]
pub struct AuditLog {
    path: PathBuf,
}

/// A line without its own digest.
#[derive(Serialize, Deserialize)]
struct Entry {
    /// From 1.
    number: u64,
    /// Seconds since 1970, UTC.
    time: u64,
    policy: String,
    verdict: String,
    category: Option<String>,
    /// Digest of the prompt. It identifies a known prompt, and does not reveal an unknown one.
    prompt: String,
    /// Digests of the references that the video shows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    references: Vec<String>,
    /// Digest of the line before; empty in the first line.
    before: String,
}

/// Number and digest of the last line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Head {
    number: u64,
    digest: String,
}

const DIGEST: &str = ",\"digest\":\"";
/// The longest line.
const MAX_LINE: u64 = 1 << 16;

impl AuditLog {
    /// A log in the file `path`, which is created with the first decision.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    pub(super) fn write(
        &self,
        policy: &str,
        prompt: &str,
        references: &[String],
        verdict: &Verdict,
    ) -> Result<()> {
        let io = |source| Error::Io { path: self.path.clone(), source };
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).open(&self.path).map_err(io)?;
        // The lock is released when the file is closed.
        file.lock().map_err(io)?;
        let (last, before) = self.last(&mut file)?;
        let head = head(&self.path)?;
        // A process that was stopped between the two writes leaves the head one line behind.
        let interrupted = head.number + 1 == last.number && head.digest == before;
        if head != last && !interrupted {
            return Err(self.damaged("the log does not match its head"));
        }
        let (verdict, category) = match verdict {
            Verdict::Pass => ("pass", None),
            Verdict::Warn(category) => ("warn", Some(category.clone())),
            Verdict::Block(category) => ("block", Some(category.clone())),
        };
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let entry = Entry {
            number: last.number + 1,
            time,
            policy: policy.into(),
            verdict: verdict.into(),
            category,
            prompt: blake3::hash(prompt.as_bytes()).to_string(),
            references: references.to_vec(),
            before: last.digest,
        };
        let text = serde_json::to_string(&entry).map_err(|e| self.damaged(&e.to_string()))?;
        let digest = blake3::hash(text.as_bytes()).to_string();
        let line = format!("{}{DIGEST}{digest}\"}}\n", text.trim_end_matches('}'));
        file.write_all(line.as_bytes()).map_err(io)?;
        let head = head_path(&self.path);
        std::fs::write(&head, format!("{} {digest}\n", entry.number))
            .map_err(|source| Error::Io { path: head, source })
    }

    /// The last line, and the digest of the line before it.
    fn last(&self, file: &mut File) -> Result<(Head, String)> {
        let io = |source| Error::Io { path: self.path.clone(), source };
        let length = file.metadata().map_err(io)?.len();
        if length == 0 {
            return Ok((Head::default(), String::new()));
        }
        file.seek(SeekFrom::Start(length.saturating_sub(MAX_LINE))).map_err(io)?;
        let mut end = Vec::new();
        file.read_to_end(&mut end).map_err(io)?;
        let end = String::from_utf8_lossy(&end);
        let last_line = end.strip_suffix('\n').map(|end| end.rsplit('\n').next().unwrap_or(end));
        let line = last_line.ok_or_else(|| self.damaged("the last line is incomplete"))?;
        let (entry, digest) = read_line(line).map_err(|e| self.damaged(&format!("the last line {e}")))?;
        Ok((Head { number: entry.number, digest }, entry.before))
    }

    fn damaged(&self, reason: &str) -> Error {
        Error::Invalid {
            path: self.path.clone(),
            reason: format!("{reason}; keep this log unchanged and begin another"),
        }
    }
}

fn head_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".head");
    name.into()
}

/// Reads the head of a log; number 0 if there is none.
fn head(path: &Path) -> Result<Head> {
    let path = head_path(path);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(Head::default()),
        Err(source) => return Err(Error::Io { path, source }),
    };
    let parsed = text
        .trim_end()
        .split_once(' ')
        .and_then(|(number, digest)| Some(Head { number: number.parse().ok()?, digest: digest.into() }));
    parsed.ok_or_else(|| Error::Invalid { path, reason: "the head was changed; begin another log".into() })
}

/// Parses a line and checks its digest.
fn read_line(line: &str) -> Result<(Entry, String), String> {
    let (text, digest) = line.rsplit_once(DIGEST).ok_or("has no digest")?;
    let digest = digest.strip_suffix("\"}").ok_or("does not end with its digest")?;
    let text = format!("{text}}}");
    if blake3::hash(text.as_bytes()).to_string() != digest {
        return Err("was changed".into());
    }
    let entry = serde_json::from_str(&text).map_err(|e| format!("is not an entry: {e}"))?;
    Ok((entry, digest.into()))
}

/// Verifies a log and returns its number of lines.
///
/// # Errors
/// [`Error::Invalid`] names the first changed line; [`Error::Io`] if the log or its head cannot be read.
pub fn verify(path: &Path) -> Result<u64> {
    let io = |source| Error::Io { path: path.into(), source };
    // The lock keeps writers from changing the log between the line and its head.
    let mut file = File::open(path).map_err(io)?;
    file.lock_shared().map_err(io)?;
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(io)?;
    let invalid = |reason: String| Error::Invalid { path: path.into(), reason };
    let mut last = Head::default();
    for line in text.lines() {
        let number = last.number + 1;
        let (entry, digest) = read_line(line).map_err(|e| invalid(format!("line {number} {e}")))?;
        if entry.number != number || entry.before != last.digest {
            return Err(invalid(format!("line {number} does not follow the line before it")));
        }
        last = Head { number, digest };
    }
    let head = head(path)?;
    if head != last {
        return Err(invalid(format!("the log has {} lines, but its head says {}", last.number, head.number)));
    }
    Ok(last.number)
}
