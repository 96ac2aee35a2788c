//! Normalizes prompts, so that disguised words are compared as their plain spelling.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;
use unicode_security::skeleton;

use crate::text::clean;

/// Letters of a word that may be a fragment of a split word: `n u d e`, `nu de`.
const MAX_FRAGMENT: usize = 2;
/// Fragments of a word at most.
const MAX_FRAGMENTS: usize = 14;
/// This many equal letters in a row become one: `nuuude`.
const REPEATED: usize = 3;

/// The words of a prompt under one interpretation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    pub words: Vec<String>,
}

/// The prompt and, if it differs, the cleaned prompt that Wan's text encoder reads, in which entities are decoded.
pub fn variants(prompt: &str) -> Vec<String> {
    let mut variants = vec![prompt.to_owned(), clean(prompt)];
    variants.dedup();
    variants
}

/// All readings of a prompt. A match in one of them is a match in the prompt.
pub fn readings(prompt: &str) -> Vec<Reading> {
    let mut readings: Vec<Reading> = Vec::new();
    let mut add = |words: Vec<String>| {
        let reading = Reading { words };
        if !readings.contains(&reading) {
            readings.push(reading);
        }
    };
    let mut texts: Vec<_> = variants(prompt).iter().map(|text| fold(text)).collect();
    texts.dedup();
    for text in texts {
        for one in [None, Some('i'), Some('l')] {
            let text = one.map_or_else(|| text.clone(), |one| letters_for_digits(&text, one));
            let words = split(&text);
            add(words.iter().map(|word| collapse_repeats(word)).collect());
            add(join_fragments(&words).iter().map(|word| collapse_repeats(word)).collect());
        }
    }
    readings
}

/// The words of a phrase of a policy.
pub fn words(phrase: &str) -> Vec<String> {
    split(&fold(phrase))
}

/// Lower-case text without accents, invisible characters and look-alikes of Latin letters.
fn fold(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.nfkd().filter(|c| !is_combining_mark(*c) && !is_invisible(*c)) {
        if c.is_ascii() {
            out.push(c);
        } else {
            // Before lower-casing: upper-case letters have other look-alikes. Words of other scripts stay words.
            let mut buffer = [0; 4];
            out.extend(skeleton(c.encode_utf8(&mut buffer)));
        }
    }
    out.to_lowercase()
}

/// Characters without width, and those that text encoders drop: control, format and private-use characters.
fn is_invisible(c: char) -> bool {
    c.is_control() && !matches!(c, '\t' | '\n' | '\r')
        || matches!(c, '\u{600}'..='\u{605}' | '\u{6dd}' | '\u{70f}'
        | '\u{890}' | '\u{891}' | '\u{8e2}' | '\u{e000}'..='\u{f8ff}' | '\u{fff9}'..='\u{fffd}' | '\u{110bd}' | '\u{110cd}'
        | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{f0000}'..='\u{10ffff}'
        | '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// Replaces digits and signs in words by the letters that they resemble: `n00d`, `$ex`. A 1 becomes `one`, which is `i`
/// or `l`.
fn letters_for_digits(text: &str, one: char) -> String {
    let translate = |c: char| match c {
        '0' => 'o',
        '1' | '!' | '|' => one,
        '3' => 'e',
        '4' | '@' => 'a',
        '5' | '$' => 's',
        '7' | '+' => 't',
        '8' => 'b',
        '9' => 'g',
        other => other,
    };
    text.split_inclusive(char::is_whitespace)
        .flat_map(|word| {
            // Numbers are kept.
            let is_word = word.chars().any(char::is_alphabetic);
            word.chars().map(move |c| if is_word { translate(c) } else { c })
        })
        .collect()
}

/// Splits at everything but letters and digits. In scripts without spaces every character is a word.
fn split(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut open = false;
    for c in text.chars() {
        if !c.is_alphanumeric() {
            open = false;
        } else if is_ideograph(c) {
            words.push(c.into());
            open = false;
        } else {
            match words.last_mut().filter(|_| open) {
                Some(word) => word.push(c),
                None => words.push(c.into()),
            }
            open = true;
        }
    }
    words
}

/// Han, Hiragana, Katakana, Thai and Lao to Myanmar and Khmer: written without spaces.
fn is_ideograph(c: char) -> bool {
    matches!(c, '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{30ff}'
        | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

/// Joins adjacent fragments into words.
fn join_fragments(words: &[String]) -> Vec<String> {
    let is_fragment = |word: &String| word.chars().count() <= MAX_FRAGMENT && !word.chars().any(is_ideograph);
    words
        .chunk_by(|a, b| is_fragment(a) && is_fragment(b))
        .flat_map(|run| if run.len() > 1 && is_fragment(&run[0]) { join_runs(run) } else { run.to_vec() })
        .collect()
}

/// All fragments as one word, and every run of them, because short words beside fragments look like fragments: `a q u
/// a`.
fn join_runs(fragments: &[String]) -> Vec<String> {
    let runs =
        (3..=MAX_FRAGMENTS.min(fragments.len())).flat_map(|n| fragments.windows(n).map(<[String]>::concat));
    std::iter::once(fragments.concat()).chain(runs).collect()
}

/// Replaces long runs of a letter by one letter.
fn collapse_repeats(word: &str) -> String {
    let letters: Vec<char> = word.chars().collect();
    letters
        .chunk_by(|a, b| a == b)
        .flat_map(|run| &run[..if run.len() >= REPEATED { 1 } else { run.len() }])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(prompt: &str, word: &str) -> bool {
        readings(prompt).iter().any(|reading| reading.words.iter().any(|w| w == word))
    }

    #[test]
    fn disguised_words_are_recognized() {
        for disguise in [
            "QUARTZ",
            "Quártz",
            "q\u{200b}uar\u{ad}tz",
            "ｑｕａｒｔｚ",
            "𝓺𝓾𝓪𝓻𝓽𝔃",
            "quаrtz",
            "qu4rtz",
            "qu@r7z",
            "q u a r t z",
            "q.u.a.r.t.z",
            "q-u-a-r-t-z",
            "qu ar tz",
            "quaaaaartz",
            "qua\u{1}rtz",
            "qua\u{85}rtz",
            "qu\u{e123}artz",
            "qu\u{fffd}artz",
            "qu&#97;rtz",
            "qua\u{1b}[0mrtz",
            "q\u{336}u\u{336}a\u{336}r\u{336}t\u{336}z",
        ] {
            assert!(reads(disguise, "quartz"), "{disguise}: {:?}", readings(disguise));
        }
        assert!(reads("si1ver", "silver") && reads("1ron", "iron"));
    }

    #[test]
    fn other_words_are_kept() {
        for prompt in ["4 cats in a row at 7 pm", "a corn field", "to be at it in an hour"] {
            let plain: Vec<_> = prompt.split(' ').map(str::to_owned).collect();
            assert!(readings(prompt).iter().any(|reading| reading.words == plain), "{prompt}");
        }
        assert_eq!(words("红色 кот"), ["红", "色", &words("кот")[0]]);
        assert_eq!(readings("   ")[0].words, [""; 0]);
    }
}
