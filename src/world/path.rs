//! Paths of subjects that a user gives: `0 left ground | 2 center up | 4 right ground`.

use std::time::Duration;

use crate::storyboard::time;
use crate::{Error, Result, Setting};

/// Paths of the subjects of a video, in the order of the references. Linear between the times, at rest before the first and
/// after the last.
#[derive(Clone, Debug, PartialEq)]
pub struct MotionPath(Vec<Vec<Key>>);

/// A place at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Key {
    time: Duration,
    point: Point,
}

/// A place in the frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// 0 at the left edge, 1 at the right edge.
    pub x: f64,
    /// 0 on the ground, 1 at the upper edge.
    pub height: f64,
}

/// Places outside the frame are possible: a subject may come in and leave.
const MOST: f64 = 2.0;
const MAX_KEYS: usize = 10_000;

impl MotionPath {
    /// Parses a path; a second subject's follows after `;`. Each place is a time, as in a storyboard, and a horizontal and a vertical
    /// position: `left`, `center`, `right` or a number from 0 to 1, then `ground`, `up` or a number from 0 to 1.
    ///
    /// # Errors
    /// [`Error::Request`] with the place that is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |reason: String| {
            Err(Error::Request(
                Setting::MotionPath,
                format!("{reason}; write for example `0 left ground | 2 center up | 4 right ground`"),
            ))
        };
        let mut paths = Vec::new();
        for path in text.split(';') {
            let mut keys: Vec<Key> = Vec::new();
            for part in path.split('|').map(str::trim) {
                let key = match key(part) {
                    Ok(key) => key,
                    Err(reason) => return refuse(format!("`{part}`: {reason}")),
                };
                if keys.last().is_some_and(|last| key.time <= last.time) {
                    return refuse(format!("`{part}` is not later than the place before it"));
                }
                if keys.len() == MAX_KEYS {
                    return refuse(format!("more than {MAX_KEYS} places"));
                }
                keys.push(key);
            }
            paths.push(keys);
        }
        Ok(Self(paths))
    }

    /// Number of subjects that have a path.
    pub fn subjects(&self) -> usize {
        self.0.len()
    }

    /// Where a subject looks that moves along its path: −1 to the left, 1 to the right; `None` if it does not move sideways.
    pub fn facing(&self, subject: usize) -> Option<i32> {
        self.directions(subject).next()
    }

    /// Whether it moves in both directions.
    pub fn turns(&self, subject: usize) -> bool {
        let mut directions = self.directions(subject);
        let first = directions.next();
        directions.any(|direction| Some(direction) != first)
    }

    fn directions(&self, subject: usize) -> impl Iterator<Item = i32> {
        let keys = self.0.get(subject).map_or(&[][..], Vec::as_slice);
        let moves = keys.windows(2).map(|pair| pair[1].point.x - pair[0].point.x);
        moves.filter(|by| *by != 0.0).map(|by| if by > 0.0 { 1 } else { -1 })
    }

    /// The place of `subject` at `time`; `None` if it has no path.
    pub fn at(&self, subject: usize, time: Duration) -> Option<Point> {
        let keys = self.0.get(subject)?;
        let next = keys.partition_point(|key| key.time <= time);
        let (Some(before), after) =
            (next.checked_sub(1).or(Some(0)).and_then(|i| keys.get(i)), keys.get(next))
        else {
            return None;
        };
        let Some(after) = after.filter(|_| next > 0) else { return Some(before.point) };
        let part = (time - before.time).as_secs_f64() / (after.time - before.time).as_secs_f64();
        let between = |a: f64, b: f64| a + (b - a) * part;
        Some(Point {
            x: between(before.point.x, after.point.x),
            height: between(before.point.height, after.point.height),
        })
    }
}

/// The canonical text, which parses to the same path.
impl std::fmt::Display for MotionPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = |key: &Key| format!("{} {} {}", key.time.as_secs_f64(), key.point.x, key.point.height);
        let path = |keys: &Vec<Key>| keys.iter().map(key).collect::<Vec<_>>().join(" | ");
        f.write_str(&self.0.iter().map(path).collect::<Vec<_>>().join("; "))
    }
}

fn key(text: &str) -> Result<Key, String> {
    let mut words = text.split_whitespace();
    let (Some(when), Some(x), Some(height), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("a place is a time, a horizontal and a vertical position".into());
    };
    let number = |text: &str| text.parse().ok().filter(|number: &f64| number.abs() <= MOST);
    let x = match x {
        "left" => 0.0,
        "center" | "centre" | "middle" => 0.5,
        "right" => 1.0,
        _ => number(x).ok_or_else(|| format!("`{x}` is not left, center, right or a number from 0 to 1"))?,
    };
    let height = match height {
        "ground" => 0.0,
        "up" => 1.0,
        _ => number(height).ok_or_else(|| format!("`{height}` is not ground, up or a number from 0 to 1"))?,
    };
    let time = time::parse(when)
        .or_else(|| time::in_seconds(when))
        .ok_or_else(|| format!("`{when}` is not a time"))?;
    Ok(Key { time, point: Point { x, height } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &MotionPath, subject: usize, seconds: f64) -> Option<(f64, f64)> {
        path.at(subject, Duration::from_secs_f64(seconds)).map(|point| (point.x, point.height))
    }

    #[test]
    fn places_are_linear_in_between() {
        let path = MotionPath::parse("1 left ground | 3 center up | 4 1 0.5; 0 -0.5 0").unwrap();
        assert_eq!(at(&path, 0, 0.0), Some((0.0, 0.0)));
        assert_eq!(at(&path, 0, 1.0), Some((0.0, 0.0)));
        assert_eq!(at(&path, 0, 2.0), Some((0.25, 0.5)));
        assert_eq!(at(&path, 0, 3.5), Some((0.75, 0.75)));
        assert_eq!(at(&path, 0, 99.0), Some((1.0, 0.5)));
        assert_eq!(at(&path, 1, 5.0), Some((-0.5, 0.0)));
        assert_eq!(at(&path, 2, 5.0), None);
        assert_eq!(MotionPath::parse(&path.to_string()).unwrap(), path);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("", "a place is"),
            ("0 left", "`0 left`"),
            ("0 left ground | 0 right ground", "not later"),
            ("0 north ground", "`north`"),
            ("0 left sky", "`sky`"),
            ("soon left ground", "`soon`"),
            ("0 left ground;", "a place is"),
            ("0 NaN 0", "`NaN`"),
            ("0 1e9 0", "`1e9`"),
        ] {
            let error = MotionPath::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
