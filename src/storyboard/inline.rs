//! Storyboards as text: `0:00 a cat wakes | 0:04 the cat runs | 0:08 (cut) snow falls | 0:12`, on one line or several.
//! A last time without a prompt is the end of the last shot.

use super::{Builder, ParseError, Storyboard, excerpt, split_transition, time};
use crate::request::Shot;

/// Whether `text` begins with a time, as a storyboard does.
pub fn is_inline(text: &str) -> bool {
    let text = text.trim_start();
    // A WebVTT cue begins with a time too.
    time::prefix(text).is_some_and(|(_, end)| !text[end..].trim_start().starts_with("-->"))
}

pub fn parse(text: &str) -> Result<Storyboard, ParseError> {
    let entries =
        text.lines().enumerate().flat_map(|(i, line)| line.split('|').map(move |entry| (i + 1, entry)));
    let entries: Vec<_> =
        entries.map(|(line, entry)| (line, entry.trim())).filter(|(_, e)| !e.is_empty()).collect();
    let mut builder = Builder::default();
    let mut end = None;
    for (i, &(line, entry)) in entries.iter().enumerate() {
        let Some((start, length)) = time::prefix(entry) else {
            return Err(ParseError::new(
                line,
                format!("{:?} does not begin with a time; write 0:04 or 1:02:03.5", excerpt(entry)),
            ));
        };
        let (transition, prompt) = split_transition(entry[length..].trim_start());
        if i == 0 && !start.is_zero() {
            return Err(ParseError::new(line, "the first shot must start at 0:00"));
        }
        if prompt.is_empty() && i > 0 && i + 1 == entries.len() {
            end = Some(start);
        } else if prompt.is_empty() && entries.len() == 1 {
            return Err(ParseError::new(line, "there is no shot"));
        } else {
            builder.add(line, Shot { transition, ..Shot::new(start, prompt) })?;
        }
    }
    builder.finish(entries.last().map_or(1, |&(line, _)| line), end)
}
