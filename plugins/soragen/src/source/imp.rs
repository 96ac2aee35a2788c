// SPDX-License-Identifier: MPL-2.0

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;
use gst_video::{VideoFrameRef, VideoInfo};
use soragen::hub::HubName;
use soragen::watermark::GenerationId;
use soragen::{Cancel, ModelInfo, Phase, Progress, Shot, ShotInfo, Size, Sizes, Storyboard};

use super::download::{self, Coming, Told};
use super::error;
use super::generator::{Absent, Change, Generator, Job, Made, Picture, Report};
use super::paint;
use super::settings::{self, Settings};
use super::tags;
use super::timecode;
use super::timeline;
use super::uri::{self, Address};

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("soragen", gst::DebugColorFlags::empty(), Some("Video from text"))
});

/// Lives from `start` to `stop`.
struct Running {
    info: ModelInfo,
    /// Frames at the model's own rate and nanoseconds in all; `None` without end.
    extent: Option<(u64, u64)>,
    generator: Generator,
    video: Option<VideoInfo>,
    /// Frame `next` of the negotiated rate, counted from `origin` nanoseconds, is pushed next; played
    /// backwards, the one before it.
    origin: u64,
    next: u64,
    live: Option<Live>,
    /// Of the first frame, if there are time codes.
    timecode: Option<gst_video::ValidVideoTimeCode>,
    /// A seed that the video is made anew with, from the seek on that is under way.
    again: Option<u64>,
    /// What the last frame showed.
    shot: Option<Arc<ShotInfo>>,
    /// What is still to be said of the stream.
    tags: Option<gst::TagList>,
    /// The files of the pictures that it starts from.
    images: Vec<String>,
}

/// What is shown while the clock runs.
#[derive(Default)]
struct Live {
    /// The last frame, and its number at the model's own rate.
    shown: Option<(Picture, u64)>,
    /// By how many of the model's frames it has fallen behind.
    lag: u64,
}

/// A frame to make a buffer of.
struct Due {
    /// Its number at the negotiated rate, from the beginning of the video.
    offset: u64,
    start: u64,
    end: u64,
    /// Its number at the model's rate.
    frame: u64,
    /// What [`Running::next`] is after it.
    next: u64,
}

/// What made a frame.
struct Maker {
    model: String,
    /// The files of the pictures that the video starts from.
    images: Vec<String>,
    /// What the invisible mark says, if there is one.
    mark: Option<GenerationId>,
}

