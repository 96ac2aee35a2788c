//! Which prompts may pass.
//!
//! A policy is a TOML file of categories. Each has an action and what it is known by: phrases, and words that
//! count only together. A prompt is read as a person would read it, whatever letters it is written
//! with, and then compared word by word:
//!
//! ```toml
//! name = "of the house"
//!
//! [[category]]
//! name = "medicine"
//! action = "allow"                 # what it matches is not looked at by the others
//! phrases = ["blood pressure"]
//!
//! [[category]]
//! name = "gore"
//! action = "block"                 # or "warn": it passes, and the audit log has it
//! phrases = ["blood", "disembowel*"]
//!
//! [[category]]
//! name = "brawl"
//! action = "block"
//! [[category.together]]            # one of each, at most so many words apart
//! within = 8
//! words = [["man", "men"], ["punch*", "beat*"]]
//! ```
//!
//! It is a first line. It knows words, not meanings: another wording, another language than the policy's, a
//! harmless text that makes a harmful picture, and what an image shows all pass it.

mod audit;
mod file;
mod matching;
mod reading;

use std::path::Path;
use std::sync::{Arc, LazyLock};

use audit::AuditLog;
pub use audit::verify;
pub use file::Action;
use matching::Category;

use crate::{Error, Result};

/// What ships with soragen.
const DEFAULT: &str = include_str!("default.toml");

/// What a policy says to a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was found.
    Pass,
    /// It passes; this category was found.
    Warn(String),
    /// It does not pass because of this category.
    Block(String),
}

/// Rules for prompts, and where decisions are written down.
#[derive(Clone, Debug)]
pub struct Policy {
    name: String,
    categories: Vec<Category>,
    audit: Option<AuditLog>,
}

impl Policy {
    /// The policy that ships with soragen.
    pub fn built_in() -> Arc<Self> {
        static BUILT_IN: LazyLock<Arc<Policy>> = LazyLock::new(|| {
            Arc::new(Policy::parse(DEFAULT).unwrap_or_else(|e| unreachable!("the tests read it: {e}")))
        });
        BUILT_IN.clone()
    }

    /// A policy in a file.
    ///
    /// # Errors
    /// The file's; [`Error::Invalid`] says where it is not a policy.
    pub fn read(path: &Path) -> Result<Self> {
        let io = |source| Error::Io { path: path.into(), source };
        let text = std::fs::read_to_string(path).map_err(io)?;
        Self::parse(&text).map_err(|reason| Error::Invalid { path: path.into(), reason })
    }

    /// A policy as text; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, categories) = file::parse(text)?;
        Ok(Self { name, categories, audit: None })
    }

    /// The policy in `file`, or [`Policy::built_in`], that writes every decision to `audit` if that is given.
    ///
    /// # Errors
    /// Those of [`Policy::read`].
    pub fn open(file: Option<&Path>, audit: Option<&Path>) -> Result<Arc<Self>> {
        let policy = match file {
            Some(file) => Arc::new(Self::read(file)?),
            None => Self::built_in(),
        };
        Ok(match audit {
            Some(log) => Arc::new(Self { audit: Some(AuditLog::new(log)), ..(*policy).clone() }),
            None => policy,
        })
    }

    /// What it calls itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it says to `prompt`. Nothing is written down.
    pub fn check(&self, prompt: &str) -> Verdict {
        let mut warning = None;
        for reading in reading::readings(prompt) {
            match matching::verdict(&self.categories, reading) {
                Verdict::Pass => {}
                Verdict::Warn(category) => warning = warning.or(Some(category)),
                block @ Verdict::Block(_) => return block,
            }
        }
        warning.map_or(Verdict::Pass, Verdict::Warn)
    }

    /// The gate that every prompt goes through before a model sees it: writes the decision down, and lets the
    /// prompt pass or not.
    ///
    /// # Errors
    /// [`Error::Refused`], which does not repeat the prompt; and the audit log's: what cannot be written down
    /// does not pass.
    pub fn admit(&self, prompt: &str) -> Result<()> {
        let verdict = self.check(prompt);
        if let Some(audit) = &self.audit {
            audit.write(&self.name, prompt, &verdict)?;
        }
        match verdict {
            Verdict::Pass | Verdict::Warn(_) => Ok(()),
            Verdict::Block(category) => Err(Error::Refused { category, policy: self.name.clone() }),
        }
    }
}

#[cfg(test)]
mod tests;
