//! Finds the subjects in a prompt.

use super::grammar::{ARTICLES, FILLERS, GROUPS, JOINTS, LINKS, PREPOSITIONS, is_one_of};
use super::words::{Word, Words};

/// A noun phrase that is not part of a place: `two red foxes`.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its words.
    pub words: Vec<Word>,
    /// Whether an article or a number is before it.
    pub article: bool,
    /// Whether a verb follows it.
    pub acts: bool,
    /// The words after it, up to the next subject: what it does.
    pub rest: Words,
}

impl Subject {
    /// Whether nothing but links is between it and the next subject: `a dog and a cat`.
    pub fn shares_its_verb(&self) -> bool {
        self.rest.iter().all(|word| is_one_of(LINKS, &word.text) || is_one_of(ARTICLES, &word.text))
    }
}

/// Where a word of a prompt is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Subject,
    /// After a preposition: a place or an object.
    Place,
    /// After a verb.
    Action,
}

/// A phrase in a prompt: its first word, and the word after its last.
struct Phrase {
    begin: usize,
    end: usize,
    article: bool,
    acts: bool,
}

/// The subjects of a prompt, in order. `is_verb` knows the stems of verbs; `name` tells how many words of a name these begin with.
pub fn subjects(
    prompt: &Words,
    is_verb: impl Fn(&str) -> bool,
    name: impl Fn(&[Word]) -> usize,
) -> Vec<Subject> {
    let all = prompt.as_slice();
    let mut found: Vec<Phrase> = Vec::new();
    // The phrase that is being read begins at `begin`.
    let (mut i, mut begin, mut part, mut article) = (0, 0, Part::Subject, false);
    while i < all.len() {
        let (phrase, text) = (&all[begin..i], all[i].text.as_str());
        let before = i.checked_sub(1).map_or("", |i| all[i].text.as_str());
        let next = all.get(i + 1).map_or("", |word| word.text.as_str());
        let length = name(&all[i..]);
        let (mut ended, mut skipped) = (None, part != Part::Subject);
        if length > 1 {
            // A name of several words is one noun: `flying saucer`.
        } else if is_one_of(ARTICLES, text) {
            // `in the snow a fox`: the place has ended. `in the snow`: it has not begun. `with a ball` begins a subject.
            let of_place =
                part == Part::Place && before != "with" && is_one_of(PREPOSITIONS, before) || before == "of";
            ended = Some(if of_place { part } else { Part::Subject });
        } else if is_one_of(JOINTS, text) {
            ended = Some(part);
        } else if is_one_of(LINKS, text) || text == "to" && before == "next" {
            ended = Some(Part::Subject);
        } else if is_one_of(PREPOSITIONS, text) {
            ended = Some(Part::Place);
        } else if text == "of" && phrase.last().is_none_or(is_only_a_frame)
            || phrase.is_empty() && is_one_of(FILLERS, text)
        {
            skipped = true;
        } else if text == "of" && is_one_of(ARTICLES, next) {
            ended = Some(Part::Place);
        } else if acts(&all[i], phrase, before, length > 0, (&is_verb, &name)) {
            ended = Some(Part::Action);
        }
        let end = i;
        i += length.max(1);
        if let Some(ended) = ended {
            if begin < end {
                found.push(Phrase { begin, end, article, acts: false });
            }
            if let (Part::Action, Some(last)) = (ended, found.last_mut()) {
                last.acts = true;
            }
            (part, article) = (ended, is_one_of(ARTICLES, text));
        }
        if ended.is_some() || skipped {
            begin = i;
        }
    }
    if begin < all.len() {
        found.push(Phrase { begin, end: all.len(), article, acts: false });
    }
    let ends = found.iter().skip(1).map(|phrase| phrase.begin).chain([all.len()]);
    let subject = |(phrase, end): (&Phrase, usize)| Subject {
        words: all[phrase.begin..phrase.end].to_vec(),
        article: phrase.article,
        acts: phrase.acts,
        rest: Words::of(all[phrase.end..end].to_vec()),
    };
    found.iter().zip(ends).map(subject).collect()
}

