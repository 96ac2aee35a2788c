//! Matches the words of categories in a reading of a prompt.

use super::normalize::{self, Reading};
use super::similarity::Similarity;
use super::{Action, Verdict};

/// A category of a policy.
#[derive(Clone, Debug)]
pub struct Category {
    pub name: String,
    pub action: Action,
    pub phrases: Vec<Phrase>,
    pub together: Vec<Together>,
    pub like: Option<Similarity>,
}

/// Consecutive words. A `*` at the end of a word matches any ending.
#[derive(Clone, Debug)]
pub struct Phrase(Vec<Word>);

#[derive(Clone, Debug)]
struct Word {
    text: String,
    any_ending: bool,
}

/// Lists of words that match if one word of each list is near the others.
#[derive(Clone, Debug)]
pub struct Together {
    /// Maximum distance from the first to the last word, in words.
    pub within: usize,
    pub words: Vec<Vec<Phrase>>,
}

/// Replaces allowed words; no phrase matches it.
const REMOVED: &str = "";

impl Phrase {
    /// `None` if `text` contains no word.
    pub fn new(text: &str) -> Option<Self> {
        let words: Vec<_> = text
            .split_whitespace()
            .flat_map(|part| {
                let any_ending = part.ends_with('*');
                let words = normalize::words(part);
                let last = words.len().saturating_sub(1);
                words
                    .into_iter()
                    .enumerate()
                    .map(move |(i, text)| Word { text, any_ending: any_ending && i == last })
            })
            .collect();
        (!words.is_empty()).then_some(Self(words))
    }

    /// The words joined to one, if there are several.
    pub fn as_one_word(&self) -> Option<Self> {
        let text: String = self.0.iter().map(|word| word.text.as_str()).collect();
        let any_ending = self.0.last()?.any_ending;
        (self.0.len() > 1).then(|| Self(vec![Word { text, any_ending }]))
    }

    /// The positions in `words` where it begins.
    fn positions<'a>(&'a self, words: &'a [String]) -> impl Iterator<Item = usize> + 'a {
        let matches = |word: &Word, text: &String| match word.any_ending {
            true => text.starts_with(&word.text),
            false => *text == word.text,
        };
        let is_match =
            move |window: &[String]| self.0.iter().zip(window).all(|(word, text)| matches(word, text));
        words.windows(self.0.len()).enumerate().filter(move |(_, window)| is_match(window)).map(|(i, _)| i)
    }
}

impl Together {
    fn matches(&self, words: &[String]) -> bool {
        let mut positions: Vec<Vec<usize>> = Vec::with_capacity(self.words.len());
        for list in &self.words {
            let mut found: Vec<_> = list.iter().flat_map(|phrase| phrase.positions(words)).collect();
            found.sort_unstable();
            positions.push(found);
        }
        // From each position, check whether a word of every list follows within the distance.
        let follows = |list: &Vec<usize>, from: usize| {
            let next = list.partition_point(|position| *position < from);
            list.get(next).is_some_and(|position| position - from < self.within)
        };
        positions.iter().flatten().any(|from| positions.iter().all(|list| follows(list, *from)))
    }
}

/// The verdict of the categories on one reading: the strictest action that matches.
pub fn verdict(categories: &[Category], reading: Reading) -> Verdict {
    let Reading { mut words } = reading;
    for phrase in categories.iter().filter(|c| c.action == Action::Allow).flat_map(|c| &c.phrases) {
        let positions: Vec<_> = phrase.positions(&words).collect();
        for position in positions {
            words[position..position + phrase.0.len()].fill(REMOVED.into());
        }
    }
    let found = |category: &&Category| {
        category.phrases.iter().any(|phrase| phrase.positions(&words).next().is_some())
            || category.together.iter().any(|together| together.matches(&words))
    };
    let of = |action: Action| categories.iter().filter(move |c| c.action == action).find(&found);
    match (of(Action::Block), of(Action::Warn)) {
        (Some(category), _) => Verdict::Block(category.name.clone()),
        (None, Some(category)) => Verdict::Warn(category.name.clone()),
        (None, None) => Verdict::Pass,
    }
}
