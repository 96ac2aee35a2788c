//! `soragen://` URIs, which players and editors use like files.

use gst::prelude::*;
use gst_pbutils::prelude::*;

use crate::support::{error, init, samples};

fn element(uri: &str) -> Result<gst::Element, gst::glib::Error> {
    init();
    gst::Element::make_from_uri(gst::URIType::Src, uri, None)
}

#[test]
fn a_uri_configures_the_element() {
    let source = element("soragen:///a%20red%20fox;duration=1.5;seed=7;width=320;framerate=25").unwrap();
    assert_eq!(source.property::<String>("prompt"), "a red fox");
    assert_eq!(source.property::<u64>("seed"), 7);
    assert_eq!(source.property::<i64>("duration"), 1_500_000_000);
    let handler = source.dynamic_cast_ref::<gst::URIHandler>().unwrap();
    let canonical = "soragen:///a%20red%20fox;seed=7;duration=1.5;width=320;framerate=25";
    assert_eq!(handler.uri().unwrap(), canonical);

    // The URI reflects properties too, and setting a URI resets all of them.
    source.set_property("prompt", "a cat");
    assert_eq!(handler.uri().unwrap(), canonical.replace("red%20fox", "cat"));
    handler.set_uri("soragen:///snow").unwrap();
    assert_eq!(handler.uri().unwrap(), "soragen:///snow;seed=0");
}

#[test]
fn an_invalid_uri_is_an_error() {
    let refused = element("soragen:///x;model=/etc").unwrap_err();
    assert!(refused.matches(gst::URIError::BadUri) && refused.message().contains("model"), "{refused}");
    let running = element("soragen:///x;duration=0.1").unwrap();
    let pipeline = gst::Pipeline::new();
    let sink = gst::ElementFactory::make("fakesink").build().unwrap();
    pipeline.add_many([&running, &sink]).unwrap();
    running.link(&sink).unwrap();
    pipeline.set_state(gst::State::Paused).unwrap();
    let late = running.dynamic_cast_ref::<gst::URIHandler>().unwrap().set_uri("soragen:///y").unwrap_err();
    assert!(late.matches(gst::URIError::BadState), "{late}");
    pipeline.set_state(gst::State::Null).unwrap();

    let error = error("uridecodebin uri=\"soragen:///x;width=400\"");
    assert!(error.message().contains("400xany") && error.message().contains("320x192"), "{error}");
}

#[test]
fn uridecodebin_plays_a_uri() {
    let made = samples("uridecodebin uri=\"soragen:///snow;duration=0.25\"");
    assert_eq!(made.len(), 4);
}

#[test]
fn the_discoverer_reports_a_uri_without_generating() {
    init();
    let discoverer = gst_pbutils::Discoverer::new(gst::ClockTime::from_seconds(60)).unwrap();
    let info = |uri: &str| discoverer.discover_uri(uri).unwrap();
    let hour = info("soragen:///snow;duration=3600");
    assert_eq!(hour.duration(), Some(gst::ClockTime::from_seconds(3600)));
    assert!(hour.is_seekable());
    let videos = hour.video_streams();
    assert_eq!(videos.len(), 1);
    assert_eq!((videos[0].width(), videos[0].height()), (320, 192));
    // Editors identify clips by this id.
    let id = |uri: &str| info(uri).video_streams()[0].stream_id().unwrap().to_string();
    assert_eq!(id("soragen:///snow?duration=1"), id("soragen:///snow;duration=1.0;seed=0"));
    assert_ne!(id("soragen:///snow;duration=1"), id("soragen:///snow;duration=1;seed=1"));
}
