// SPDX-License-Identifier: MPL-2.0

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;
use gst_video::{VideoFrameRef, VideoInfo};

use super::cuda::CudaState;
use super::generator::{FrameData, Output};
use super::playback::{Content, ModelFrame};
use super::position::Position;
use super::running::NextFrame;
use super::settings::Settings;
use super::state::State;
use super::uri::{self, UriValues};
use super::{caps, error, frame_time, messages, properties, timecode};
use crate::video::convert::{convert, yuv_colours};
use crate::video::cuda::CONTEXT_TYPE;

pub(super) static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("soragen", gst::DebugColorFlags::empty(), Some("Text-to-video source"))
});

/// No lock is held while the element posts a message, emits a signal or a notification, completes the start or waits for
/// the worker: the application's handlers may stop the element. `settings` may be locked while `state` is, not the reverse.
#[derive(Default)]
pub struct SoraGen {
    pub(super) settings: Mutex<Settings>,
    pub(super) state: Mutex<State>,
    /// Locked after the others.
    pub(super) cuda: Mutex<CudaState>,
    /// Controllers set properties, for the next chunk. Locked with `settings`.
    pub(super) syncing: AtomicBool,
    /// Shots arrive while the element runs.
    pub(super) streamed_shots: AtomicBool,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[glib::object_subclass]
impl ObjectSubclass for SoraGen {
    const NAME: &'static str = "GstSoraGen";
    type Type = super::SoraGen;
    type ParentType = gst_base::BaseSrc;
    type Interfaces = (gst::URIHandler, gst::Preset);
}

impl ObjectImpl for SoraGen {
    fn properties() -> &'static [glib::ParamSpec] {
        properties::specs()
    }

    fn signals() -> &'static [glib::subclass::Signal] {
        static SIGNALS: LazyLock<Vec<glib::subclass::Signal>> = LazyLock::new(|| {
            vec![
                super::prompt_check(),
                // Ends the stream after the frames generated so far. A seek generates the others.
                glib::subclass::Signal::builder("cancel")
                    .action()
                    .run_last()
                    .class_handler(|args| {
                        args[0].get::<super::SoraGen>().ok()?.imp().cancel();
                        None
                    })
                    .build(),
                // Generates the video again from its beginning, with the next seed; a live source only after the model has failed. Returns
                // false before PAUSED, and for any other live or endless video.
                glib::subclass::Signal::builder("regenerate")
                    .action()
                    .run_last()
                    .return_type::<bool>()
                    .class_handler(|args| {
                        let element = args[0].get::<super::SoraGen>();
                        Some(element.is_ok_and(|element| element.imp().regenerate()).to_value())
                    })
                    .build(),
                crate::control::signal(),
            ]
        });
        &SIGNALS
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let mut settings = lock(&self.settings);
        gst::debug!(CAT, imp = self, "setting {} to {value:?}", pspec.name());
        let before = settings.change_of(pspec.name());
        if !settings.set(pspec.name(), value) {
            unreachable!("GObject knows the properties");
        }
        let controlled = self.syncing.load(Ordering::Relaxed);
        let change = settings.change_of(pspec.name());
        let change = change.filter(|change| controlled || change.counts_after(before.as_ref()));
        let live = settings.is_live;
        drop(settings);
        if let (Some(change), Some(running)) = (change, lock(&self.state).running()) {
            match controlled {
                true => running.generator.change_controlled(change),
                false => running.generator.change(change),
            }
        }
        if pspec.name() == "is-live" {
            self.obj().set_live(live);
        }
        if matches!(pspec.name(), "duration" | "is-live" | "model" | "storyboard") {
            messages::post(&self.obj(), messages::duration_changed(&self.obj()));
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "stats" => self.stats().to_value(),
            name => {
                lock(&self.settings).get(name).unwrap_or_else(|| unreachable!("GObject knows the properties"))
            }
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        let element = self.obj();
        element.set_format(gst::Format::Time);
        element.set_live(false);
        element.set_automatic_eos(true);
    }
}

impl GstObjectImpl for SoraGen {}

