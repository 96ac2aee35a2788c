//! Pipelines on a tiny model.

use std::sync::Once;

use gst::prelude::*;
use soragen_tests::fixtures::path;

/// Makes the element known.
pub fn init() {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        gst::init().unwrap();
        gstsoragen::plugin_register_static().unwrap();
        gstsoraprovenance::plugin_register_static().unwrap();
    });
}

/// `soragen` on the tiny pipeline `name`, with its smallest picture and without a mark.
pub fn tiny(name: &str) -> String {
    let folder = path(&format!("pipelines/{name}"));
    format!("soragen model=\"{}\" prompt=\"a red fox\" steps=2 watermark=false", folder.display())
}

/// What a pipeline of `description` and an appsink gives until its end.
pub fn samples(description: &str) -> Vec<gst::Sample> {
    init();
    let pipeline = gst::parse::launch(&format!("{description} ! appsink name=sink sync=false")).unwrap();
    let pipeline = pipeline.downcast::<gst::Pipeline>().unwrap();
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
