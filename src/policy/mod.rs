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
//! Words are not meanings. A category may also be known by sentences that it is like, which the default model's text
//! encoder compares with the prompt and with its parts, in English, and roughly:
//!
//! ```toml
//! [[category]]
//! name = "storms"
//! action = "block"
//! like = ["a violent storm at sea"]
//! likeness = 0.6                   # 1: the same words
//! ```
//!
//! And a program may be asked, which is given the prompt on stdin: exit status 0 lets it pass, 3 refuses it, the category
//! being what it writes; if it gives no such answer in time, the prompt is refused:
//!
//! ```toml
//! [hook]
//! command = ["/usr/lib/guard", "--strict"]
//! timeout = 10.0                   # seconds
//! ```
//!
//! The policy that ships has words alone. It is a first line: another wording, another language than the policy's, a
//! harmless text that makes a harmful picture, and what an image shows all pass it.
//!
//! A negative prompt says what guidance leads away from, and at no strength towards: people name in it what they do not want to
//! be shown. So what is found in one only warns; a hook and an application decide about it as about any other.

mod audit;
mod file;
mod hook;
mod matching;
mod meaning;
mod reading;

use std::path::Path;
use std::sync::{Arc, LazyLock};

use audit::AuditLog;
pub use audit::verify;
pub use file::Action;
use hook::Hook;
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

/// Whoever is asked about a prompt that passes otherwise; says whether it may.
type Guard = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Rules for prompts, and where decisions are written down.
#[derive(Clone)]
pub struct Policy {
    name: String,
    categories: Vec<Category>,
    hook: Option<Hook>,
    guard: Option<Guard>,
    audit: Option<AuditLog>,
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policy").field("name", &self.name).finish_non_exhaustive()
    }
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
        let file::Parsed { name, categories, hook } = file::parse(text)?;
        Ok(Self { name, categories, hook, guard: None, audit: None })
    }

    /// The same, with `guard` asked about every prompt that would pass: whether it may.
    pub fn guarded(&self, guard: impl Fn(&str) -> bool + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { guard: Some(Arc::new(guard)), ..self.clone() })
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
        self.asked(prompt, self.found(prompt))
    }

    /// What its own categories say, the strictest.
    fn found(&self, prompt: &str) -> Verdict {
        let mut warning = None;
        let words =
            reading::readings(prompt).into_iter().map(|text| matching::verdict(&self.categories, text));
        for verdict in words.chain(std::iter::once_with(|| self.by_meaning(prompt))) {
            match verdict {
                Verdict::Pass => {}
                Verdict::Warn(category) => warning = warning.or(Some(category)),
                block @ Verdict::Block(_) => return block,
            }
        }
        warning.map_or(Verdict::Pass, Verdict::Warn)
    }

    /// `found`, or what the hook and the application say where that lets the prompt pass.
    fn asked(&self, prompt: &str, found: Verdict) -> Verdict {
        if matches!(found, Verdict::Block(_)) {
            return found;
        }
        if let Some(block @ Verdict::Block(_)) = self.hook.as_ref().map(|hook| hook.ask(prompt)) {
            return block;
        }
        if self.guard.as_ref().is_some_and(|guard| !guard(prompt)) {
            return Verdict::Block("refused by the application".into());
        }
        found
    }

    /// What the categories that are like something say.
    fn by_meaning(&self, prompt: &str) -> Verdict {
        let mut categories = self.categories.iter().filter(|category| category.like.is_some()).peekable();
        if categories.peek().is_none() {
            return Verdict::Pass;
        }
        // What cannot be read is no harmless text.
        let Ok(parts) = meaning::embeddings(prompt) else {
            return Verdict::Block("what cannot be read".into());
        };
        let matches = |category: &&Category| category.like.as_ref().is_some_and(|like| like.matches(&parts));
        let mut verdict = Verdict::Pass;
        for category in categories.filter(matches) {
            match category.action {
                Action::Block => return Verdict::Block(category.name.clone()),
                Action::Warn | Action::Allow => verdict = Verdict::Warn(category.name.clone()),
            }
        }
        verdict
    }

    /// The gate that every prompt goes through before a model sees it: writes the decision down, and lets the
    /// prompt pass or not.
    ///
    /// # Errors
    /// [`Error::Refused`], which does not repeat the prompt; and the audit log's: what cannot be written down
    /// does not pass.
    pub fn admit(&self, prompt: &str) -> Result<()> {
        self.decide(prompt, self.check(prompt))
    }

    /// The gate for a negative prompt, which its own categories do not keep from passing.
    ///
    /// # Errors
    /// Those of [`Policy::admit`].
    pub fn admit_negative(&self, prompt: &str) -> Result<()> {
        let found = match self.found(prompt) {
            Verdict::Block(category) => Verdict::Warn(category),
            passes => passes,
        };
        self.decide(prompt, self.asked(prompt, found))
    }

    fn decide(&self, prompt: &str, verdict: Verdict) -> Result<()> {
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
