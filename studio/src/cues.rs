//! A storyboard that plays in the live programme: its shots are set when their time comes.

use std::collections::VecDeque;

use serde_json::{Map, Value};
use soragen::{Storyboard, Transition};

/// Shots to come, each with the running time at which it is set.
#[derive(Default)]
pub struct Cues(VecDeque<(gst::ClockTime, Map<String, Value>)>);

impl Cues {
    /// The shots of a storyboard that begins at the running time `now`, or why it cannot play. `check` refuses references.
    pub fn parse(
        text: &str,
        now: gst::ClockTime,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let board = Storyboard::parse(text).map_err(|error| error.to_string())?;
        if board.shots.iter().any(|shot| shot.image.is_some()) {
            return Err("a live shot cannot start from an image".into());
        }
        board.shots.iter().try_for_each(|shot| check(&shot.references.join(";")))?;
        let cue = |(i, shot): (usize, &soragen::Shot<_, String>)| {
            let cut = i > 0 && shot.transition == Transition::Cut;
            let path = shot.motion_path.as_ref().map(ToString::to_string);
            let mut values = Map::new();
            values.insert("transition".into(), if cut { "cut" } else { "continue" }.into());
            values.insert("prompt".into(), shot.prompt.as_str().into());
            // Those of the shot before end with it.
            values.insert("reference".into(), shot.references.join(";").into());
            values.insert("motion-path".into(), path.unwrap_or_default().into());
            if let Some(seed) = shot.seed {
                values.insert("seed".into(), seed.into());
            }
            let start = gst::ClockTime::try_from(shot.start).unwrap_or_default();
            (now.saturating_add(start), values)
        };
        Ok(Self(board.shots.iter().enumerate().map(cue).collect()))
    }

    /// Number of shots to come.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// When the next shot begins.
    pub fn next(&self) -> Option<gst::ClockTime> {
        self.0.front().map(|(time, _)| *time)
    }

    /// Removes the shots that have begun at `now`, and returns the properties of the last of them.
    pub fn due(&mut self, now: gst::ClockTime) -> Option<Map<String, Value>> {
        let count = self.0.partition_point(|(time, _)| *time <= now);
        self.0.drain(..count).next_back().map(|(_, values)| values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shots_are_due_at_their_times() {
        let second = gst::ClockTime::from_seconds;
        let board = "0:00 a fox | 0:02 (cut) a wolf | 0:03 an owl | 0:05";
        let mut cues = Cues::parse(board, second(10), |_| Ok(())).unwrap();
        assert_eq!((cues.len(), cues.next()), (3, Some(second(10))));
        assert!(cues.due(second(9)).is_none());
        let fox = cues.due(second(10)).unwrap();
        assert_eq!((fox["prompt"].as_str(), fox["transition"].as_str()), (Some("a fox"), Some("continue")));
        assert_eq!((fox["reference"].as_str(), fox.get("seed")), (Some(""), None));
        // One that is late is not set for nothing.
        assert_eq!(cues.due(second(14)).unwrap()["prompt"], "an owl");
        assert_eq!((cues.len(), cues.next()), (0, None));
    }

    #[test]
    fn mistakes_are_told() {
        let parse = |text: &str| {
            let check = |text: &str| if text.is_empty() { Ok(()) } else { Err("a file".to_string()) };
            Cues::parse(text, gst::ClockTime::ZERO, check)
        };
        let refused = |text: &str| parse(text).err();
        assert!(refused("0:00 a fox | 0:00 a wolf").is_some());
        let image = "[[shot]]\nprompt = \"a\"\nimage = \"/etc/passwd\"";
        assert!(refused(image).is_some_and(|reason| reason.contains("image")));
        let file = "[[shot]]\nprompt = \"a\"\nreferences = [\"logo.png\"]";
        assert_eq!(refused(file).as_deref(), Some("a file"));
        assert_eq!(parse(" ").unwrap().len(), 0);
    }
}
