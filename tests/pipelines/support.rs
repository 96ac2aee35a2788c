//! Pipelines on a tiny model.

use std::sync::Once;

use gst::prelude::*;
use soragen_tests::fixtures::path;

/// Makes the element known.
pub fn init() {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        use gst::glib::LogLevels;
        gst::init().unwrap();
        // Whatever GLib finds wrong ends the test.
        gst::glib::log_set_always_fatal(LogLevels::LEVEL_ERROR | LogLevels::LEVEL_CRITICAL);
        gstsoragen::plugin_register_static().unwrap();
        gstsoraprovenance::plugin_register_static().unwrap();
    });
}

/// `soragen` on the tiny pipeline `name`, with its smallest picture and without a mark.
pub fn tiny(name: &str) -> String {
    let folder = path(&format!("pipelines/{name}"));
    format!("soragen model=\"{}\" prompt=\"a red fox\" steps=2 watermark=false", folder.display())
}

/// The pipeline of `description`, with the element known.
pub fn parse(description: &str) -> gst::Pipeline {
    init();
    gst::parse::launch(description).unwrap().downcast().unwrap()
}

/// The bytes of a frame.
pub fn pixels(sample: &gst::Sample) -> Vec<u8> {
    sample.buffer().unwrap().map_readable().unwrap().to_vec()
}

/// The bytes of every frame.
pub fn pictures(samples: &[gst::Sample]) -> Vec<Vec<u8>> {
    samples.iter().map(pixels).collect()
}

/// What the messages about shots that wait on `bus` say of `field`; nothing else is left there.
pub fn shots(bus: &gst::Bus, field: &str) -> Vec<u64> {
    let shots = std::iter::from_fn(|| bus.pop()).filter(|message| message.has_name("soragen-shot"));
    shots.map(|message| message.structure().unwrap().get(field).unwrap()).collect()
}

/// What a pipeline of `description` and an appsink gives until its end.
pub fn samples(description: &str) -> Vec<gst::Sample> {
    let pipeline = parse(&format!("{description} ! appsink name=sink sync=false"));
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let samples = std::iter::from_fn(|| sink.pull_sample().ok()).collect();
    pipeline.set_state(gst::State::Null).unwrap();
    samples
}

/// The first error that a pipeline of `description` ends with.
pub fn error(description: &str) -> gst::glib::Error {
    init();
    let pipeline = gst::parse::launch(&format!("{description} ! fakesink")).unwrap();
    // It may fail at once or later.
    let _ = pipeline.set_state(gst::State::Playing);
    let bus = pipeline.bus().unwrap();
    let message = bus.timed_pop_filtered(None, &[gst::MessageType::Error, gst::MessageType::Eos]);
    pipeline.set_state(gst::State::Null).unwrap();
    match message.unwrap().view() {
        gst::MessageView::Error(error) => error.error(),
        _ => panic!("{description} ends without an error"),
    }
}
