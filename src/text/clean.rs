//! Cleans prompts as Wan's training did: diffusers' `prompt_clean`.
//!
//! These are `ftfy.fix_text` (<https://ftfy.readthedocs.io>), `html.unescape` twice, and collapsed white space. The
//! repair of text that was decoded in a wrong encoding is not implemented.

use htmlize::unescape;
use tokenizers::NormalizedString;

/// The cleaned prompt.
pub fn clean(prompt: &str) -> String {
    let fixed: Vec<String> = prompt.split('\n').map(fix).collect();
    let unescaped = unescape(unescape(fixed.join("\n")).as_ref()).into_owned();
    unescaped.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `ftfy.fix_text` for one line, repeated until nothing changes.
fn fix(line: &str) -> String {
    let mut text = line.to_owned();
    loop {
        // In text with tags, entities are meant literally.
        let mut unescaped = text.clone();
        // An inner loop: nesting may be as deep as the text is long, and the other steps are slow.
        while !unescaped.contains('<') {
            let next = unescape_closed(&unescaped);
            if next == unescaped {
                break;
            }
            unescaped = next;
        }
        let replaced: String = without_terminal_escapes(&unescaped).chars().flat_map(replacement).collect();
        let mut normalized = NormalizedString::from(replaced);
        let fixed = normalized.nfc().get().to_owned();
        if fixed == text {
            return text;
        }
        text = fixed;
    }
}

/// Replaces entities that end in a semicolon; `a&copy` is kept.
fn unescape_closed(text: &str) -> String {
    let mut parts = text.split('&');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(';') {
            Some((name, rest)) if is_entity(name) => {
                out += &unescape(format!("&{name};"));
                out += rest;
            }
            _ => {
                out.push('&');
                out += part;
            }
        }
    }
    out
}

fn is_entity(name: &str) -> bool {
    let name = name.strip_prefix('#').unwrap_or(name);
    (1..=24).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Removes colour codes of terminals: ESC, `[`, digits and semicolons, a letter.
fn without_terminal_escapes(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        match end.chars().next() {
            Some(letter) if letter.is_ascii_alphabetic() => out += &end[1..],
            _ => {
                out.push('[');
                out += part;
            }
        }
    }
    out
}

/// Splits ligatures and wide letters, straightens quotes, unifies line ends, removes control characters.
fn replacement(c: char) -> impl Iterator<Item = char> {
    let compatible = |c: char| NormalizedString::from(c.to_string()).nfkc().get().to_owned();
    let text = match c {
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => "'".to_owned(),
        '\u{201c}'..='\u{201f}' => "\"".to_owned(),
        'ŉ' => "ʼn".to_owned(),
        'ﬅ' => "ſt".to_owned(),
        'Ĳ' | 'ĳ' | 'Ǳ'..='ǳ' | 'Ǆ'..='ǌ' | 'ﬀ'..='ﬄ' | 'ﬆ' => compatible(c),
        '\u{3000}' | '\u{ff01}'..='\u{ffef}' => compatible(c),
        '\r' | '\u{2028}' | '\u{2029}' | '\u{85}' => "\n".to_owned(),
        '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' => String::new(),
        '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}' => String::new(),
        other => other.to_string(),
    };
    text.chars().collect::<Vec<_>>().into_iter()
}
