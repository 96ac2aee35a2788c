//! `soradetect` detects the watermark of `soragen` and of `soramark`.

use gst::prelude::*;

use crate::support::parse;

/// Statistics of the element `soradetect name=detect` at the end of the pipeline.
pub fn detection_stats(description: &str) -> gst::Structure {
    let pipeline = parse(description);
    pipeline.set_state(gst::State::Playing).unwrap();
    let bus = pipeline.bus().unwrap();
    let end = bus.timed_pop_filtered(None, &[gst::MessageType::Eos, gst::MessageType::Error]).unwrap();
    assert_eq!(end.type_(), gst::MessageType::Eos, "{end:?}");
    let stats = pipeline.by_name("detect").unwrap().property::<gst::Structure>("stats");
    pipeline.set_state(gst::State::Null).unwrap();
    stats
}

fn is_marked(stats: &gst::StructureRef) -> bool {
    stats.get("marked").unwrap()
}

fn id(stats: &gst::StructureRef) -> Option<u64> {
    stats.get_optional("generation-id").unwrap()
}

const CLIP: &str = "videotestsrc pattern=smpte num-buffers=12 ! video/x-raw,width=480,height=270";
const ENCODED: &str = "x264enc pass=qual quantizer=26 speed-preset=veryfast ! avdec_h264";

#[test]
fn the_watermark_survives_encoding() {
    // Of flat water the encoder keeps little.
    let source = "soragen prompt=\"a fish swims under water\" steps=2 duration=4000000000";
    let marked = detection_stats(&format!("{source} ! {ENCODED} ! soradetect name=detect ! fakesink"));
    assert!(is_marked(&marked), "{marked}");
    let prompt = "soragen prompt=\"a horse in a meadow\" steps=2 duration=2000000000";
    let other = detection_stats(&format!("{prompt} ! {ENCODED} ! soradetect name=detect ! fakesink"));
    let (id, other) = (id(&marked), id(&other));
    assert!(id.is_some() && other.is_some() && id != other, "another video, another id: {id:?} {other:?}");
    let unmarked = detection_stats(&format!("{source} watermark=false ! soradetect name=detect ! fakesink"));
    assert!(!is_marked(&unmarked), "{unmarked}");
}

#[test]
fn the_id_is_decoded_after_cropping_and_scaling() {
    // An encoder removes the invisible watermark of strength 1 from still, flat colours.
    let clip = CLIP.replace("num-buffers=12", "num-buffers=45");
    for format in ["I420", "RGB", "BGRx", "GRAY8"] {
        let stats = detection_stats(&format!(
            "{clip},format={format} ! soramark generation-id=123456789012 watermark-strength=2 ! videoconvert ! \
             {ENCODED} ! videocrop left=50 top=22 right=18 bottom=8 ! videoscale ! video/x-raw,width=320,height=186 ! \
             soradetect name=detect ! fakesink"
        ));
        assert_eq!(id(&stats), Some(123_456_789_012), "{format}: {stats}");
        assert_eq!(stats.get::<u32>("scheme").unwrap(), 2);
        assert!((stats.get::<f64>("scale").unwrap() - 320.0 / 412.0).abs() < 0.01, "{stats}");
    }
}

#[test]
fn nothing_is_detected_without_a_watermark_or_with_another_key() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "thirty-two bytes of a test's key").unwrap();
    let mark = format!("soramark generation-id=7 watermark-key={}", key.display());
    let detect = "soradetect name=detect";
    let none = detection_stats(&format!("{CLIP} ! {detect} ! fakesink"));
    assert!(!is_marked(&none) && id(&none).is_none(), "{none}");
    let other = detection_stats(&format!("{CLIP} ! {mark} ! {detect} ! fakesink"));
    assert!(!is_marked(&other) && id(&other).is_none(), "{other}");
    let same =
        detection_stats(&format!("{CLIP} ! {mark} ! {detect} watermark-key={} ! fakesink", key.display()));
    assert_eq!(id(&same), Some(7), "{same}");
}

#[test]
fn every_window_posts_a_message() {
    let description = format!("{CLIP} ! soramark generation-id=9 ! soradetect window=5 ! fakesink");
    let pipeline = parse(&description);
    pipeline.set_state(gst::State::Playing).unwrap();
    let bus = pipeline.bus().unwrap();
    let mut windows = Vec::new();
    loop {
        let wanted = [gst::MessageType::Eos, gst::MessageType::Error, gst::MessageType::Element];
        let message = bus.timed_pop_filtered(None, &wanted).unwrap();
        match message.view() {
            gst::MessageView::Element(element) => {
                let found = element.structure().unwrap();
                assert_eq!(found.name(), "soradetect");
                let since = found.get::<Option<gst::ClockTime>>("since").unwrap().unwrap();
                windows.push((since.mseconds(), found.get::<u64>("frames").unwrap(), id(found)));
            }
            gst::MessageView::Eos(_) => break,
            other => panic!("{other:?}"),
        }
    }
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(windows, [(0, 5, Some(9)), (166, 5, Some(9)), (333, 2, Some(9))]);
}

#[test]
fn an_unusable_watermark_key_is_an_error() {
    for element in ["soragen prompt=snow", "videotestsrc ! soramark", "videotestsrc ! soradetect"] {
        let error = crate::support::error(&format!("{element} watermark-key=/nowhere/key"));
        assert!(error.message().contains("/nowhere/key"), "{element}: {error}");
    }
}

/// Frames of the built-in model with this label, RGB, 320×192, 16 fps.
fn labelled(label: &str) -> Vec<Vec<u8>> {
    let source =
        "soragen prompt=\"a cat at night\" steps=1 duration=2250000000 watermark=false cache-dir=\"\"";
    let samples = crate::support::samples(&format!("{source} label={label} ! video/x-raw,format=RGB"));
    crate::support::pictures(&samples)
}

#[test]
fn a_label_is_visible_from_the_first_frame() {
    let plain = labelled("none");
    for (label, grows) in [("ai", false), ("ai-generated", true), ("cn", true)] {
        let frames = labelled(label);
        assert_eq!(frames.len(), 36);
        // Extent of the difference to the video without a label, from the upper left corner.
        let extents: Vec<(usize, usize)> = frames
            .iter()
            .zip(&plain)
            .map(|(frame, plain)| {
                let pixels = frame.chunks_exact(3).zip(plain.chunks_exact(3)).enumerate();
                pixels
                    .filter(|(_, (a, b))| a != b)
                    .fold((0, 0), |(rows, columns), (i, _)| (rows.max(i / 320 + 1), columns.max(i % 320 + 1)))
            })
            .collect();
        let (first, last) = (extents[0], extents[35]);
        assert!(last.0 >= 20 && last.0 < 40 && last.1 < 200, "{label}: {last:?}");
        assert!(extents[..32].iter().all(|extent| *extent == first), "{label}: {extents:?}");
        assert!(extents[32..].iter().all(|extent| *extent == last), "{label}: {extents:?}");
        assert_eq!(first.0 > last.0, grows, "{label}: {extents:?}");
        assert!(
            frames.iter().all(|frame| frame[..320 * 3 * last.0].contains(&255)),
            "{label}: white letters"
        );
    }
}
