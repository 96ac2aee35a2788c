// SPDX-License-Identifier: MPL-2.0

//! The frames that shots start from: what the pad `video` shows when a shot's text begins.
//!
//! Only one frame is held. The next waits in its pad until a text has come that is as late, so that whichever of
//! the two streams is ahead, a shot starts from the frame of its own time.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gst_video::prelude::*;
use soragen::RgbImage;

#[derive(Default)]
pub struct Frames {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    info: Option<gst_video::VideoInfo>,
    segment: gst::FormattedSegment<gst::ClockTime>,
    current: Option<Frame>,
    /// When the frame starts that waits to be the current one.
    next: Option<Duration>,
    /// How far the texts have come.
    texts: Duration,
    /// No text comes any more.
    texts_ended: bool,
    ended: bool,
    flushing: bool,
}

struct Frame {
    buffer: gst::Buffer,
    info: gst_video::VideoInfo,
    /// Running time; its end is known where the frame has a duration.
    start: Duration,
    end: Option<Duration>,
}

impl Frames {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    /// Waits until the texts have come as far as `buffer`, unless it is the first, and then holds it.
    pub fn push(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let mut state = self.state();
        let Some(info) = state.info.clone() else {
            return Err(gst::FlowError::NotNegotiated);
        };
        let running = |time: Option<gst::ClockTime>| state.segment.to_running_time(time).map(Duration::from);
        let Some(start) = running(buffer.pts()) else {
            return Ok(gst::FlowSuccess::Ok);
        };
        let end = buffer.duration().map(|duration| start + Duration::from(duration));
        state.next = Some(start);
        self.changed.notify_all();
        while state.current.is_some() && start > state.texts && !state.texts_ended && !state.flushing {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.next = None;
        if state.flushing {
            return Err(gst::FlowError::Flushing);
        }
        if !state.texts_ended {
            state.current = Some(Frame { buffer, info, start, end });
        }
        drop(state);
        self.changed.notify_all();
        Ok(gst::FlowSuccess::Ok)
    }

    /// The frame that is shown at `time`, to which the texts have come, or else the one that comes next; waits for
    /// it. `None`: there is none any more.
    ///
    /// # Errors
    /// [`gst::FlowError::Flushing`], and [`gst::FlowError::NotNegotiated`] for a frame that does not become RGB.
    pub fn at(&self, time: Duration) -> Result<Option<RgbImage>, gst::FlowError> {
        let mut state = self.state();
        loop {
            if state.flushing {
                return Err(gst::FlowError::Flushing);
            }
            let shown = state.current.as_ref().is_some_and(|frame| {
                frame.start >= time
                    || frame.end.is_some_and(|end| end > time)
                    || state.next.is_some_and(|next| next > time)
            });
            if shown || state.ended {
                break;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let Some(frame) = &state.current else { return Ok(None) };
        let (buffer, info) = (frame.buffer.clone(), frame.info.clone());
        drop(state);
        picture(buffer, &info).map(Some).ok_or(gst::FlowError::NotNegotiated)
    }

    /// The texts have come as far as `time`.
    pub fn advance(&self, time: Duration) {
        self.change(|state| state.texts = state.texts.max(time));
    }

    pub fn end_texts(&self) {
        self.change(|state| state.texts_ended = true);
    }

    /// What is waited for does not come any more.
    pub fn flush_start(&self) {
        self.change(|state| state.flushing = true);
    }

    /// The video comes anew, in the same form.
    pub fn flush_stop(&self) {
        self.change(|state| {
            let (info, texts, texts_ended) = (state.info.take(), state.texts, state.texts_ended);
            *state = State { info, texts, texts_ended, ..State::default() };
        });
    }

    pub fn end(&self) {
        self.change(|state| state.ended = true);
    }

    pub fn set_caps(&self, caps: &gst::CapsRef) -> bool {
        let info = gst_video::VideoInfo::from_caps(caps).ok();
        let known = info.is_some();
        self.change(|state| state.info = info);
        known
    }

    pub fn set_segment(&self, segment: gst::FormattedSegment<gst::ClockTime>) {
        self.change(|state| state.segment = segment);
    }

    /// As it was in the beginning.
    pub fn reset(&self) {
        self.change(|state| *state = State::default());
    }
}

fn picture(buffer: gst::Buffer, info: &gst_video::VideoInfo) -> Option<RgbImage> {
    let (width, height) = (info.width(), info.height());
    // The converter takes nothing that differs in time.
    let rgb = gst_video::VideoInfo::builder(gst_video::VideoFormat::Rgb, width, height)
        .fps(info.fps())
        .interlace_mode(info.interlace_mode());
    let rgb = rgb.build().ok()?;
    let converter = gst_video::VideoConverter::new(info, &rgb, None).ok()?;
    let from = gst_video::VideoFrame::from_buffer_readable(buffer, info).ok()?;
    let mut to =
        gst_video::VideoFrame::from_buffer_writable(gst::Buffer::with_size(rgb.size()).ok()?, &rgb).ok()?;
    converter.frame(&from, &mut to);
    let stride = usize::try_from(to.plane_stride()[0]).ok()?;
    let row = width as usize * 3;
    let pixels = to.plane_data(0).ok()?;
    let packed = pixels.chunks(stride).take(height as usize).flat_map(|line| &line[..row]).copied().collect();
    RgbImage::from_raw(width, height, packed)
}
