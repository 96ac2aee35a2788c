//! Finding a category's words in a reading of a prompt.

use super::meaning::Likeness;
use super::reading::{self, Reading};
use super::{Action, Verdict};

/// Something that a prompt may contain.
#[derive(Clone, Debug)]
pub struct Category {
    pub name: String,
    pub action: Action,
    pub phrases: Vec<Phrase>,
    pub together: Vec<Together>,
    pub like: Option<Likeness>,
}

/// Words one after another; a `*` at the end of one stands for any ending.
#[derive(Clone, Debug)]
pub struct Phrase(Vec<Word>);

#[derive(Clone, Debug)]
struct Word {
    text: String,
    any_ending: bool,
}

/// Words that count where one of each list is near the others.
#[derive(Clone, Debug)]
pub struct Together {
    /// Words from the first to the last at most.
    pub within: usize,
    pub words: Vec<Vec<Phrase>>,
}

/// What stands in the place of allowed words: no word is like it.
const GONE: &str = "";

impl Phrase {
    /// `None` if there is no word in it.
    pub fn new(text: &str) -> Option<Self> {
        let words: Vec<_> = text
            .split_whitespace()
            .flat_map(|part| {
                let any_ending = part.ends_with('*');
                let words = reading::words(part);
                let last = words.len().saturating_sub(1);
                words
                    .into_iter()
                    .enumerate()
                    .map(move |(i, text)| Word { text, any_ending: any_ending && i == last })
            })
            .collect();
        (!words.is_empty()).then_some(Self(words))
    }

    /// Its words written together, if there are several.
    pub fn as_one_word(&self) -> Option<Self> {
        let text: String = self.0.iter().map(|word| word.text.as_str()).collect();
        let any_ending = self.0.last()?.any_ending;
        (self.0.len() > 1).then(|| Self(vec![Word { text, any_ending }]))
    }

    /// Where it begins in `words`.
    fn places<'a>(&'a self, words: &'a [String]) -> impl Iterator<Item = usize> + 'a {
        let is = |word: &Word, text: &String| match word.any_ending {
            true => text.starts_with(&word.text),
            false => *text == word.text,
        };
        let here = move |window: &[String]| self.0.iter().zip(window).all(|(word, text)| is(word, text));
        words.windows(self.0.len()).enumerate().filter(move |(_, window)| here(window)).map(|(i, _)| i)
    }
}

impl Together {
    fn is_in(&self, words: &[String]) -> bool {
        let mut places: Vec<Vec<usize>> = Vec::with_capacity(self.words.len());
        for list in &self.words {
            let mut found: Vec<_> = list.iter().flat_map(|phrase| phrase.places(words)).collect();
            found.sort_unstable();
            places.push(found);
        }
        // From each place on, whether one of every list follows soon enough.
        let follows = |list: &Vec<usize>, from: usize| {
            let next = list.partition_point(|place| *place < from);
            list.get(next).is_some_and(|place| place - from < self.within)
        };
        places.iter().flatten().any(|from| places.iter().all(|list| follows(list, *from)))
    }
}

/// What the categories come to in one reading.
pub fn verdict(categories: &[Category], reading: Reading) -> Verdict {
    let Reading { mut words } = reading;
    for phrase in categories.iter().filter(|c| c.action == Action::Allow).flat_map(|c| &c.phrases) {
        let places: Vec<_> = phrase.places(&words).collect();
        for place in places {
            words[place..place + phrase.0.len()].fill(GONE.into());
        }
    }
    let found = |category: &&Category| {
        category.phrases.iter().any(|phrase| phrase.places(&words).next().is_some())
            || category.together.iter().any(|together| together.is_in(&words))
    };
    let of = |action: Action| categories.iter().filter(move |c| c.action == action).find(&found);
    match (of(Action::Block), of(Action::Warn)) {
        (Some(category), _) => Verdict::Block(category.name.clone()),
        (None, Some(category)) => Verdict::Warn(category.name.clone()),
        (None, None) => Verdict::Pass,
    }
}
