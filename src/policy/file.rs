//! The policy file.

use serde::Deserialize;

use super::hook::Hook;
use super::matching::{Category, Phrase, Together};
use super::meaning::Likeness;

/// What becomes of a prompt in which a category is found.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// What was matched is harmless: no other category looks at it.
    Allow,
    /// It passes and is written down.
    Warn,
    /// It is refused.
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

/// What a policy file says.
pub struct Parsed {
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

/// Sentences of MiniLM's that are about the same thing are that near, others seldom.
fn default_likeness() -> f32 {
    0.6
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TogetherTable {
    within: usize,
    words: Vec<Vec<String>>,
}

/// The error says what is wrong.
pub fn parse(text: &str) -> Result<Parsed, String> {
    let file: PolicyFile = toml::from_str(text).map_err(|e| e.to_string())?;
    let categories = file.category.into_iter().map(category).collect::<Result<_, _>>()?;
    file.hook.iter().try_for_each(Hook::check)?;
    Ok(Parsed { name: file.name, categories, hook: file.hook })
}

fn category(table: CategoryTable) -> Result<Category, String> {
    let CategoryTable { name, action, phrases, together, like, likeness } = table;
    if phrases.is_empty() && together.is_empty() && like.is_empty() {
        return Err(format!(
            "category `{name}` has no phrases, no words that count together and nothing it is like"
        ));
    }
    if action == Action::Allow && !like.is_empty() {
        return Err(format!("category `{name}`: what is allowed is told by its words, not by `like`"));
    }
    if !(0.0..=1.0).contains(&likeness) {
        return Err(format!("category `{name}`: `likeness` is from 0 (anything) to 1 (the same words)"));
    }
    let read = |phrases: Vec<String>| -> Result<Vec<Phrase>, String> {
        let read = phrases.iter().map(|phrase| {
            Phrase::new(phrase).ok_or_else(|| format!("category `{name}`: {phrase:?} has no word in it"))
        });
        let mut read: Vec<_> = read.collect::<Result<_, _>>()?;
        // As one word too: written together, or torn apart into letters that do not show where a word ends.
        let together: Vec<_> = read.iter().filter_map(Phrase::as_one_word).collect();
        read.extend(together);
        Ok(read)
    };
    let together = together.into_iter().map(|table| {
        if table.words.len() < 2 || table.words.iter().any(Vec::is_empty) {
            return Err(format!("category `{name}`: `words` needs two lists or more, none of them empty"));
        }
        Ok(Together {
            within: table.within,
            words: table.words.into_iter().map(&read).collect::<Result<_, _>>()?,
        })
    });
    let together = together.collect::<Result<_, _>>()?;
    let like = match like.is_empty() {
        true => None,
        false => Some(Likeness::new(&like, likeness).map_err(|e| {
            format!(
                "category `{name}`: `like` needs the built-in model's text encoder, which cannot be used: {e}"
            )
        })?),
    };
    Ok(Category { action, phrases: read(phrases)?, together, like, name })
}
