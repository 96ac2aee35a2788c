// SPDX-License-Identifier: MPL-2.0

//! The task of the source pad: it owns the model, and restyles one chunk after the other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gst::prelude::*;
use gst_video::VideoInfo;
use soragen::{
    Cancel, Error, Frames, Model, ModelInfo, OpenOptions, Progress, Request, Restyle, Session, Size, Threads,
};

use super::SoraFilter;
use super::input::{
    Chunk, ControlFrame, Front, Input, InputFrame, Interrupt, Item, ends_video, survives_flush,
};
use super::pusher::Pusher;
use super::settings::RateMode;
use super::{negotiation, output};
use crate::control;
use crate::source::frame_time::{Rate, frame_start};
use crate::source::{Change, caps, messages};

/// What the task needs to know.
pub struct Job {
    pub source: String,
    pub options: OpenOptions,
    /// Without a size.
    pub request: Request,
    pub info: ModelInfo,
    pub rate_mode: RateMode,
    pub ingredient: Option<String>,
    pub threads: Threads,
}

pub struct Worker {
    job: Job,
    model: Option<Arc<Model>>,
    /// Size and rate of the frames that come in.
    format: Option<(Size, Option<Rate>)>,
    /// Those of the frames that come next.
    next_format: Option<(Size, Option<Rate>)>,
    session: Option<RestyleSession>,
    /// The format that was negotiated downstream.
    video: Option<VideoInfo>,
    /// Frames that are in the session, and the events between them.
    pending: VecDeque<Item>,
    /// Changes that frames had within the last chunk.
    carried: Vec<Change>,
}

/// A session, and what was said of it.
struct RestyleSession {
    session: Session,
    restyle: Restyle,
    /// Time of its first frame.
    start: Option<gst::ClockTime>,
    /// The last shot that was announced.
    announced: Option<u64>,
}

/// Why the task ends.
pub enum Stop {
    Flushing,
    /// Downstream refused a frame.
    Flow(gst::FlowError),
    Failed(Error),
    /// A frame cannot be written in the negotiated format.
    Write(gst::glib::BoolError),
}

impl From<Interrupt> for Stop {
    fn from(_: Interrupt) -> Self {
        Self::Flushing
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        match error {
            Error::Cancelled => Self::Flushing,
            error => Self::Failed(error),
        }
    }
}

/// The element, as the task needs it.
pub struct Pads<'a> {
    pub element: &'a SoraFilter,
    pub src: &'a gst::Pad,
    /// Pushes to `src`.
    pub out: &'a Pusher,
    pub input: &'a Input,
}

impl Pads<'_> {
    fn post(&self, message: gst::Message) {
        // Posting fails only without a bus.
        let _ = self.element.post_message(message);
    }
}

impl Worker {
    pub fn new(job: Job) -> Self {
        Self {
            job,
            model: None,
            format: None,
            next_format: None,
            session: None,
            video: None,
            pending: VecDeque::new(),
            carried: Vec::new(),
        }
    }

    /// Forgets the video so far after a flush, but neither the model nor what upstream does not send again.
    pub fn reset(&mut self, pads: &Pads) {
        self.session = None;
        self.carried.clear();
        for item in std::mem::take(&mut self.pending) {
            if let Item::Event(event) = item
                && survives_flush(&event)
            {
                // Only a stop meanwhile refuses it.
                let _ = pads.out.event(event);
            }
        }
    }

    /// Handles what waits first: an event, or the frames of a chunk.
    pub fn step(&mut self, pads: &Pads) -> Result<(), Stop> {
        match pads.input.front()? {
            Front::Event(event) => self.event(event, pads),
            Front::Frame => self.chunk(pads),
        }
    }

    fn event(&mut self, event: gst::Event, pads: &Pads) -> Result<(), Stop> {
        match event.view() {
            gst::EventView::Caps(event) => {
                let video = VideoInfo::from_caps(event.caps())
                    .map_err(|_| Stop::Flow(gst::FlowError::NotNegotiated))?;
                let rate = match self.job.rate_mode {
                    RateMode::Model => Some(self.job.info.frame_rate),
                    RateMode::Every => Some(caps::rate(&video)).filter(|rate| rate.0 > 0),
                };
                // Before anything can be interrupted: the event does not come again.
                self.next_format = Some((caps::size(&video), rate));
                self.finish(pads)?;
                self.accept_format(pads)
            }
            _ => {
                if ends_video(&event) {
                    self.finish(pads)?;
                }
                pads.out.event(event).map_err(Stop::Flow)?;
                Ok(())
            }
        }
    }

