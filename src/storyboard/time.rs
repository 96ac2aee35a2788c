//! Parses times of a storyboard.

use std::time::Duration;

/// The longest video. Frame counts stay far from their limits.
const MAX_HOURS: u64 = 1000;

/// Parses `[H:]MM:SS` with an optional fraction after a point or a comma; also returns its length in bytes.
pub fn prefix(text: &str) -> Option<(Duration, usize)> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || ":.,".contains(c))).unwrap_or(text.len());
    Some((parse(&text[..end])?, end))
}

/// As [`prefix`], for the whole `text`.
pub fn parse(text: &str) -> Option<Duration> {
    let mut parts = text.rsplit(':');
    let (seconds, fraction) = match parts.next()?.split_once(['.', ',']) {
        Some((seconds, fraction)) => (seconds, nanoseconds(fraction)?),
        None => (text.rsplit(':').next()?, 0),
    };
    let minutes = parts.next()?;
    let hours = number(parts.next().unwrap_or("0"))?;
    // Without hours, minutes may exceed 59.
    let (seconds, minutes) = (number(seconds)?, number(minutes)?);
    if parts.next().is_some() || seconds >= 60 || hours >= MAX_HOURS || minutes >= 60 * MAX_HOURS {
        return None;
    }
    Some(Duration::new((hours * 60 + minutes) * 60 + seconds, fraction))
}

/// A duration in seconds.
pub fn seconds(seconds: f64) -> Option<Duration> {
    let most = (MAX_HOURS * 3600) as f64;
    (seconds > 0.0 && seconds < most).then(|| Duration::from_secs_f64(seconds))
}

/// A time in seconds, as `2` or `4.5`.
pub fn in_seconds(text: &str) -> Option<Duration> {
    let time: f64 = text.parse().ok()?;
    if time == 0.0 { Some(Duration::ZERO) } else { seconds(time) }
}

fn number(digits: &str) -> Option<u64> {
    // `parse` would accept a sign.
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn nanoseconds(digits: &str) -> Option<u32> {
    let digits = digits.get(..digits.len().min(9))?;
    let value = number(digits)?;
    u32::try_from(value * 10u64.pow(9 - digits.len() as u32)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_parsed() {
        let time = |text| parse(text).map(|time| time.as_nanos());
        assert_eq!(time("0:04"), Some(4_000_000_000));
        assert_eq!(time("90:00.25"), Some(5_400_250_000_000));
        assert_eq!(time("01:02:03,004"), Some(3_723_004_000_000));
        assert_eq!(time("0:00.1234567899"), Some(123_456_789));
        for text in ["", "4", "0:60", "0:+4", "1:0:0:0", "0:4:", ":", "0:04.x", "1000:00:00", "0:", "0:4.5.6"]
        {
            assert_eq!(time(text), None, "{text}");
        }
        assert_eq!(prefix("0:04(cut)"), Some((Duration::from_secs(4), 4)));
    }
}