impl ElementImpl for SoraGen {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Text-to-video source",
                "Source/Video",
                "Generates video from text, or from an image and text, with a diffusion model in-process",
                env!("CARGO_PKG_AUTHORS"),
            )
        });
        Some(&*METADATA)
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        match transition {
            // Before the base class deactivates the pad.
            gst::StateChange::PausedToReady => self.cancel_download(),
            gst::StateChange::PausedToPlaying => {
                if let Some(running) = lock(&self.state).running() {
                    running.generator.count_resume();
                }
            }
            _ => {}
        }
        self.parent_change_state(transition)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let (src, always) = (gst::PadDirection::Src, gst::PadPresence::Always);
            gst::PadTemplate::new("src", src, always, &caps::template_with_cuda()).into_iter().collect()
        });
        &TEMPLATES
    }
}

// GStreamer loads and stores presets itself.
impl PresetImpl for SoraGen {}

impl URIHandlerImpl for SoraGen {
    const URI_TYPE: gst::URIType = gst::URIType::Src;

    fn protocols() -> &'static [&'static str] {
        &[uri::SCHEME]
    }

    fn uri(&self) -> Option<String> {
        lock(&self.settings).uri_values().map(|values| values.to_string())
    }

    fn set_uri(&self, uri: &str) -> Result<(), glib::Error> {
        if !matches!(*lock(&self.state), State::Stopped) {
            let reason = "the URI cannot change in PAUSED or PLAYING; set it in NULL or READY";
            return Err(glib::Error::new(gst::URIError::BadState, reason));
        }
        let values =
            UriValues::parse(uri).map_err(|reason| glib::Error::new(gst::URIError::BadUri, &reason))?;
        gst::debug!(CAT, imp = self, "setting the URI to {values}");
        lock(&self.settings).set_uri_values(values);
        for property in ["prompt", "seed", "duration", "storyboard"] {
            self.obj().notify(property);
        }
        Ok(())
    }
}

impl BaseSrcImpl for SoraGen {
    fn start(&self) -> Result<(), gst::ErrorMessage> {
        let settings = lock(&self.settings).clone();
        self.check_prompt(&settings).map_err(|e| error::message(&e))?;
        let missing_model = settings.missing_model().map_err(|e| error::message(&e))?;
        self.obj().set_async(missing_model.is_some());
        match missing_model {
            Some(name) => self.start_after_download(name),
            None => self.start_now(&settings).map_err(|e| error::message(&e)),
        }
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        self.stop_now();
        Ok(())
    }

    fn is_seekable(&self) -> bool {
        !lock(&self.settings).is_live && self.length().is_some()
    }

    fn negotiate(&self) -> Result<(), gst::LoggableError> {
        // The change to PLAYING wakes the streaming thread of a live source even if it has not started yet; it will
        // negotiate after the start.
        if lock(&self.state).running().is_none() {
            self.obj().src_pad().mark_reconfigure();
            return Ok(());
        }
        // The base class posts an error without a reason; the first error counts.
        self.parent_negotiate().inspect_err(|_| self.post_conflict())
    }

    fn caps(&self, filter: Option<&gst::Caps>) -> Option<gst::Caps> {
        let requested = caps::of_uri(&lock(&self.settings).uri_caps);
        let sizes = lock(&self.state).running().map(|running| running.info.sizes.clone());
        let possible = match sizes {
            Some(sizes) => self.caps_of_sizes(&sizes),
            None => self.obj().pad_template("src")?.caps().clone(),
        };
        let caps = possible.intersect(&requested);
        Some(match filter {
            Some(filter) => filter.intersect_with_mode(&caps, gst::CapsIntersectMode::First),
            None => caps,
        })
    }

    fn fixate(&self, caps: gst::Caps) -> gst::Caps {
        let mut caps = self.choose_memory(caps);
        let default = lock(&self.state)
            .running()
            .map(|running| (running.info.sizes.default_size(), running.info.frame_rate));
        if let Some((size, rate)) = default {
            caps::fixate(&mut caps, size, rate);
        }
        self.parent_fixate(caps)
    }

