// SPDX-License-Identifier: MPL-2.0

//! `soragen:///PROMPT;key=value;key=value`: a video as a URI, which players and editors open like a file.
//!
//! A URI may come from an untrusted source. It contains only numbers and text, and no file, model or network address;
//! every value has a limit, and an unknown key is an error.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The URI scheme.
pub const SCHEME: &str = "soragen";
/// The keys, in the order of the canonical form.
const KEYS: [&str; 6] = ["seed", "duration", "width", "height", "framerate", "storyboard"];

/// Everything except the unreserved characters of RFC 3986, section 2.3.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

const MAX_PROMPT: usize = 4096;
const MAX_STORYBOARD: usize = 64 << 10;
const MAX_SECONDS: f64 = 86_400.0;
const SIDE: std::ops::RangeInclusive<u32> = 16..=4096;
const MAX_RATE: u32 = 240;
const MAX_DENOMINATOR: u32 = 100_000;

/// The values of a URI.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UriValues {
    pub prompt: String,
    pub seed: u64,
    /// In nanoseconds.
    pub duration: Option<u64>,
    pub width: Option<u32>,
    pub height: Option<u32>,
    pub framerate: Option<(u32, u32)>,
    /// An inline storyboard.
    pub storyboard: Option<String>,
}

impl UriValues {
    /// Parses `uri`. `?` and `&` are accepted in place of `;`.
    ///
    /// # Errors
    /// A message for the user: what is wrong and what is allowed.
    pub fn parse(uri: &str) -> Result<Self, String> {
        let (scheme, rest) = uri.split_once(':').ok_or("a URI begins with soragen:///")?;
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return Err(format!("the scheme is {scheme}; use {SCHEME}"));
        }
        let rest = rest.strip_prefix("///").ok_or("write soragen:/// and then the prompt")?;
        let mut parts = rest.split([';', '?', '&']);
        let mut values =
            Self { prompt: decode(parts.next().unwrap_or_default(), MAX_PROMPT)?, ..Self::default() };
        let mut seen = Vec::new();
        for part in parts.filter(|part| !part.is_empty()) {
            let (key, value) =
                part.split_once('=').ok_or_else(|| format!("{:?} has no value", excerpt(part)))?;
            if seen.contains(&key) {
                return Err(format!("{key} is set twice"));
            }
            seen.push(key);
            values.set(key, &decode(value, MAX_STORYBOARD)?)?;
        }
        if values.prompt.trim().is_empty() && values.storyboard.is_none() {
            return Err("the prompt is missing: soragen:///a%20cat".into());
        }
        Ok(values)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let wrong = |expected: String| format!("{key}={} is not valid; {expected}", excerpt(value));
        let side = || {
            let side = value.parse().ok().filter(|side| SIDE.contains(side));
            side.ok_or_else(|| {
                wrong(format!("use a number of pixels from {} to {}", SIDE.start(), SIDE.end()))
            })
        };
        match key {
            "seed" => {
                self.seed = value
                    .parse()
                    .map_err(|_| wrong("use an integer from 0 to 18446744073709551615".into()))?;
            }
            "duration" => {
                let seconds = value.parse().ok().filter(|s| (f64::MIN_POSITIVE..=MAX_SECONDS).contains(s));
                let seconds =
                    seconds.ok_or_else(|| wrong(format!("use a number of seconds up to {MAX_SECONDS}")))?;
                // At least 1 ns: 0 means the default duration.
                self.duration = Some(((seconds * 1e9).round() as u64).max(1));
            }
            "width" => self.width = Some(side()?),
            "height" => self.height = Some(side()?),
            "framerate" => {
                let rate = rate(value)
                    .ok_or_else(|| wrong(format!("use a rate like 25 or 30000/1001, up to {MAX_RATE}")))?;
                self.framerate = Some(rate);
            }
            "storyboard" => {
                // Only the inline form: a URI must not name a file.
                soragen::Storyboard::inline(value).map_err(|e| e.to_string())?;
                self.storyboard = Some(value.into());
            }
            _ => {
                return Err(format!(
                    "{} cannot be set in a URI; use {}, or the properties of the element for files and models",
                    excerpt(key),
                    KEYS.join(", ")
                ));
            }
        }
        Ok(())
    }
}

/// The beginning of `text`, for a message.
fn excerpt(text: &str) -> &str {
    text.char_indices().nth(60).map_or(text, |(end, _)| &text[..end])
}

/// The canonical form: the same video has the same URI.
impl fmt::Display for UriValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}:///{};seed={}", encode(&self.prompt), self.seed)?;
        if let Some(duration) = self.duration {
            write!(f, ";duration={}", Seconds(duration))?;
        }
        for (key, value) in [("width", self.width), ("height", self.height)] {
            if let Some(value) = value {
                write!(f, ";{key}={value}")?;
            }
        }
        match self.framerate {
            Some((numerator, 1)) => write!(f, ";framerate={numerator}")?,
            Some((numerator, denominator)) => write!(f, ";framerate={numerator}/{denominator}")?,
            None => {}
        }
        match &self.storyboard {
            Some(storyboard) => write!(f, ";storyboard={}", encode(storyboard)),
            None => Ok(()),
        }
    }
}

