// SPDX-License-Identifier: MPL-2.0

//! The position in the output, and the frame that is next.

use super::frame_time::{self, Rate};
use super::settings::VideoLength;

type Segment = gst::FormattedSegment<gst::ClockTime>;

/// A position in frames of the negotiated rate, counted from `origin` nanoseconds. Forwards, `next` is the frame to push;
/// backwards, the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    origin: u64,
    next: u64,
}

/// Times and frame numbers of an output frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameTiming {
    /// Its number at the negotiated rate, from the beginning of the video.
    pub offset: u64,
    /// Start and end in nanoseconds.
    pub start: u64,
    pub end: u64,
    /// The number of the model's frame to show.
    pub model_frame: u64,
    /// The position after it.
    pub after: Position,
}

impl FrameTiming {
    /// The same frame with a timestamp of `start` nanoseconds.
    pub fn starting_at(self, start: u64) -> Self {
        Self { start, end: start + (self.end - self.start), ..self }
    }
}

impl Position {
    /// The start of `segment` at `rate`, or its end if it is played backwards; `None` if the end is unknown.
    pub fn of_segment(segment: &Segment, rate: Rate, total: Option<gst::ClockTime>) -> Option<Self> {
        let next = if segment.rate() < 0.0 {
            let stop = segment.stop().into_iter().chain(total).min()?;
            frame_time::frames_before(stop.nseconds(), rate)
        } else {
            frame_time::frame_at(segment.start().unwrap_or_default().nseconds(), rate)
        };
        Some(Self { origin: 0, next })
    }

    /// The same time at another frame rate. Backwards the frames of the new rate are counted from 0, because no frame
    /// is before the origin.
    pub fn with_rate(self, before: Rate, after: Rate, backwards: bool) -> Self {
        let time = self.origin + frame_time::frame_start(self.next, before);
        match backwards {
            true => Self { origin: 0, next: frame_time::frames_before(time, after) },
            false => Self { origin: time, next: 0 },
        }
    }

    /// The next frame of `segment`; `None` at its end.
    pub fn next_frame(
        self,
        segment: &Segment,
        rate: Rate,
        model_rate: Rate,
        length: Option<VideoLength>,
    ) -> Option<FrameTiming> {
        let backwards = segment.rate() < 0.0;
        // Trick mode skips frames, to push no more of them per second than at normal speed.
        let stride = match segment.flags().contains(gst::SegmentFlags::TRICKMODE) {
            true => (segment.rate().abs() as u64).clamp(1, u32::MAX.into()),
            false => 1,
        };
        let (n, next) = match backwards {
            true => (self.next.checked_sub(1)?, self.next.saturating_sub(stride)),
            false => (self.next, self.next + stride),
        };
        let time = |n: u64| self.origin + frame_time::frame_start(n, rate);
        let (start, end) = (time(n), time(n + 1));
        if backwards {
            if end <= segment.start().map_or(0, gst::ClockTime::nseconds) {
                return None;
            }
        } else {
            let stop = segment.stop().map(gst::ClockTime::nseconds);
            let stop = stop.into_iter().chain(length.map(|length| length.time)).min();
            if stop.is_some_and(|stop| start >= stop) {
                return None;
            }
        }
        let frame = frame_time::frame_at(start, model_rate);
        let model_frame = length.map_or(frame, |length| frame.min(length.frames.saturating_sub(1)));
        let after = Self { next, ..self };
        Some(FrameTiming { offset: frame_time::frame_at(start, rate), start, end, model_frame, after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const LENGTH: VideoLength = VideoLength { frames: 16, time: SECOND };

    fn segment(rate: f64, flags: gst::SegmentFlags, start: u64, stop: u64) -> Segment {
        gst::init().unwrap();
        let mut segment = Segment::new();
        segment.set_rate(rate);
        segment.set_flags(flags);
        segment.set_start(gst::ClockTime::from_nseconds(start));
        segment.set_stop(gst::ClockTime::from_nseconds(stop));
        segment
    }

    /// The model's frames of `segment` at `rate`, from a model of 16 frames per second.
    fn frames(segment: &Segment, rate: Rate) -> Vec<u64> {
        let mut position = Position::of_segment(segment, rate, None).unwrap();
        let mut frames = Vec::new();
        while let Some(timing) = position.next_frame(segment, rate, (16, 1), Some(LENGTH)) {
            frames.push(timing.model_frame);
            position = timing.after;
        }
        frames
    }

    #[test]
    fn a_segment_is_played_forwards_and_backwards() {
        let none = gst::SegmentFlags::empty();
        assert_eq!(frames(&segment(1.0, none, 0, SECOND / 4), (16, 1)), [0, 1, 2, 3]);
        assert_eq!(frames(&segment(1.0, none, SECOND / 4, SECOND / 2), (8, 1)), [4, 6]);
        assert_eq!(frames(&segment(-1.0, none, 0, SECOND / 4), (16, 1)), [3, 2, 1, 0]);
        assert_eq!(frames(&segment(-1.0, none, SECOND / 8, SECOND / 4), (16, 1)), [3, 2]);
        assert_eq!(frames(&segment(1.0, none, 0, 2 * SECOND), (16, 1)).len(), 16, "it ends with the video");
    }

    #[test]
    fn trick_mode_skips_frames() {
        let trick = gst::SegmentFlags::TRICKMODE;
        assert_eq!(frames(&segment(4.0, trick, 0, SECOND), (16, 1)), [0, 4, 8, 12]);
        assert_eq!(frames(&segment(-4.0, trick, 0, SECOND), (16, 1)), [15, 11, 7, 3]);
        assert_eq!(frames(&segment(4.0, gst::SegmentFlags::empty(), 0, SECOND), (16, 1)).len(), 16);
    }

    #[test]
    fn a_new_frame_rate_continues_at_the_same_time() {
        let position = Position { origin: 0, next: 8 };
        let forwards = position.with_rate((16, 1), (25, 1), false);
        assert_eq!(forwards, Position { origin: SECOND / 2, next: 0 });
        let backwards = position.with_rate((16, 1), (32, 1), true);
        assert_eq!(backwards, Position { origin: 0, next: 16 });
    }

    #[test]
    fn backwards_needs_an_end() {
        gst::init().unwrap();
        let mut segment = Segment::new();
        segment.set_rate(-1.0);
        assert_eq!(Position::of_segment(&segment, (16, 1), None), None);
        let total = gst::ClockTime::SECOND;
        let position = Position::of_segment(&segment, (16, 1), Some(total)).unwrap();
        assert_eq!(position, Position { origin: 0, next: 16 });
    }
}
