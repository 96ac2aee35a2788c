// SPDX-License-Identifier: MPL-2.0

//! Waiting for frames: in a live source until their time on the pipeline's clock.

use std::sync::Arc;
use std::time::Duration;

use soragen::{Error, Size};

use super::deadline::RunningClock;
use super::enums::LatePolicy;
use super::frame_time::{Rate, frame_start};
use super::generator::{Due, FrameData, FrameError, FrameReader};
use super::position::FrameTiming;
use super::slate::Slate;

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

/// What a live source shows in place of frames of the model.
#[derive(Clone, Default)]
pub struct Replacement {
    /// `None` waits for the first frame, and ends with an error.
    pub slate: Option<Slate>,
    pub late_policy: LatePolicy,
}

/// State of a live source.
#[derive(Clone, Default)]
pub struct LivePlayback {
    replacement: Replacement,
    /// The slate in the size of the frames.
    slate: Option<Arc<[u8]>>,
    /// The last frame of the model that was pushed.
    last: Option<ModelFrame>,
    /// The last frame was late.
    is_late: bool,
    /// Why the slate was shown last, unless it was for one late frame.
    slate_reason: Option<SlateReason>,
    /// Delay of the video in frames of the model, which grows with every late frame.
    lag: u64,
    /// `None` before the first frame.
    anchor: Option<Anchor>,
    /// [`FrameReader::resumes`] at the last frame.
    resumes: u64,
    /// The anchor has moved since the last frame.
    moved: bool,
}

/// Why there is no video.
#[derive(Clone, Debug)]
pub enum SlateReason {
    /// The model is loaded, or makes its first frame.
    Loading,
    Failed(Arc<Error>),
}

/// What a frame shows.
pub enum Content {
    Frame(ModelFrame),
    /// 8-bit RGB, `[H, W, 3]`.
    Slate(Arc<[u8]>),
    /// Nothing is pushed.
    Nothing,
}

/// A frame that is pushed now.
pub struct OutputFrame {
    pub content: Content,
    /// Its timestamp in nanoseconds.
    pub start: u64,
    /// It is in place of one that is late.
    pub late: bool,
    /// Its timestamp does not follow that of the frame before it.
    pub discont: bool,
    /// Whether it takes time of the video, which waits while the slate is shown.
    pub of_video: bool,
    /// The slate replaces the video from here on, or, with `None`, the video the slate.
    pub switch: Option<Option<SlateReason>>,
}

