//! Subtitles in SubRip and WebVTT (<https://www.w3.org/TR/webvtt1/>): the text of a cue is a prompt that applies until
//! the next cue. The first applies from 0; the video ends with the last.

use std::cmp::Ordering;
use std::time::Duration;

use super::{Builder, ParseError, Storyboard, excerpt, split_transition, time};
use crate::request::Shot;

pub fn parse(text: &str) -> Result<Storyboard, ParseError> {
    let mut builder = Builder::default();
    let (mut before, mut end, mut last) = (None, Duration::ZERO, 1);
    for Cue { line, start, until, text } in split(text)?.1 {
        last = line;
        match until.cmp(&start) {
            Ordering::Less => return Err(ParseError::new(line, "the cue ends before it starts")),
            Ordering::Equal => {
                let reason = "the cue has no length: it ends when it starts; set a later end, or remove it";
                return Err(ParseError::new(line, reason));
            }
            Ordering::Greater => {}
        }
        // Compared before the first cue is moved to 0.
        if before.replace(start).is_some_and(|before| start <= before) {
            return Err(ParseError::new(line, "the shot starts no later than the one before it"));
        }
        let (transition, prompt) = split_transition(&plain(&text));
        let start = if builder.0.is_empty() { Duration::ZERO } else { start };
        builder.add(line, Shot { transition, ..Shot::new(start, prompt) })?;
        end = end.max(until);
    }
    builder.finish(last, Some(end))
}

/// A cue of a subtitle file.
#[derive(Debug, PartialEq)]
pub struct Cue {
    /// Line of its times, from 1.
    pub line: usize,
    /// Start.
    pub start: Duration,
    /// End; not checked against the start.
    pub until: Duration,
    /// Its lines, with markup.
    pub text: String,
}

/// Whether `text` has cues, or says that it has.
pub fn is_subtitles(text: &str) -> bool {
    is_webvtt(text) || text.lines().any(|line| is_times(line.trim()))
}

/// Splits `text` at its lines of times: what is before the first one, and the cues.
///
/// The text of a cue goes on until the next line of times, because files have empty lines in a text, and cues without an
/// empty line between them. Not a part of it are the number or name before the next line of times, and comments of WebVTT.
pub fn split(text: &str) -> Result<(String, Vec<Cue>), ParseError> {
    let webvtt = is_webvtt(text);
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let times: Vec<_> = (0..lines.len()).filter(|&i| is_times(lines[i])).collect();
    // Only numbered cues: a text may end with a number.
    let numbered = times.first().is_some_and(|&i| i > 0 && is_number(lines[i - 1]));
    let words = |from: usize, next: Option<usize>| {
        let Some(next) = next else { return joined(&lines[from..], webvtt) };
        let name = &lines[from..next];
        let named = name.last().is_some_and(|name| {
            let alone = next < 2 || lines[next - 2].is_empty();
            is_number(name) && (numbered || alone) || webvtt && alone && !name.is_empty()
        });
        joined(&name[..name.len() - usize::from(named)], webvtt)
    };
    let cue = |(n, &i): (usize, &usize)| {
        let (start, until) = times_of(lines[i]).ok_or_else(|| {
            let line = excerpt(lines[i]);
            ParseError::new(
                i + 1,
                format!("{line:?} is not a pair of times; write 00:00:04,000 --> 00:00:08,000"),
            )
        })?;
        Ok(Cue { line: i + 1, start, until, text: words(i + 1, times.get(n + 1).copied()) })
    };
    let before = words(0, times.first().copied());
    Ok((before, times.iter().enumerate().map(cue).collect::<Result<_, _>>()?))
}

fn is_webvtt(text: &str) -> bool {
    text.strip_prefix("WEBVTT").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\n']))
}

/// Whether `line` has the times of a cue, perhaps with a mistake. A text may have an arrow too.
fn is_times(line: &str) -> bool {
    let resembles_time = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_digit())
            && text.contains(':')
            && text.chars().all(|c| c.is_ascii_digit() || ":.,".contains(c))
    };
    line.split_once("-->")
        .is_some_and(|(start, rest)| resembles_time(start.trim()) || resembles_time(first_word(rest)))
}

fn times_of(line: &str) -> Option<(Duration, Duration)> {
    let (start, rest) = line.split_once("-->")?;
    // Settings may follow the second time.
    Some((time::parse(start.trim())?, time::parse(first_word(rest))?))
}

