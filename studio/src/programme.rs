//! The pipeline: a live `soragen`, or a camera, shown to browsers and recorded.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gst::glib;
use gst::prelude::*;
use serde_json::{Map, Value};
use tokio::sync::broadcast;

use tokio::sync::mpsc::UnboundedSender;

use crate::args::Args;
use crate::camera::{self, Camera};
use crate::cues::Cues;
use crate::error::{Error, Result};
use crate::hls::{self, Hls};
use crate::lock;
use crate::protocol::{Meter, ToPage};
use crate::recording::Recording;
use crate::uploads::Uploads;
use crate::viewers::Viewers;

/// What the page may set. The page must not name files of this machine: a reference is a drawing of the model, or was uploaded.
const SETTABLE: [&str; 12] = [
    // Before the prompt that it is for.
    "transition",
    "prompt",
    "negative-prompt",
    "reference",
    "motion-path",
    "seed",
    "steps",
    "guidance-scale",
    "shift",
    "blend-chunks",
    "label",
    // Of a camera.
    "strength",
];
/// Time between two meter messages.
const METER: Duration = Duration::from_millis(500);
/// How long the end of a recording may take when the program stops.
const LAST_RECORDING: Duration = Duration::from_secs(5);

/// The running programme.
pub struct Programme {
    pipeline: gst::Pipeline,
    source: gst::Element,
    selector: gst::Element,
    tee: gst::Element,
    pub viewers: Viewers,
    pub uploads: Uploads,
    pub hls: Option<Hls>,
    events: broadcast::Sender<ToPage>,
    recording: Mutex<Option<Recording>>,
    camera: Mutex<Option<Camera>>,
    cues: Mutex<Cues>,
    /// The last `soragen-shot` of the source.
    shot: Mutex<Option<gst::Structure>>,
    args: Args,
}

impl Programme {
    /// Starts the pipeline.
    ///
    /// # Errors
    /// If an element is missing, or a property is wrong.
    pub fn start(args: &Args) -> Result<Arc<Self>> {
        let description = "soragen name=source is-live=true slate=black duration=-1 ! \
             input-selector name=selector sync-streams=false ! tee name=tee allow-not-linked=true ! \
             queue leaky=downstream max-size-buffers=4 ! videoconvert ! webrtcsink name=viewers";
        let description =
            if args.hls { format!("{description} {}", hls::BRANCH) } else { description.into() };
        let pipeline = gst::parse::launch(&description)?
            .downcast::<gst::Pipeline>()
            .map_err(|_| glib::bool_error!("the description is no pipeline"))?;
        let by_name = |name: &str| {
            pipeline.by_name(name).ok_or_else(|| glib::bool_error!("the pipeline has no element {name}"))
        };
        let (source, selector, tee, sink) =
            (by_name("source")?, by_name("selector")?, by_name("tee")?, by_name("viewers")?);
        source.set_property("prompt", &args.prompt);
        args.properties.iter().try_for_each(|assignment| set(&source, assignment))?;
        keep_order(&selector);
        sink.set_property("video-caps", gst::Caps::new_empty_simple("video/x-vp8"));
        // Nothing outside is asked.
        sink.set_property("stun-server", None::<&str>);
        sink.set_property_from_str("congestion-control", "disabled");
        let programme = Arc::new(Self {
            viewers: Viewers::new(&sink),
            uploads: Uploads::new(source.property::<Option<String>>("reference").as_deref())?,
            hls: args.hls.then(|| Hls::new(&by_name("hls")?)).transpose()?,
            pipeline: pipeline.clone(),
            source,
            selector,
            tee,
            events: broadcast::channel(256).0,
            recording: Mutex::default(),
            camera: Mutex::default(),
            cues: Mutex::default(),
            shot: Mutex::default(),
            args: args.clone(),
        });
        if let Err(error) = pipeline.set_state(gst::State::Playing) {
            let message = pipeline.bus().and_then(|bus| bus.pop_filtered(&[gst::MessageType::Error]));
            // What cannot play can stop.
            let _ = pipeline.set_state(gst::State::Null);
            return Err(match message.as_ref().map(|message| message.view()) {
                Some(gst::MessageView::Error(reason)) => Error::Pipeline(reason.error()),
                _ => error.into(),
            });
        }
        programme.watch_bus();
        Ok(programme)
    }

    /// Ends the programme, after a recording.
    pub fn stop(&self) {
        // What is paused would not end its file.
        let _ = self.pipeline.set_state(gst::State::Playing);
        self.record(false);
        let until = Instant::now() + LAST_RECORDING;
        while lock(&self.recording).is_some() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        // A pipeline that cannot stop ends with the process.
        let _ = self.pipeline.set_state(gst::State::Null);
    }