    /// Uses the format of the frames that come next, if it is new.
    fn accept_format(&mut self, pads: &Pads) -> Result<(), Stop> {
        match self.next_format.take() {
            Some(format) => {
                self.format = Some(format);
                self.negotiate(pads)
            }
            None => Ok(()),
        }
    }

    /// Chooses the format of the frames that come out, and tells downstream.
    fn negotiate(&mut self, pads: &Pads) -> Result<(), Stop> {
        let not_negotiated = Stop::Flow(gst::FlowError::NotNegotiated);
        let Some((size, rate)) = self.format else { return Err(not_negotiated) };
        let Some(video) = negotiation::of_src(pads.src, size, rate) else { return Err(not_negotiated) };
        let Ok(caps) = video.to_caps() else { return Err(not_negotiated) };
        self.video = Some(video);
        pads.out.event(gst::event::Caps::new(&caps)).map_err(Stop::Flow)
    }

    /// Restyles the frames of the next chunk.
    fn chunk(&mut self, pads: &Pads) -> Result<(), Stop> {
        self.begin(pads)?;
        let Some(RestyleSession { session, restyle, .. }) = &mut self.session else {
            return Err(Stop::Flow(gst::FlowError::NotNegotiated));
        };
        let wanted = usize::try_from(session.missing_frames()).unwrap_or(usize::MAX);
        let Chunk { mut items, is_complete } = pads.input.take(wanted)?;
        let mut changes = pads.input.take_changes();
        changes.append(&mut self.carried);
        for (i, frame) in frames_of(&mut items).enumerate() {
            let from = if i == 0 { &mut changes } else { &mut self.carried };
            from.append(&mut frame.changes);
        }
        for change in changes {
            let property = change.property();
            let applied = change.loaded().and_then(|change| {
                change.apply(session)?;
                // For sessions after this one.
                change.apply_to(&mut self.job.request)
            });
            if let Err(error) = applied {
                pads.post(control::refusal(pads.element.upcast_ref(), Some(property), &error.to_string()));
            }
        }
        // The whole chunk is changed as its first frame is.
        if let Some(first) = frames_of(&mut items).next()
            && std::mem::replace(restyle, first.restyle) != first.restyle
        {
            session.set_restyle(first.restyle)?;
        }
        frames_of(&mut items).try_for_each(|frame| {
            if let Some(ControlFrame { frame, mask }) = frame.control.take() {
                session.push_control(frame, mask)?;
            }
            session.push_frames(&frame.pixels)
        })?;
        self.pending.extend(items);
        if is_complete { self.next(pads).map(drop) } else { self.finish(pads) }
    }

    /// Opens the model and begins a session, if there is none.
    fn begin(&mut self, pads: &Pads) -> Result<(), Stop> {
        if self.session.is_some() {
            return Ok(());
        }
        self.accept_format(pads)?;
        let Some((size, _)) = self.format else { return Err(Stop::Flow(gst::FlowError::NotNegotiated)) };
        let model = self.model(pads)?;
        let mut request = self.job.request.clone();
        request.size = Some(size);
        let restyle = request.restyle.unwrap_or_default();
        let session = Session::new(model, request)?;
        self.session = Some(RestyleSession { session, restyle, start: None, announced: None });
        Ok(())
    }

    fn model(&mut self, pads: &Pads) -> Result<Arc<Model>, Stop> {
        if let Some(model) = &self.model {
            return Ok(model.clone());
        }
        let post = |kind, text| pads.post(messages::load_progress(pads.element, kind, text));
        post(gst::ProgressType::Start, "Loading the model");
        let opened = Model::open(&self.job.source, &self.job.options, &pads.input.cancel());
        match &opened {
            Ok(_) => post(gst::ProgressType::Complete, "The model is loaded"),
            Err(Error::Cancelled) => post(gst::ProgressType::Canceled, "Loading the model was cancelled"),
            Err(_) => post(gst::ProgressType::Error, "Loading the model failed"),
        }
        let model = opened?;
        for note in model.notes() {
            gst::element_warning!(pads.element, gst::LibraryError::Settings, ("{note}"));
        }
        self.model = Some(model.clone());
        Ok(model)
    }