/// Nanoseconds, displayed as exact decimal seconds.
struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        match part {
            0 => write!(f, "{whole}"),
            _ => f.write_str(format!("{whole}.{part:09}").trim_end_matches('0')),
        }
    }
}

/// Parses a frame rate and reduces it to lowest terms.
fn rate(text: &str) -> Option<(u32, u32)> {
    let (numerator, denominator) = text.split_once('/').unwrap_or((text, "1"));
    let (numerator, denominator): (u32, u32) = (numerator.parse().ok()?, denominator.parse().ok()?);
    let valid = numerator > 0 && (1..=MAX_DENOMINATOR).contains(&denominator);
    if !valid || u64::from(numerator) > u64::from(MAX_RATE) * u64::from(denominator) {
        return None;
    }
    let (mut a, mut b) = (numerator, denominator);
    while b > 0 {
        (a, b) = (b, a % b);
    }
    Some((numerator / a, denominator / a))
}

fn decode(text: &str, max_len: usize) -> Result<String, String> {
    let wrong = || format!("\"{text:.40}\" is not percent-encoded UTF-8");
    // `percent_decode_str` keeps a stray %, and a zero would end the text in C. A + stays a +, unlike in a web form.
    let hexadecimal = |code: &str| code.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    if !text.split('%').skip(1).all(hexadecimal) {
        return Err(wrong());
    }
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| wrong())?;
    if decoded.contains('\0') {
        return Err(wrong());
    }
    if decoded.len() > max_len {
        return Err(format!("{} bytes of text are too many; use at most {max_len}", decoded.len()));
    }
    Ok(decoded.into())
}

fn encode(text: &str) -> impl fmt::Display {
    utf8_percent_encode(text, RESERVED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_values_are_parsed() {
        let uri = "soragen:///a%20cat%3B%20%C3%A9;seed=7;duration=4.5;width=320;height=192;framerate=30000/1001;storyboard=0%3A00%20a";
        let values = UriValues {
            prompt: "a cat; é".into(),
            seed: 7,
            duration: Some(4_500_000_000),
            width: Some(320),
            height: Some(192),
            framerate: Some((30_000, 1_001)),
            storyboard: Some("0:00 a".into()),
        };
        assert_eq!(UriValues::parse(uri), Ok(values));
    }

    #[test]
    fn one_video_has_one_canonical_uri() {
        let canonical = "soragen:///a%20cat;seed=0;duration=4;framerate=25";
        for uri in [
            canonical,
            "SORAGEN:///a cat?framerate=50/2&duration=4.0",
            "soragen:///a%20c%61t;duration=4;seed=00;framerate=25/1;",
        ] {
            assert_eq!(UriValues::parse(uri).unwrap().to_string(), canonical);
        }
        // Durations are exact to the nanosecond in both directions.
        let odd =
            UriValues { prompt: "1+1=2?".into(), duration: Some(1_000_000_001), ..UriValues::default() };
        assert_eq!(odd.to_string(), "soragen:///1%2B1%3D2%3F;seed=0;duration=1.000000001");
        assert_eq!(UriValues::parse(&odd.to_string()), Ok(odd));
    }

    #[test]
    fn invalid_uris_are_rejected() {
        let long = format!("soragen:///{}", "a".repeat(MAX_PROMPT + 1));
        for (uri, word) in [
            ("file:///etc/passwd", "use soragen"),
            ("soragen", "begins"),
            ("soragen:a cat", "write soragen:///"),
            ("soragen://host/a cat", "write soragen:///"),
            ("soragen:///", "prompt"),
            ("soragen:///%20;seed=1", "prompt"),
            ("soragen:///%ff", "UTF-8"),
            ("soragen:///%0", "UTF-8"),
            ("soragen:///a%00b", "UTF-8"),
            (&long, "too many"),
            ("soragen:///a;seed", "no value"),
            ("soragen:///a;seed=-1", "seed"),
            ("soragen:///a;seed=18446744073709551616", "seed"),
            ("soragen:///a;seed=1;seed=1", "twice"),
            ("soragen:///a;duration=0", "seconds"),
            ("soragen:///a;duration=NaN", "seconds"),
            ("soragen:///a;duration=inf", "seconds"),
            ("soragen:///a;duration=86401", "seconds"),
            ("soragen:///a;width=0", "pixels"),
            ("soragen:///a;height=4097", "pixels"),
            ("soragen:///a;framerate=0", "30000/1001"),
            ("soragen:///a;framerate=25/0", "30000/1001"),
            ("soragen:///a;framerate=241", "30000/1001"),
            ("soragen:///a;framerate=4294967295/100001", "30000/1001"),
            ("soragen:///a;model=hf:x/y", "cannot be set"),
            ("soragen:///a;image=/etc/passwd", "cannot be set"),
            ("soragen:///a;Seed=1", "cannot be set"),
        ] {
            let error = UriValues::parse(uri).unwrap_err();
            assert!(error.contains(word), "{uri:.60}: {error}");
        }
    }
}
