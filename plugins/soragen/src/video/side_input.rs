// SPDX-License-Identifier: MPL-2.0

//! A video beside the main stream: the frames that shots start from, or that steer a video.
//!
//! It holds one frame. The pad blocks the next frame until the main stream has reached its time, so that the frame of each time is
//! found, no matter which stream is ahead.

use std::time::Duration;

use soragen::RgbImage;

use super::rgb::to_rgb_image;
use crate::monitor::Monitor;

#[derive(Default)]
pub struct SideInput {
    state: Monitor<State>,
}

#[derive(Default)]
struct State {
    info: Option<gst_video::VideoInfo>,
    segment: gst::FormattedSegment<gst::ClockTime>,
    current: Option<Frame>,
    /// Start of the frame that is blocked in the pad.
    next: Option<Duration>,
    /// Running time that the main stream has reached.
    main_time: Duration,
    /// The main stream has ended.
    main_ended: bool,
    /// The main stream is being flushed.
    main_flushing: bool,
    /// The video stream has ended.
    ended: bool,
    flushing: bool,
}

struct Frame {
    buffer: gst::Buffer,
    info: gst_video::VideoInfo,
    /// Running time of its start, and of its end if the buffer has a duration.
    start: Duration,
    end: Option<Duration>,
}

impl SideInput {
    /// Holds `buffer`. Except for the first frame, it waits until the main stream has reached its time.
    pub fn push(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let mut state = self.state.lock();
        let Some(info) = state.info.clone() else {
            return Err(gst::FlowError::NotNegotiated);
        };
        let running_time =
            |time: Option<gst::ClockTime>| state.segment.to_running_time(time).map(Duration::from);
        let Some(start) = running_time(buffer.pts()) else {
            return Ok(gst::FlowSuccess::Ok);
        };
        let end = buffer.duration().map(|duration| start + Duration::from(duration));
        state.next = Some(start);
        self.state.notify();
        while state.current.is_some() && start > state.main_time && !state.main_ended && !state.flushing {
            state = self.state.wait(state);
        }
        state.next = None;
        if state.flushing {
            return Err(gst::FlowError::Flushing);
        }
        if !state.main_ended {
            state.current = Some(Frame { buffer, info, start, end });
        }
        drop(state);
        self.state.notify();
        Ok(gst::FlowSuccess::Ok)
    }

    /// Waits for the frame at `time`, which the main stream has reached, or else the first one after it; after the
    /// end the last frame, and `None` if there was no frame.
    ///
    /// # Errors
    /// [`gst::FlowError::Flushing`], and [`gst::FlowError::NotNegotiated`] for a frame that cannot be converted to RGB.
    pub fn frame_at(&self, time: Duration) -> Result<Option<RgbImage>, gst::FlowError> {
        let mut state = self.state.lock();
        loop {
            if state.main_flushing {
                return Err(gst::FlowError::Flushing);
            }
            let found = state.current.as_ref().is_some_and(|frame| {
                frame.start >= time
                    || frame.end.is_some_and(|end| end > time)
                    || state.next.is_some_and(|next| next > time)
            });
            if found || state.ended {
                break;
            }
            state = self.state.wait(state);
        }
        let Some(frame) = &state.current else { return Ok(None) };
        let (buffer, info) = (frame.buffer.clone(), frame.info.clone());
        drop(state);
        to_rgb_image(buffer, &info).map(Some).ok_or(gst::FlowError::NotNegotiated)
    }

    /// Declares that the main stream has reached `time`.
    pub fn set_main_time(&self, time: Duration) {
        self.state.update(|state| state.main_time = state.main_time.max(time));
    }

    /// Declares the end of the main stream.
    pub fn end_main(&self) {
        self.state.update(|state| state.main_ended = true);
    }

    /// Interrupts the wait of the main stream, until its time starts again.
    pub fn flush_main(&self) {
        self.state.update(|state| state.main_flushing = true);
    }

    /// Declares that the time of the main stream starts again.
    pub fn restart_main(&self) {
        self.state.update(|state| {
            (state.main_time, state.main_ended, state.main_flushing) = (Duration::ZERO, false, false);
            state.current = None;
        });
    }

    /// Declares that the main stream goes on after its end.
    pub fn begin_main(&self) {
        self.state.update(|state| state.main_ended = false);
    }

    /// Declares the end of the video stream.
    pub fn end(&self) {
        self.state.update(|state| state.ended = true);
    }

    /// Ends both streams until [`reset`](Self::reset).
    pub fn stop(&self) {
        self.state.update(|state| (state.flushing, state.main_flushing) = (true, true));
    }

    /// Takes no more frames, and holds none, until [`reset`](Self::reset).
    pub fn close(&self) {
        self.state.update(|state| *state = State { flushing: true, ended: true, ..State::default() });
    }

    /// Interrupts the wait of the video stream.
    fn flush_start(&self) {
        self.state.update(|state| state.flushing = true);
    }

    /// Drops the frame, and accepts new ones in the same format.
    fn flush_stop(&self) {
        self.state.update(|state| {
            let (info, main_time, main_ended) = (state.info.take(), state.main_time, state.main_ended);
            let main_flushing = state.main_flushing;
            *state = State { info, main_time, main_ended, main_flushing, ..State::default() };
        });
    }

    /// Sets the format. Returns false if it is not raw video.
    fn set_caps(&self, caps: &gst::CapsRef) -> bool {
        let info = gst_video::VideoInfo::from_caps(caps).ok();
        let valid = info.is_some();
        self.state.update(|state| state.info = info);
        valid
    }

    /// Handles an event of the pad. Returns false if the event cannot be used: video without a time, or no raw video.
    pub fn event(&self, event: &gst::Event) -> bool {
        match event.view() {
            gst::EventView::Caps(event) => return self.set_caps(event.caps()),
            gst::EventView::Segment(event) => match event.segment().clone().downcast::<gst::ClockTime>() {
                Ok(segment) => self.state.update(|state| (state.segment, state.ended) = (segment, false)),
                Err(_) => return false,
            },
            gst::EventView::FlushStart(_) => self.flush_start(),
            gst::EventView::FlushStop(_) => self.flush_stop(),
            gst::EventView::StreamStart(_) => self.state.update(|state| state.ended = false),
            gst::EventView::Eos(_) | gst::EventView::SegmentDone(_) => self.end(),
            _ => {}
        }
        true
    }

    /// Returns to the initial state.
    pub fn reset(&self) {
        self.state.update(|state| *state = State::default());
    }
}
