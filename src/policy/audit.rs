//! A log of what the gate decided, in which it shows when something was changed afterwards.
//!
//! Each line is a JSON object that holds the digest of the line before and, last, its own. `FILE.head` beside
//! it has the number and the digest of the last line, so that missing ones at the end are noticed. Whoever can
//! write both can write another history: keep a copy of the head where they cannot. A log without the head that goes
//! with it is not written to any more; to begin another, move both away.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Verdict;
use crate::{Error, Result};

/// The log of one file. Several processes may write to it.
#[derive(Clone, Debug)]
pub struct AuditLog {
    path: PathBuf,
}

/// A line, but for its own digest.
#[derive(Serialize, Deserialize)]
struct Entry {
    /// From 1.
    number: u64,
    /// Seconds since 1970, UTC.
    time: u64,
    policy: String,
    verdict: String,
    category: Option<String>,
    /// The prompt's digest: who has the prompt can find it, who does not cannot read it.
    prompt: String,
    /// The digest of the line before; empty in the first.
    before: String,
}

/// The last line: how many there are, and its digest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Head {
    number: u64,
    digest: String,
}

const DIGEST: &str = ",\"digest\":\"";
/// No line is longer.
const MAX_LINE: u64 = 1 << 16;

impl AuditLog {
    /// A log in the file `path`, which need not be there yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    pub(super) fn write(&self, policy: &str, prompt: &str, verdict: &Verdict) -> Result<()> {
        let io = |source| Error::Io { path: self.path.clone(), source };
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).open(&self.path).map_err(io)?;
        // Released when the file is closed.
        file.lock().map_err(io)?;
        let (last, before) = self.last(&mut file)?;
        let head = head(&self.path)?;
        // Behind by one it is where somebody was stopped between the two.
        let stopped = head.number + 1 == last.number && head.digest == before;
        if head != last && !stopped {
            return Err(self.damaged("it does not end as its head says"));
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

    /// What the file ends with, and the digest of the line before.
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
        let whole = end.strip_suffix('\n').map(|end| end.rsplit('\n').next().unwrap_or(end));
        let line = whole.ok_or_else(|| self.damaged("the last line is not whole"))?;
        let (entry, digest) = read_line(line).map_err(|e| self.damaged(&format!("its last line {e}")))?;
        Ok((Head { number: entry.number, digest }, entry.before))
    }

    fn damaged(&self, reason: &str) -> Error {
        Error::Invalid {
            path: self.path.clone(),
            reason: format!("{reason}; keep this log as it is and begin another"),
        }
    }
}

fn head_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".head");
    name.into()
}

/// What the head of a log says; nothing where there is none.
fn head(path: &Path) -> Result<Head> {
    let path = head_path(path);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(Head::default()),
        Err(source) => return Err(Error::Io { path, source }),
    };
    let said = text
        .trim_end()
        .split_once(' ')
        .and_then(|(number, digest)| Some(Head { number: number.parse().ok()?, digest: digest.into() }));
    said.ok_or_else(|| Error::Invalid {
        path,
        reason: "it is not as it was written; begin another log".into(),
    })
}

/// A line and its digest, which is right.
fn read_line(line: &str) -> Result<(Entry, String), String> {
    let (text, digest) = line.rsplit_once(DIGEST).ok_or("has no digest")?;
    let digest = digest.strip_suffix("\"}").ok_or("does not end as it was written")?;
    let text = format!("{text}}}");
    if blake3::hash(text.as_bytes()).to_string() != digest {
        return Err("was changed".into());
    }
    let entry = serde_json::from_str(&text).map_err(|e| format!("is no entry: {e}"))?;
    Ok((entry, digest.into()))
}

/// Says how many lines a log has, if they are all there, as they were written and in their order.
///
/// # Errors
/// [`Error::Invalid`] names the first line that is not as it was; [`Error::Io`] if the log or its head cannot
/// be read.
pub fn verify(path: &Path) -> Result<u64> {
    let io = |source| Error::Io { path: path.into(), source };
    // Not between a line and the head that goes with it.
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
            return Err(invalid(format!("line {number} does not follow the one before it")));
        }
        last = Head { number, digest };
    }
    let head = head(path)?;
    if head != last {
        return Err(invalid(format!(
            "it has {} lines and its head says otherwise: {}",
            last.number, head.number
        )));
    }
    Ok(last.number)
}
