//! The words of a prompt.

use super::grammar::{PREPOSITIONS, is_one_of};

/// Lower-case words, and punctuation that separates parts of a sentence as a word `,`.
#[derive(Clone, Debug, Default)]
pub struct Words(Vec<Word>);

#[derive(Clone, Debug)]
pub struct Word {
    pub text: String,
    /// Verbs are compared by it, see [`stem`]. Nouns are not: `star` and `stare` have the same.
    pub stem: String,
}

impl Words {
    pub fn new(text: &str) -> Self {
        let mut words = Vec::new();
        let is_part = |c: char| c.is_alphanumeric() || c == '\'' || c == '-';
        let text = text.replace('’', "'");
        for part in text.split_inclusive(|c: char| !is_part(c)) {
            let end = part.trim_end_matches(|c| !is_part(c));
            // A hyphen joins words that names have apart: `t-rex`, `steam-train`.
            words.extend(end.split('-').filter(|word| !word.is_empty()).map(Word::new));
            if part.ends_with([',', '.', ';', ':', '!', '?', '|', '(', ')']) {
                words.push(Word::new(","));
            }
        }
        Self(words)
    }

    /// These words.
    pub fn of(words: Vec<Word>) -> Self {
        Self(words)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn as_slice(&self) -> &[Word] {
        &self.0
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Word> {
        self.0.iter()
    }

    /// Where `phrase` begins first, in any form of its words.
    pub fn find(&self, phrase: &Self) -> Option<usize> {
        let same = |part: &[Word]| part.iter().zip(&phrase.0).all(|(a, b)| a.stem == b.stem);
        if phrase.0.is_empty() { None } else { self.0.windows(phrase.len()).position(same) }
    }

    /// As they are compared with names: in lower case, without punctuation marks inside.
    pub fn text(words: &[Word]) -> String {
        words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ")
    }
}

impl Word {
    pub fn new(word: &str) -> Self {
        let text = word.trim_end_matches("'s").trim_matches('\'').to_lowercase();
        Self { stem: stem(&text), text }
    }
}

/// A word without the endings of number, person and tense: `runs`, `running` → `run`; `foxes` → `fox`.
fn stem(word: &str) -> String {
    let vowel = |c: char| "aeiouy".contains(c);
    let mut stem = match word {
        _ if word.len() <= 3 => word.to_string(),
        _ if word.ends_with("ies") => format!("{}y", &word[..word.len() - 3]),
        _ if word.ends_with("ss") || word.ends_with("us") => word.to_string(),
        _ => {
            let base = ["ing", "ed", "es", "s"].iter().find_map(|ending| {
                word.strip_suffix(ending).filter(|base| base.len() >= 2 && base.contains(vowel))
            });
            base.unwrap_or(word).to_string()
        }
    };
    // `glides`, `gliding` → `glid`; `running` → `run`.
    if stem.len() > 3 && stem.ends_with('e') {
        stem.pop();
    }
    let last_two = &stem.as_bytes()[stem.len().saturating_sub(2)..];
    if stem.len() > 3
        && stem.len() < word.len()
        && last_two[0] == last_two[1]
        && stem.is_ascii()
        && !stem.ends_with(['l', 's'])
    {
        stem.pop();
    }
    stem
}

/// The first direction in these words: −1 to the left, 1 to the right.
pub fn direction(words: &Words) -> Option<i32> {
    let texts: Vec<_> = words.iter().map(|word| word.text.as_str()).collect();
    (0..texts.len()).find_map(|i| named_at(&texts, i))
}

/// The direction that the word `i` names.
fn named_at(texts: &[&str], i: usize) -> Option<i32> {
    let side = match texts[i] {
        "left" => -1,
        "right" => 1,
        "leftward" | "leftwards" => return Some(-1),
        "rightward" | "rightwards" => return Some(1),
        _ => return None,
    };
    let after = |n: usize| texts.get(i + n).copied().unwrap_or(",");
    let before = |n: usize| i.checked_sub(n).map_or(",", |at| texts[at]);
    // `the left`, which needs `to` or `from`.
    let article = before(1) == "the";
    match before(1 + usize::from(article)) {
        // `to the left of a house` is a place.
        "to" | "towards" | "toward" if after(1) != "of" => Some(side),
        "from" => Some(-side),
        _ if article => None,
        // `runs left`, but not `left to right`, `left and right`, `a left shoe`.
        _ if after(1) == "to" && ["left", "right"].contains(&after(2)) => Some(-side),
        "," | "and" | "a" | "an" | "its" | "his" | "her" | "on" | "at" => None,
        _ if after(1) == "and" => (!["left", "right"].contains(&after(2))).then_some(side),
        _ => (after(1) == "," || is_one_of(PREPOSITIONS, after(1))).then_some(side),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_a_word_have_one_stem() {
        for forms in [
            &["run", "runs", "running"][..],
            &["fly", "flies", "flying"],
            &["glide", "glides", "gliding", "glided"],
            &["jump", "jumps", "jumped", "jumping"],
            &["fox", "foxes"],
            &["race", "races", "racing"],
            &["pass", "passes"],
            &["octopus"],
            &["bus"],
        ] {
            assert!(forms.iter().all(|form| stem(form) == stem(forms[0])), "{forms:?}");
        }
        assert_ne!(stem("ring"), stem("r"));
        assert_ne!(stem("princess"), stem("princes"));
        assert_eq!(stem("é"), "é");
    }

    #[test]
    fn a_phrase_is_found_as_whole_words() {
        let words = Words::new("The T-Rex's friend, an OWL, is running: fast");
        let texts: Vec<_> = words.iter().map(|word| word.text.as_str()).collect();
        assert_eq!(texts, ["the", "t", "rex", "friend", ",", "an", "owl", ",", "is", "running", ",", "fast"]);
        assert_eq!(words.find(&Words::new("t rex")), Some(1));
        let has = |phrase: &str| words.find(&Words::new(phrase)).is_some();
        assert!(!has("runs fast") && has("is running"));
        assert!(!has("row") && !has(""));
    }

    #[test]
    fn directions_are_not_places() {
        for (text, expected) in [
            ("a fox runs right", Some(1)),
            ("a fox runs left through the snow", Some(-1)),
            ("runs to the left and jumps", Some(-1)),
            ("runs left and jumps", Some(-1)),
            ("from the left to the right", Some(1)),
            ("from right to left", Some(-1)),
            ("left to right", Some(1)),
            ("from the right", Some(-1)),
            ("towards the right side", Some(1)),
            ("leftwards", Some(-1)),
            ("to the right, then to the left", Some(1)),
            ("stands to the right of a house", None),
            ("on the right", None),
            ("the left shoe", None),
            ("it looks left and right", None),
            ("a fox left the forest", None),
            ("", None),
        ] {
            assert_eq!(direction(&Words::new(text)), expected, "{text}");
        }
    }
}
