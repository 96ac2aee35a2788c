//! Caps of the source pad, and negotiation.

use gst::prelude::*;

use crate::support::{init, samples, tiny};

fn negotiated_caps(filter: &str) -> String {
    let made = samples(&format!("{} duration=1 ! {filter}", tiny("t2v-unipc")));
    made[0].caps().unwrap().to_string()
}

#[test]
fn the_default_format_is_i420() {
    let caps = negotiated_caps("video/x-raw,width=48,height=32");
    for part in [
        "format=(string)I420",
        "framerate=(fraction)16/1",
        "pixel-aspect-ratio=(fraction)1/1",
        "interlace-mode=(string)progressive",
        "colorimetry=(string)bt601",
        "chroma-site=(string)mpeg2",
    ] {
        assert!(caps.contains(part), "{part} in {caps}");
    }
}

#[test]
fn the_requested_colorimetry_is_used() {
    let caps = negotiated_caps("video/x-raw,width=48,height=32,format=NV12,colorimetry=bt709");
    assert!(caps.contains("NV12") && caps.contains("bt709"), "{caps}");
    assert!(negotiated_caps("video/x-raw,width=48,height=32,format=RGB").contains("sRGB"));
}

#[test]
fn only_sizes_of_the_model_are_offered() {
    init();
    let source = gst::parse::bin_from_description(&tiny("t2v-unipc"), true).unwrap();
    source.set_state(gst::State::Paused).unwrap();
    let caps = source.static_pad("src").unwrap().query_caps(None);
    source.set_state(gst::State::Null).unwrap();
    let fits = |size: &str| caps.can_intersect(&size.parse::<gst::Caps>().unwrap());
    assert!(fits("video/x-raw,width=64,height=48"));
    assert!(!fits("video/x-raw,width=60,height=48"));
}

#[test]
fn caps_are_known_without_a_model() {
    init();
    let element = gst::ElementFactory::make("soragen").property("model", "/no/such/model").build().unwrap();
    assert_eq!(element.factory().unwrap().metadata("klass").unwrap(), "Source/Video");
    let offered = element.static_pad("src").unwrap().query_caps(None);
    assert_eq!(offered, element.pad_template("src").unwrap().caps().clone());
}