    fn set_caps(&self, caps: &gst::Caps) -> Result<(), gst::LoggableError> {
        let video =
            VideoInfo::from_caps(caps).map_err(|_| gst::loggable_error!(CAT, "not raw video: {caps}"))?;
        if video.fps().numer() <= 0 || !caps.iter().all(caps::is_possible) {
            return Err(gst::loggable_error!(CAT, "not possible: {caps}"));
        }
        let segment = self.obj().segment().downcast::<gst::ClockTime>();
        let backwards = segment.is_ok_and(|segment| segment.rate() < 0.0);
        let (rate, size) = (caps::rate(&video), caps::size(&video));
        let on_gpu = caps.features(0).is_some_and(caps::is_on_gpu);
        let colours = on_gpu.then(|| yuv_colours(&video)).transpose();
        let on_device = colours.map_err(|e| gst::loggable_error!(CAT, "not possible: {caps}: {e}"))?;
        let output = Output { size, on_device };
        let timecode = self.first_timecode(rate);
        // Only used if downstream proposes no buffer pool.
        self.obj().set_blocksize(u32::try_from(video.size()).unwrap_or(u32::MAX));
        let mut state = lock(&self.state);
        let Some(running) = state.running_mut() else {
            return Err(gst::loggable_error!(CAT, "not started"));
        };
        running.generator.set_output(output);
        let new_output = running.output.replace(output) != Some(output);
        running.timecode = timecode;
        let before = running.video.replace(video);
        // A frame of another size or format cannot be repeated.
        if new_output && let Some(live) = &mut running.live {
            live.set_size(output.size);
        }
        let new_latency = running.live.is_some() && before.as_ref().map(caps::rate) != Some(rate);
        if let Some(before) = before {
            running.position = running.position.with_rate(caps::rate(&before), rate, backwards);
        }
        drop(state);
        gst::debug!(CAT, imp = self, "negotiated {caps}");
        if new_latency {
            let message = gst::message::Latency::builder().src(&*self.obj()).build();
            messages::post(&self.obj(), message);
        }
        Ok(())
    }

    fn decide_allocation(&self, query: &mut gst::query::Allocation) -> Result<(), gst::LoggableError> {
        if query.get().0.and_then(|caps| caps.features(0)).is_some_and(caps::is_on_gpu) {
            self.decide_cuda_pool(query)?;
            return self.parent_decide_allocation(query);
        }
        // Frames are written with the strides of the buffer, so a pool with padding can be used.
        if query.find_allocation_meta::<gst_video::VideoMeta>().is_some()
            && let Some((Some(pool), _, _, _)) = query.allocation_pools().next()
        {
            let mut config = pool.config();
            config.add_option(gst_video::BUFFER_POOL_OPTION_VIDEO_META);
            // A pool that does not support the option keeps its configuration.
            let _ = pool.set_config(config);
        }
        self.parent_decide_allocation(query)
    }

    fn do_seek(&self, segment: &mut gst::Segment) -> bool {
        let Some(segment) = segment.downcast_mut::<gst::ClockTime>() else { return false };
        let mut state = lock(&self.state);
        let Some(running) = state.running_mut() else { return false };
        let rate = running.video.as_ref().map_or(running.info.frame_rate, caps::rate);
        let total = running.length.map(|length| gst::ClockTime::from_nseconds(length.time));
        running.shot = None;
        match running.new_seed.take() {
            Some(seed) => running.generator.regenerate(seed),
            None => running.generator.resume(),
        }
        let Some(position) = Position::of_segment(segment, rate, total) else { return false };
        running.position = position;
        segment.set_time(segment.start());
        segment.set_duration(total);
        true
    }