impl SlateReason {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Loading, Self::Loading) => true,
            (Self::Failed(a), Self::Failed(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl OutputFrame {
    fn new(content: Content, start: u64) -> Self {
        Self { content, start, late: false, discont: false, of_video: true, switch: None }
    }

    /// The frame of the model, if it shows one.
    pub fn model_frame(&self) -> Option<&ModelFrame> {
        match &self.content {
            Content::Frame(frame) => Some(frame),
            Content::Slate(_) | Content::Nothing => None,
        }
    }
}

/// Waits for the frame of `timing`.
pub fn wait(timing: &FrameTiming, reader: &FrameReader) -> Result<OutputFrame, FrameError> {
    let number = timing.model_frame;
    let frame = ModelFrame { number, data: reader.read(number, None)? };
    Ok(OutputFrame::new(Content::Frame(frame), timing.start))
}

impl LivePlayback {
    pub fn new(replacement: Replacement) -> Self {
        Self { replacement, ..Self::default() }
    }

    /// The time of the video at running time `running`; `None` before the first frame, and while it waits for the model.
    pub fn video_time(&self, running: Duration) -> Option<Duration> {
        let anchor = self.anchor.filter(|_| self.slate_reason.is_none())?;
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

    /// Whether it shows a slate after a failure.
    pub fn has_slate(&self) -> bool {
        self.replacement.slate.is_some()
    }

    /// Frames have another size or format from now on: the last one cannot be repeated.
    pub fn set_size(&mut self, size: Size) {
        self.last = None;
        self.slate = self.replacement.slate.as_ref().map(|slate| slate.frame(size));
    }

    /// The video begins again, at time 0, with the frame of `timing`.
    pub fn start_over(&mut self, timing: &FrameTiming) {
        (self.last, self.lag, self.is_late) = (None, 0, false);
        if let Some(anchor) = &mut self.anchor {
            *anchor = Anchor { video: 0, running: anchor.running_time(timing.start), ..*anchor };
        }
    }

    /// The running time at which frame `number` of the model is shown; `None` before the first frame.
    pub fn running_time_of(&self, number: u64, rate: Rate) -> Option<u64> {
        Some(self.anchor?.running_time(frame_start(number.saturating_add(self.lag), rate)))
    }

    /// Waits until the time of the frame of `timing`, and returns the frame, or what is shown in its place. Without a slate the first
    /// frame is shown as soon as it exists; the time of the others counts from there. With one it is shown at once.
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
        if !matches!(output.content, Content::Nothing) {
            output.discont = std::mem::take(&mut self.moved);
        }
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
        let slate = self.slate.clone();
        if self.last.is_none() && slate.is_none() {
            // Nothing to show in its place, so this frame has no deadline.
            let frame = ModelFrame { number, data: reader.read(number, None)? };
            let anchor = *self.anchor.get_or_insert_with(|| Anchor::now(timing, clock));
            return Ok(self.shown(frame, anchor.running_time(timing.start)));
        }
        let anchor = *self.anchor.get_or_insert_with(|| Anchor::now(timing, clock));
        let start = anchor.running_time(timing.start);
        let deadline = clock.deadline(start, reader.waker());
        let due = Due { deadline: &deadline, resumes };
        if let Some(last) = self.last.clone().filter(|last| last.number >= number) {
            reader.wait_until(due)?;
            let content = if self.is_late { self.late_content(last) } else { Content::Frame(last) };
            return Ok(OutputFrame::new(content, start));
        }
        let reason = match reader.read(number, Some(due)) {
            Ok(data) => return Ok(self.shown(ModelFrame { number, data }, start)),
            Err(FrameError::Late) => match self.last.clone() {
                Some(last) => {
                    self.lag += number - last.number;
                    self.is_late = true;
                    let late = OutputFrame::new(self.late_content(last), start);
                    return Ok(OutputFrame { late: true, ..late });
                }
                None => SlateReason::Loading,
            },
            Err(FrameError::Failed(error)) if slate.is_some() => {
                reader.wait_until(due)?;
                SlateReason::Failed(error)
            }
            Err(error) => return Err(error),
        };
        let Some(slate) = slate else { return Err(FrameError::Late) };
        // The video waits meanwhile.
        self.anchor = Some(Anchor { running: anchor.running + (timing.end - timing.start), ..anchor });
        let shown = OutputFrame::new(Content::Slate(slate), start);
        let same = self.slate_reason.as_ref().is_some_and(|before| before.is_same(&reason));
        let switch = (!same).then(|| Some(reason.clone()));
        self.slate_reason = Some(reason);
        Ok(OutputFrame { switch, of_video: false, ..shown })
    }

    /// Shows a new frame of the model.
    fn shown(&mut self, frame: ModelFrame, start: u64) -> OutputFrame {
        self.is_late = false;
        self.last = Some(frame.clone());
        let switch = self.slate_reason.take().map(|_| None);
        OutputFrame { switch, ..OutputFrame::new(Content::Frame(frame), start) }
    }

    /// What is shown in place of a late frame, after `last`.
    fn late_content(&self, last: ModelFrame) -> Content {
        match (self.replacement.late_policy, &self.slate) {
            (LatePolicy::Drop, _) => Content::Nothing,
            (LatePolicy::Slate, Some(slate)) => Content::Slate(slate.clone()),
            (LatePolicy::Slate | LatePolicy::Hold, _) => Content::Frame(last),
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
