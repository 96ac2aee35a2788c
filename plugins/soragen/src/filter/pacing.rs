// SPDX-License-Identifier: MPL-2.0

//! Which frames that come in are frames of the model, so that motion keeps its speed.

use std::ops::Range;

use crate::source::frame_time::{Rate, frame_at, frame_start};

/// A longer time without frames is a gap: it is not filled with repeated frames.
pub const LONGEST_GAP: gst::ClockTime = gst::ClockTime::SECOND;

/// Counts the frames of the model. Times are nanoseconds.
#[derive(Debug)]
pub struct Pacing {
    /// Frames per second; `None` if each frame counts.
    rate: Option<Rate>,
    /// Time of the first frame.
    start: Option<u64>,
    /// Frames of the model since then.
    count: u64,
}

/// What a frame is for the model.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// Times at which the frame before it is repeated.
    pub repeats: Vec<u64>,
    /// Whether it is a frame of the model.
    pub is_kept: bool,
}

impl Pacing {
    pub fn new(rate: Option<Rate>) -> Self {
        Self { rate, start: None, count: 0 }
    }

    /// Starts again with the next frame.
    pub fn restart(&mut self) {
        (self.start, self.count) = (None, 0);
    }

    /// A frame comes in, which lasts `duration` if that is known. It counts as the frame of the model that it is nearest to among the
    /// frames that come in, unless there is one already.
    pub fn frame(&mut self, time: u64, duration: Option<u64>) -> Step {
        let Some(rate) = self.rate else { return Step { repeats: Vec::new(), is_kept: true } };
        let number = match self.start.and_then(|start| time.checked_sub(start)) {
            Some(since) if since <= frame_start(self.count, rate).saturating_add(LONGEST_GAP.nseconds()) => {
                let half = frame_start(1, rate) / 2;
                let half = duration.map_or(half, |duration| half.min(duration / 2));
                frame_at(since.saturating_add(half), rate)
            }
            // The first one, one after a gap, or one before the first.
            _ => {
                (self.start, self.count) = (Some(time), 0);
                0
            }
        };
        let step = Step { repeats: self.times(self.count..number), is_kept: number >= self.count };
        self.count = self.count.max(number + 1);
        step
    }

    /// No frame comes until `time`; returns the times at which the last one is repeated.
    pub fn end(&mut self, time: u64) -> Vec<u64> {
        let (Some(rate), Some(start)) = (self.rate, self.start) else { return Vec::new() };
        let since = time.saturating_sub(start);
        if since > frame_start(self.count, rate).saturating_add(LONGEST_GAP.nseconds()) {
            return Vec::new();
        }
        let end = frame_at(since.saturating_add(frame_start(1, rate) / 2), rate);
        let repeats = self.times(self.count..end);
        self.count = self.count.max(end);
        repeats
    }

    fn times(&self, numbers: Range<u64>) -> Vec<u64> {
        let (Some(rate), Some(start)) = (self.rate, self.start) else { return Vec::new() };
        numbers.map(|number| start + frame_start(number, rate)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = (16, 1);

    /// Times in milliseconds of the frames of the model, and whether each is a repeated one.
    fn paced(
        times: impl IntoIterator<Item = u64>,
        duration: Option<u64>,
        end: Option<u64>,
    ) -> Vec<(u64, bool)> {
        let mut pacing = Pacing::new(Some(RATE));
        let mut found = Vec::new();
        for time in times {
            let step = pacing.frame(time * 1_000_000, duration.map(|duration| duration * 1_000_000));
            found.extend(step.repeats.into_iter().map(|time| (time, true)));
            found.extend(step.is_kept.then_some((time * 1_000_000, false)));
        }
        found.extend(
            end.map(|end| pacing.end(end * 1_000_000))
                .unwrap_or_default()
                .into_iter()
                .map(|time| (time, true)),
        );
        found.into_iter().map(|(time, repeated)| (time / 1_000_000, repeated)).collect()
    }

    #[test]
    fn every_frame_of_the_models_rate_is_kept_even_if_times_are_uneven() {
        let times = [0, 70, 115, 190, 250, 300];
        assert_eq!(paced(times, None, Some(375)), times.map(|time| (time, false)));
    }

    #[test]
    fn a_second_has_as_many_frames_as_the_model_makes() {
        for rate in [5, 10, 25, 30, 50, 60, 100] {
            let found = paced((0..rate).map(|i| i * 1000 / rate), Some(1000 / rate), Some(1000));
            assert_eq!(found.len(), 16, "{rate}");
            assert!(found.is_sorted_by(|a, b| a.0 < b.0), "{rate}: {found:?}");
            let repeated = found.iter().filter(|frame| frame.1).count() as u64;
            assert_eq!(repeated, 16u64.saturating_sub(rate), "{rate}");
        }
    }

    #[test]
    fn a_gap_is_not_filled_and_an_earlier_frame_starts_again() {
        assert_eq!(paced([0, 5000, 5062], None, None), [(0, false), (5000, false), (5062, false)]);
        assert_eq!(paced([5000, 100, 163], None, Some(9000)), [(5000, false), (100, false), (163, false)]);
        let huge = paced([u64::MAX / 1_000_000], None, None);
        assert_eq!(huge.len(), 1);
    }

    #[test]
    fn each_frame_counts_without_a_rate() {
        let mut pacing = Pacing::new(None);
        for time in [0, 1, 1, 0] {
            assert_eq!(pacing.frame(time, None), Step { repeats: Vec::new(), is_kept: true });
        }
        assert!(pacing.end(1_000_000_000).is_empty());
    }
}
