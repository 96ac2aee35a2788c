// SPDX-License-Identifier: MPL-2.0

//! The element while it runs: the next frame, shots, seeks with another seed, length and statistics.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;
use gst_video::{ValidVideoTimeCode, VideoInfo};
use soragen::Size;
use soragen::watermark::Plane;

use super::deadline::RunningClock;
use super::generator::{FrameError, FrameReader};
use super::imp::{SoraGen, lock};
use super::messages::ShotAnnouncement;
use super::playback::{self, LivePlayback, OutputFrame, SlateReason};
use super::position::{FrameTiming, Position};
use super::settings::VideoLength;
use super::state::Running;
use super::{caps, error, frame_time, messages, tags, timecode};

/// What is pushed next.
pub(super) struct NextFrame {
    pub shown: OutputFrame,
    pub timing: FrameTiming,
    pub video: VideoInfo,
    pub timecode: Option<ValidVideoTimeCode>,
    pub reader: FrameReader,
}

impl SoraGen {
    /// Waits for what is pushed next, and announces it.
    pub(super) fn next_shown(&self) -> Result<NextFrame, gst::FlowError> {
        let (timing, video, reader, mut live, tags, timecode) = {
            let mut state = lock(&self.state);
            let running = state.running_mut().ok_or(gst::FlowError::Flushing)?;
            let video = running.video.clone().ok_or(gst::FlowError::NotNegotiated)?;
            let rate = caps::rate(&video);
            self.follow_restart(running, rate);
            let timing = self.next_frame(running, rate).ok_or(gst::FlowError::Eos)?;
            let timecode = running.timecode.as_ref().map(|first| timecode::at(first, timing.offset));
            let reader = running.generator.reader();
            (timing, video, reader, running.live.clone(), running.tags.take(), timecode)
        };
        if let Some(tags) = tags {
            self.queue_event(gst::event::Tag::new(tags));
        }
        // Waits without a lock.
        let shown = self.wait_frame(&timing, live.as_mut(), &reader);
        let (announcement, cues) = match lock(&self.state).running_mut() {
            Some(running) => {
                running.live = live;
                let announcement =
                    shown.as_ref().ok().and_then(|shown| running.advance(&timing, shown, &reader));
                (announcement, running.apply_early_cues())
            }
            None => (None, Vec::new()),
        };
        cues.into_iter().for_each(|outcome| self.report_cue(outcome));
        let shown = shown.map_err(|frame_error| match frame_error {
            FrameError::End => gst::FlowError::Eos,
            FrameError::Flushing | FrameError::Late | FrameError::Resumed => gst::FlowError::Flushing,
            FrameError::Failed(failure) => {
                self.post_error_message(error::message(&failure));
                gst::FlowError::Error
            }
        })?;
        if let Some(reason) = &shown.switch {
            self.announce_slate(reason.as_ref(), shown.start);
        }
        if let Some(announcement) = announcement {
            self.announce_shot(&announcement, &timing.starting_at(shown.start));
        }
        Ok(NextFrame { shown, timing, video, timecode, reader })
    }

    /// Begins the video again if the model has started again after a failure.
    fn follow_restart(&self, running: &mut Running, rate: frame_time::Rate) {
        let restarts = running.generator.restarts();
        if std::mem::replace(&mut running.restarts, restarts) == restarts {
            return;
        }
        if let (Some(timing), Some(live)) = (self.next_frame(running, rate), &mut running.live) {
            live.start_over(&timing);
        }
        running.position = Position::default();
        running.shot = None;
    }

    /// Tells that nothing is pushed for a frame.
    pub(super) fn push_gap(&self, next: &NextFrame) {
        let (start, length) = (next.shown.start, next.timing.end - next.timing.start);
        let gap = gst::event::Gap::builder(gst::ClockTime::from_nseconds(start));
        self.obj().src_pad().push_event(gap.duration(gst::ClockTime::from_nseconds(length)).build());
    }

    /// Announces that the slate is shown from `start` on, in nanoseconds, or with `None` the video again. Both are cuts.
    fn announce_slate(&self, reason: Option<&SlateReason>, start: u64) {
        let element = self.obj();
        if let Some(SlateReason::Failed(failure)) = reason {
            messages::post(&element, messages::warning(&element, failure));
        }
        messages::post(&element, messages::slate_switch(&element, reason));
        self.queue_event(messages::key_unit_event(start, 0));
    }