#[derive(Default)]
pub struct SoraGen {
    settings: Mutex<Settings>,
    running: Mutex<Option<Running>>,
    /// A model that has to come before it can run; whoever stops the element takes it. It is locked before `running`.
    coming: Mutex<Option<Coming>>,
    /// Whether the shots come while it runs.
    open: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SoraGen {
    /// Takes its shots from [`add_shot`](Self::add_shot) from the next start on.
    pub fn open(&self) {
        self.open.store(true, Ordering::Relaxed);
    }

    /// Has what was said wait for the model, if that is still to come.
    fn keep(&self, told: Told) -> Option<Told> {
        match lock(&self.coming).as_mut() {
            Some(coming) => {
                coming.told.push(told);
                None
            }
            None => Some(told),
        }
    }

    /// Adds a shot after the others, before which all were added that start earlier.
    pub fn add_shot(&self, shot: Shot) {
        self.tell(Told::Shot(shot));
    }

    /// All shots that start before `time` were added.
    pub fn set_known(&self, time: Duration) {
        self.tell(Told::Known(time));
    }

    /// All shots were added, and the last ends at `end`.
    pub fn finish(&self, end: Duration) {
        self.tell(Told::End(end));
    }

    fn tell(&self, told: Told) {
        if let Some(told) = self.keep(told) {
            self.pass(told);
        }
    }

    fn pass(&self, told: Told) {
        match told {
            Told::Shot(shot) => self.pass_shot(shot),
            Told::Known(time) => self.pass_known(time),
            Told::End(end) => self.pass_end(end),
        }
    }

    fn pass_shot(&self, shot: Shot) {
        let start = shot.start;
        let added = lock(&self.running).as_ref().is_none_or(|running| running.generator.add_shot(shot));
        if !added {
            gst::element_imp_warning!(
                self,
                gst::StreamError::Decode,
                ("a text is left out: it is empty, or starts no later than the one before it")
            );
        }
        self.pass_known(start);
    }

    fn pass_known(&self, time: Duration) {
        let live = lock(&self.settings).is_live;
        if let Some(running) = lock(&self.running).as_ref() {
            // Whoever keeps to the clock does not wait for what may yet be said.
            running.generator.set_known(if live { u64::MAX } else { running.info.frame_at(time) });
        }
    }

    fn pass_end(&self, end: Duration) {
        if let Some(running) = lock(&self.running).as_mut() {
            let frames = running.info.frame_at(end).max(1);
            running.extent = Some((frames, u64::try_from(end.as_nanos()).unwrap_or(u64::MAX)));
            running.generator.finish(frames);
        }
        self.tell_duration_changed();
    }

    fn tell_duration_changed(&self) {
        // Without a bus there is nobody to tell.
        let _ = self.obj().post_message(gst::message::DurationChanged::builder().src(&*self.obj()).build());
    }

    /// Makes no more frames: the stream ends after those that are made.
    fn cancel(&self) {
        if let Some(running) = lock(&self.running).as_ref() {
            running.generator.end_here();
        }
    }

    /// Makes the video anew with the next seed, from its beginning on; says whether that can be.
    fn regenerate(&self) -> bool {
        if !self.is_seekable() {
            return false;
        }
        let seed = {
            let mut running = lock(&self.running);
            let Some(running) = running.as_mut() else { return false };
            let mut settings = lock(&self.settings);
            settings.seed = settings.seed.wrapping_add(1);
            running.again = Some(settings.seed);
            running.tags = Some(tags::of(&settings, &running.info));
            settings.seed
        };
        gst::debug!(CAT, imp = self, "once more, with seed {seed}");
        self.obj().notify("seed");
        // Whatever was made with the old seed is flushed.
        let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE;
        self.obj().seek_simple(flags, gst::ClockTime::ZERO).is_ok()
    }

    /// What the settings come to, for whoever asks before the start.
    fn extent(&self) -> Option<(u64, u64)> {
        if let Some(running) = lock(&self.running).as_ref() {
            return running.extent;
        }
        if self.open.load(Ordering::Relaxed) {
            return None;
        }
        let settings = lock(&self.settings).clone();
        settings.extent(&settings.info().ok()?, settings.storyboard().ok()?.as_ref())
    }

    /// What was agreed on with downstream, if anything yet.
    fn video(&self) -> Option<VideoInfo> {
        lock(&self.running).as_ref()?.video.clone()
    }

    /// The frame rate: as agreed on with downstream, or what it will be if nobody there wants another.
    fn frame_rate(&self) -> Option<timeline::Rate> {
        let own = match lock(&self.running).as_ref() {
            Some(Running { video: Some(video), .. }) => return Some(rate_of(video)),
            running => running.map(|running| running.info.frame_rate),
        };
        let settings = lock(&self.settings).clone();
        settings.framerate.or(own).or_else(|| settings.info().ok().map(|info| info.frame_rate))
    }

    /// `value` in another format: time and frames at any time, bytes once the size of a frame is known.
    fn convert(
        &self,
        value: gst::GenericFormattedValue,
        format: gst::Format,
    ) -> Option<gst::GenericFormattedValue> {
        use gst::GenericFormattedValue as Value;
        match (value, format) {
            (Value::Time(Some(time)), gst::Format::Default) => {
                let frame = timeline::at(time.nseconds(), self.frame_rate()?);
                Some(gst::format::Default::from_u64(frame).into())
            }
            (Value::Default(Some(frame)), gst::Format::Time) => {
                let time = timeline::start(*frame, self.frame_rate()?);
                Some(gst::ClockTime::from_nseconds(time).into())
            }
            (value, format) if value.format() == format => Some(value),
            (value, format) => self.video()?.convert_generic(value, format),
        }
    }

    /// Says on the bus what the worker does.
    fn reporter(&self, total: Option<u64>) -> impl FnMut(Report) + Send + use<> {
        let element = self.obj().downgrade();
        let began = Instant::now();
        move |report| {
            let Some(element) = element.upgrade() else { return };
            let message = match report {
                Report::Loading => progress(&element, gst::ProgressType::Start, "Loading the model"),
                Report::Loaded => progress(&element, gst::ProgressType::Complete, "The model is loaded"),
                Report::Progress(at) => {
                    let structure = progress_structure(&at, total, began.elapsed());
                    gst::message::Element::builder(structure).src(&element).build()
                }
                Report::NotKept(error) => {
                    let text = "the cache is not written any more; set cache-dir to another folder";
                    gst::element_warning!(element, gst::ResourceError::Write, ("{text}: {error}"));
                    return;
                }
                Report::Refused(error) => {
                    gst::element_warning!(element, gst::LibraryError::Settings, ("{error}"));
                    return;
                }
            };
            // Without a bus there is nobody to tell.
            let _ = element.post_message(message);
        }
    }

    /// What runs from the start on.
    fn begin(&self, settings: &Settings) -> soragen::Result<Running> {
        let info = settings.info()?;
        check_size(settings, &info)?;
        if let Some(text) = settings.timecode.as_ref().filter(|text| !timecode::is_one(text)) {
            return Err(soragen::Error::Request(
                soragen::Setting::Timecode,
                format!("{text:?} is no time code; 10:00:00:00 is one"),
            ));
        }
        let storyboard = settings.storyboard()?;
        let extent = match self.open.load(Ordering::Relaxed) {
            true => None,
            false => settings.extent(&info, storyboard.as_ref()),
        };
        let frames = extent.map(|(frames, _)| frames);
        let generator = self.start_generator(settings, frames, storyboard.as_ref())?;
        Ok(Running {
            tags: Some(tags::of(settings, &info)),
            images: settings.images(storyboard.as_ref()),
            info,
            extent,
            generator,
            video: None,
            origin: 0,
            next: 0,
            live: settings.is_live.then(Live::default),
            timecode: None,
            again: None,
            shot: None,
        })
    }

    /// Has the model come before the start is completed.
    fn download(&self, name: HubName) -> Result<(), gst::ErrorMessage> {
        let cancel = Cancel::new();
        *lock(&self.coming) = Some(Coming { cancel: cancel.clone(), told: Vec::new() });
        let then = {
            let cancel = cancel.clone();
            move |element: &super::SoraGen, pulled| element.imp().downloaded(pulled, &cancel)
        };
        download::start(&self.obj(), name, cancel, then)
            .map_err(|e| gst::error_msg!(gst::CoreError::Thread, ("there can be no other thread: {e}")))
    }

    /// Completes the start.
    fn downloaded(&self, pulled: soragen::Result<()>, cancel: &Cancel) {
        let settings = lock(&self.settings).clone();
        let begun = pulled.and_then(|()| self.begin(&settings));
        let element = self.obj();
        {
            // Whoever stops the element has to wait, so that it is not started afterwards.
            let mut coming = lock(&self.coming);
            if cancel.is_cancelled() {
                return;
            }
            let told = coming.take().map(|coming| coming.told).unwrap_or_default();
            match begun {
                Ok(running) => {
                    *lock(&self.running) = Some(running);
                    told.into_iter().for_each(|told| self.pass(told));
                    element.start_complete(gst::FlowReturn::Ok);
                }
                Err(error) => {
                    element.start_complete(gst::FlowReturn::Error);
                    drop(coming);
                    self.post_error_message(error::message(&error));
                    return;
                }
            }
        }
        self.tell_duration_changed();
    }

    fn start_generator(
        &self,
        settings: &Settings,
        frames: Option<u64>,
        storyboard: Option<&Storyboard>,
    ) -> soragen::Result<Generator> {
        let mut request = settings.request(frames, storyboard)?;
        let element = self.obj().downgrade();
        // Without the element there is nobody to ask.
        let may = move |prompt: &str| {
            element.upgrade().is_some_and(|e| e.emit_by_name(super::PROMPT_CHECK, &[&prompt]))
        };
        request.policy = request.policy.map(|policy| policy.guarded(may));
        let job = Job {
            source: settings.model.clone(),
            options: settings.open_options(),
            request,
            cache: settings.cache(),
            threads: soragen::Threads::new(settings.threads as usize)?,
            open: self.open.load(Ordering::Relaxed),
            watermark: settings.key()?,
            label: settings.label.into(),
        };
        Generator::start(job, self.reporter(frames))
            .map_err(|e| soragen::Error::Device(format!("there can be no other thread: {e}")))
    }

    /// The next frame of the segment; `None` when it is done.
    fn due(&self, running: &Running, rate: timeline::Rate) -> Option<Due> {
        let segment = self.obj().segment().downcast::<gst::ClockTime>().ok()?;
        let nanoseconds = |time: Option<gst::ClockTime>| time.map(gst::ClockTime::nseconds);
        let at = |n: u64| running.origin + timeline::start(n, rate);
        let backwards = segment.rate() < 0.0;
        // Played fast in trick mode, no more frames are pushed in a second than at normal speed.
        let stride = match segment.flags().contains(gst::SegmentFlags::TRICKMODE) {
            // Faster than that there is one frame at the most.
            true => (segment.rate().abs() as u64).clamp(1, u32::MAX.into()),
            false => 1,
        };
        let (n, next) = match backwards {
            true => {
                let n = running.next.checked_sub(1)?;
                (n, running.next.saturating_sub(stride))
            }
            false => (running.next, running.next + stride),
        };
        let (start, end) = (at(n), at(n + 1));
        if backwards {
            if end <= nanoseconds(segment.start()).unwrap_or(0) {
                return None;
            }
        } else {
            let stop =
                nanoseconds(segment.stop()).into_iter().chain(running.extent.map(|(_, time)| time)).min();
            if stop.is_some_and(|stop| start >= stop) {
                return None;
            }
        }
        let frame = timeline::at(start, running.info.frame_rate);
        let frame = running.extent.map_or(frame, |(frames, _)| frame.min(frames.saturating_sub(1)));
        Some(Due { offset: timeline::at(start, rate), start, end, frame, next })
    }

    /// Waits for the frame that is due, and says which it is. While the clock runs, an old one does if the new one
    /// is late.
    fn picture(&self, due: &Due, live: Option<&mut Live>, made: &Made) -> Result<(Picture, u64), Absent> {
        let Some(live) = live else { return Ok((made.take(due.frame, None)?, due.frame)) };
        let wanted = due.frame.saturating_sub(live.lag);
        let deadline = match &live.shown {
            None => None,
            Some((shown, at)) if *at >= wanted => return Ok((shown.clone(), *at)),
            Some(_) => {
                let now = self.obj().current_running_time().map_or(due.start, gst::ClockTime::nseconds);
                Some(Instant::now() + Duration::from_nanos(due.start.saturating_sub(now)))
            }
        };
        match (made.take(wanted, deadline), &live.shown) {
            (Ok(picture), _) => {
                live.shown = Some((picture.clone(), wanted));
                Ok((picture, wanted))
            }
            (Err(Absent::Late), Some((shown, at))) => {
                live.lag += wanted - at;
                self.tell_late(due, made.count_late());
                Ok((shown.clone(), *at))
            }
            (Err(absent), _) => Err(absent),
        }
    }

    /// Says on the bus that the last frame is shown again in place of the one that is due.
    fn tell_late(&self, due: &Due, late: u64) {
        let element = self.obj();
        let Ok(segment) = element.segment().downcast::<gst::ClockTime>() else { return };
        let start = gst::ClockTime::from_nseconds(due.start);
        let running_time = segment.to_running_time(start);
        let now = element.current_running_time().map_or(due.start, gst::ClockTime::nseconds);
        let jitter = now as i64 - running_time.map_or(due.start, gst::ClockTime::nseconds) as i64;
        // At a lower frame rate than before there may have been fewer frames than late ones.
        let (frames, shown) = (due.offset + 1, (due.offset + 1).saturating_sub(late));
        // How many times as fast the model would have to be.
        let proportion = frames as f64 / shown.max(1) as f64;
        let message = gst::message::Qos::builder(true)
            .src(&*element)
            .running_time(running_time)
            .stream_time(segment.to_stream_time(start))
            .timestamp(start)
            .duration(gst::ClockTime::from_nseconds(due.end - due.start))
            .values(jitter, proportion, 1_000_000)
            .stats(gst::format::Default::from_u64(shown), gst::format::Default::from_u64(late))
            .build();
        let _ = element.post_message(message);
    }

    /// Says on the bus and downstream, before the first frame of it, that this is another shot; and has encoders
    /// begin anew where it is cut off from the one before.
    fn announce(&self, shot: &ShotInfo, by: &Maker, start: u64, due: &Due, goes_on: bool) {
        let element = self.obj();
        let mut structure = gst::Structure::builder("soragen-shot")
            .field("index", shot.index)
            .field("prompt", shot.prompt.as_str())
            .field("seed", shot.seed)
            .field("start", start)
            .field("frame", shot.frame)
            .field("cut", shot.cut)
            .field("software", "soragen")
            .field("version", env!("CARGO_PKG_VERSION"))
            .field("model", by.model.as_str())
            .build();
        if let Some(mark) = by.mark {
            structure.set("generation-id", mark.get());
        }
        if !by.images.is_empty() {
            // What they say themselves of where they are from is kept by who signs the video.
            structure.set("images", gst::List::new(by.images.clone()));
        }
        let _ =
            element.post_message(gst::message::Element::builder(structure.clone()).src(&*element).build());
        if shot.cut && goes_on && element.segment().rate() > 0.0 {
            let time = gst::ClockTime::from_nseconds(due.start);
            // Without a running time, which means this frame: an encoder that shifts its times (x264enc) compares one
            // with a shifted one, and would take this for one too many.
            let event = gst_video::DownstreamForceKeyUnitEvent::builder()
                .timestamp(time)
                .stream_time(time)
                .all_headers(true)
                .count(u32::try_from(shot.index).unwrap_or(u32::MAX))
                .build();
            self.queue(event);
        }
        self.queue(gst::event::CustomDownstream::new(structure));
    }

    /// Has the base class push `event` before the next buffer, and after its segment. An element's own `send_event` would
    /// wait for whoever changes the state, who waits for the streaming thread.
    fn queue(&self, event: gst::Event) {
        self.parent_send_event(event);
    }

    fn stats(&self) -> gst::Structure {
        let running = lock(&self.running);
        let stats = running.as_ref().map(|r| r.generator.stats()).unwrap_or_default();
        let busy = stats.busy.as_secs_f64();
        gst::Structure::builder("soragen-stats")
            .field("frames", stats.frames)
            .field("first-frame-ns", stats.first_frame.as_nanos() as u64)
            .field("fps", if busy > 0.0 { stats.frames as f64 / busy } else { 0.0 })
            .field("chunk-ns", stats.chunk.as_nanos() as u64)
            .field("late", stats.late)
            .field("cached", stats.effort.recalled)
            .field("forwards", stats.effort.forwards)
            .build()
    }

    /// Of the first frame at `rate`, if there are to be time codes.
    fn first_timecode(&self, rate: timeline::Rate) -> Option<gst_video::ValidVideoTimeCode> {
        let text = lock(&self.settings).timecode.clone()?;
        let code = timecode::first(&text, rate);
        if code.is_none() {
            let text = format!(
                "there is no time code {text} at {}/{} frames a second; none are set",
                rate.0, rate.1
            );
            gst::element_imp_warning!(self, gst::LibraryError::Settings, ("{text}"));
        }
        code
    }

    fn unpaintable(&self, error: &glib::BoolError) -> gst::FlowError {
        gst::element_imp_error!(self, gst::CoreError::Negotiation, ("a frame cannot be written: {error}"));
        gst::FlowError::Error
    }
}

fn progress(element: &super::SoraGen, kind: gst::ProgressType, text: &str) -> gst::Message {
    gst::message::Progress::builder(kind, "load", text).src(element).build()
}

/// `soragen-progress`: what the worker is busy with and how long all frames will take yet.
fn progress_structure(at: &Progress, total: Option<u64>, elapsed: Duration) -> gst::Structure {
    let phase = match at.phase {
        Phase::Text => "text",
        Phase::Denoise => "denoise",
        Phase::Decode => "decode",
    };
    let mut structure = gst::Structure::builder("soragen-progress")
        .field("phase", phase)
        .field("chunk", at.chunk)
        .field("step", at.step)
        .field("steps", at.steps)
        .field("frame", at.frame)
        .build();
    if let Some(total) = total.filter(|_| at.frame > 0) {
        let left = elapsed.as_secs_f64() / at.frame as f64 * total.saturating_sub(at.frame) as f64;
        structure.set("eta-ns", (left * 1e9) as u64);
    }
    structure
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
        settings::properties()
    }

