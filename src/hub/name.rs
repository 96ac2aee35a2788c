//! Names of models on the hub.

use std::fmt;

use crate::{Error, Result};

const PREFIX: &str = "hf:";
const MAIN: &str = "main";
/// The hub's limit for the name of a repository and of its owner.
const MAX_NAME: usize = 96;
const MAX_REVISION: usize = 200;

/// A model on the hub: `hf:owner/name`, or `hf:owner/name@revision` with a branch, a tag or a commit.
///
/// Its parts become parts of paths and URLs, so only safe characters are allowed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HubName {
    repository: String,
    revision: String,
}

impl HubName {
    /// Parses `hf:owner/name[@revision]`; `None` for another kind of source.
    ///
    /// # Errors
    /// [`Error::Request`] for an invalid name or revision.
    pub fn parse(source: &str) -> Result<Option<Self>> {
        let Some(text) = source.strip_prefix(PREFIX) else { return Ok(None) };
        let (repository, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let named = repository.split_once('/').is_some_and(|(owner, name)| is_name(owner) && is_name(name));
        if !named {
            return Err(Error::Request(
                crate::Setting::Model,
                format!(
                    "{source:.200?} is not a model name; use hf:owner/name, as in hf:Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
                ),
            ));
        }
        if !is_revision(revision) {
            return Err(Error::Request(
                crate::Setting::Model,
                format!(
                    "{source:.200?} has an invalid revision; use a branch, a tag or a commit, as in @main"
                ),
            ));
        }
        Ok(Some(Self { repository: repository.into(), revision: revision.into() }))
    }

    /// `owner/name`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// A branch, a tag or a commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.repository)?;
        if self.revision == MAIN { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

/// Whether `text` is safe as one component of a path: letters, digits, `.`, `_` and `-`, and not hidden.
pub(super) fn is_plain(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !text.is_empty() && text.len() <= MAX_REVISION && !text.starts_with(['.', '-']) && text.bytes().all(known)
}

/// The cache replaces the slash by `--`, so a name with `--` would be ambiguous.
fn is_name(text: &str) -> bool {
    is_plain(text) && text.len() <= MAX_NAME && !text.contains("--") && !text.contains("..")
}

fn is_revision(text: &str) -> bool {
    text.len() <= MAX_REVISION && text.split('/').all(|part| is_plain(part) && !part.contains(".."))
}

/// Whether `text` is the hash of a commit.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_and_printed() {
        let name = HubName::parse("hf:Wan-AI/Wan2.1-T2V-1.3B-Diffusers").unwrap().unwrap();
        assert_eq!((name.repository(), name.revision()), ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "main"));
        assert_eq!(name.to_string(), "hf:Wan-AI/Wan2.1-T2V-1.3B-Diffusers");
        let name = HubName::parse("hf:a/b@refs/pr/3").unwrap().unwrap();
        assert_eq!((name.repository(), name.revision()), ("a/b", "refs/pr/3"));
        assert_eq!(name.to_string(), "hf:a/b@refs/pr/3");
        for other in ["builtin", "/a/folder", "a/b", "HF:a/b", ""] {
            assert_eq!(HubName::parse(other).unwrap(), None, "{other}");
        }
    }

    #[test]
    fn a_name_that_leaves_the_cache_is_an_error() {
        let long = "a".repeat(97);
        for text in [
            "",
            "a",
            "/",
            "a/",
            "/b",
            "a/b/c",
            "../b",
            "a/..",
            "./b",
            "a/.b",
            "a/b..c",
            "a--b/c",
            "a/b--c",
            "-a/b",
            "a b/c",
            "a\\b/c",
            "a/b%2fc",
            "a/b?c",
            "a/b#c",
            "a:b/c",
            "ä/b",
            "a/b\0",
            "a/b\n",
            &format!("{long}/b"),
        ] {
            let error = HubName::parse(&format!("hf:{text}")).unwrap_err().to_string();
            assert!(error.contains("owner/name"), "{text:?}: {error}");
        }
        let long = "a".repeat(201);
        for revision in [
            "", "..", "../x", "x/..", "a/../b", "/etc", "a//b", "a/", "-x", ".x", "a b", "a\\b", "%2e",
            "a@b", &long,
        ] {
            let error = HubName::parse(&format!("hf:a/b@{revision}")).unwrap_err().to_string();
            assert!(error.contains("revision"), "{revision:?}: {error}");
        }
    }
}
