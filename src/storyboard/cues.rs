//! Subtitles, SubRip's and WebVTT's (<https://www.w3.org/TR/webvtt1/>): every cue's text is a prompt, which holds
//! until the next cue. The first holds from 0 on, and the video ends with the last.

use std::time::Duration;

use super::{Builder, Fault, Storyboard, split_transition, time};
use crate::request::Shot;

pub fn parse(text: &str) -> Result<Storyboard, Fault> {
    let mut builder = Builder::default();
    let (mut before, mut end) = (None, Duration::ZERO);
    let mut lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
    let mut last = 1;
    while let Some((line, times)) = lines.next() {
        // WeightFormat, names, notes and styles are no cues.
        let Some((from, to)) = times.split_once("-->") else { continue };
        // After the second time there may be settings.
        let to = to.split_whitespace().next().unwrap_or_default();
        let (Some(start), Some(until)) = (time::parse(from.trim()), time::parse(to)) else {
            return Err(Fault::new(
                line,
                format!("{times:?} is no pair of times, as 00:00:04,000 --> 00:00:08,000"),
            ));
        };
        let words: Vec<_> = lines.by_ref().take_while(|(_, line)| !line.is_empty()).collect();
        let joined: Vec<_> = words.iter().map(|&(_, line)| line).collect();
        let (transition, prompt) = split_transition(&plain(&joined.join(" ")));
        last = words.last().map_or(line, |&(line, _)| line);
        if until <= start {
            return Err(Fault::new(last, "the cue ends before it starts"));
        }
        // As it is written: the first is moved to 0 below.
        if before.replace(start).is_some_and(|before| start <= before) {
            return Err(Fault::new(line, "a shot starts no later than the one before it"));
        }
        let start = if builder.0.is_empty() { Duration::ZERO } else { start };
        builder.add(line, Shot { start, prompt, seed: None, image: None, transition })?;
        end = end.max(until);
    }
    builder.finish(last, Some(end))
}

/// `text` without markup: no tags (`<i>`, `<v Ann>`, `<00:01.000>`), entities as the characters they stand for,
/// single spaces.
pub fn plain(text: &str) -> String {
    let mut rest = text;
    let mut bare = String::with_capacity(text.len());
    while let Some(at) = rest.find('<') {
        let (before, tag) = rest.split_at(at);
        bare.push_str(before);
        let named = tag[1..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/');
        match tag.find('>').filter(|_| named) {
            Some(end) => rest = &tag[end + 1..],
            None => {
                bare.push('<');
                rest = &tag[1..];
            }
        }
    }
    bare.push_str(rest);
    let words: Vec<_> = bare.split_whitespace().collect();
    let spaced = words.join(" ");
    htmlize::unescape(&spaced).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn markup_is_left_out() {
        assert_eq!(plain("<b>a</b>  <v Ann>cat</v> <00:01.000>\nwakes"), "a cat wakes");
        assert_eq!(plain("1 < 2 &lt; 3 <3 &amp; more"), "1 < 2 < 3 <3 & more");
        assert_eq!(plain("<"), "<");
    }
}