    fn signals() -> &'static [glib::subclass::Signal] {
        static SIGNALS: LazyLock<Vec<glib::subclass::Signal>> = LazyLock::new(|| {
            vec![
                super::prompt_check(),
                // Makes no more frames: the stream ends after those that are made. A seek has the others made after all.
                glib::subclass::Signal::builder("cancel")
                    .action()
                    .run_last()
                    .class_handler(|args| {
                        args[0].get::<super::SoraGen>().ok()?.imp().cancel();
                        None
                    })
                    .build(),
                // Makes the video anew with the next seed, from its beginning on. Says whether that can be: not before
                // PAUSED, nor live, nor without end.
                glib::subclass::Signal::builder("regenerate")
                    .action()
                    .run_last()
                    .return_type::<bool>()
                    .class_handler(|args| {
                        Some(args[0].get::<super::SoraGen>().is_ok_and(|s| s.imp().regenerate()).to_value())
                    })
                    .build(),
            ]
        });
        &SIGNALS
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let mut settings = lock(&self.settings);
        gst::debug!(CAT, imp = self, "{} becomes {value:?}", pspec.name());
        if !settings.set(pspec.name(), value) {
            unreachable!("GObject knows the properties");
        }
        let change = match pspec.name() {
            "prompt" => Some(Change::Prompt(settings.prompt.clone().unwrap_or_default())),
            "negative-prompt" => Some(Change::NegativePrompt(settings.negative_prompt.clone())),
            _ => None,
        };
        let live = settings.is_live;
        drop(settings);
        if let (Some(change), Some(running)) = (change, lock(&self.running).as_ref()) {
            running.generator.change(change);
        }
        if pspec.name() == "is-live" {
            self.obj().set_live(live);
        }
        if matches!(pspec.name(), "duration" | "is-live" | "model" | "storyboard") {
            self.tell_duration_changed();
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
                "Video from text",
                "Source/Video",
                "Makes video from text, or from an image and text, by a diffusion model that runs in-process",
                env!("CARGO_PKG_AUTHORS"),
            )
        });
        Some(&*METADATA)
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        if transition == gst::StateChange::PausedToReady {
            // Before the pad is stopped: from here on no download completes the start.
            give_up(lock(&self.coming).take());
        }
        self.parent_change_state(transition)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let caps = gst_video::VideoCapsBuilder::new().format_list(paint::FORMATS).build();
            gst::PadTemplate::new("src", gst::PadDirection::Src, gst::PadPresence::Always, &caps)
                .into_iter()
                .collect()
        });
        &TEMPLATES
    }
}

