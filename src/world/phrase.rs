//! Finds the subjects in a prompt.

use super::words::{Word, Words};

/// A noun phrase that is not part of a place: `two red foxes`.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its words.
    pub words: Vec<Word>,
    /// The words after it, up to the next subject: what it does.
    pub rest: Words,
}

const ARTICLES: &[&str] =
    &["a", "an", "the", "one", "two", "three", "some", "my", "your", "his", "her", "our", "their", "another"];
const PREPOSITIONS: &[&str] = &[
    "in",
    "on",
    "over",
    "under",
    "at",
    "through",
    "by",
    "into",
    "across",
    "among",
    "between",
    "past",
    "near",
    "behind",
    "before",
    "above",
    "below",
    "beneath",
    "down",
    "up",
    "along",
    "around",
    "against",
    "from",
    "to",
    "towards",
    "toward",
    "inside",
    "outside",
    "during",
    "beside",
    "onto",
    "off",
    "beyond",
    "underneath",
    "amid",
    "within",
    "without",
    "for",
    "like",
    "out",
];
/// Words that end a phrase.
const LINKS: &[&str] = &[
    "that", "which", "who", "while", "as", "is", "are", "was", "it", "there", "then", "where", "when", "and",
    "with", "plus", "or", "but", ",", "&", "slowly", "quickly", "very", "happily", "next",
];
/// Verbs that the motions do not name.
const VERBS: &[&str] = &[
    "sit", "play", "dance", "sleep", "eat", "wave", "look", "spin", "climb", "carry", "ride", "chase",
    "fall", "roar", "bark", "sing", "shine", "burn", "grow", "explode", "land", "watch", "push", "pull",
    "throw", "catch", "kick", "drop", "crawl", "creep", "gallop", "trot", "sprint", "wander", "stroll",
    "march", "lie", "lean", "smile", "laugh", "cry", "dive", "leap", "skip", "circle", "approach",
];
/// Words without meaning for the picture: `show me`, `a video of`.
const FILLERS: &[&str] = &[
    "show",
    "me",
    "look",
    "imagine",
    "please",
    "make",
    "generate",
    "create",
    "draw",
    "video",
    "cartoon",
    "animation",
    "picture",
    "film",
    "movie",
    "clip",
    "drawing",
    "image",
    "photo",
    "painting",
    "scene",
    "shot",
    "short",
];

/// Where a word of a prompt is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Subject,
    /// After a preposition: a place or an object.
    Place,
    /// After a verb.
    Action,
}

/// The subjects of a prompt, in order. `is_verb` knows the verbs of motions by their stems.
pub fn subjects(prompt: &Words, is_verb: impl Fn(&str) -> bool) -> Vec<Subject> {
    let all: Vec<_> = prompt.iter().collect();
    let is_verb =
        |word: &Word| is_verb(&word.stem) || VERBS.iter().any(|verb| Word::new(verb).stem == word.stem);
    // The phrases found, with their ends.
    let mut found: Vec<(Vec<Word>, usize)> = Vec::new();
    let (mut phrase, mut part) = (Vec::new(), Part::Subject);
    for (i, word) in all.iter().enumerate() {
        let text = word.text.as_str();
        let before = i.checked_sub(1).map_or("", |i| all[i].text.as_str());
        let (ended, next) = if ARTICLES.contains(&text) {
            // `in the snow a fox`: the place has ended. `in the snow`: it has not begun.
            let of_place = part == Part::Place && PREPOSITIONS.contains(&before);
            (true, if of_place { Part::Place } else { Part::Subject })
        } else if PREPOSITIONS.contains(&text) {
            (true, Part::Place)
        } else if text == "and" {
            (true, part)
        } else if LINKS.contains(&text) {
            (true, Part::Subject)
        } else if is_verb(word) && (!phrase.is_empty() || LINKS.contains(&before)) {
            (true, Part::Action)
        } else if part != Part::Subject || phrase.is_empty() && FILLERS.contains(&text) {
            (false, part)
        } else if text == "of"
            && phrase.last().is_none_or(|word: &Word| FILLERS.contains(&word.text.as_str()))
        {
            phrase.clear();
            (false, part)
        } else {
            phrase.push((*word).clone());
            (false, part)
        };
        if ended && !phrase.is_empty() {
            found.push((std::mem::take(&mut phrase), i));
        }
        part = next;
    }
    if !phrase.is_empty() {
        found.push((phrase, all.len()));
    }
    let begins = found.iter().skip(1).map(|(words, end)| end - words.len());
    let ends: Vec<_> = begins.chain([all.len()]).collect();
    let with_rest = found.into_iter().zip(ends).map(|((words, end), next)| {
        let rest = all[end..next.max(end)].iter().map(|word| (*word).clone()).collect();
        Subject { words, rest: Words::of(rest) }
    });
    with_rest.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(prompt: &str) -> Vec<(String, String)> {
        let verbs = ["run", "jump", "stand", "swim", "fly", "nod", "go"];
        let joined =
            |words: &[Word]| words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ");
        subjects(&Words::new(prompt), |stem| verbs.contains(&stem))
            .iter()
            .map(|subject| {
                (joined(&subject.words), joined(&subject.rest.iter().cloned().collect::<Vec<_>>()))
            })
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