    /// The messages for the page from now on.
    pub fn events(&self) -> broadcast::Receiver<ToPage> {
        self.events.subscribe()
    }

    /// Something of the camera, if its picture is shown.
    fn on_air<T>(&self, of: impl FnOnce(&Camera) -> T) -> Option<T> {
        lock(&self.camera).as_ref().filter(|camera| camera.is_on_air()).map(of)
    }

    /// The element that the page steers.
    fn steered(&self) -> gst::Element {
        self.on_air(|camera| camera.filter.clone()).unwrap_or_else(|| self.source.clone())
    }

    /// The values of the properties that the page can set.
    pub fn values(&self) -> ToPage {
        let steered = self.steered();
        let value = |name: &str| -> Value {
            let value = steered.property_value(name);
            if let (Ok(Some(text)), "reference") = (value.get::<Option<String>>(), name) {
                return self.uploads.shown(&text).into();
            }
            if let Ok(text) = value.get::<Option<String>>() {
                return text.into();
            }
            if value.type_().is_a(glib::Type::ENUM) {
                return value.serialize().ok().map(|text| text.to_string()).into();
            }
            let whole = value.get::<u64>().or_else(|_| value.get::<u32>().map(u64::from));
            whole.map_or_else(|_| value.get::<f64>().ok().into(), Value::from)
        };
        let names = SETTABLE.iter().filter(|name| steered.find_property(name).is_some());
        let values: Map<_, _> = names.map(|&name| (name.to_string(), value(name))).collect();
        let paused = self.pipeline.current_state() == gst::State::Paused;
        let camera = steered != self.source;
        ToPage::Values { values, paused, recording: self.recording_file(), camera }
    }

    /// Sets properties, by the action signal `control`. Refusals come as messages.
    pub fn set(&self, values: &Map<String, Value>) {
        let steered = self.steered();
        let mut structure = gst::Structure::new_empty("soragen-control");
        // In this order: a prompt needs its transition.
        let known = SETTABLE.iter().filter_map(|name| values.get_key_value(*name));
        let unknown = values.iter().filter(|(name, _)| !SETTABLE.contains(&name.as_str()));
        for (name, value) in known.chain(unknown) {
            let refuse = |reason: &str| {
                let refused = ToPage::Refused { property: Some(name.clone()), reason: reason.into() };
                // Without a page nobody listens.
                let _ = self.events.send(refused);
            };
            if !SETTABLE.contains(&name.as_str()) {
                refuse("the page cannot set this property");
                continue;
            }
            // A camera has no shots to cut.
            if name == "transition" && steered.find_property(name).is_none() {
                continue;
            }
            match value {
                Value::String(text) if name == "reference" => match self.uploads.property(text) {
                    Ok(paths) => structure.set(name.as_str(), paths),
                    Err(reason) => refuse(&reason),
                },
                Value::String(text) => structure.set(name.as_str(), text),
                Value::Number(number) => match number.as_u64() {
                    Some(whole) => structure.set(name.as_str(), whole),
                    None => structure.set(name.as_str(), number.as_f64().unwrap_or(f64::NAN)),
                },
                _ => refuse("the value is neither a text nor a number"),
            }
        }
        if structure.n_fields() > 0 {
            steered.emit_by_name::<bool>("control", &[&structure]);
            let _ = self.events.send(self.values());
        }
    }

    /// Plays a storyboard from now on, in place of one that plays.
    pub fn play_storyboard(&self, text: &str) {
        let now = self.pipeline.current_running_time().unwrap_or_default();
        match Cues::parse(text, now, |references| self.uploads.property(references).map(drop)) {
            Ok(cues) => {
                let _ = self.events.send(ToPage::Storyboard { left: cues.len() });
                *lock(&self.cues) = cues;
                self.set_due();
            }
            Err(reason) => {
                let _ = self.events.send(ToPage::Refused { property: Some("storyboard".into()), reason });
            }
        }
    }

    /// Sets the shots of the storyboard that have begun. Returns the time to the next one.
    fn set_due(&self) -> Option<Duration> {
        // In a pause the running time goes on.
        if self.pipeline.current_state() != gst::State::Playing {
            return None;
        }
        let now = self.pipeline.current_running_time()?;
        let (due, left, next) = {
            let mut cues = lock(&self.cues);
            (cues.due(now), cues.len(), cues.next())
        };
        if let Some(values) = due {
            self.set(&values);
            let _ = self.events.send(ToPage::Storyboard { left });
        }
        next.map(|next| next.saturating_sub(now).into())
    }