/// Whether a word means nothing before `of`: `a video of`, `a group of`.
fn is_only_a_frame(word: &Word) -> bool {
    is_one_of(FILLERS, &word.text) || is_one_of(GROUPS, &word.text)
}

/// Whether a word after `phrase` is a verb. A word before the noun is none: `a running horse`.
fn acts(
    word: &Word,
    phrase: &[Word],
    before: &str,
    is_noun: bool,
    (is_verb, name): (impl Fn(&str) -> bool, impl Fn(&[Word]) -> usize),
) -> bool {
    let Some(last) = phrase.last() else {
        return is_verb(&word.stem) && is_one_of(LINKS, before);
    };
    let text = word.text.as_str();
    let plural = |text: &str| {
        text.len() > 3 && text.ends_with('s') && !["ss", "us", "is"].iter().any(|end| text.ends_with(end))
    };
    let has_form = plural(text) || text.ends_with("ing") && text != word.stem;
    let named = || (0..phrase.len()).any(|i| name(&phrase[i..]) > 0);
    if is_verb(&word.stem) {
        has_form || text.ends_with("ed") || plural(&last.text) || named()
    } else {
        has_form && !is_noun && named()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(prompt: &str) -> Vec<(String, String)> {
        let verbs = ["run", "jump", "stand", "swim", "fly", "nod", "go"];
        let names = ["fox", "dog", "chef", "flying saucer", "glass of milk"];
        let name = |words: &[Word]| {
            (1..=words.len().min(3)).rev().find(|n| names.contains(&Words::text(&words[..*n]).as_str()))
        };
        subjects(&Words::new(prompt), |stem| verbs.contains(&stem), |words| name(words).unwrap_or(0))
            .iter()
            .map(|subject| (Words::text(&subject.words), Words::text(subject.rest.as_slice())))
            .collect()
    }

    #[test]
    fn subjects_are_the_phrases_that_are_not_places() {
        let names = |prompt| found(prompt).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names("a red fox runs over the snow"), ["red fox"]);
        assert_eq!(names("In the snow a fox runs"), ["fox"]);
        assert_eq!(names("over the green hills, an owl is flying"), ["owl"]);
        assert_eq!(names("a video of a steam train in the city"), ["steam train"]);
        assert_eq!(names("rain over the sea at night"), ["rain"]);
        assert_eq!(names("under palm trees at night"), [""; 0]);
        assert_eq!(names("a dog and a cat in a meadow"), ["dog", "cat"]);
        assert_eq!(names("a dog jumps in the snow and a cat stands"), ["dog", "cat"]);
        assert_eq!(names("in the forest and the meadow"), ["meadow"]);
        assert_eq!(names("a fox goes back and forth, to the right"), ["fox"]);
        assert_eq!(names("the flying saucer is flying in space"), ["flying saucer"]);
        assert_eq!(names("a running horse in a meadow"), ["running horse"]);
        assert_eq!(names("a dog sits in front of a house"), ["dog"]);
        assert_eq!(names("a fox, in the style of a children's book"), ["fox"]);
        assert_eq!(names("a group of penguins next to a dog"), ["penguins", "dog"]);
        assert_eq!(
            names("the king of the hill with big ears and a glass of milk"),
            ["king", "glass of milk"]
        );
        // A word after a name is a verb, if its form is that of one.
        assert_eq!(names("a chef fries pasta"), ["chef"]);
        assert_eq!(names("a small dog wearing sunglasses"), ["small dog"]);
        assert_eq!(names("a wizard hats"), ["wizard hats"]);
        assert_eq!(names("fox"), ["fox"]);
        assert_eq!(names(""), [""; 0]);
        assert_eq!(names("show me an owl as it nods on a rainy day"), ["owl"]);
    }

    #[test]
    fn each_subject_has_its_verb() {
        let all = found("a dog jumps to the left and a cat stands in the snow");
        assert_eq!(all[0].0, "dog");
        assert_eq!(all[0].1, "jumps to the left and a");
        assert_eq!(all[1], ("cat".into(), "stands in the snow".into()));
    }
}
