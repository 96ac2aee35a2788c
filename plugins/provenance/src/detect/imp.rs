// SPDX-License-Identifier: MPL-2.0

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::subclass::prelude::*;
use gst_video::VideoFrameRef;
use gst_video::prelude::*;
use gst_video::subclass::prelude::*;
use soragen::watermark::{Detection, Detector};

const DEFAULT_WINDOW: u32 = 96;

#[derive(Clone)]
struct Settings {
    window: u32,
    key: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { window: DEFAULT_WINDOW, key: None }
    }
}

/// State from `start` to `stop`.
struct State {
    key: soragen::watermark::WatermarkKey,
    detector: Detector,
    /// Timestamp of the first frame in the detector.
    since: Option<gst::ClockTime>,
    /// Detection in the previous window. It takes longer than a frame, so it runs on its own thread.
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone, Copy, Default)]
struct Stats {
    frames: u64,
    windows: u64,
    marked: u64,
    last: Option<Detection>,
}

#[derive(Default)]
pub struct SoraDetect {
    settings: Mutex<Settings>,
    state: Mutex<Option<State>>,
    stats: Mutex<Stats>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The frames of one detection.
struct Window {
    detector: Detector,
    since: Option<gst::ClockTime>,
    /// Detection in the window before.
    previous: Option<JoinHandle<()>>,
}

impl State {
    /// Takes the collected frames and the running detection.
    fn take_window(&mut self) -> Window {
        let detector = std::mem::replace(&mut self.detector, Detector::new(&self.key));
        Window { detector, since: self.since.take(), previous: self.thread.take() }
    }
}

impl SoraDetect {
    /// Detects the watermark in `window` on another thread, which posts the result on the bus.
    ///
    /// Call it without holding a lock: it waits for the previous detection, whose message the application may handle on
    /// that thread.
    fn detect(&self, window: Window) {
        let Window { detector, since, previous } = window;
        join(previous);
        let element = self.obj().clone();
        let detect = move || {
            let Some(detection) = detector.detect() else { return };
            element.imp().report(since, detection);
        };
        match std::thread::Builder::new().name("soradetect".into()).spawn(detect) {
            Ok(thread) => {
                if let Some(state) = lock(&self.state).as_mut() {
                    state.thread = Some(thread);
                }
            }
            Err(e) => gst::element_imp_warning!(
                self,
                gst::CoreError::Failed,
                ("no detection in this window: cannot spawn a thread: {e}")
            ),
        }
    }

    fn report(&self, since: Option<gst::ClockTime>, detection: Detection) {
        {
            let mut stats = lock(&self.stats);
            stats.windows += 1;
            stats.marked += u64::from(detection.is_marked());
            stats.last = Some(detection);
        }
        let mut structure = describe("soradetect", &detection);
        structure.set("since", since);
        // Posting fails if there is no bus.
        let _ = self.obj().post_message(gst::message::Element::builder(structure).src(&*self.obj()).build());
    }

    /// Detects in the remaining frames and waits for the result.
    fn finish(&self) {
        let window =
            lock(&self.state).as_mut().filter(|state| state.detector.frames() > 0).map(State::take_window);
        if let Some(window) = window {
            self.detect(window);
        }
        let thread = lock(&self.state).as_mut().and_then(|state| state.thread.take());
        join(thread);
    }

    fn stats(&self) -> gst::Structure {
        let stats = *lock(&self.stats);
        let mut structure = match &stats.last {
            Some(detection) => describe("soradetect-stats", detection),
            None => gst::Structure::new_empty("soradetect-stats"),
        };
        structure.set("frames", stats.frames);
        structure.set("windows", stats.windows);
        structure.set("marked-windows", stats.marked);
        structure
    }
}

fn join(thread: Option<JoinHandle<()>>) {
    // A handler that stops the element on the detection's own thread cannot wait for it.
    if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
        // The thread does not panic.
        let _ = thread.join();
    }
}

fn describe(name: &str, detection: &Detection) -> gst::Structure {
    let mut structure = gst::Structure::builder(name)
        .field("marked", detection.is_marked())
        .field("scheme", detection.scheme.number())
        .field("strength", detection.strength)
        .field("scale", detection.scale)
        .field("frames", detection.frames)
        .build();
    if let Some(id) = detection.id {
        structure.set("generation-id", id.get());
    }
    structure
}

