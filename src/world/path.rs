//! Paths of subjects that a user gives: `0 left ground | 2 center up | 4 right ground`.

use crate::storyboard::time;
use crate::{Error, Result, Setting};

/// Paths of the subjects of a video, in the order of the references. A path is linear between its points, and at rest before the
/// first and after the last.
#[derive(Clone, Debug, PartialEq)]
pub struct MotionPath {
    /// None if the model chooses the places.
    paths: Vec<Vec<Waypoint>>,
}

/// A point at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Waypoint {
    seconds: f64,
    point: Point,
}

/// A point in the frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// 0 at the left edge, 1 at the right edge.
    pub x: f64,
    /// 0 on the ground, 1 at the upper edge.
    pub height: f64,
}

/// Points outside the frame are possible: a subject may come in and leave.
const MAX_POSITION: f64 = 2.0;
const MAX_WAYPOINTS: usize = 10_000;
/// The model chooses the places.
const FREE: &str = "free";

impl MotionPath {
    /// Parses a path; a second subject's follows after `;`. Each point is a time, in seconds or as in a storyboard, and a horizontal and a
    /// vertical position: `left`, `center`, `right` or a number from 0 to 1, then `ground`, `up` or a number from 0 to 1. `free` leaves
    /// the places to the model.
    ///
    /// # Errors
    /// [`Error::Request`] with the point that is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        if text.trim() == FREE {
            return Ok(Self::free());
        }
        let paths = text.split(';').map(path).collect::<Result<_, _>>();
        let paths = paths.map_err(|reason| {
            let example = "write for example `0 left ground | 2 center up | 4 right ground`";
            Error::Request(Setting::MotionPath, format!("{reason}; {example}"))
        })?;
        Ok(Self { paths })
    }

    /// A path that leaves the places to the model.
    pub fn free() -> Self {
        Self { paths: Vec::new() }
    }

    /// Number of subjects that have a path.
    pub fn subjects(&self) -> usize {
        self.paths.len()
    }

    /// Whether the model chooses the places.
    pub fn is_free(&self) -> bool {
        self.paths.is_empty()
    }

    /// Where `subject` is after `seconds`; `None` if it has no path.
    pub fn at(&self, subject: usize, seconds: f64) -> Option<Point> {
        let path = self.paths.get(subject)?;
        let next = path.partition_point(|waypoint| waypoint.seconds <= seconds);
        let Some(before) = next.checked_sub(1).map(|i| path[i]) else {
            return path.first().map(|first| first.point);
        };
        let Some(after) = path.get(next) else { return Some(before.point) };
        let part = (seconds - before.seconds) / (after.seconds - before.seconds);
        let between = |a: f64, b: f64| a + (b - a) * part;
        Some(Point {
            x: between(before.point.x, after.point.x),
            height: between(before.point.height, after.point.height),
        })
    }

    /// Where `subject` looks after `seconds`, as its last or else its first movement: −1 to the left, 1 to the right; `None` if it does
    /// not move sideways.
    pub fn facing(&self, subject: usize, seconds: f64) -> Option<i32> {
        let movements: Vec<_> = self.movements(subject).collect();
        let begun = movements.partition_point(|(begin, _)| *begin < seconds);
        movements.get(begun.saturating_sub(1)).map(|(_, direction)| *direction)
    }

    /// Whether it moves in both directions.
    pub fn turns(&self, subject: usize) -> bool {
        let mut directions = self.movements(subject).map(|(_, direction)| direction);
        let first = directions.next();
        directions.any(|direction| Some(direction) != first)
    }

    /// Movements sideways: when they begin, and −1 to the left or 1 to the right.
    fn movements(&self, subject: usize) -> impl Iterator<Item = (f64, i32)> {
        let path = self.paths.get(subject).map_or(&[][..], Vec::as_slice);
        let moves = path.windows(2).map(|pair| (pair[0].seconds, pair[1].point.x - pair[0].point.x));
        moves.filter(|(_, by)| *by != 0.0).map(|(begin, by)| (begin, if by > 0.0 { 1 } else { -1 }))
    }
}

/// The text that parses to the same path.
impl std::fmt::Display for MotionPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_free() {
            return f.write_str(FREE);
        }
        let point =
            |Waypoint { seconds, point }: &Waypoint| format!("{seconds} {} {}", point.x, point.height);
        let path = |path: &Vec<Waypoint>| path.iter().map(point).collect::<Vec<_>>().join(" | ");
        f.write_str(&self.paths.iter().map(path).collect::<Vec<_>>().join("; "))
    }
}

/// The path of one subject, or what is wrong with it.
fn path(text: &str) -> Result<Vec<Waypoint>, String> {
    let mut path: Vec<Waypoint> = Vec::new();
    for part in text.split('|').map(str::trim) {
        let next = waypoint(part).map_err(|reason| format!("`{part}`: {reason}"))?;
        if path.last().is_some_and(|last| next.seconds <= last.seconds) {
            return Err(format!("`{part}` is not later than the point before it"));
        }
        if path.len() == MAX_WAYPOINTS {
            return Err(format!("more than {MAX_WAYPOINTS} points"));
        }
        path.push(next);
    }
    Ok(path)
}

fn waypoint(text: &str) -> Result<Waypoint, String> {
    let mut words = text.split_whitespace();
    let (Some(when), Some(x), Some(height), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("a point is a time, a horizontal and a vertical position".into());
    };
    let number = |text: &str| text.parse().ok().filter(|number: &f64| number.abs() <= MAX_POSITION);
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
    let time = time::parse(when).or_else(|| time::in_seconds(when));
    let seconds = time.ok_or_else(|| format!("`{when}` is not a time"))?.as_secs_f64();
    Ok(Waypoint { seconds, point: Point { x, height } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &MotionPath, subject: usize, seconds: f64) -> Option<(f64, f64)> {
        path.at(subject, seconds).map(|point| (point.x, point.height))
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
    fn a_subject_looks_where_it_goes() {
        let path = "0 left ground | 1 right up | 2 right ground | 3 left up; 0 left ground";
        let path = MotionPath::parse(path).unwrap();
        let facing = [-1.0, 0.5, 1.5, 2.5, 99.0].map(|seconds| path.facing(0, seconds));
        assert_eq!(facing, [Some(1), Some(1), Some(1), Some(-1), Some(-1)]);
        assert_eq!(path.facing(1, 0.0), None);
        assert!(path.turns(0) && !path.turns(1));
        let free = MotionPath::parse(" free ").unwrap();
        assert!(free.is_free() && free.at(0, 0.0).is_none());
        assert_eq!(MotionPath::parse(&free.to_string()).unwrap(), free);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("", "a point is"),
            ("0 left", "`0 left`"),
            ("0 left ground | 0 right ground", "not later"),
            ("0 north ground", "`north`"),
            ("0 left sky", "`sky`"),
            ("soon left ground", "`soon`"),
            ("0 left ground;", "a point is"),
            ("0 NaN 0", "`NaN`"),
            ("0 1e9 0", "`1e9`"),
        ] {
            let error = MotionPath::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
