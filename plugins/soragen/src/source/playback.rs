// SPDX-License-Identifier: MPL-2.0

//! Waiting for frames, in a live source no longer than until their time.

use std::time::{Duration, Instant};

use super::generator::{FrameError, FrameReader, RgbFrame};
use super::position::FrameTiming;

/// A frame and its number at the model's rate.
#[derive(Clone)]
pub struct ModelFrame {
    pub number: u64,
    pub pixels: RgbFrame,
}

/// State of a live source.
#[derive(Default)]
pub struct LivePlayback {
    /// The last frame that was pushed.
    last: Option<ModelFrame>,
    /// Delay of the video in frames of the model, which grows with every late frame.
    lag: u64,
}

/// What a live source pushes next.
pub enum LiveFrame {
    OnTime(ModelFrame),
    /// The last frame again, in place of a late one.
    Repeated(ModelFrame),
}

/// Waits for the frame of `timing`.
pub fn wait(timing: &FrameTiming, reader: &FrameReader) -> Result<ModelFrame, FrameError> {
    let number = timing.model_frame;
    Ok(ModelFrame { number, pixels: reader.read(number, None)? })
}

impl LivePlayback {
    /// Waits for the frame of `timing` until its start; `now` is the running time in nanoseconds.
    pub fn wait(
        &mut self,
        timing: &FrameTiming,
        reader: &FrameReader,
        now: u64,
    ) -> Result<LiveFrame, FrameError> {
        let number = timing.model_frame.saturating_sub(self.lag);
        // There is nothing to repeat before the first frame, so it has no deadline.
        let deadline = match &self.last {
            None => None,
            Some(last) if last.number >= number => return Ok(LiveFrame::OnTime(last.clone())),
            Some(_) => Some(Instant::now() + Duration::from_nanos(timing.start.saturating_sub(now))),
        };
        match (reader.read(number, deadline), &self.last) {
            (Ok(pixels), _) => {
                let frame = ModelFrame { number, pixels };
                self.last = Some(frame.clone());
                Ok(LiveFrame::OnTime(frame))
            }
            (Err(FrameError::Late), Some(last)) => {
                self.lag += number - last.number;
                Ok(LiveFrame::Repeated(last.clone()))
            }
            (Err(error), _) => Err(error),
        }
    }
}
