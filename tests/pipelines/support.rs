//! Helpers for pipelines with a tiny model.

use std::sync::Once;

use gst::prelude::*;
use soragen_tests::fixtures::path;

/// Initializes GStreamer and registers the plugins.
pub fn init() {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        use gst::glib::LogLevels;
        gst::init().unwrap();
        // Errors and criticals of GLib fail the test.
        gst::glib::log_set_always_fatal(LogLevels::LEVEL_ERROR | LogLevels::LEVEL_CRITICAL);
        gstsoragen::plugin_register_static().unwrap();
        gstsoraprovenance::plugin_register_static().unwrap();
    });
}

/// `soragen` with the tiny pipeline `name`, without a watermark.
pub fn tiny(name: &str) -> String {
    let folder = path(&format!("pipelines/{name}"));
    format!("soragen model=\"{}\" prompt=\"a red fox\" steps=2 watermark=false", folder.display())
}

/// A pipeline that stops when the test ends, also by a panic: a running one would end the process, and no test would report.
pub struct Pipeline(pub gst::Pipeline);

impl std::ops::Deref for Pipeline {
    type Target = gst::Pipeline;

    fn deref(&self) -> &gst::Pipeline {
        &self.0
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}

/// Parses `description` after [`init`].
pub fn parse(description: &str) -> Pipeline {
    init();
    Pipeline(gst::parse::launch(description).unwrap().downcast().unwrap())
}

/// The bytes of a frame.
pub fn pixels(sample: &gst::Sample) -> Vec<u8> {
    sample.buffer().unwrap().map_readable().unwrap().to_vec()
}

/// The bytes of every frame.
pub fn pictures(samples: &[gst::Sample]) -> Vec<Vec<u8>> {
    samples.iter().map(pixels).collect()
}

/// The values of `field` in all pending shot messages on `bus`. Removes all messages.
pub fn shots(bus: &gst::Bus, field: &str) -> Vec<u64> {
    let shots = std::iter::from_fn(|| bus.pop()).filter(|message| message.has_name("soragen-shot"));
    shots.map(|message| message.structure().unwrap().get(field).unwrap()).collect()
}

/// All samples of `description`, pulled by an appsink.
pub fn samples(description: &str) -> Vec<gst::Sample> {
    let pipeline = parse(&format!("{description} ! appsink name=sink sync=false"));
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let samples = std::iter::from_fn(|| sink.pull_sample().ok()).collect();
    pipeline.set_state(gst::State::Null).unwrap();
    samples
}

/// The error of the pipeline `description`.
pub fn error(description: &str) -> gst::glib::Error {
    let pipeline = parse(&format!("{description} ! fakesink"));
    // The error can occur here or later.
    let _ = pipeline.set_state(gst::State::Playing);
    let bus = pipeline.bus().unwrap();
    let message = bus.timed_pop_filtered(None, &[gst::MessageType::Error, gst::MessageType::Eos]);
    pipeline.set_state(gst::State::Null).unwrap();
    match message.unwrap().view() {
        gst::MessageView::Error(error) => error.error(),
        _ => panic!("{description} ends without an error"),
    }
}