// A preset is a set of properties, which GStreamer keeps in files by itself.
impl PresetImpl for SoraGen {}

impl URIHandlerImpl for SoraGen {
    const URI_TYPE: gst::URIType = gst::URIType::Src;

    fn protocols() -> &'static [&'static str] {
        &[uri::PROTOCOL]
    }

    fn uri(&self) -> Option<String> {
        lock(&self.settings).address().map(|address| address.to_string())
    }

    fn set_uri(&self, uri: &str) -> Result<(), glib::Error> {
        if lock(&self.running).is_some() {
            return Err(glib::Error::new(
                gst::URIError::BadState,
                "an address can be set in READY at the latest",
            ));
        }
        let address =
            Address::parse(uri).map_err(|reason| glib::Error::new(gst::URIError::BadUri, &reason))?;
        gst::debug!(CAT, imp = self, "{address}");
        lock(&self.settings).set_address(address);
        for property in ["prompt", "seed", "duration", "storyboard"] {
            self.obj().notify(property);
        }
        Ok(())
    }
}

impl BaseSrcImpl for SoraGen {
    fn start(&self) -> Result<(), gst::ErrorMessage> {
        let settings = lock(&self.settings).clone();
        let missing_model = settings.missing_model().map_err(|e| error::message(&e))?;
        // Only then is the start completed later.
        self.obj().set_async(missing_model.is_some());
        match missing_model {
            Some(name) => self.download(name),
            None => {
                let running = self.begin(&settings).map_err(|e| error::message(&e))?;
                *lock(&self.running) = Some(running);
                Ok(())
            }
        }
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        // The worker is told to stop, and is not waited for.
        lock(&self.running).take();
        // Held by another thread, it is about to be taken; held by this one, the start has failed.
        if let Ok(mut coming) = self.coming.try_lock() {
            give_up(coming.take());
        }
        Ok(())
    }

