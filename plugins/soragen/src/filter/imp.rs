// SPDX-License-Identifier: MPL-2.0

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::{VideoCapsBuilder, VideoInfo, VideoTimeCodeMeta};
use soragen::{DynamicImage, Error, Setting, Threads};

use super::input::{ControlFrame, Input, InputFrame};
use super::negotiation;
use super::pacing::{LONGEST_GAP, Pacing};
use super::pusher::{Pusher, PusherThread};
use super::settings::{self, RateMode, Settings};
use super::worker::{Job, Pads, Stop, Worker};
use crate::control;
use crate::source::{Change, PROMPT_CHECK, caps, error, lock, prompt_check};
use crate::video::rgb::RgbConverter;
use crate::video::side_pad::SidePad;

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("sorafilter", gst::DebugColorFlags::empty(), Some("Video restyling"))
});

/// No lock is held while the element posts a message, emits a signal or pushes.
pub struct SoraFilter {
    sink: gst::Pad,
    src: gst::Pad,
    settings: Mutex<Settings>,
    reader: Mutex<Reader>,
    input: Input,
    /// Controllers set properties, for the next frame.
    syncing: AtomicBool,
    out: Pusher,
    /// The pads that steer.
    control: SidePad,
    mask: SidePad,
    /// `None` below PAUSED.
    out_thread: Mutex<Option<PusherThread>>,
    /// `None` below PAUSED, and while the task uses it.
    worker: Mutex<Option<Worker>>,
    /// Sizes of the model; `None` below PAUSED.
    sizes: Mutex<Option<soragen::Sizes>>,
}

/// What the sink pad knows of the video that comes in.
struct Reader {
    format: Option<Format>,
    segment: gst::FormattedSegment<gst::ClockTime>,
    pacing: Pacing,
    /// Of the properties that have a controller, for the next frame.
    changes: Vec<Change>,
    /// The last frame.
    last: Option<Arc<[u8]>>,
    /// Its end, if it has a duration.
    end: Option<gst::ClockTime>,
}

struct Format {
    info: VideoInfo,
    converter: RgbConverter,
}

impl Reader {
    fn new(pacing: Pacing) -> Self {
        Self {
            format: None,
            segment: gst::FormattedSegment::new(),
            pacing,
            changes: Vec::new(),
            last: None,
            end: None,
        }
    }

    /// Forgets the video so far.
    fn reset(&mut self) {
        self.pacing.restart();
        (self.last, self.end) = (None, None);
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[glib::object_subclass]
impl ObjectSubclass for SoraFilter {
    const NAME: &'static str = "GstSoraFilter";
    type Type = super::SoraFilter;
    type ParentType = gst::Element;
    type Interfaces = (gst::Preset,);

    fn with_class(class: &Self::Class) -> Self {
        let template = |name: &str| {
            class.pad_template(name).unwrap_or_else(|| unreachable!("the class has the template {name}"))
        };
        let sink = gst::Pad::builder_from_template(&template("sink"))
            .chain_function(|_, parent, buffer| {
                let failed = || Err(gst::FlowError::Error);
                Self::catch_panic_pad_function(parent, failed, |this| this.chain(&buffer))
            })
            .event_function(|pad, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |this| this.sink_event(pad, event))
            })
            .query_function(|pad, parent, query| {
                Self::catch_panic_pad_function(parent, || false, |this| this.sink_query(pad, query))
            })
            // Caps need not say that a video is progressive and has square pixels.
            .flags(gst::PadFlags::ACCEPT_INTERSECT)
            .build();
        let src = gst::Pad::builder_from_template(&template("src"))
            .event_function(|pad, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |this| this.src_event(pad, event))
            })
            .query_function(|pad, parent, query| {
                Self::catch_panic_pad_function(parent, || false, |this| this.src_query(pad, query))
            })
            .activatemode_function(|pad, parent, _, active| {
                let failed = || Err(gst::loggable_error!(CAT, "panicked"));
                Self::catch_panic_pad_function(parent, failed, |this| this.activate_src(pad, active))
            })
            .build();
        Self {
            sink,
            out: Pusher::new(src.clone()),
            control: SidePad::default(),
            mask: SidePad::default(),
            out_thread: Mutex::default(),
            src,
            settings: Mutex::default(),
            reader: Mutex::new(Reader::new(Pacing::new(None))),
            input: Input::default(),
            syncing: AtomicBool::new(false),
            worker: Mutex::default(),
            sizes: Mutex::default(),
        }
    }
}

