//! Storyboards in TOML: `[[shot]]` with `prompt`, `duration` in seconds and, optionally, `seed`, `image`, `references` (a list of
//! files and `bank:NAME`), `motion-path`, and `transition = "cut"` or `"continue"`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::{Builder, ParseError, Storyboard, time};
use crate::request::{Shot, Transition};
use crate::world::MotionPath;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sheet {
    shot: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    prompt: String,
    /// Seconds.
    duration: Option<Spanned<f64>>,
    seed: Option<u64>,
    image: Option<PathBuf>,
    #[serde(default)]
    references: Vec<String>,
    #[serde(rename = "motion-path")]
    motion_path: Option<String>,
    #[serde(default)]
    transition: Transition,
}

/// Whether `text` is TOML with a value, right or wrong for a storyboard.
pub fn is_toml(text: &str) -> bool {
    resembles_toml(text) && toml::from_str::<toml::Table>(text).is_ok_and(|table| !table.is_empty())
}

/// Whether `text` begins as TOML does: with a table or a key.
pub fn resembles_toml(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with('#')).unwrap_or_default();
    let is_key = |key: &str| {
        let key = key.trim();
        !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-.\"' ".contains(c))
    };
    first.starts_with('[') && first.contains("shot")
        || first.split_once('=').is_some_and(|(key, _)| is_key(key))
}

pub fn parse(text: &str) -> Result<Storyboard, ParseError> {
    let line = |at: usize| 1 + text.bytes().take(at).filter(|&b| b == b'\n').count();
    let sheet: Sheet = toml::from_str(text).map_err(|e| {
        let at = e.span().map_or(0, |span| span.start);
        let reason = e.message().lines().collect::<Vec<_>>().join("; ");
        // It may repeat a value.
        let length = reason.char_indices().nth(200).map_or(reason.len(), |(at, _)| at);
        ParseError::new(line(at), &reason[..length])
    })?;
    let mut builder = Builder::default();
    let (mut start, mut end, mut last) = (Duration::ZERO, None, 1);
    let count = sheet.shot.len();
    for (i, entry) in sheet.shot.into_iter().enumerate() {
        last = line(entry.span().start);
        let Entry { prompt, duration, seed, image, references, motion_path, transition } = entry.into_inner();
        let motion_path = motion_path.as_deref().map(MotionPath::parse).transpose();
        let motion_path = motion_path.map_err(|e| ParseError::new(last, e.to_string()))?;
        let prompt = prompt.trim().into();
        let shot = Shot { start, prompt, seed, image, references, motion_path, transition };
        builder.add(last, shot)?;
        match duration {
            Some(duration) => {
                let at = line(duration.span().start);
                let duration = time::seconds(duration.into_inner());
                start += duration
                    .ok_or_else(|| ParseError::new(at, "the duration must be a number of seconds above 0"))?;
                end = Some(start);
            }
            None if i + 1 == count => end = None,
            None => {
                return Err(ParseError::new(
                    last,
                    "the duration in seconds is missing; only the last shot may omit it",
                ));
            }
        }
    }
    builder.finish(last, end)
}