    fn is_seekable(&self) -> bool {
        !lock(&self.settings).is_live && self.extent().is_some()
    }

    fn negotiate(&self) -> Result<(), gst::LoggableError> {
        // Going to PLAYING wakes the streaming thread of a live source, which finds it not started yet and sleeps again.
        if lock(&self.running).is_none() {
            self.obj().src_pad().mark_reconfigure();
            return Ok(());
        }
        self.parent_negotiate()
    }

    fn caps(&self, filter: Option<&gst::Caps>) -> Option<gst::Caps> {
        let asked = asked(&lock(&self.settings));
        let running = lock(&self.running);
        let mut caps = match running.as_ref() {
            Some(running) => possible(&running.info.sizes),
            None => self.obj().pad_template("src")?.caps().clone(),
        };
        caps = caps.intersect(&asked);
        Some(match filter {
            Some(filter) => filter.intersect_with_mode(&caps, gst::CapsIntersectMode::First),
            None => caps,
        })
    }

    fn fixate(&self, mut caps: gst::Caps) -> gst::Caps {
        caps.truncate();
        let running = lock(&self.running);
        let (size, rate) = match running.as_ref() {
            Some(running) => (running.info.sizes.default_size(), running.info.frame_rate),
            None => return self.parent_fixate(caps),
        };
        drop(running);
        if let Some(structure) = caps.make_mut().structure_mut(0) {
            structure.fixate_field_nearest_int("width", size.width as i32);
            structure.fixate_field_nearest_int("height", size.height as i32);
            let rate = gst::Fraction::new(rate.0 as i32, rate.1 as i32);
            structure.fixate_field_nearest_fraction("framerate", rate);
            let format =
                structure.get::<&str>("format").ok().and_then(|f| f.parse::<gst_video::VideoFormat>().ok());
            let rgb = format.is_some_and(|f| gst_video::VideoFormatInfo::from_format(f).is_rgb());
            let side =
                |name| structure.get::<i32>(name).ok().and_then(|side| u32::try_from(side).ok()).unwrap_or(0);
            let high = Size { width: side("width"), height: side("height") }.is_high_definition();
            let colorimetry = match (rgb, high) {
                (true, _) => "sRGB",
                (false, true) => "bt709",
                (false, false) => "bt601",
            };
            match structure.has_field("colorimetry") {
                true => {
                    structure.fixate_field_str("colorimetry", colorimetry);
                }
                false => structure.set("colorimetry", colorimetry),
            }
            if !rgb {
                structure.set("chroma-site", "mpeg2");
            }
        }
        self.parent_fixate(caps)
    }

