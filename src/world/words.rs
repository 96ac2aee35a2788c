//! The words of a prompt.

/// Lower-case words, and punctuation that separates parts of a sentence as a word `,`.
#[derive(Clone, Debug, Default)]
pub struct Words(Vec<Word>);

#[derive(Clone, Debug)]
pub struct Word {
    pub text: String,
    /// See [`stem`].
    pub stem: String,
}

impl Words {
    pub fn new(text: &str) -> Self {
        let mut words = Vec::new();
        let is_part = |c: char| c.is_alphanumeric() || c == '\'' || c == '-';
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

    pub fn iter(&self) -> std::slice::Iter<'_, Word> {
        self.0.iter()
    }

    /// Where `phrase` begins first, in any form of its words.
    pub fn find(&self, phrase: &Self) -> Option<usize> {
        let same = |part: &[Word]| part.iter().zip(&phrase.0).all(|(a, b)| a.stem == b.stem);
        if phrase.0.is_empty() { None } else { self.0.windows(phrase.len()).position(same) }
    }

    /// Whether these words follow each other.
    pub fn has(&self, phrase: &str) -> bool {
        self.find(&Self::new(phrase)).is_some()
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
        assert!(!words.has("runs fast") && words.has("is running"));
        assert!(!words.has("row") && !words.has(""));
    }
}
