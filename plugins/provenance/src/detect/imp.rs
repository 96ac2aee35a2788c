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

/// Lives from `start` to `stop`.
struct Running {
    key: soragen::watermark::WatermarkKey,
    detector: Detector,
    /// When the first frame that the detector saw is shown.
    since: Option<gst::ClockTime>,
    /// The search in the frames before: it takes longer than a frame lasts.
    search: Option<JoinHandle<()>>,
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
    running: Mutex<Option<Running>>,
    stats: Mutex<Stats>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SoraDetect {
    /// Searches the frames that were collected, on another thread, and says on the bus what is in them.
    fn search(&self, running: &mut Running) {
        let detector = std::mem::replace(&mut running.detector, Detector::new(&running.key));
        let since = running.since.take();
        join(running.search.take());
        let element = self.obj().clone();
        let search = move || {
            let Some(finding) = detector.finding() else { return };
            element.imp().found(since, finding);
        };
        match std::thread::Builder::new().name("soradetect".into()).spawn(search) {
            Ok(search) => running.search = Some(search),
            Err(e) => gst::element_imp_warning!(
                self,
                gst::CoreError::Failed,
                ("the frames were not searched: there can be no other thread: {e}")
            ),
        }
    }

    fn found(&self, since: Option<gst::ClockTime>, finding: Detection) {
        {
            let mut stats = lock(&self.stats);
            stats.windows += 1;
            stats.marked += u64::from(finding.is_marked());
            stats.last = Some(finding);
        }
        let mut structure = describe("soradetect", &finding);
        structure.set("since", since);
        // Without a bus there is nobody to tell.
        let _ = self.obj().post_message(gst::message::Element::builder(structure).src(&*self.obj()).build());
    }

    /// Searches what is left and waits for it.
    fn finish(&self) {
        let mut running = lock(&self.running);
        let Some(running) = running.as_mut() else { return };
        if running.detector.frames() > 0 {
            self.search(running);
        }
        join(running.search.take());
    }

    fn stats(&self) -> gst::Structure {
        let stats = *lock(&self.stats);
        let mut structure = match &stats.last {
            Some(finding) => describe("soradetect-stats", finding),
            None => gst::Structure::new_empty("soradetect-stats"),
        };
        structure.set("frames", stats.frames);
        structure.set("windows", stats.windows);
        structure.set("marked-windows", stats.marked);
        structure
    }
}

fn join(search: Option<JoinHandle<()>>) {
    if let Some(search) = search {
        // It does not panic.
        let _ = search.join();
    }
}

fn describe(name: &str, finding: &Detection) -> gst::Structure {
    let mut structure = gst::Structure::builder(name)
        .field("marked", finding.is_marked())
        .field("strength", finding.strength)
        .field("scale", finding.scale)
        .field("frames", finding.frames)
        .build();
    if let Some(id) = finding.id {
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
                    .blurb("Frames that are looked at together; a mark is the same in all frames of a shot")
                    .minimum(1)
                    .default_value(DEFAULT_WINDOW)
                    .mutable_ready()
                    .build(),
                crate::key_property(),
                glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                    .nick("Statistics")
                    .blurb("frames, windows, marked-windows; and of the last window marked, strength, scale and, \
                            where it can be read, generation-id")
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
            "watermark-key" => settings.key = crate::key_file(value),
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
                "Invisible mark detector",
                "Filter/Analyzer/Video",
                "Tells whether video bears soragen's invisible mark, and what it says",
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
        let key = crate::key(lock(&self.settings).key.as_deref())?;
        let detector = Detector::new(&key);
        *lock(&self.stats) = Stats::default();
        *lock(&self.running) = Some(Running { key, detector, since: None, search: None });
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        let running = lock(&self.running).take();
        join(running.and_then(|running| running.search));
        Ok(())
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        match event.type_() {
            // What is found is said before the end is.
            gst::EventType::Eos => self.finish(),
            // What comes is not what was before.
            gst::EventType::FlushStop => {
                if let Some(running) = lock(&self.running).as_mut() {
                    running.detector.clear();
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
        let window = u64::from(lock(&self.settings).window);
        let mut running = lock(&self.running);
        let running = running.as_mut().ok_or(gst::FlowError::Flushing)?;
        let (width, height) = (frame.width() as usize, frame.height() as usize);
        let stride = usize::try_from(frame.plane_stride()[0]).map_err(|_| gst::FlowError::NotNegotiated)?;
        let luma = frame.plane_data(0).map_err(|_| gst::FlowError::Error)?;
        // Those of one size are searched together.
        if !running.detector.fits(width, height) {
            self.search(running);
        }
        if running.detector.frames() == 0 {
            running.since = frame.buffer().pts();
        }
        running.detector.push(luma, stride, width, height);
        lock(&self.stats).frames += 1;
        if running.detector.frames() >= window {
            self.search(running);
        }
        Ok(gst::FlowSuccess::Ok)
    }
}