    fn set_caps(&self, caps: &gst::Caps) -> Result<(), gst::LoggableError> {
        let video =
            VideoInfo::from_caps(caps).map_err(|_| gst::loggable_error!(CAT, "not raw video: {caps}"))?;
        if video.fps().numer() <= 0 {
            return Err(gst::loggable_error!(CAT, "a frame rate is needed: {caps}"));
        }
        let backwards =
            self.obj().segment().downcast::<gst::ClockTime>().is_ok_and(|segment| segment.rate() < 0.0);
        let rate = rate_of(&video);
        // It may say something on the bus, where nobody is to wait for what is locked.
        let timecode = self.first_timecode(rate);
        let mut running = lock(&self.running);
        let Some(running) = running.as_mut() else {
            return Err(gst::loggable_error!(CAT, "not started"));
        };
        // The size of a buffer where downstream brings no pool.
        self.obj().set_blocksize(u32::try_from(video.size()).unwrap_or(u32::MAX));
        let size = Size { width: video.width(), height: video.height() };
        running.generator.set_size(size);
        running.timecode = timecode;
        // In the middle of a video: go on from the same time at the new rate. Backwards there is nothing before the
        // origin, so that the frames of the new rate are those that they would have been from the beginning.
        if let Some(before) = running.video.replace(video) {
            // A picture of another size cannot be shown again.
            let before_size = Size { width: before.width(), height: before.height() };
            if let Some(live) = running.live.as_mut().filter(|_| before_size != size) {
                *live = Live::default();
            }
            let time = running.origin + timeline::start(running.next, rate_of(&before));
            (running.origin, running.next) = match backwards {
                true => (0, timeline::before(time, rate)),
                false => (time, 0),
            };
        }
        gst::debug!(CAT, imp = self, "{caps}");
        Ok(())
    }