    /// Sets the properties that have a controller to their values at the time when frame `number` of the model is shown.
    pub(super) fn sync_properties(&self, number: u64) {
        let element = self.obj();
        if !element.has_active_control_bindings() {
            return;
        }
        let time = match lock(&self.state).running() {
            Some(Running { live: Some(live), info, .. }) => live.running_time_of(number, info.frame_rate),
            Some(running) => Some(frame_time::frame_start(number, running.info.frame_rate)),
            None => None,
        };
        if let Some(time) = time {
            let set_syncing = |syncing| {
                let _settings = lock(&self.settings);
                self.syncing.store(syncing, Ordering::Relaxed);
            };
            set_syncing(true);
            // Without a value at this time the property stays as it is.
            let _ = element.sync_values(gst::ClockTime::from_nseconds(time));
            set_syncing(false);
        }
    }

    /// The next frame of the segment; `None` at its end.
    pub(super) fn next_frame(&self, running: &Running, rate: frame_time::Rate) -> Option<FrameTiming> {
        let segment = self.obj().segment().downcast::<gst::ClockTime>().ok()?;
        running.position.next_frame(&segment, rate, running.info.frame_rate, running.length)
    }

    /// Waits for the frame of `timing`. A live source waits until its time, and repeats the last frame if this one is late.
    pub(super) fn wait_frame(
        &self,
        timing: &FrameTiming,
        live: Option<&mut LivePlayback>,
        reader: &FrameReader,
    ) -> Result<OutputFrame, FrameError> {
        let element = self.obj();
        let Some(live) = live else { return playback::wait(timing, reader) };
        let (shown, now) = loop {
            // After a pause the base time may be another.
            let Some(clock) = RunningClock::of(&*element) else { return playback::wait(timing, reader) };
            match live.wait(timing, reader, &clock) {
                Err(FrameError::Resumed) => {}
                waited => break (waited?, clock.now()),
            }
        };
        if shown.late
            && let Ok(segment) = element.segment().downcast::<gst::ClockTime>()
        {
            let (timing, late) = (timing.starting_at(shown.start), reader.count_late());
            messages::post(&element, messages::late_frame(&element, &segment, &timing, late, now));
        }
        Ok(shown)
    }

    /// Embeds the watermark in frame `number`, if the source is live. It follows the time at which frames are shown: the pattern of a frame
    /// that is repeated, or shown late, would be that of another time, and could not be detected.
    pub(super) fn embed_watermark(
        &self,
        pixels: &mut Arc<[u8]>,
        number: u64,
        timing: &FrameTiming,
        reader: &FrameReader,
        size: Size,
    ) {
        if !self.obj().is_live() {
            return;
        }
        if let (Some(embedder), Some(shot)) = (reader.embedder(), reader.shot(number)) {
            // A copy: the frame may be shown again.
            let pixels = Arc::make_mut(pixels);
            let time = Duration::from_nanos(timing.start);
            embedder.embed(&mut Plane::rgb(pixels, size), shot.index, time);
        }
    }

    /// Announces a shot on the bus and downstream before its first frame, and requests a key frame at a cut.
    pub(super) fn announce_shot(&self, announcement: &ShotAnnouncement, timing: &FrameTiming) {
        let element = self.obj();
        let structure = announcement.structure();
        let message = gst::message::Element::builder(structure.clone()).src(&*element).build();
        messages::post(&element, message);
        if announcement.shot.cut && announcement.after_another && element.segment().rate() > 0.0 {
            self.queue_event(messages::key_unit_event(timing.start, announcement.shot.index));
        }
        self.queue_event(gst::event::CustomDownstream::new(structure));
    }

    /// Has the base class push `event` after its segment and before the next buffer.
    ///
    /// `Element::send_event` would deadlock: it waits for a state change, which waits for the streaming thread.
    pub(super) fn queue_event(&self, event: gst::Event) {
        self.parent_send_event(event);
    }

    /// Ends the stream after the frames generated so far.
    pub(super) fn cancel(&self) {
        if let Some(running) = lock(&self.state).running() {
            running.generator.truncate();
        }
    }

    /// Generates the video again from its beginning, with the next seed: after a seek, or, in a live source, after a failure. Returns
    /// false if the element can do neither.
    pub(super) fn regenerate(&self) -> bool {
        if self.obj().is_live() {
            return self.restart();
        }
        if !self.is_seekable() {
            return false;
        }
        {
            let mut state = lock(&self.state);
            let Some(running) = state.running_mut() else { return false };
            let mut settings = lock(&self.settings);
            settings.seed = settings.seed.wrapping_add(1);
            running.new_seed = Some(settings.seed);
            running.tags = Some(tags::of(&settings, &running.info));
        }
        self.obj().notify("seed");
        // The flush drops the frames of the old seed.
        let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE;
        let done = self.obj().seek_simple(flags, gst::ClockTime::ZERO).is_ok();
        if !done && let Some(running) = lock(&self.state).running_mut() {
            // The next seek is another one.
            running.new_seed = None;
        }
        done
    }