    fn query(&self, query: &mut gst::QueryRef) -> bool {
        match query.view_mut() {
            gst::QueryViewMut::Duration(q) => {
                let Some(length) = self.length() else { return false };
                match q.format() {
                    gst::Format::Time => q.set(gst::ClockTime::from_nseconds(length.time)),
                    gst::Format::Default => {
                        let Some(rate) = self.frame_rate() else { return false };
                        q.set(gst::format::Default::from_u64(frame_time::frames_before(length.time, rate)));
                    }
                    _ => return false,
                }
                true
            }
            gst::QueryViewMut::Latency(q) if self.obj().is_live() => {
                q.set(true, self.latency(), gst::ClockTime::NONE);
                true
            }
            gst::QueryViewMut::Convert(q) => {
                let (value, format) = q.get();
                let converted = self.convert_value(value, format);
                if let Some(converted) = converted {
                    q.set(value, converted);
                }
                converted.is_some()
            }
            gst::QueryViewMut::Context(q) if q.context_type() == CONTEXT_TYPE => self.answer_context(query),
            _ => BaseSrcImplExt::parent_query(self, query),
        }
    }

    fn event(&self, event: &gst::Event) -> bool {
        match crate::control::of_event(self.obj().upcast_ref(), event) {
            Some(structure) => crate::control::apply(self.obj().upcast_ref(), structure),
            None => self.parent_event(event),
        }
    }

    fn unlock(&self) -> Result<(), gst::ErrorMessage> {
        if let Some(running) = lock(&self.state).running() {
            running.generator.set_flushing(true);
        }
        Ok(())
    }

    fn unlock_stop(&self) -> Result<(), gst::ErrorMessage> {
        if let Some(running) = lock(&self.state).running() {
            running.generator.set_flushing(false);
        }
        Ok(())
    }

    fn fill(
        &self,
        _offset: u64,
        _length: u32,
        buffer: &mut gst::BufferRef,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let NextFrame { shown, timing, video, timecode, reader } = loop {
            let next = self.next_shown()?;
            if let Content::Nothing = next.shown.content {
                self.push_gap(&next);
                continue;
            }
            break next;
        };
        buffer.set_pts(gst::ClockTime::from_nseconds(shown.start));
        buffer.set_duration(gst::ClockTime::from_nseconds(timing.end - timing.start));
        if shown.discont {
            buffer.set_flags(gst::BufferFlags::DISCONT | gst::BufferFlags::RESYNC);
        }
        // A slate that takes no time of the video has no number in it.
        if shown.of_video {
            buffer.set_offset(timing.offset);
            buffer.set_offset_end(timing.offset + 1);
            if let Some(timecode) = timecode {
                gst_video::VideoTimeCodeMeta::add(buffer, &timecode);
            }
        }
        let write = |pixels: &[u8], buffer: &mut gst::BufferRef| {
            VideoFrameRef::from_buffer_ref_writable(buffer, &video)
                .and_then(|mut output| convert(pixels, &mut output))
        };
        let written = match shown.content {
            Content::Frame(ModelFrame { number, data: FrameData::Rgb(mut pixels) }) => {
                self.embed_watermark(&mut pixels, number, &timing, &reader, caps::size(&video));
                write(&pixels, buffer)
            }
            Content::Frame(ModelFrame { data: FrameData::Nv12(frame), .. }) => {
                self.copy_to_gpu(&frame, buffer)
            }
            Content::Slate(pixels) => write(&pixels, buffer),
            Content::Nothing => Ok(()),
        };
        written.map(|()| gst::FlowSuccess::Ok).map_err(|e| self.write_failed(&e))
    }
}

impl SoraGen {
    fn write_failed(&self, error: &glib::BoolError) -> gst::FlowError {
        gst::element_imp_error!(self, gst::CoreError::Negotiation, ("cannot write a frame: {error}"));
        gst::FlowError::Error
    }

    /// The time code of the first frame at `rate`, if the property is set and that time code exists.
    fn first_timecode(&self, rate: frame_time::Rate) -> Option<gst_video::ValidVideoTimeCode> {
        let text = lock(&self.settings).timecode.clone()?;
        let code = timecode::first(&text, rate);
        if code.is_none() {
            let (numerator, denominator) = rate;
            let text = format!(
                "the time code {text} does not exist at {numerator}/{denominator} frames per second; frames get none"
            );
            gst::element_imp_warning!(self, gst::LibraryError::Settings, ("{text}"));
        }
        code
    }
}
