//! Prompt policies: which prompts may be generated.
//!
//! A policy is a TOML file of categories. Each has an action and its phrases, or words that match only together.
//! Prompts are normalized, so that disguised words match, and compared word by word:
//!
//! ```toml
//! name = "of the house"
//!
//! [[category]]
//! name = "medicine"
//! action = "allow"                 # no other category sees the matched words
//! phrases = ["blood pressure"]
//!
//! [[category]]
//! name = "gore"
//! action = "block"                 # or "warn": the prompt passes, and the audit log records it
//! phrases = ["blood", "disembowel*"]
//!
//! [[category]]
//! name = "brawl"
//! action = "block"
//! [[category.together]]            # one word of each list, within 8 words
//! within = 8
//! words = [["man", "men"], ["punch*", "beat*"]]
//! ```
//!
//! A category may also list sentences. The text encoder of the built-in model compares them with the prompt and its
//! parts; this works roughly, and in English:
//!
//! ```toml
//! [[category]]
//! name = "storms"
//! action = "block"
//! like = ["a violent storm at sea"]
//! likeness = 0.6                   # cosine; 1: the same words
//! ```
//!
//! A hook is an external moderation program. It reads the prompt on stdin; exit status 0 lets the prompt pass, 3
//! refuses it, and stdout is the category. If the hook fails, the prompt is refused:
//!
//! ```toml
//! [hook]
//! command = ["/usr/lib/guard", "--strict"]
//! timeout = 10.0                   # seconds
//! ```
//!
//! The default policy contains only words. It is a first line of defence: synonyms, other languages, harmless words for
//! a harmful image, and the content of images pass it.
//!
//! A negative prompt lists what people do not want to see, and the policy relies on guidance never being below 1. A
//! match in it only warns; the hook and the application check it like any prompt.

mod audit;
mod file;
mod hook;
mod matching;
mod normalize;
mod similarity;

use std::path::Path;
use std::sync::{Arc, LazyLock};

use audit::AuditLog;
pub use audit::verify;
pub use file::Action;
use hook::Hook;
use matching::Category;

use crate::{Error, Result};

/// The default policy.
const DEFAULT: &str = include_str!("default.toml");

/// The decision of a policy about a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No category matches.
    Pass,
    /// The prompt passes; this category matches.
    Warn(String),
    /// The prompt is refused because of this category.
    Block(String),
}

/// The application's check of a prompt; `false` refuses it.
type Guard = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// A policy, with an optional audit log.
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
    /// The default policy.
    pub fn built_in() -> Arc<Self> {
        static BUILT_IN: LazyLock<Arc<Policy>> = LazyLock::new(|| {
            Arc::new(Policy::parse(DEFAULT).unwrap_or_else(|e| unreachable!("the tests read it: {e}")))
        });
        BUILT_IN.clone()
    }

    /// Reads a policy file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Invalid`] with the line of the mistake.
    pub fn read(path: &Path) -> Result<Self> {
        let io = |source| Error::Io { path: path.into(), source };
        let text = std::fs::read_to_string(path).map_err(io)?;
        Self::parse(&text).map_err(|reason| Error::Invalid { path: path.into(), reason })
    }

    /// Parses a policy. The error is a message for the user.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file::ParsedPolicy { name, categories, hook } = file::parse(text)?;
        Ok(Self { name, categories, hook, guard: None, audit: None })
    }

    /// The same policy, with a check of the application: `guard` returns whether a prompt that would pass may pass.
    pub fn guarded(&self, guard: impl Fn(&str) -> bool + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { guard: Some(Arc::new(guard)), ..self.clone() })
    }

    /// The policy in `file`, or [`Policy::built_in`]. It writes every decision to the log `audit`, if that is set.
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

    /// The name in the policy file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The decision about `prompt`. It is not logged.
    pub fn check(&self, prompt: &str) -> Verdict {
        self.with_hooks(prompt, self.match_categories(prompt))
    }

    /// The strictest verdict of the categories.
    fn match_categories(&self, prompt: &str) -> Verdict {
        let mut warning = None;
        let words =
            normalize::readings(prompt).into_iter().map(|text| matching::verdict(&self.categories, text));
        for verdict in words.chain(std::iter::once_with(|| self.match_similarity(prompt))) {
            match verdict {
                Verdict::Pass => {}
                Verdict::Warn(category) => warning = warning.or(Some(category)),
                block @ Verdict::Block(_) => return block,
            }
        }
        warning.map_or(Verdict::Pass, Verdict::Warn)
    }

    /// `verdict`, unless the hook or the application refuses the prompt.
    fn with_hooks(&self, prompt: &str, verdict: Verdict) -> Verdict {
        if matches!(verdict, Verdict::Block(_)) {
            return verdict;
        }
        if let Some(block @ Verdict::Block(_)) = self.hook.as_ref().map(|hook| hook.ask(prompt)) {
            return block;
        }
        if self.guard.as_ref().is_some_and(|guard| !guard(prompt)) {
            return Verdict::Block("refused by the application".into());
        }
        verdict
    }

    /// The verdict of the categories with sentences.
    fn match_similarity(&self, prompt: &str) -> Verdict {
        let categories =
            || self.categories.iter().filter_map(|category| Some((category, category.like.as_ref()?)));
        let Some((_, first)) = categories().next() else { return Verdict::Pass };
        // A prompt that cannot be encoded may be harmful.
        let Ok(parts) = first.encoder.embed_prompt(prompt) else {
            return Verdict::Block("unreadable prompt".into());
        };
        let mut verdict = Verdict::Pass;
        for (category, _) in categories().filter(|(_, like)| like.matches(&parts)) {
            match category.action {
                Action::Block => return Verdict::Block(category.name.clone()),
                Action::Warn | Action::Allow => verdict = Verdict::Warn(category.name.clone()),
            }
        }
        verdict
    }

    /// Checks a prompt before a model sees it, and logs the decision.
    ///
    /// # Errors
    /// [`Error::Refused`], which does not contain the prompt; the errors of the audit log. A decision that cannot be
    /// logged refuses the prompt.
    pub fn admit(&self, prompt: &str) -> Result<()> {
        self.admit_with(prompt, &[])
    }

    /// As [`admit`](Self::admit); the log names the references that the video shows, by their digests.
    ///
    /// # Errors
    /// Those of [`Policy::admit`].
    pub fn admit_with(&self, prompt: &str, references: &[String]) -> Result<()> {
        self.decide(prompt, references, self.check(prompt))
    }

    /// As [`admit`](Self::admit), for a negative prompt: its categories only warn.
    ///
    /// # Errors
    /// Those of [`Policy::admit`].
    pub fn admit_negative(&self, prompt: &str) -> Result<()> {
        let verdict = match self.match_categories(prompt) {
            Verdict::Block(category) => Verdict::Warn(category),
            passes => passes,
        };
        self.decide(prompt, &[], self.with_hooks(prompt, verdict))
    }

    fn decide(&self, prompt: &str, references: &[String], verdict: Verdict) -> Result<()> {
        if let Some(audit) = &self.audit {
            audit.write(&self.name, prompt, references, &verdict)?;
        }
        match verdict {
            Verdict::Pass | Verdict::Warn(_) => Ok(()),
            Verdict::Block(category) => Err(Error::Refused { category, policy: self.name.clone() }),
        }
    }
}

#[cfg(test)]
mod tests;
