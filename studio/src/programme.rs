//! The pipeline: a live `soragen`, shown to browsers and recorded.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gst::glib;
use gst::prelude::*;
use serde_json::{Map, Value};
use tokio::sync::broadcast;

use crate::args::Args;
use crate::error::{Error, Result};
use crate::protocol::{Meter, ToPage};
use crate::recording::Recording;
use crate::viewers::Viewers;

/// What the page may set. A reference may only be a drawing of the model: the page must not name files of this machine.
const SETTABLE: [&str; 11] = [
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
];
/// Time between two meter messages.
const METER: Duration = Duration::from_millis(500);
/// How long the end of a recording may take when the program stops.
const LAST_RECORDING: Duration = Duration::from_secs(5);

/// The running programme.
pub struct Programme {
    pipeline: gst::Pipeline,
    source: gst::Element,
    tee: gst::Element,
    pub viewers: Viewers,
    events: broadcast::Sender<ToPage>,
    recording: Mutex<Option<Recording>>,
    /// The `soragen-shot` that is shown.
    shot: Mutex<Option<gst::Structure>>,
    args: Args,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Programme {
    /// Starts the pipeline.
    ///
    /// # Errors
    /// If an element is missing, or a property is wrong.
    pub fn start(args: &Args) -> Result<Arc<Self>> {
        let description = "soragen name=source is-live=true slate=black duration=-1 ! tee name=tee allow-not-linked=true ! \
                           queue leaky=downstream max-size-buffers=4 ! videoconvert ! webrtcsink name=viewers";
        let pipeline = gst::parse::launch(description)?
            .downcast::<gst::Pipeline>()
            .map_err(|_| glib::bool_error!("the description is no pipeline"))?;
        let by_name = |name: &str| {
            pipeline.by_name(name).ok_or_else(|| glib::bool_error!("the pipeline has no element {name}"))
        };
        let (source, tee, sink) = (by_name("source")?, by_name("tee")?, by_name("viewers")?);
        source.set_property("prompt", &args.prompt);
        for assignment in &args.properties {
            set_from_text(&source, assignment)?;
        }
        sink.set_property("video-caps", gst::Caps::new_empty_simple("video/x-vp8"));
        // Nothing outside is asked.
        sink.set_property("stun-server", None::<&str>);
        sink.set_property_from_str("congestion-control", "disabled");
        let programme = Arc::new(Self {
            viewers: Viewers::new(&sink),
            pipeline,
            source,
            tee,
            events: broadcast::channel(256).0,
            recording: Mutex::default(),
            shot: Mutex::default(),
            args: args.clone(),
        });
        if let Err(error) = programme.pipeline.set_state(gst::State::Playing) {
            let bus = programme.pipeline.bus();
            let message = bus.and_then(|bus| bus.pop_filtered(&[gst::MessageType::Error]));
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

    /// The values of the properties that the page can set.
    pub fn values(&self) -> ToPage {
        let value = |name: &str| -> Value {
            let value = self.source.property_value(name);
            if let Ok(text) = value.get::<Option<String>>() {
                return text.into();
            }
            if let Ok(number) = value.transform::<f64>().map(|number| number.get::<f64>()) {
                return number.unwrap_or_default().into();
            }
            value.transform::<String>().ok().and_then(|text| text.get::<String>().ok()).into()
        };
        let mut values: Map<_, _> = SETTABLE.iter().map(|&name| (name.to_string(), value(name))).collect();
        let label = self.source.property_value("label").serialize();
        values.insert("label".into(), label.map_or(Value::Null, |text| text.as_str().into()));
        let paused = self.pipeline.current_state() == gst::State::Paused;
        ToPage::Values { values, paused, recording: self.recording_file() }
    }

    /// Sets properties, by the action signal `control`. Refusals come as messages.
    pub fn set(&self, values: &Map<String, Value>) {
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
            match value {
                Value::String(text) if name == "reference" && !is_of_bank(text) => {
                    refuse("a reference from the page is a drawing, as in bank:fox");
                }
                Value::String(text) => structure.set(name.as_str(), text),
                Value::Number(number) => match number.as_u64() {
                    Some(whole) => structure.set(name.as_str(), whole),
                    None => structure.set(name.as_str(), number.as_f64().unwrap_or(f64::NAN)),
                },
                _ => refuse("the value is neither a text nor a number"),
            }
        }
        if structure.n_fields() > 0 {
            self.source.emit_by_name::<bool>("control", &[&structure]);
            let _ = self.events.send(self.values());
        }
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
                let shot = lock(&self.shot).clone();
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
            let mut metered = Instant::now();
            loop {
                let wait = METER.saturating_sub(metered.elapsed());
                let wait = gst::ClockTime::try_from(wait).unwrap_or_default();
                let message = bus.timed_pop(wait);
                let Some(programme) = programme.upgrade() else { return };
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
        let failed = lock(&self.recording).take_if(|recording| recording.has_failed(message));
        if let (Some(recording), gst::MessageView::Error(error)) = (failed, message.view()) {
            recording.remove(&self.pipeline);
            let _ = self.events.send(ToPage::Recording { file: None });
            let text = format!("the recording has failed: {}", error.error());
            let _ = self.events.send(ToPage::Warning { text });
            return;
        }
        if let Some(shot) = message.structure().filter(|structure| structure.name() == "soragen-shot") {
            *lock(&self.shot) = Some(shot.to_owned());
        }
        let complete = lock(&self.recording).take_if(|recording| recording.is_complete(message));
        if let Some(recording) = complete {
            recording.remove(&self.pipeline);
            let _ = self.events.send(ToPage::Recording { file: None });
        }
        if let Some(event) = event_of(message) {
            let _ = self.events.send(event);
        }
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

fn is_of_bank(text: &str) -> bool {
    text.split(';').all(|reference| reference.trim().is_empty() || reference.trim().starts_with("bank:"))
}

/// Sets a property as gst-launch does.
fn set_from_text(element: &gst::Element, assignment: &str) -> Result<()> {
    let wrong = |reason: String| Error::Usage(format!("--set {assignment}: {reason}"));
    let (name, text) =
        assignment.split_once('=').ok_or_else(|| wrong("write it as PROPERTY=VALUE".into()))?;
    let property = element.find_property(name).ok_or_else(|| wrong(format!("there is no {name}")))?;
    let value = glib::Value::deserialize_with_pspec(text, &property)
        .map_err(|_| wrong(format!("{text} is no {}", property.value_type())))?;
    element.set_property_from_value(name, &value);
    Ok(())
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
    fn the_page_cannot_name_files() {
        for bank in ["", "bank:fox", "bank:fox; bank:wolf"] {
            assert!(is_of_bank(bank), "{bank}");
        }
        for file in ["/etc/passwd", "bank:fox;/etc/passwd", "fox.png"] {
            assert!(!is_of_bank(file), "{file}");
        }
    }
}