impl ObjectImpl for SoraFilter {
    fn properties() -> &'static [glib::ParamSpec] {
        settings::specs()
    }

    fn signals() -> &'static [glib::subclass::Signal] {
        static SIGNALS: LazyLock<Vec<glib::subclass::Signal>> =
            LazyLock::new(|| vec![prompt_check(), control::signal()]);
        &SIGNALS
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let mut settings = lock(&self.settings);
        let before = settings.change_of(pspec.name());
        if !settings.set(pspec.name(), value) {
            unreachable!("GObject knows the properties");
        }
        let change = settings.change_of(pspec.name());
        let change = change.filter(|change| change.counts_after(before.as_ref()));
        let syncing = self.syncing.load(Ordering::Relaxed);
        drop(settings);
        // Below PAUSED the task starts with the settings.
        let now = !syncing && lock(&self.sizes).is_some();
        if let Some(change) = change.filter(|_| now) {
            self.input.request(change);
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
        for pad in [&self.sink, &self.src] {
            if let Err(error) = self.obj().add_pad(pad) {
                gst::error!(CAT, imp = self, "{error}");
            }
        }
    }
}

impl GstObjectImpl for SoraFilter {}

// GStreamer loads and stores presets itself.
impl PresetImpl for SoraFilter {}

impl ElementImpl for SoraFilter {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Video restyling",
                "Filter/Effect/Video",
                "Changes video as a prompt says, with a diffusion model in-process",
                env!("CARGO_PKG_AUTHORS"),
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let (always, request) = (gst::PadPresence::Always, gst::PadPresence::Request);
            let any = VideoCapsBuilder::new().build();
            [
                gst::PadTemplate::new(CONTROL, gst::PadDirection::Sink, request, &any),
                gst::PadTemplate::new(MASK, gst::PadDirection::Sink, request, &any),
                gst::PadTemplate::new("sink", gst::PadDirection::Sink, always, &any),
                gst::PadTemplate::new("src", gst::PadDirection::Src, always, &caps::template()),
            ]
            .into_iter()
            .flatten()
            .collect()
        });
        &TEMPLATES
    }

    fn request_new_pad(
        &self,
        template: &gst::PadTemplate,
        _name: Option<&str>,
        _caps: Option<&gst::Caps>,
    ) -> Option<gst::Pad> {
        let side = Self::side(template.name_template())?;
        let pad = side(self).request(self, template, side, |this, pad, event| {
            Self::side(&pad.name()).is_some_and(|side| side(this).input.event(event))
        });
        if pad.is_none() {
            gst::warning!(CAT, imp = self, "the pad {} exists already", template.name_template());
        }
        pad
    }

    fn release_pad(&self, pad: &gst::Pad) {
        if let Some(side) = Self::side(&pad.name()) {
            side(self).release(&*self.obj(), pad);
        }
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        match transition {
            gst::StateChange::ReadyToPaused => self.prepare().map_err(|error| {
                self.post_error_message(error::message(&error));
                gst::StateChangeError
            })?,
            // Before the pads are deactivated, which waits for their threads.
            gst::StateChange::PausedToReady => {
                self.input.start_flush();
                self.out.start_flush();
                self.sides().for_each(|side| side.input.stop());
            }
            _ => {}
        }
        let changed = self.parent_change_state(transition)?;
        if transition == gst::StateChange::PausedToReady {
            lock(&self.sizes).take();
            *lock(&self.reader) = Reader::new(Pacing::new(None));
            let (worker, thread) = (lock(&self.worker).take(), lock(&self.out_thread).take());
            drop((worker, thread));
        }
        Ok(changed)
    }
}

const CONTROL: &str = "control";
const MASK: &str = "mask";

impl SoraFilter {
    /// The pads whose frames steer those of the pad `sink` at the same time.
    fn side(name: &str) -> Option<fn(&Self) -> &SidePad> {
        match name {
            CONTROL => Some(|this| &this.control),
            MASK => Some(|this| &this.mask),
            _ => None,
        }
    }

    fn sides(&self) -> impl Iterator<Item = &SidePad> {
        [&self.control, &self.mask].into_iter()
    }

    /// What steers the frame at this running time.
    fn control_at(&self, time: Option<gst::ClockTime>) -> Result<Option<ControlFrame>, gst::FlowError> {
        let Some(time) = time.map(Duration::from) else { return Ok(None) };
        // Both first: one thread may feed both pads.
        self.sides().for_each(|side| side.input.set_main_time(time));
        let Some(frame) = self.control.frame_at(time)? else { return Ok(None) };
        let mask = self.mask.frame_at(time)?;
        let mask = mask.map(|mask| DynamicImage::from(mask).into_luma8());
        Ok(Some(ControlFrame { frame, mask }))
    }

