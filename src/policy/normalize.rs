//! A prompt as a person would read it, whatever letters it is written with.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;
use unicode_security::skeleton;

use crate::text::clean;

/// Letters in a word that may be a piece of one that was torn apart: `n u d e`, `nu de`.
const PIECE: usize = 2;
/// Pieces in a word at most.
const LONGEST: usize = 14;
/// The same letter so often in a row is written once: `nuuude`.
const DRAWN_OUT: usize = 3;

/// The words of a prompt, read in one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    pub words: Vec<String>,
}

/// A prompt as it is and, where that is something else, as a model of Wan is given it: entities are the characters that they
/// stand for.
pub fn forms(prompt: &str) -> Vec<String> {
    let mut forms = vec![prompt.to_owned(), clean(prompt)];
    forms.dedup();
    forms
}

/// The ways in which a prompt can be read. What is found in one of them is in the prompt.
pub fn readings(prompt: &str) -> Vec<Reading> {
    let mut readings: Vec<Reading> = Vec::new();
    let mut add = |words: Vec<String>| {
        let reading = Reading { words };
        if !readings.contains(&reading) {
            readings.push(reading);
        }
    };
    let mut texts: Vec<_> = forms(prompt).iter().map(|form| plain(form)).collect();
    texts.dedup();
    for text in texts {
        for one in [None, Some('i'), Some('l')] {
            let text = one.map_or_else(|| text.clone(), |one| letters_for_digits(&text, one));
            let words = split(&text);
            add(words.iter().map(|word| shortened(word)).collect());
            add(joined(&words).iter().map(|word| shortened(word)).collect());
        }
    }
    readings
}

/// The words of a phrase of a policy.
pub fn words(phrase: &str) -> Vec<String> {
    split(&plain(phrase))
}

/// Small letters without accents, invisible characters or look-alikes of Latin letters.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.nfkd().filter(|c| !is_combining_mark(*c) && !is_invisible(*c)) {
        if c.is_ascii() {
            out.push(c);
        } else {
            // Small and large letters look like different ones; words of other scripts stay words.
            let mut buffer = [0; 4];
            out.extend(skeleton(c.encode_utf8(&mut buffer)));
        }
    }
    out.to_lowercase()
}

/// Characters that take no place, and those that text encoders leave out: of control, of format, of nobody's alphabet.
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

/// `text` with the letters that digits and signs stand for in words: `n00d`, `$ex`. A 1 may be two letters;
/// `one` is which.
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
            // A number stays one.
            let is_word = word.chars().any(char::is_alphabetic);
            word.chars().map(move |c| if is_word { translate(c) } else { c })
        })
        .collect()
}

/// At everything that is no letter or digit. In scripts without spaces every character is a word.
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

/// Pieces that follow each other as one word.
fn joined(words: &[String]) -> Vec<String> {
    let is_piece = |word: &String| word.chars().count() <= PIECE && !word.chars().any(is_ideograph);
    words
        .chunk_by(|a, b| is_piece(a) && is_piece(b))
        .flat_map(|run| if run.len() > 1 && is_piece(&run[0]) { assembled(run) } else { run.to_vec() })
        .collect()
}

/// All pieces as one word, and some of them, since short words beside the pieces look like pieces: `a q u a`.
fn assembled(pieces: &[String]) -> Vec<String> {
    let some = (3..=LONGEST.min(pieces.len())).flat_map(|n| pieces.windows(n).map(<[String]>::concat));
    std::iter::once(pieces.concat()).chain(some).collect()
}

fn shortened(word: &str) -> String {
    let letters: Vec<char> = word.chars().collect();
    letters
        .chunk_by(|a, b| a == b)
        .flat_map(|run| &run[..if run.len() >= DRAWN_OUT { 1 } else { run.len() }])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(prompt: &str, word: &str) -> bool {
        readings(prompt).iter().any(|reading| reading.words.iter().any(|w| w == word))
    }

    #[test]
    fn a_word_is_read_through_its_disguises() {
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
    fn other_words_are_left_alone() {
        for prompt in ["4 cats in a row at 7 pm", "a corn field", "to be at it in an hour"] {
            let plain: Vec<_> = prompt.split(' ').map(str::to_owned).collect();
            assert!(readings(prompt).iter().any(|reading| reading.words == plain), "{prompt}");
        }
        assert_eq!(words("红色 кот"), ["红", "色", &words("кот")[0]]);
        assert_eq!(readings("   ")[0].words, [""; 0]);
    }
}