    fn decide_allocation(&self, query: &mut gst::query::Allocation) -> Result<(), gst::LoggableError> {
        // Buffers are written by their strides, so those of a pool of downstream's are welcome.
        if query.find_allocation_meta::<gst_video::VideoMeta>().is_some()
            && let Some((Some(pool), _, _, _)) = query.allocation_pools().next()
        {
            let mut config = pool.config();
            config.add_option(gst_video::BUFFER_POOL_OPTION_VIDEO_META);
            // One that does not know the option keeps its own.
            let _ = pool.set_config(config);
        }
        self.parent_decide_allocation(query)
    }

    fn do_seek(&self, segment: &mut gst::Segment) -> bool {
        let Some(segment) = segment.downcast_mut::<gst::ClockTime>() else { return false };
        let mut running = lock(&self.running);
        let Some(running) = running.as_mut() else { return false };
        let rate = running.video.as_ref().map_or(running.info.frame_rate, rate_of);
        let total = running.extent.map(|(_, time)| gst::ClockTime::from_nseconds(time));
        running.origin = 0;
        running.shot = None;
        match running.again.take() {
            Some(seed) => running.generator.regenerate(seed),
            None => running.generator.resume(),
        }
        running.next = if segment.rate() < 0.0 {
            let stop = segment.stop().into_iter().chain(total).min();
            let Some(stop) = stop else { return false };
            timeline::before(stop.nseconds(), rate)
        } else {
            timeline::at(segment.start().unwrap_or_default().nseconds(), rate)
        };
        segment.set_time(segment.start());
        segment.set_duration(total);
        true
    }

    fn query(&self, query: &mut gst::QueryRef) -> bool {
        match query.view_mut() {
            gst::QueryViewMut::Duration(q) => {
                let Some((_, time)) = self.extent() else { return false };
                match q.format() {
                    gst::Format::Time => q.set(gst::ClockTime::from_nseconds(time)),
                    gst::Format::Default => {
                        let Some(rate) = self.frame_rate() else { return false };
                        q.set(gst::format::Default::from_u64(timeline::before(time, rate)));
                    }
                    _ => return false,
                }
                true
            }
            gst::QueryViewMut::Latency(q) if self.obj().is_live() => {
                let Some(rate) = self.frame_rate() else { return false };
                let frame = gst::ClockTime::from_nseconds(timeline::start(1, rate));
                q.set(true, frame, gst::ClockTime::NONE);
                true
            }
            gst::QueryViewMut::Convert(q) => {
                let (value, format) = q.get();
                match self.convert(value, format) {
                    Some(converted) => {
                        q.set(value, converted);
                        true
                    }
                    None => false,
                }
            }
            _ => BaseSrcImplExt::parent_query(self, query),
        }
    }

    fn unlock(&self) -> Result<(), gst::ErrorMessage> {
        if let Some(running) = lock(&self.running).as_ref() {
            running.generator.set_flushing(true);
        }
        Ok(())
    }

