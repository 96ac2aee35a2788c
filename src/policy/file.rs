//! The policy file.

use serde::Deserialize;

use super::matching::{Category, Phrase, Together};

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
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TogetherTable {
    within: usize,
    words: Vec<Vec<String>>,
}

/// The policy's name and its categories; the error says what is wrong.
pub fn parse(text: &str) -> Result<(String, Vec<Category>), String> {
    let file: PolicyFile = toml::from_str(text).map_err(|e| e.to_string())?;
    let categories = file.category.into_iter().map(category).collect::<Result<_, _>>()?;
    Ok((file.name, categories))
}

fn category(table: CategoryTable) -> Result<Category, String> {
    let CategoryTable { name, action, phrases, together } = table;
    if phrases.is_empty() && together.is_empty() {
        return Err(format!("category `{name}` has neither phrases nor words that count together"));
    }
    let read = |phrases: Vec<String>| -> Result<Vec<Phrase>, String> {
        phrases
            .iter()
            .map(|phrase| {
                Phrase::new(phrase).ok_or_else(|| format!("category `{name}`: {phrase:?} has no word in it"))
            })
            .collect()
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
    Ok(Category { action, phrases: read(phrases)?, together, name })
}