    /// Starts a model again that has failed.
    fn restart(&self) -> bool {
        {
            let mut state = lock(&self.state);
            let can_start = |running: &&mut Running| {
                running.live.as_ref().is_some_and(LivePlayback::has_slate) && running.generator.has_failed()
            };
            let Some(running) = state.running_mut().filter(can_start) else { return false };
            let mut settings = lock(&self.settings);
            settings.seed = settings.seed.wrapping_add(1);
            running.tags = Some(tags::of(&settings, &running.info));
            running.generator.restart(settings.seed);
        }
        self.obj().notify("seed");
        true
    }

    /// The length of the video, before the start that of the settings; `None` if it is endless or unknown.
    pub(super) fn length(&self) -> Option<VideoLength> {
        if let Some(running) = lock(&self.state).running() {
            return running.length;
        }
        if self.streamed_shots.load(Ordering::Relaxed) {
            return None;
        }
        let settings = lock(&self.settings).clone();
        settings.length(&settings.info().ok()?, settings.storyboard().ok()?.as_ref())
    }

    /// The negotiated frame rate; before negotiation, the one without restrictions from downstream.
    pub(super) fn frame_rate(&self) -> Option<frame_time::Rate> {
        let (negotiated, of_model) = match lock(&self.state).running() {
            Some(running) => (running.video.as_ref().map(caps::rate), Some(running.info.frame_rate)),
            None => (None, None),
        };
        if negotiated.is_some() {
            return negotiated;
        }
        let settings = lock(&self.settings).clone();
        settings.uri_caps.framerate.or(of_model).or_else(|| settings.info().ok().map(|info| info.frame_rate))
    }

    /// The latency of a live source: a frame leaves before its duration is over. Zero if the frame rate is not known yet, because
    /// the model is not downloaded; a message announces the change.
    pub(super) fn latency(&self) -> gst::ClockTime {
        let frame = self.frame_rate().map(|rate| frame_time::frame_start(1, rate));
        frame.map_or(gst::ClockTime::ZERO, gst::ClockTime::from_nseconds)
    }

    /// Converts `value` to another format: between time and frames always, to and from bytes after negotiation.
    pub(super) fn convert_value(
        &self,
        value: gst::GenericFormattedValue,
        format: gst::Format,
    ) -> Option<gst::GenericFormattedValue> {
        use gst::GenericFormattedValue as Value;
        match (value, format) {
            (Value::Time(Some(time)), gst::Format::Default) => {
                let frame = frame_time::frame_at(time.nseconds(), self.frame_rate()?);
                Some(gst::format::Default::from_u64(frame).into())
            }
            (Value::Default(Some(frame)), gst::Format::Time) => {
                let time = frame_time::frame_start(*frame, self.frame_rate()?);
                Some(gst::ClockTime::from_nseconds(time).into())
            }
            (value, format) if value.format() == format => Some(value),
            (value, format) => {
                let video = lock(&self.state).running()?.video.clone()?;
                video.convert_generic(value, format)
            }
        }
    }

    /// The property `stats`.
    pub(super) fn stats(&self) -> gst::Structure {
        let stats = lock(&self.state).running().map(|running| running.generator.stats()).unwrap_or_default();
        let busy = stats.busy.as_secs_f64();
        gst::Structure::builder("soragen-stats")
            .field("frames", stats.frames)
            .field("first-frame-ns", stats.first_frame.as_nanos() as u64)
            .field("fps", if busy > 0.0 { stats.frames as f64 / busy } else { 0.0 })
            .field("chunk-ns", stats.chunk.as_nanos() as u64)
            .field("late", stats.late)
            .field("cached", stats.sessions.cached)
            .field("forwards", stats.sessions.forwards)
            .build()
    }
}

impl Running {
    /// Moves the position behind the frame of `timing`, which is shown as `shown`. Returns the shot that starts with it.
    pub(super) fn advance(
        &mut self,
        timing: &FrameTiming,
        shown: &OutputFrame,
        reader: &FrameReader,
    ) -> Option<ShotAnnouncement> {
        if shown.of_video {
            self.position = timing.after;
        }
        let number = shown.model_frame()?.number;
        let shot = reader.shot(number);
        if shot == self.shot {
            return None;
        }
        let shot = shot?;
        let before = self.shot.replace(shot.clone());
        // A live source that is late shows the shot later than planned.
        let first = shot.frame + (timing.model_frame - number);
        let start = frame_time::frame_start(first, self.info.frame_rate);
        let references = shot.reference_files.iter().map(|file| file.to_string_lossy().into_owned());
        let images = self.images.iter().cloned().chain(references).collect();
        Some(ShotAnnouncement {
            shot,
            start: (start + shown.start).saturating_sub(timing.start),
            model: self.info.name.clone(),
            images,
            restyled: self.extend.is_some(),
            ingredient: self.extend.clone().filter(|extend| Path::new(extend).is_file()),
            generation_id: reader.generation_id(),
            after_another: before.is_some(),
        })
    }
}
