//! Parses a policy file (TOML).

use serde::Deserialize;

use super::hook::Hook;
use super::matching::{Category, Phrase, Together};
use super::similarity::Similarity;

/// What happens to a prompt that matches a category.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The matched words are harmless: no other category sees them.
    Allow,
    /// The prompt passes, and the audit log records it.
    Warn,
    /// The prompt is refused.
    Block,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    name: String,
    #[serde(default)]
    category: Vec<CategoryTable>,
    hook: Option<Hook>,
}

/// The content of a policy file.
pub struct ParsedPolicy {
    pub name: String,
    pub categories: Vec<Category>,
    pub hook: Option<Hook>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CategoryTable {
    name: String,
    action: Action,
    #[serde(default)]
    phrases: Vec<String>,
    #[serde(default)]
    together: Vec<TogetherTable>,
    #[serde(default)]
    like: Vec<String>,
    #[serde(default = "default_likeness")]
    likeness: f32,
}

/// MiniLM gives this cosine to sentences about the same subject, and seldom to others.
fn default_likeness() -> f32 {
    0.6
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TogetherTable {
    within: usize,
    words: Vec<Vec<String>>,
}

/// Parses a policy. The error is a message for the user.
pub fn parse(text: &str) -> Result<ParsedPolicy, String> {
    let file: PolicyFile = toml::from_str(text).map_err(|e| e.to_string())?;
    let categories = file.category.into_iter().map(category).collect::<Result<_, _>>()?;
    file.hook.iter().try_for_each(Hook::check)?;
    Ok(ParsedPolicy { name: file.name, categories, hook: file.hook })
}

fn category(table: CategoryTable) -> Result<Category, String> {
    let CategoryTable { name, action, phrases, together, like, likeness } = table;
    if phrases.is_empty() && together.is_empty() && like.is_empty() {
        return Err(format!("category `{name}` is empty; set `phrases`, `together` or `like`"));
    }
    if action == Action::Allow && !like.is_empty() {
        return Err(format!(
            "category `{name}`: `like` cannot be used with the action `allow`; use `phrases` for what is allowed"
        ));
    }
    if !(0.0..=1.0).contains(&likeness) {
        return Err(format!(
            "category `{name}`: `likeness` must be from 0 (any prompt) to 1 (the same words)"
        ));
    }
    let parse_phrases = |phrases: Vec<String>| -> Result<Vec<Phrase>, String> {
        let parsed = phrases.iter().map(|phrase| {
            Phrase::new(phrase).ok_or_else(|| format!("category `{name}`: {phrase:?} contains no word"))
        });
        let mut parsed: Vec<_> = parsed.collect::<Result<_, _>>()?;
        // Also as one word, for phrases without spaces and for split words, where the end of a word is unknown.
        let together: Vec<_> = parsed.iter().filter_map(Phrase::as_one_word).collect();
        parsed.extend(together);
        Ok(parsed)
    };
    let together = together.into_iter().map(|table| {
        if table.words.len() < 2 || table.words.iter().any(Vec::is_empty) {
            return Err(format!("category `{name}`: `words` needs two lists or more, and none may be empty"));
        }
        Ok(Together {
            within: table.within,
            words: table.words.into_iter().map(&parse_phrases).collect::<Result<_, _>>()?,
        })
    });
    let together = together.collect::<Result<_, _>>()?;
    let like = match like.is_empty() {
        true => None,
        false => Some(Similarity::new(&like, likeness).map_err(|e| {
            format!(
                "category `{name}`: `like` needs the text encoder of the built-in model, which cannot be opened: {e}"
            )
        })?),
    };
    Ok(Category { action, phrases: parse_phrases(phrases)?, together, like, name })
}
