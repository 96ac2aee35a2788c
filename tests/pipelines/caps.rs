//! Caps of the source pad, and negotiation.

use gst::prelude::*;

use crate::support::{error, init, parse, samples, tiny};

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

#[test]
fn the_colours_that_downstream_asks_for_are_used() {
    for fields in [
        "format=I420,chroma-site=jpeg",
        "format=NV12,chroma-site=cosited",
        "colorimetry=1:4:0:0",
        "colorimetry=sRGB",
    ] {
        let caps = negotiated_caps(&format!("video/x-raw,width=48,height=32,{fields}"));
        for field in fields.split(',') {
            let (name, value) = field.split_once('=').unwrap();
            assert!(caps.contains(&format!("{name}=(string){value}")), "{field} in {caps}");
        }
    }
    // The first structure and the first colorimetry are not possible.
    let choice = "video/x-raw,width=48,height=32,format=I420,chroma-site=dv;                  video/x-raw,width=48,height=32,format=NV12,colorimetry={bt2100-pq,bt709}";
    let caps = negotiated_caps(&format!("capsfilter caps=\"{choice}\""));
    assert!(caps.contains("NV12") && caps.contains("bt709"), "{caps}");
    // An encoder with the site of JPEG.
    assert!(
        !samples(&format!("{} duration=1 ! video/x-raw,width=48,height=32 ! jpegenc", tiny("t2v-unipc")))
            .is_empty()
    );
}

#[test]
fn a_conflict_with_downstream_says_what_the_model_makes() {
    for (fields, asked, made) in [
        ("width=50,height=50", "width=50, height=50", "the sizes"),
        ("width=(int)[1,8]", "width=[ 1, 8 ]", "the sizes"),
        ("framerate=0/1", "framerate=0/1", "frame rate above 0, such as its own 16/1"),
        ("pixel-aspect-ratio=4/3", "pixel-aspect-ratio=4/3", "square pixels"),
        ("interlace-mode=interleaved", "interlace-mode=interleaved", "progressive"),
        ("colorimetry=bt2100-pq", "colorimetry=bt2100-pq", "bt709"),
        ("format=I420,chroma-site=dv", "chroma-site=dv", "mpeg2, jpeg"),
        ("multiview-mode=side-by-side", "multiview-mode=side-by-side", "mono"),
        ("framerate=0/1,pixel-aspect-ratio=4/3", "framerate=0/1, pixel-aspect-ratio=4/3", "square pixels"),
    ] {
        let error = error(&format!("{} ! video/x-raw,{fields}", tiny("t2v-unipc")));
        assert!(error.matches(gst::CoreError::Negotiation), "{fields}: {error}");
        let reason = error.message();
        assert!(reason.contains(&format!("accepts only {asked}, but")), "{fields}: {reason}");
        assert!(reason.contains(made), "{fields}: {reason}");
    }
    // Of several, the one that comes closest.
    let caps = "video/x-raw,framerate=0/1,width=50;video/x-raw,framerate=0/1";
    let reason = error(&format!("{} ! capsfilter caps=\"{caps}\"", tiny("t2v-unipc"))).to_string();
    assert!(reason.contains("only framerate=0/1, but"), "{reason}");
}

#[test]
fn an_empty_prompt_is_refused_before_the_model_is_loaded() {
    for arguments in ["", "prompt=\" \"", "prompt=\"\t\" is-live=true duration=-1", "model=hf:soragen/none"] {
        let model = tiny("t2v-unipc").replace("prompt=\"a red fox\"", "");
        let pipeline = parse(&format!("{model} {arguments} ! fakesink"));
        assert!(pipeline.set_state(gst::State::Playing).is_err(), "{arguments}");
        let bus = pipeline.bus().unwrap();
        let messages: Vec<_> = std::iter::from_fn(|| bus.pop()).collect();
        pipeline.set_state(gst::State::Null).unwrap();
        assert!(messages.iter().all(|message| message.type_() != gst::MessageType::Progress), "{arguments}");
        let reason = messages.iter().find_map(|message| match message.view() {
            gst::MessageView::Error(error) => Some(error.error().to_string()),
            _ => None,
        });
        assert!(
            reason.as_ref().is_some_and(|reason| reason.contains("the prompt is empty")),
            "{arguments}: {reason:?}"
        );
    }
}