    /// Shows the camera of a page, which made this offer.
    pub fn start_camera(&self, offer: &str, page: UnboundedSender<ToPage>) {
        let mut camera = lock(&self.camera);
        if let Some(before) = camera.take() {
            before.stop(&self.pipeline, lock(&self.shot).clone());
        }
        match Camera::start(&self.pipeline, &self.source, &self.selector, offer, page) {
            Ok(started) => *camera = Some(started),
            Err(error) => {
                let _ = self.events.send(ToPage::Warning { text: error.to_string() });
            }
        }
        drop(camera);
        self.tell_camera();
    }

    /// Passes on an ICE candidate of the page with the camera.
    pub fn add_camera_ice(&self, candidate: &str, line: u32) {
        if let Some(camera) = &*lock(&self.camera) {
            camera.add_ice(candidate, line);
        }
    }

    /// Shows again what `soragen` makes.
    pub fn stop_camera(&self) {
        let mut camera = lock(&self.camera);
        if let Some(before) = camera.take() {
            before.stop(&self.pipeline, lock(&self.shot).clone());
            drop(camera);
            self.tell_camera();
        }
    }

    /// A page is gone.
    pub fn leave(&self, page: &UnboundedSender<ToPage>) {
        if lock(&self.camera).as_ref().is_some_and(|camera| camera.is_of(page)) {
            self.stop_camera();
        }
    }

    fn tell_camera(&self) {
        let connected = lock(&self.camera).is_some();
        let _ = self.events.send(ToPage::Camera { connected });
        let _ = self.events.send(self.values());
    }

    /// Starts a model again that has failed.
    pub fn regenerate(&self) {
        if !self.source.emit_by_name::<bool>("regenerate", &[]) {
            let text = "the model has not failed; a new seed changes the picture".into();
            let _ = self.events.send(ToPage::Warning { text });
        }
    }

    pub fn pause(&self, paused: bool) {
        let state = if paused { gst::State::Paused } else { gst::State::Playing };
        if let Err(error) = self.pipeline.set_state(state) {
            let _ = self.events.send(ToPage::Failed { text: error.to_string() });
        }
        let _ = self.events.send(self.values());
    }

    /// Begins or ends a recording.
    pub fn record(&self, on: bool) {
        let mut recording = lock(&self.recording);
        match (&*recording, on) {
            (None, true) => {
                let (folder, keys) = (&self.args.recordings, self.args.keys.as_deref());
                let shot = self.on_air(Camera::shot).unwrap_or_else(|| lock(&self.shot).clone());
                match Recording::start(&self.pipeline, &self.tee, folder, keys, shot) {
                    Ok(started) => {
                        let file = Some(started.file.to_string_lossy().into_owned());
                        *recording = Some(started);
                        let _ = self.events.send(ToPage::Recording { file });
                    }
                    Err(error) => {
                        let _ = self.events.send(ToPage::Warning { text: error.to_string() });
                    }
                }
            }
            (Some(running), false) => running.finish(),
            _ => {}
        }
    }

    fn recording_file(&self) -> Option<String> {
        lock(&self.recording).as_ref().map(|recording| recording.file.to_string_lossy().into_owned())
    }

    /// Passes on the messages of the pipeline, on a thread of its own, until the programme is dropped.
    fn watch_bus(self: &Arc<Self>) {
        let programme = Arc::downgrade(self);
        let Some(bus) = self.pipeline.bus() else { return };
        std::thread::spawn(move || {
            let (mut metered, mut next) = (Instant::now(), None);
            loop {
                let wait = METER.saturating_sub(metered.elapsed());
                let wait = next.map_or(wait, |next: Duration| wait.min(next));
                let message = bus.timed_pop(gst::ClockTime::try_from(wait).unwrap_or_default());
                let Some(programme) = programme.upgrade() else { return };
                next = programme.set_due();
                if let Some(message) = message {
                    programme.handle(&message);
                }
                if metered.elapsed() >= METER {
                    metered = Instant::now();
                    let _ = programme.events.send(ToPage::Meter(programme.meter()));
                }
            }
        });
    }

    fn handle(&self, message: &gst::Message) {
        let of_source = message.src().is_some_and(|source| source == self.source.upcast_ref::<gst::Object>());
        if let Some(shot) = message.structure().filter(|shot| of_source && shot.name() == "soragen-shot") {
            *lock(&self.shot) = Some(shot.to_owned());
        }
        let ended = lock(&self.recording)
            .take_if(|recording| recording.is_complete(message) || recording.has_failed(message));
        if let Some(recording) = ended {
            recording.remove(&self.pipeline);
            let _ = self.events.send(ToPage::Recording { file: None });
            if let gst::MessageView::Error(error) = message.view() {
                let text = format!("the recording has failed: {}", error.error());
                let _ = self.events.send(ToPage::Warning { text });
                return;
            }
        }
        if let gst::MessageView::Latency(_) = message.view() {
            // Without it the camera's frames would be late.
            let _ = self.pipeline.recalculate_latency();
        }
        if camera::is_source_of(message) && self.handle_camera(message) {
            return;
        }
        if let Some(event) = event_of(message) {
            let _ = self.events.send(event);
        }
    }