fn first_word(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

fn is_number(line: &str) -> bool {
    !line.is_empty() && line.bytes().all(|b| b.is_ascii_digit())
}

/// The words of `lines`, without the comments and styles of WebVTT: blocks after an empty line.
fn joined(lines: &[&str], webvtt: bool) -> String {
    let is_comment = |block: &[&str]| {
        webvtt
            && block
                .first()
                .is_some_and(|line| first_word(line) == "NOTE" || ["STYLE", "REGION"].contains(line))
    };
    let blocks = lines.split(|line| line.is_empty()).enumerate();
    let texts = blocks.filter(|(i, block)| *i == 0 || !is_comment(block)).flat_map(|(_, block)| block);
    texts.copied().collect::<Vec<_>>().join(" ")
}

/// Removes markup from `text`: tags (`<i>`, `<v Ann>`, `<00:01.000>`), override codes (`{\\an8}`), entities, repeated
/// spaces.
pub fn plain(text: &str) -> String {
    let text = without_codes(text);
    let mut rest = &*text;
    let mut untagged = String::with_capacity(text.len());
    while let Some(at) = rest.find('<') {
        let (before, tag) = rest.split_at(at);
        untagged.push_str(before);
        let named = tag[1..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/');
        match tag.find('>').filter(|_| named) {
            Some(end) => rest = &tag[end + 1..],
            None => {
                untagged.push('<');
                rest = &tag[1..];
            }
        }
    }
    untagged.push_str(rest);
    let words: Vec<_> = untagged.split_whitespace().collect();
    let spaced = words.join(" ");
    htmlize::unescape(&spaced).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Removes the override codes of Advanced SubStation Alpha, which SubRip files have too.
fn without_codes(text: &str) -> String {
    let mut rest = text;
    let mut uncoded = String::with_capacity(text.len());
    while let Some(at) = rest.find("{\\") {
        let Some(length) = rest[at..].find('}') else { break };
        uncoded.push_str(&rest[..at]);
        rest = &rest[at + length + 1..];
    }
    uncoded + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(file: &str) -> Vec<String> {
        split(file).unwrap().1.into_iter().map(|cue| cue.text).collect()
    }

    #[test]
    fn markup_is_removed() {
        assert_eq!(plain("<b>a</b>  <v Ann>cat</v> <00:01.000>\nwakes"), "a cat wakes");
        assert_eq!(plain("1 < 2 &lt; 3 <3 &amp; more"), "1 < 2 < 3 <3 & more");
        assert_eq!(plain("<"), "<");
    }

    #[test]
    fn override_codes_are_removed() {
        assert_eq!(plain("{\\an8}{\\pos(192,210)}a <i>boat</i>"), "a boat");
        assert_eq!(plain("a {\\b1}red{\\b0} fox{\\i}"), "a red fox");
        assert_eq!(plain("a {red} fox {\\an8"), "a {red} fox {\\an8", "not a code");
    }

    #[test]
    fn a_text_goes_on_until_the_next_times() {
        let numbered = "1\n0:00 --> 0:01\na\n2\n0:01 --> 0:02\n\nb\n\nc 3\n\n1984\n3\n0:02 --> 0:03\nx --> y";
        assert_eq!(texts(numbered), ["a", "b c 3 1984", "x --> y"]);
        assert_eq!(texts("0:00 --> 0:01\nthe year\n1984\n0:01 --> 0:02\nb"), ["the year 1984", "b"]);
        assert_eq!(texts("1\n0:00 --> 0:01\n\n\n2\n0:01 --> 0:02\nb"), ["", "b"]);
    }

    #[test]
    fn names_and_comments_of_webvtt_are_no_text() {
        let file = "WEBVTT\n\nSTYLE\n::cue {}\n\nfirst\n0:00 --> 0:01 line:0\na\n\nb\n\nNOTE no\nno\n\nsecond\n\
                    0:01 --> 0:02\nc\n0:02 --> 0:03\nSTYLE\nd\n\nSTYLE\n.x {}\n\nREGION\nid:r";
        assert_eq!(texts(file), ["a b", "c", "STYLE d"]);
        assert_eq!(split(file).unwrap().0, "WEBVTT", "the header");
    }
}