    /// Ends the session: makes its last frames, and pushes them and the events between.
    fn finish(&mut self, pads: &Pads) -> Result<(), Stop> {
        if let Some(running) = &mut self.session {
            running.session.end_video();
            while self.next(pads)? {}
        }
        self.session = None;
        for item in std::mem::take(&mut self.pending) {
            if let Item::Event(event) = item {
                pads.out.event(event).map_err(Stop::Flow)?;
            }
        }
        Ok(())
    }

    /// Makes the next frames of the session and pushes them. Returns false if there are none.
    fn next(&mut self, pads: &Pads) -> Result<bool, Stop> {
        let Some(running) = &mut self.session else { return Ok(false) };
        let cancel: Cancel = pads.input.cancel();
        let began = Instant::now();
        let mut progress = |progress: Progress| {
            let structure = messages::progress_structure(&progress, None, Duration::ZERO);
            let message = gst::message::Element::builder(structure).src(pads.element).build();
            pads.post(message);
        };
        let Some(frames) = running.session.next_chunk(&cancel, &mut progress)? else { return Ok(false) };
        let took = began.elapsed();
        if pads.src.check_reconfigure() {
            self.negotiate(pads)?;
        }
        self.push(&frames, took, pads)?;
        Ok(true)
    }

    /// Pushes frames, and the events before each.
    fn push(&mut self, frames: &Frames, took: Duration, pads: &Pads) -> Result<(), Stop> {
        let (Some(running), Some(video)) = (&mut self.session, &self.video) else { return Ok(()) };
        let duration = duration_of_frame(video);
        let chunk = Duration::from(duration.unwrap_or_default()) * frames.len() as u32;
        // The first chunk also encodes the prompt, and may wait for the model.
        let usual = if running.announced.is_some() { took } else { Duration::ZERO };
        pads.input.count(frames.len() as u64, took);
        if pads.input.raise_latency(chunk, usual) {
            pads.post(gst::message::Latency::builder().src(pads.element).build());
        }
        for pixels in frames.iter() {
            let frame = loop {
                match self.pending.pop_front() {
                    Some(Item::Frame(frame)) => break frame,
                    Some(Item::Event(event)) => {
                        pads.out.event(event).map_err(Stop::Flow)?;
                    }
                    None => return Ok(()),
                }
            };
            let RestyleSession { session, start, announced, .. } = running;
            let shot = session.shot();
            if announced.replace(shot.index) != Some(shot.index) {
                let ingredient = self.job.ingredient.as_deref();
                let id = session.watermark_id();
                let structure = output::announcement(shot, frame.pts, &self.job.info.name, ingredient, id);
                let message = gst::message::Element::builder(structure.clone()).src(pads.element).build();
                pads.post(message);
                pads.out.event(gst::event::CustomDownstream::new(structure)).map_err(Stop::Flow)?;
            }
            let time = frame.pts.saturating_sub(*start.get_or_insert(frame.pts));
            let mut pixels = pixels.to_vec();
            output::embed(session.embedder(), &mut pixels, frames.size, shot.index, time);
            let buffer = output::buffer(&pixels, &frame, video, duration).map_err(Stop::Write)?;
            pads.out.frame(buffer).map_err(Stop::Flow)?;
        }
        Ok(())
    }

    /// The threads that compute.
    pub fn threads(&mut self) -> Threads {
        std::mem::take(&mut self.job.threads)
    }

    pub fn set_threads(&mut self, threads: Threads) {
        self.job.threads = threads;
    }
}

/// The frames among `items`.
fn frames_of(items: &mut [Item]) -> impl Iterator<Item = &mut InputFrame> {
    items.iter_mut().filter_map(|item| match item {
        Item::Frame(frame) => Some(frame),
        Item::Event(_) => None,
    })
}

/// How long a frame is shown; `None` without a fixed rate.
fn duration_of_frame(video: &VideoInfo) -> Option<gst::ClockTime> {
    let rate = caps::rate(video);
    (rate.0 > 0).then(|| gst::ClockTime::from_nseconds(frame_start(1, rate)))
}