    /// Checks and reads everything before the task starts.
    fn prepare(&self) -> soragen::Result<()> {
        self.sides().for_each(|side| side.input.reset());
        let settings = lock(&self.settings).clone();
        let shared = &settings.shared;
        if let Some(name) = shared.missing_model()? {
            let reason =
                format!("{name} is not on this machine; download it with `soragen models pull {name}`");
            return Err(Error::Request(Setting::Model, reason));
        }
        let info = shared.info()?;
        if !info.causal || info.max_frames.is_some() {
            let reason = format!(
                "{} makes videos of a limited length; use a causal model without a limit, such as builtin, or `soragen render \
                 --video`",
                info.name
            );
            return Err(Error::Request(Setting::Model, reason));
        }
        if !info.control && (self.control.is_linked() || self.mask.is_linked()) {
            let reason =
                format!("{} has no control branch; set `vace` to a VACE transformer of its base", info.name);
            return Err(Error::Request(Setting::Control, reason));
        }
        if self.mask.is_linked() && !self.control.is_linked() {
            let reason = "the pad mask is linked, but not the pad control; link it too".into();
            return Err(Error::Request(Setting::Control, reason));
        }
        let mut request = settings.request()?;
        let element = self.obj().downgrade();
        let check = move |prompt: &str| {
            element.upgrade().is_some_and(|element| element.emit_by_name(PROMPT_CHECK, &[&prompt]))
        };
        request.policy = request.policy.map(|policy| policy.guarded(check));
        let threads = Threads::new(shared.threads as usize)?;
        if let Some(warning) = threads.warning() {
            gst::element_imp_warning!(self, gst::ResourceError::Settings, ("{warning}"));
        }
        let (numerator, denominator) = info.frame_rate;
        // A frame waits for its chunk, which takes as long to make as to show if the model keeps up.
        let frames = 2.0 * info.chunk_frames as f64;
        let latency = Duration::from_secs_f64(frames * f64::from(denominator) / f64::from(numerator));
        self.input.start(usize::try_from(info.chunk_frames).unwrap_or(usize::MAX), latency);
        // Of a start that has failed.
        drop(lock(&self.out_thread).take());
        let element = self.obj().downgrade();
        let on_failure = move |error| {
            if let Some(element) = element.upgrade() {
                element.imp().stop(Stop::Flow(error));
            }
        };
        let thread = self.out.start(usize::try_from(info.chunk_frames).unwrap_or(usize::MAX), on_failure);
        let thread = thread.map_err(|e| Error::Device(format!("cannot spawn a thread: {e}")))?;
        *lock(&self.out_thread) = Some(thread);
        let rate = (settings.rate_mode == RateMode::Model).then_some(info.frame_rate);
        *lock(&self.reader) = Reader::new(Pacing::new(rate));
        *lock(&self.sizes) = Some(info.sizes.clone());
        *lock(&self.worker) = Some(Worker::new(Job {
            source: shared.model.clone(),
            options: shared.open_options(),
            request,
            info,
            rate_mode: settings.rate_mode,
            ingredient: settings.ingredient.clone(),
            threads,
        }));
        // What was set meanwhile.
        let now = lock(&self.settings).clone();
        now.changes_since(&settings).into_iter().for_each(|change| self.input.request(change));
        Ok(())
    }

