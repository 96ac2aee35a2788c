// SPDX-License-Identifier: MPL-2.0

//! Waiting for frames: in a live source until their time on the pipeline's clock.

use std::time::Duration;

use super::deadline::RunningClock;
use super::frame_time::{Rate, frame_start};
use super::generator::{Due, FrameData, FrameError, FrameReader};
use super::position::FrameTiming;

/// A frame and its number at the model's rate.
#[derive(Clone)]
pub struct ModelFrame {
    pub number: u64,
    pub data: FrameData,
}

/// Where the video is in running time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Anchor {
    /// A time of the video, and the running time at which it is shown, in nanoseconds.
    video: u64,
    running: u64,
    /// The base time of the element when they were set.
    base_time: gst::ClockTime,
}

impl Anchor {
    /// The frame of `timing` is shown now.
    fn now(timing: &FrameTiming, clock: &RunningClock) -> Self {
        Self { video: timing.start, running: clock.now(), base_time: clock.base_time() }
    }

    /// The running time of `video` time, in nanoseconds. No frame is before the anchor.
    fn running_time(&self, video: u64) -> u64 {
        self.running + video.saturating_sub(self.video)
    }
}

/// State of a live source.
#[derive(Clone, Default)]
pub struct LivePlayback {
    /// The last frame that was pushed.
    last: Option<ModelFrame>,
    /// Delay of the video in frames of the model, which grows with every late frame.
    lag: u64,
    /// `None` before the first frame.
    anchor: Option<Anchor>,
    /// [`FrameReader::resumes`] at the last frame.
    resumes: u64,
    /// The anchor has moved since the last frame.
    moved: bool,
}

/// A frame that is pushed now.
pub struct OutputFrame {
    pub frame: ModelFrame,
    /// Its timestamp in nanoseconds.
    pub start: u64,
    /// It is the last frame again, in place of one that is late.
    pub late: bool,
    /// Its timestamp does not follow that of the frame before it.
    pub discont: bool,
}

/// Waits for the frame of `timing`.
pub fn wait(timing: &FrameTiming, reader: &FrameReader) -> Result<OutputFrame, FrameError> {
    let number = timing.model_frame;
    let frame = ModelFrame { number, data: reader.read(number, None)? };
    Ok(OutputFrame { frame, start: timing.start, late: false, discont: false })
}

impl LivePlayback {
    /// The time of the video at running time `running`; `None` before the first frame.
    pub fn video_time(&self, running: Duration) -> Option<Duration> {
        let anchor = self.anchor?;
        let running = u64::try_from(running.as_nanos()).unwrap_or(u64::MAX);
        let time = anchor.video.saturating_add(running).saturating_sub(anchor.running);
        Some(Duration::from_nanos(time))
    }

    /// The start of a shot that is to be shown at running time `running`, with a model of `rate`. Late frames delay the shots, but
    /// not the end of the video.
    pub fn shot_start(&self, running: Duration, rate: Rate) -> Option<Duration> {
        let delay = Duration::from_nanos(frame_start(self.lag, rate));
        self.video_time(running).map(|time| time.saturating_sub(delay))
    }

    /// Forgets the last frame: one of another size or format cannot be repeated.
    pub fn forget_frame(&mut self) {
        self.last = None;
    }

    /// Waits until the time of the frame of `timing`, and returns the frame, or the last one again if it is late. The first
    /// frame is shown as soon as it exists; the time of the others counts from there.
    ///
    /// # Errors
    /// [`FrameError::Resumed`] if the element was paused meanwhile: call it again.
    pub fn wait(
        &mut self,
        timing: &FrameTiming,
        reader: &FrameReader,
        clock: &RunningClock,
    ) -> Result<OutputFrame, FrameError> {
        let resumes = reader.resumes();
        let resumed = std::mem::replace(&mut self.resumes, resumes) != resumes;
        // A wait that is interrupted pushes no frame, so the next one is told.
        self.moved |= self.follow(timing, clock, resumed);
        let mut output = self.next(timing, reader, clock, resumes)?;
        output.discont = std::mem::take(&mut self.moved);
        Ok(output)
    }

    /// Waits for the next frame, with the anchor in place.
    fn next(
        &mut self,
        timing: &FrameTiming,
        reader: &FrameReader,
        clock: &RunningClock,
        resumes: u64,
    ) -> Result<OutputFrame, FrameError> {
        let number = timing.model_frame.saturating_sub(self.lag);
        let (Some(last), Some(anchor)) = (self.last.clone(), self.anchor) else {
            // Nothing to repeat, so this frame has no deadline.
            let frame = ModelFrame { number, data: reader.read(number, None)? };
            self.last = Some(frame.clone());
            let anchor = *self.anchor.get_or_insert_with(|| Anchor::now(timing, clock));
            return Ok(OutputFrame {
                frame,
                start: anchor.running_time(timing.start),
                late: false,
                discont: false,
            });
        };
        let start = anchor.running_time(timing.start);
        let deadline = clock.deadline(start, reader.waker());
        let due = Due { deadline: &deadline, resumes };
        if last.number >= number {
            reader.wait_until(due)?;
            return Ok(OutputFrame { frame: last, start, late: false, discont: false });
        }
        match reader.read(number, Some(due)) {
            Ok(data) => {
                let frame = ModelFrame { number, data };
                self.last = Some(frame.clone());
                Ok(OutputFrame { frame, start, late: false, discont: false })
            }
            Err(FrameError::Late) => {
                self.lag += number - last.number;
                Ok(OutputFrame { frame: last, start, late: true, discont: false })
            }
            Err(error) => Err(error),
        }
    }

    /// Moves the anchor to the running time if that has jumped: a new base time, or a pause in which the clock of the pipeline
    /// went on. Returns whether it did. Without a jump, timestamps stay on their grid.
    fn follow(&mut self, timing: &FrameTiming, clock: &RunningClock, resumed: bool) -> bool {
        let Some(anchor) = &mut self.anchor else { return false };
        if !resumed && anchor.base_time == clock.base_time() {
            return false;
        }
        anchor.base_time = clock.base_time();
        let jumped = anchor.running_time(timing.start).abs_diff(clock.now()) > timing.end - timing.start;
        if jumped {
            *anchor = Anchor::now(timing, clock);
        }
        jumped
    }
}