#[glib::object_subclass]
impl ObjectSubclass for SoraDetect {
    const NAME: &'static str = "GstSoraDetect";
    type Type = super::SoraDetect;
    type ParentType = gst_video::VideoFilter;
}

impl ObjectImpl for SoraDetect {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            vec![
                glib::ParamSpecUInt::builder("window")
                    .nick("Window")
                    .blurb("Number of frames per detection; a second or more is needed after encoding (default: 96)")
                    .minimum(1)
                    .default_value(DEFAULT_WINDOW)
                    .mutable_ready()
                    .build(),
                crate::key_property(),
                glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                    .nick("Statistics")
                    .blurb("frames, windows, marked-windows; for the last window also marked, scheme, strength, scale and, \
                            if it was decoded, generation-id")
                    .read_only()
                    .build(),
            ]
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let mut settings = lock(&self.settings);
        match pspec.name() {
            "window" => settings.window = value.get().unwrap_or(DEFAULT_WINDOW),
            "watermark-key" => settings.key = crate::key_path(value),
            _ => unreachable!("GObject knows the properties"),
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "window" => lock(&self.settings).window.to_value(),
            "watermark-key" => lock(&self.settings).key.to_value(),
            "stats" => self.stats().to_value(),
            _ => unreachable!("GObject knows the properties"),
        }
    }
}

impl GstObjectImpl for SoraDetect {}

impl ElementImpl for SoraDetect {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Watermark detector",
                "Filter/Analyzer/Video",
                "Detects soragen's invisible watermark in video and decodes its id",
                env!("CARGO_PKG_AUTHORS"),
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> =
            LazyLock::new(|| crate::templates(crate::LUMA_FORMATS));
        &TEMPLATES
    }
}

impl BaseTransformImpl for SoraDetect {
    const MODE: gst_base::subclass::BaseTransformMode = gst_base::subclass::BaseTransformMode::AlwaysInPlace;
    const PASSTHROUGH_ON_SAME_CAPS: bool = true;
    const TRANSFORM_IP_ON_PASSTHROUGH: bool = true;

    fn start(&self) -> Result<(), gst::ErrorMessage> {
        let key = crate::load_key(lock(&self.settings).key.as_deref())?;
        let detector = Detector::new(&key);
        *lock(&self.stats) = Stats::default();
        *lock(&self.state) = Some(State { key, detector, since: None, thread: None });
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        let state = lock(&self.state).take();
        join(state.and_then(|state| state.thread));
        Ok(())
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        match event.type_() {
            // The last detection is posted before the end of stream.
            gst::EventType::Eos => self.finish(),
            // Frames before and after a flush do not belong together.
            gst::EventType::FlushStop => {
                if let Some(state) = lock(&self.state).as_mut() {
                    state.detector.clear();
                }
            }
            _ => {}
        }
        self.parent_sink_event(event)
    }
}

impl VideoFilterImpl for SoraDetect {
    fn transform_frame_ip_passthrough(
        &self,
        frame: &VideoFrameRef<&gst::BufferRef>,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let length = u64::from(lock(&self.settings).window);
        let (width, height) = (frame.width() as usize, frame.height() as usize);
        let stride = usize::try_from(frame.plane_stride()[0]).map_err(|_| gst::FlowError::NotNegotiated)?;
        let luma = frame.plane_data(0).map_err(|_| gst::FlowError::Error)?;
        let time = crate::frame_time(frame.buffer(), lock(&self.stats).frames, frame.info());
        // All frames of one detection have the same size.
        let of_other_size = {
            let mut state = lock(&self.state);
            let state = state.as_mut().ok_or(gst::FlowError::Flushing)?;
            (!state.detector.fits(width, height)).then(|| state.take_window())
        };
        if let Some(window) = of_other_size {
            self.detect(window);
        }
        let complete = {
            let mut state = lock(&self.state);
            let state = state.as_mut().ok_or(gst::FlowError::Flushing)?;
            if state.detector.frames() == 0 {
                state.since = frame.buffer().pts();
            }
            state.detector.push(luma, stride, width, height, time);
            (state.detector.frames() >= length).then(|| state.take_window())
        };
        lock(&self.stats).frames += 1;
        if let Some(window) = complete {
            self.detect(window);
        }
        Ok(gst::FlowSuccess::Ok)
    }
}