    /// Queues a frame, and the frame before it where that has to be repeated.
    fn chain(&self, buffer: &gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let Some(pts) = buffer.pts() else {
            gst::element_imp_error!(self, gst::StreamError::Format, ("the video has no timestamps"));
            return Err(gst::FlowError::Error);
        };
        let (stream_time, running_time) = {
            let reader = lock(&self.reader);
            if reader
                .segment
                .clip(pts, buffer.duration().map(|duration| pts.saturating_add(duration)))
                .is_none()
            {
                return Ok(gst::FlowSuccess::Ok);
            }
            (reader.segment.to_stream_time(pts), reader.segment.to_running_time(pts))
        };
        if let Some(time) = stream_time {
            self.sync_properties(time);
        }
        let duration = buffer.duration();
        let (step, last) = {
            let mut reader = lock(&self.reader);
            reader.end = duration.map(|duration| pts.saturating_add(duration));
            (reader.pacing.frame(pts.nseconds(), duration.map(gst::ClockTime::nseconds)), reader.last.clone())
        };
        if let Some(last) = &last {
            self.repeat(last, &step.repeats)?;
        }
        if !step.is_kept {
            // The pads beside it go on.
            if let Some(time) = running_time.map(Duration::from) {
                self.sides().for_each(|side| side.input.set_main_time(time));
            }
            return Ok(gst::FlowSuccess::Ok);
        }
        let timecode = buffer.meta::<VideoTimeCodeMeta>().map(|meta| meta.tc());
        let pixels: Arc<[u8]> = {
            let mut reader = lock(&self.reader);
            let format = reader.format.as_ref().ok_or(gst::FlowError::NotNegotiated)?;
            let Some(image) = format.converter.convert(buffer.clone()) else {
                drop(reader);
                gst::element_imp_error!(self, gst::StreamError::Format, ("a frame cannot be read"));
                return Err(gst::FlowError::Error);
            };
            let pixels: Arc<[u8]> = image.into_raw().into();
            reader.last = Some(pixels.clone());
            pixels
        };
        self.push(pixels, pts, timecode)
    }

    /// Queues `pixels` once more for each of these times.
    fn repeat(&self, pixels: &Arc<[u8]>, times: &[u64]) -> Result<(), gst::FlowError> {
        times.iter().try_for_each(|&time| {
            self.push(pixels.clone(), gst::ClockTime::from_nseconds(time), None).map(drop)
        })
    }

    /// Queues a frame, with what steers it.
    fn push(
        &self,
        pixels: Arc<[u8]>,
        pts: gst::ClockTime,
        timecode: Option<gst_video::ValidVideoTimeCode>,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let restyle = lock(&self.settings).restyle;
        let running_time = lock(&self.reader).segment.to_running_time(pts);
        let control = match self.control_at(running_time) {
            Err(gst::FlowError::NotNegotiated) => {
                gst::element_imp_error!(
                    self,
                    gst::StreamError::Format,
                    ("a frame of the pad control or mask cannot be read")
                );
                return Err(gst::FlowError::Error);
            }
            control => control?,
        };
        let changes = std::mem::take(&mut lock(&self.reader).changes);
        let dropped = self.input.push(InputFrame { pixels, pts, timecode, restyle, control, changes })?;
        if dropped > 0 {
            gst::debug!(CAT, imp = self, "dropped {dropped} late frames");
            self.post_late(pts);
        }
        Ok(gst::FlowSuccess::Ok)
    }

    /// Sets the properties that have a controller to their values at the stream time of a frame. They count from its chunk on.
    fn sync_properties(&self, time: gst::ClockTime) {
        if !self.obj().has_active_control_bindings() {
            return;
        }
        let before = {
            let settings = lock(&self.settings);
            self.syncing.store(true, Ordering::Relaxed);
            settings.clone()
        };
        // Without a value at this time a property stays as it is.
        let _ = self.obj().sync_values(time);
        let changes = {
            let settings = lock(&self.settings);
            self.syncing.store(false, Ordering::Relaxed);
            settings.changes_since(&before)
        };
        lock(&self.reader).changes.extend(changes);
    }

    /// Posts a QoS message: frames before the one at `pts` were dropped.
    fn post_late(&self, pts: gst::ClockTime) {
        let (stats, segment) = (self.input.stats(), lock(&self.reader).segment.clone());
        let (frames, dropped) = (stats.frames, stats.dropped);
        let proportion = (frames + dropped) as f64 / frames.max(1) as f64;
        let message = gst::message::Qos::builder(true)
            .src(&*self.obj())
            .running_time(segment.to_running_time(pts))
            .stream_time(segment.to_stream_time(pts))
            .timestamp(pts)
            .values(0, proportion, 1_000_000)
            .stats(gst::format::Default::from_u64(frames), gst::format::Default::from_u64(dropped))
            .build();
        let _ = self.obj().post_message(message);
    }

    /// Repeats the last frame until `time`, as often as the model's frame rate needs it.
    fn fill_until(&self, time: gst::ClockTime) {
        let (times, last) = {
            let mut reader = lock(&self.reader);
            (reader.pacing.end(time.nseconds()), reader.last.clone())
        };
        if let Some(last) = &last {
            // The next frame gets the error too.
            let _ = self.repeat(last, &times);
        }
    }

