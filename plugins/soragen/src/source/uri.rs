// SPDX-License-Identifier: MPL-2.0

//! `soragen:///PROMPT;key=value;key=value`: a video as an address, that players and editors take for a file.
//!
//! Whoever opens an address does not know who wrote it. So it can name nothing but numbers and words: no file,
//! no model, no network. Every number has a limit. What is not understood is refused, not skipped.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The scheme.
pub const PROTOCOL: &str = "soragen";
/// In the order in which they are written.
const KEYS: [&str; 6] = ["seed", "duration", "width", "height", "framerate", "storyboard"];

/// All but what needs no encoding anywhere (RFC 3986, 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

const MAX_PROMPT: usize = 4096;
const MAX_STORYBOARD: usize = 64 << 10;
const MAX_SECONDS: f64 = 86_400.0;
const SIDE: std::ops::RangeInclusive<u32> = 16..=4096;
const MAX_RATE: u32 = 240;
const MAX_DENOMINATOR: u32 = 100_000;

/// What an address says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    pub prompt: String,
    pub seed: u64,
    /// Nanoseconds.
    pub duration: Option<u64>,
    pub width: Option<u32>,
    pub height: Option<u32>,
    pub framerate: Option<(u32, u32)>,
    /// Shots, written inline.
    pub storyboard: Option<String>,
}

impl Address {
    /// Reads `uri`. Before the first value a `?` is taken for the `;`, and `&` between values.
    ///
    /// # Errors
    /// What is wrong and what is possible, for people.
    pub fn parse(uri: &str) -> Result<Self, String> {
        let (scheme, rest) = uri.split_once(':').ok_or("an address begins with soragen:///")?;
        if !scheme.eq_ignore_ascii_case(PROTOCOL) {
            return Err(format!("{scheme}: is not soragen:"));
        }
        let rest = rest.strip_prefix("///").ok_or("three slashes belong after soragen: , then the prompt")?;
        let mut parts = rest.split([';', '?', '&']);
        let mut address =
            Self { prompt: decode(parts.next().unwrap_or_default(), MAX_PROMPT)?, ..Self::default() };
        let mut seen = Vec::new();
        for part in parts.filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("{part:?} has no value"))?;
            if seen.contains(&key) {
                return Err(format!("{key} is there twice"));
            }
            seen.push(key);
            address.set(key, &decode(value, MAX_STORYBOARD)?)?;
        }
        if address.prompt.trim().is_empty() && address.storyboard.is_none() {
            return Err("the prompt is missing: soragen:///a%20cat".into());
        }
        Ok(address)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let wrong = |possible: String| format!("{key}={value} is not possible; {possible}");
        let side = || {
            let side = value.parse().ok().filter(|side| SIDE.contains(side));
            side.ok_or_else(|| {
                wrong(format!("it is a number of pixels from {} to {}", SIDE.start(), SIDE.end()))
            })
        };
        match key {
            "seed" => self.seed = value.parse().map_err(|_| wrong("it is a whole number from 0".into()))?,
            "duration" => {
                let seconds = value.parse().ok().filter(|s| (f64::MIN_POSITIVE..=MAX_SECONDS).contains(s));
                let seconds =
                    seconds.ok_or_else(|| wrong(format!("it is in seconds, up to {MAX_SECONDS}")))?;
                // At least a nanosecond: 0 would be no duration.
                self.duration = Some(((seconds * 1e9).round() as u64).max(1));
            }
            "width" => self.width = Some(side()?),
            "height" => self.height = Some(side()?),
            "framerate" => {
                let rate =
                    rate(value).ok_or_else(|| wrong(format!("as in 25 or 30000/1001, up to {MAX_RATE}")))?;
                self.framerate = Some(rate);
            }
            "storyboard" => {
                // On a line, so that it names no file.
                soragen::Storyboard::inline(value).map_err(|e| e.to_string())?;
                self.storyboard = Some(value.into());
            }
            _ => {
                return Err(format!(
                    "{key} cannot be said in an address, {} can; files and models are properties of the element",
                    KEYS.join(", ")
                ));
            }
        }
        Ok(())
    }
}

/// Written out: the same video has the same address, however it was asked for.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PROTOCOL}:///{};seed={}", encode(&self.prompt), self.seed)?;
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

/// Nanoseconds as decimal seconds, exactly.
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

/// In lowest terms.
fn rate(text: &str) -> Option<(u32, u32)> {
    let (numerator, denominator) = text.split_once('/').unwrap_or((text, "1"));
    let (numerator, denominator): (u32, u32) = (numerator.parse().ok()?, denominator.parse().ok()?);
    let possible = numerator > 0 && (1..=MAX_DENOMINATOR).contains(&denominator);
    if !possible || u64::from(numerator) > u64::from(MAX_RATE) * u64::from(denominator) {
        return None;
    }
    let (mut a, mut b) = (numerator, denominator);
    while b > 0 {
        (a, b) = (b, a % b);
    }
    Some((numerator / a, denominator / a))
}

fn decode(text: &str, most: usize) -> Result<String, String> {
    let wrong = || format!("{text:.40?} is not percent-encoded UTF-8");
    // A stray % would stay as it is, a zero end the text in C. A + is a +: this is no form of a web page.
    let hexadecimal = |code: &str| code.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    if !text.split('%').skip(1).all(hexadecimal) {
        return Err(wrong());
    }
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| wrong())?;
    if decoded.contains('\0') {
        return Err(wrong());
    }
    if decoded.len() > most {
        return Err(format!("{} bytes of text are too many; {most} are possible", decoded.len()));
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
    fn all_that_can_be_said() {
        let uri = "soragen:///a%20cat%3B%20%C3%A9;seed=7;duration=4.5;width=320;height=192;framerate=30000/1001;storyboard=0%3A00%20a";
        let address = Address {
            prompt: "a cat; é".into(),
            seed: 7,
            duration: Some(4_500_000_000),
            width: Some(320),
            height: Some(192),
            framerate: Some((30_000, 1_001)),
            storyboard: Some("0:00 a".into()),
        };
        assert_eq!(Address::parse(uri), Ok(address));
    }

    #[test]
    fn one_video_has_one_address() {
        let canonical = "soragen:///a%20cat;seed=0;duration=4;framerate=25";
        for uri in [
            canonical,
            "SORAGEN:///a cat?framerate=50/2&duration=4.0",
            "soragen:///a%20c%61t;duration=4;seed=00;framerate=25/1;",
        ] {
            assert_eq!(Address::parse(uri).unwrap().to_string(), canonical);
        }
        // To the nanosecond, in both directions.
        let odd = Address { prompt: "1+1=2?".into(), duration: Some(1_000_000_001), ..Address::default() };
        assert_eq!(odd.to_string(), "soragen:///1%2B1%3D2%3F;seed=0;duration=1.000000001");
        assert_eq!(Address::parse(&odd.to_string()), Ok(odd));
    }

    #[test]
    fn the_rest_is_refused() {
        let long = format!("soragen:///{}", "a".repeat(MAX_PROMPT + 1));
        for (uri, word) in [
            ("file:///etc/passwd", "not soragen"),
            ("soragen", "begins"),
            ("soragen:a cat", "three slashes"),
            ("soragen://host/a cat", "three slashes"),
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
            ("soragen:///a;model=hf:x/y", "cannot be said"),
            ("soragen:///a;image=/etc/passwd", "cannot be said"),
            ("soragen:///a;Seed=1", "cannot be said"),
        ] {
            let error = Address::parse(uri).unwrap_err();
            assert!(error.contains(word), "{uri:.60}: {error}");
        }
    }
}
