//! Subtitles in SubRip and WebVTT (<https://www.w3.org/TR/webvtt1/>): the text of a cue is a prompt that applies until
//! the next cue. The first applies from 0; the video ends with the last.

use std::time::Duration;

use super::{Builder, ParseError, Storyboard, split_transition, time};
use crate::request::Shot;

pub fn parse(text: &str) -> Result<Storyboard, ParseError> {
    let mut builder = Builder::default();
    let (mut before, mut end) = (None, Duration::ZERO);
    let mut lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
    let mut last = 1;
    while let Some((line, times)) = lines.next() {
        // Numbers, names, notes and styles are not cues.
        let Some((from, to)) = times.split_once("-->") else { continue };
        // Settings may follow the second time.
        let to = to.split_whitespace().next().unwrap_or_default();
        let (Some(start), Some(until)) = (time::parse(from.trim()), time::parse(to)) else {
            return Err(ParseError::new(
                line,
                format!("{times:?} is not a pair of times; write 00:00:04,000 --> 00:00:08,000"),
            ));
        };
        let words: Vec<_> = lines.by_ref().take_while(|(_, line)| !line.is_empty()).collect();
        let joined: Vec<_> = words.iter().map(|&(_, line)| line).collect();
        let (transition, prompt) = split_transition(&plain(&joined.join(" ")));
        last = words.last().map_or(line, |&(line, _)| line);
        if until <= start {
            return Err(ParseError::new(last, "the cue ends before it starts"));
        }
        // Compared before the first cue is moved to 0.
        if before.replace(start).is_some_and(|before| start <= before) {
            return Err(ParseError::new(line, "the shot starts no later than the one before it"));
        }
        let start = if builder.0.is_empty() { Duration::ZERO } else { start };
        builder.add(line, Shot { start, prompt, seed: None, image: None, transition })?;
        end = end.max(until);
    }
    builder.finish(last, Some(end))
}

/// Removes markup from `text`: tags (`<i>`, `<v Ann>`, `<00:01.000>`), entities, repeated spaces.
pub fn plain(text: &str) -> String {
    let mut rest = text;
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

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn markup_is_removed() {
        assert_eq!(plain("<b>a</b>  <v Ann>cat</v> <00:01.000>\nwakes"), "a cat wakes");
        assert_eq!(plain("1 < 2 &lt; 3 <3 &amp; more"), "1 < 2 < 3 <3 & more");
        assert_eq!(plain("<"), "<");
    }
}