    fn sink_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        gst::trace!(CAT, obj = pad, "{event:?}");
        match event.view() {
            gst::EventView::FlushStart(_) => {
                self.sides().for_each(|side| side.input.flush_main());
                self.input.start_flush();
                self.out.start_flush();
                let forwarded = self.src.push_event(event);
                let _ = self.src.pause_task();
                forwarded
            }
            gst::EventView::FlushStop(_) => {
                self.sides().for_each(|side| side.input.restart_main());
                lock(&self.reader).reset();
                self.input.stop_flush();
                let forwarded = self.src.push_event(event);
                self.out.stop_flush();
                // The task has stopped.
                let worker = lock(&self.worker).take();
                if let Some(mut worker) = worker {
                    worker.reset(&Pads {
                        element: &self.obj(),
                        src: &self.src,
                        out: &self.out,
                        input: &self.input,
                    });
                    *lock(&self.worker) = Some(worker);
                }
                // While the element stops, its source pad is inactive already.
                (!self.src.is_active() || self.start_task()) && forwarded
            }
            gst::EventView::StreamStart(_) => {
                self.sides().for_each(|side| side.input.begin_main());
                self.out.begin_stream();
                if self.input.begin_stream() && self.src.is_active() {
                    self.start_task();
                }
                self.input.push_event(event)
            }
            gst::EventView::Caps(caps) => self.set_caps(caps.caps()) && self.input.push_event(event),
            gst::EventView::Segment(segment) => {
                let Ok(segment) = segment.segment().clone().downcast::<gst::ClockTime>() else {
                    gst::element_imp_error!(
                        self,
                        gst::StreamError::Format,
                        ("the video has no timestamps: its segment is not in time format")
                    );
                    return false;
                };
                self.sides().for_each(|side| side.input.begin_main());
                let mut reader = lock(&self.reader);
                reader.segment = segment;
                reader.pacing.restart();
                drop(reader);
                self.input.push_event(event)
            }
            gst::EventView::Gap(gap) => {
                let (start, duration) = gap.get();
                let duration = duration.unwrap_or_default();
                if duration <= LONGEST_GAP {
                    // Repeated frames fill it; the event would only repeat that.
                    self.fill_until(start.saturating_add(duration));
                    return true;
                }
                self.input.push_event(event)
            }
            gst::EventView::Eos(_) | gst::EventView::SegmentDone(_) => {
                // The last frame lasts until its end.
                let end = lock(&self.reader).end;
                if let Some(end) = end {
                    self.fill_until(end);
                }
                self.sides().for_each(|side| side.input.end_main());
                self.input.push_event(event)
            }
            _ if event.is_serialized() => self.input.push_event(event),
            _ => gst::Pad::event_default(pad, Some(&*self.obj()), event),
        }
    }

    /// Accepts another format of the frames that come in.
    fn set_caps(&self, caps: &gst::CapsRef) -> bool {
        let format = VideoInfo::from_caps(caps)
            .ok()
            .and_then(|info| Some(Format { converter: RgbConverter::new(&info)?, info }));
        let Some(format) = format else {
            gst::element_imp_error!(
                self,
                gst::StreamError::Format,
                ("no frames can be read in the format {caps}")
            );
            return false;
        };
        let mut query = gst::query::Latency::new();
        let is_live = self.sink.peer_query(&mut query) && query.result().0;
        self.set_live(is_live);
        let mut reader = lock(&self.reader);
        let same_size = reader.format.as_ref().is_some_and(|before| {
            before.info.width() == format.info.width() && before.info.height() == format.info.height()
        });
        if !same_size {
            // A frame of another size cannot be repeated.
            reader.last = None;
        }
        reader.format = Some(format);
        true
    }

    fn sink_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        match query.view_mut() {
            gst::QueryViewMut::Caps(query) => {
                let sizes = lock(&self.sizes).clone();
                let same_rate = lock(&self.settings).rate_mode == RateMode::Every;
                let possible = match sizes {
                    Some(sizes) => negotiation::of_sink(&sizes, &self.src.peer_query_caps(None), same_rate),
                    None => pad.pad_template_caps(),
                };
                set_result(query, possible);
                true
            }
            _ => gst::Pad::query_default(pad, Some(&*self.obj()), query),
        }
    }

    /// Handles an event from downstream.
    fn src_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        match control::of_event(self.obj().upcast_ref(), &event) {
            Some(structure) => control::apply(self.obj().upcast_ref(), structure),
            None => gst::Pad::event_default(pad, Some(&*self.obj()), event),
        }
    }

    fn src_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        match query.view_mut() {
            gst::QueryViewMut::Caps(query) => {
                let sizes = lock(&self.sizes).clone();
                let possible = sizes.map_or_else(|| pad.pad_template_caps(), |sizes| caps::of_sizes(&sizes));
                set_result(query, possible);
                true
            }
            gst::QueryViewMut::Latency(query) => {
                if !self.sink.peer_query(query.query_mut()) {
                    return false;
                }
                let (is_live, min, max) = query.result();
                let own = gst::ClockTime::from_nseconds(nanoseconds(self.input.latency()));
                self.set_live(is_live);
                query.set(is_live, min.saturating_add(own), max.map(|max| max.saturating_add(own)));
                true
            }
            _ => gst::Pad::query_default(pad, Some(&*self.obj()), query),
        }
    }

    fn activate_src(&self, pad: &gst::Pad, active: bool) -> Result<(), gst::LoggableError> {
        if active {
            if self.start_task() { Ok(()) } else { Err(gst::loggable_error!(CAT, "cannot start the task")) }
        } else {
            self.input.start_flush();
            self.out.start_flush();
            pad.stop_task().map_err(|error| gst::loggable_error!(CAT, "cannot stop the task: {error}"))
        }
    }

    fn start_task(&self) -> bool {
        let element = self.obj().downgrade();
        let iterate = move || {
            if let Some(element) = element.upgrade() {
                element.imp().iterate();
            }
        };
        self.src.start_task(iterate).is_ok()
    }

    /// One turn of the task.
    fn iterate(&self) {
        let Some(mut worker) = lock(&self.worker).take() else {
            let _ = self.src.pause_task();
            return;
        };
        let element = self.obj();
        let pads = Pads { element: &element, src: &self.src, out: &self.out, input: &self.input };
        let threads = worker.threads();
        let result = threads.run(|| worker.step(&pads));
        worker.set_threads(threads);
        *lock(&self.worker) = Some(worker);
        if let Err(stop) = result {
            self.stop(stop);
        }
    }

    /// Pauses the task, and reports why.
    fn stop(&self, stop: Stop) {
        let flow = match &stop {
            Stop::Flushing => None,
            Stop::Flow(flow) => Some(*flow),
            Stop::Failed(_) | Stop::Write(_) => Some(gst::FlowError::Error),
        };
        // Before the task pauses, which takes as long as its turn.
        let is_first = flow.is_some_and(|flow| self.input.fail(flow));
        let _ = self.src.pause_task();
        // Downstream flushes or stops, and nothing has ended.
        let Some(flow) = flow.filter(|flow| is_first && *flow != gst::FlowError::Flushing) else { return };
        gst::debug!(CAT, imp = self, "the task ends: {flow}");
        match stop {
            Stop::Failed(error) => self.post_error_message(error::message(&error)),
            Stop::Write(error) => {
                gst::element_imp_error!(self, gst::CoreError::Negotiation, ("cannot write a frame: {error}"));
            }
            Stop::Flow(gst::FlowError::NotNegotiated) => {
                gst::element_imp_error!(
                    self,
                    gst::CoreError::Negotiation,
                    ("downstream accepts no format of this video; put videoconvert, videoscale or videorate behind the element")
                );
            }
            Stop::Flow(gst::FlowError::NotLinked) => {
                gst::element_imp_error!(self, gst::StreamError::Failed, ("the source pad is not linked"));
            }
            Stop::Flow(_) | Stop::Flushing => {}
        }
        // Upstream may have ended already, so that nothing else tells downstream.
        let eos = gst::event::Eos::new();
        if self.out.event(eos.clone()).is_err() {
            self.src.push_event(eos);
        }
    }

    fn set_live(&self, is_live: bool) {
        self.input.set_live(is_live);
        self.out.set_live(is_live);
    }

    /// The property `stats`.
    fn stats(&self) -> gst::Structure {
        let stats = self.input.stats();
        let busy = stats.busy.as_secs_f64();
        gst::Structure::builder("soragen-stats")
            .field("frames", stats.frames)
            .field("dropped", stats.dropped)
            .field("fps", if busy > 0.0 { stats.frames as f64 / busy } else { 0.0 })
            .field("chunk-ns", nanoseconds(stats.chunk))
            .field("latency-ns", nanoseconds(self.input.latency()))
            .build()
    }
}

fn set_result(query: &mut gst::query::Caps<gst::QueryRef>, possible: gst::Caps) {
    let result = match query.filter_owned() {
        Some(filter) => filter.intersect_with_mode(&possible, gst::CapsIntersectMode::First),
        None => possible,
    };
    query.set_result(&result);
}