    /// Handles a message of a camera. Returns false if it is for the page.
    fn handle_camera(&self, message: &gst::MessageRef) -> bool {
        match (message.view(), message.structure().map(|structure| structure.name().as_str())) {
            (gst::MessageView::Error(error), _) => {
                let _ = self.events.send(ToPage::Warning { text: format!("the camera: {}", error.error()) });
                self.stop_camera();
            }
            (_, Some(camera::ON_AIR)) => self.tell_camera(),
            (_, Some(camera::GONE)) => self.stop_camera(),
            _ => return false,
        }
        true
    }

    fn meter(&self) -> Meter {
        let stats = self.source.property::<gst::Structure>("stats");
        let mut latency = gst::query::Latency::new();
        let least = self.source.query(&mut latency).then(|| latency.result().1.mseconds());
        Meter {
            fps: stats.get("fps").unwrap_or_default(),
            late: stats.get("late").unwrap_or_default(),
            chunk: stats.get::<u64>("chunk-ns").unwrap_or_default() as f64 / 1e6,
            latency: least.unwrap_or_default() as f64,
            viewers: self.viewers.count(),
        }
    }
}

/// Drops frames that are not later than those before: what was switched off may hold one back, and encoders need increasing times.
fn keep_order(selector: &gst::Element) {
    let Some(pad) = selector.static_pad("src") else { return };
    let last = Mutex::new(None);
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let (time, mut last) = (info.buffer().and_then(|buffer| buffer.pts()), lock(&last));
        if time <= *last {
            // As `Drop`, with which the bindings release the buffer twice.
            return gst::PadProbeReturn::Handled;
        }
        *last = time;
        gst::PadProbeReturn::Ok
    });
}

/// Sets a property of the source, as in `seed=3`.
fn set(source: &gst::Element, assignment: &str) -> Result<()> {
    let set = |(name, text): (&str, &str)| gstsoragen::set_property(source, name, &text.to_value());
    let assigned = assignment.split_once('=').ok_or_else(|| "write it as PROPERTY=VALUE".to_string());
    assigned.and_then(set).map_err(|reason| Error::Usage(format!("--set {assignment}: {reason}")))
}

/// What the page is told of a message.
fn event_of(message: &gst::Message) -> Option<ToPage> {
    match message.view() {
        gst::MessageView::Error(error) => Some(ToPage::Failed { text: error.error().to_string() }),
        gst::MessageView::Warning(warning) => {
            let text = warning.error().to_string();
            match warning.details().filter(|details| details.name() == "soragen-refused") {
                Some(details) => {
                    Some(ToPage::Refused { property: details.get("property").ok(), reason: text })
                }
                None => Some(ToPage::Warning { text }),
            }
        }
        gst::MessageView::Element(element) => {
            let structure = element.structure()?;
            match structure.name().as_str() {
                "soragen-shot" => {
                    let references = structure.get::<gst::List>("references");
                    let names =
                        references.map(|list| list.iter().filter_map(|name| name.get().ok()).collect());
                    Some(ToPage::Shot {
                        prompt: structure.get("prompt").ok()?,
                        seed: structure.get("seed").ok()?,
                        start: structure.get::<u64>("start").ok()? as f64 / 1e9,
                        references: names.unwrap_or_default(),
                    })
                }
                "soragen-slate" => Some(ToPage::Slate {
                    shown: structure.get("shown").ok()?,
                    reason: structure.get("reason").ok(),
                }),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_property_is_an_error() {
        gst::init().unwrap();
        gstsoragen::plugin_register_static().unwrap();
        let source = gst::ElementFactory::make("soragen").build().unwrap();
        set(&source, "model=a \"b\" c=d").unwrap();
        assert_eq!(source.property::<String>("model"), "a \"b\" c=d");
        set(&source, "steps=3").unwrap();
        assert_eq!(source.property::<u32>("steps"), 3);
        for wrong in ["seed", "steps=5000", "steps=many", "stats=1", "colour=red", "label=loud", "=1"] {
            let error = set(&source, wrong).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--set {wrong}: ")), "{error}");
        }
    }
}