    fn unlock_stop(&self) -> Result<(), gst::ErrorMessage> {
        if let Some(running) = lock(&self.running).as_ref() {
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
        let (due, video, frames, mut live, tags, timecode) = {
            let mut running = lock(&self.running);
            let running = running.as_mut().ok_or(gst::FlowError::Flushing)?;
            let video = running.video.clone().ok_or(gst::FlowError::NotNegotiated)?;
            let due = self.due(running, rate_of(&video)).ok_or(gst::FlowError::Eos)?;
            let timecode = running.timecode.as_ref().map(|first| timecode::at(first, due.offset));
            (due, video, running.generator.frames(), running.live.take(), running.tags.take(), timecode)
        };
        if let Some(tags) = tags {
            self.queue(gst::event::Tag::new(tags));
        }

        // Nothing is locked while waiting.
        let picture = self.picture(&due, live.as_mut(), &frames);
        let mut news = None;
        if let Some(running) = lock(&self.running).as_mut() {
            running.live = live;
            if let Ok((_, number)) = &picture {
                running.next = due.next;
                let shot = frames.shot(*number);
                if shot != running.shot
                    && let Some(shot) = shot
                {
                    let before = running.shot.replace(shot.clone());
                    let start = timeline::start(shot.frame + (due.frame - number), running.info.frame_rate);
                    let by = Maker {
                        model: running.info.name.clone(),
                        images: running.images.clone(),
                        mark: frames.mark(),
                    };
                    news = Some((shot, by, start, before.is_some()));
                }
            }
        }
        if let Some((shot, by, start, goes_on)) = news {
            self.announce(&shot, &by, start, &due, goes_on);
        }
        let (picture, _) = picture.map_err(|absent| match absent {
            Absent::End => gst::FlowError::Eos,
            Absent::Flushing | Absent::Late => gst::FlowError::Flushing,
            Absent::Failed(error) => {
                self.post_error_message(error::message(&error));
                gst::FlowError::Error
            }
        })?;

        buffer.set_pts(gst::ClockTime::from_nseconds(due.start));
        buffer.set_duration(gst::ClockTime::from_nseconds(due.end - due.start));
        buffer.set_offset(due.offset);
        buffer.set_offset_end(due.offset + 1);
        if let Some(timecode) = timecode {
            gst_video::VideoTimeCodeMeta::add(buffer, &timecode);
        }
        let mut frame =
            VideoFrameRef::from_buffer_ref_writable(buffer, &video).map_err(|e| self.unpaintable(&e))?;
        paint::paint(&picture, &mut frame).map_err(|e| self.unpaintable(&e))?;
        Ok(gst::FlowSuccess::Ok)
    }
}

/// Ends a download that there may be; what has come stays.
fn give_up(coming: Option<Coming>) {
    if let Some(coming) = coming {
        coming.cancel.cancel();
    }
}

fn rate_of(video: &VideoInfo) -> timeline::Rate {
    (video.fps().numer() as u32, video.fps().denom() as u32)
}

/// Negotiation would only say that there is no common format.
fn check_size(settings: &Settings, info: &ModelInfo) -> soragen::Result<()> {
    if possible(&info.sizes).can_intersect(&asked(settings)) {
        return Ok(());
    }
    let side = |side: Option<u32>| side.map_or("any".into(), |side| side.to_string());
    Err(soragen::Error::Request(
        soragen::Setting::Size,
        format!(
            "{} cannot make {}x{}; it makes {}",
            info.name,
            side(settings.width),
            side(settings.height),
            info.sizes
        ),
    ))
}

/// What an address asks for.
fn asked(settings: &Settings) -> gst::Caps {
    let mut caps = gst_video::VideoCapsBuilder::new();
    for (name, side) in [("width", settings.width), ("height", settings.height)] {
        if let Some(side) = side.and_then(|side| i32::try_from(side).ok()) {
            caps = caps.field(name, side);
        }
    }
    if let Some((numerator, denominator)) = settings.framerate {
        caps = caps.framerate(gst::Fraction::new(numerator as i32, denominator as i32));
    }
    caps.build()
}

/// The caps that a model of these sizes can make.
fn possible(sizes: &Sizes) -> gst::Caps {
    let one = || {
        gst_video::VideoCapsBuilder::new()
            .format_list(paint::FORMATS)
            .framerate_range(gst::Fraction::new(1, i32::MAX)..=gst::Fraction::new(i32::MAX, 1))
            .pixel_aspect_ratio(gst::Fraction::new(1, 1))
            .field("interlace-mode", "progressive")
    };
    let side = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    match sizes {
        Sizes::Exact(sizes) => {
            let mut caps = gst::Caps::new_empty();
            for size in sizes {
                caps.merge(one().width(side(size.width)).height(side(size.height)).build());
            }
            caps
        }
        Sizes::Multiple { step, min, max, .. } => one()
            .field("width", gst::IntRange::with_step(side(*min), side(*max), side(*step)))
            .field("height", gst::IntRange::with_step(side(*min), side(*max), side(*step)))
            .build(),
    }
}
