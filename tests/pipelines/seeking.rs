//! Seeks, position and duration queries, playback direction.

use gst::prelude::*;

use crate::support::{Pipeline, init, parse, pictures, tiny};

const SIZE: &str = "video/x-raw,width=48,height=32";

/// One second of video at `rate`, pulled by the test.
fn one_second(rate: &str) -> (Pipeline, gst_app::AppSink) {
    let source = format!("{} duration=1000000000", tiny("t2v-unipc"));
    let pipeline = parse(&format!(
        "{source} ! capsfilter name=filter caps={SIZE},framerate={rate} ! appsink name=sink sync=false max-buffers=1"
    ));
    let sink = pipeline.by_name("sink").unwrap().downcast().unwrap();
    (pipeline, sink)
}

fn seek(pipeline: &gst::Pipeline, rate: f64, start: gst::ClockTime, stop: gst::ClockTime) {
    let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE;
    pipeline.seek(rate, flags, gst::SeekType::Set, start, gst::SeekType::Set, stop).unwrap();
}

#[test]
fn reverse_playback_reaches_the_beginning_after_a_frame_rate_change() {
    let (pipeline, sink) = one_second("16/1");
    pipeline.set_state(gst::State::Paused).unwrap();
    sink.pull_preroll().unwrap();
    seek(&pipeline, -1.0, gst::ClockTime::ZERO, gst::ClockTime::SECOND);
    pipeline.set_state(gst::State::Playing).unwrap();

    let mut samples: Vec<_> = (0..3).map(|_| sink.pull_sample().unwrap()).collect();
    let filter = pipeline.by_name("filter").unwrap();
    filter.set_property("caps", format!("{SIZE},framerate=8/1").parse::<gst::Caps>().unwrap());
    samples.extend(std::iter::from_fn(|| sink.pull_sample().ok()));
    pipeline.set_state(gst::State::Null).unwrap();

    let starts: Vec<_> = samples.iter().map(|s| s.buffer().unwrap().pts().unwrap()).collect();
    assert!(starts.is_sorted_by(|a, b| a > b), "{starts:?}");
    assert_eq!(starts.last().unwrap(), &gst::ClockTime::ZERO);
    // At the new rate from some frame on, with its own timestamps.
    let last = samples.last().unwrap().buffer().unwrap();
    assert_eq!(last.duration().unwrap().mseconds(), 125);
    let gap = starts.windows(2).map(|pair| (pair[0] - pair[1]).nseconds()).max().unwrap();
    assert_eq!(gap, 125_000_000, "nothing is left out");
}

#[test]
fn duration_and_conversions_work_before_negotiation() {
    init();
    let source =
        gst::parse::bin_from_description(&format!("{} duration=1000000000", tiny("t2v-unipc")), false);
    let source = source.unwrap().iterate_sources().next().unwrap().unwrap();
    let frames = gst::format::Default::from_u64;
    assert_eq!(source.query_duration::<gst::ClockTime>(), Some(gst::ClockTime::SECOND));
    assert_eq!(source.query_duration::<gst::format::Default>(), Some(frames(16)));
    let pad = source.static_pad("src").unwrap();
    assert_eq!(
        pad.query_convert::<Option<gst::ClockTime>>(frames(8)),
        Some(Some(gst::ClockTime::from_mseconds(500)))
    );
    let time = gst::ClockTime::from_mseconds(500);
    assert_eq!(pad.query_convert::<Option<gst::format::Default>>(time), Some(Some(frames(8))));
    assert_eq!(pad.query_convert::<Option<gst::format::Bytes>>(time), None);
}

#[test]
fn every_frame_can_be_seeked_by_time_and_by_number() {
    let (pipeline, sink) = one_second("30000/1001");
    pipeline.set_state(gst::State::Paused).unwrap();
    sink.pull_preroll().unwrap();
    let source = pipeline.iterate_sources().next().unwrap().unwrap();
    let pad = source.static_pad("src").unwrap();
    let frames = gst::format::Default::from_u64;
    assert_eq!(source.query_duration::<gst::format::Default>(), Some(frames(30)));
    for n in 0..30 {
        let start = pad.query_convert::<Option<gst::ClockTime>>(frames(n)).unwrap().unwrap();
        assert_eq!(pad.query_convert::<Option<gst::format::Default>>(start), Some(Some(frames(n))));
        let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE;
        source.seek(1.0, flags, gst::SeekType::Set, frames(n), gst::SeekType::None, frames(0)).unwrap();
        let shown = sink.pull_preroll().unwrap();
        assert_eq!(shown.buffer().unwrap().pts(), Some(start), "frame {n}");
    }
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn a_cancelled_video_can_be_generated_again() {
    let (pipeline, sink) = one_second("16/1");
    let source = pipeline.iterate_sources().next().unwrap().unwrap();
    let rest = || std::iter::from_fn(|| sink.pull_sample().ok()).collect::<Vec<_>>();
    pipeline.set_state(gst::State::Playing).unwrap();
    let all = rest();
    assert_eq!(all.len(), 16);
    pipeline.set_state(gst::State::Null).unwrap();

    // Cancelling before the first frame ends the stream without an error.
    pipeline.set_state(gst::State::Paused).unwrap();
    source.emit_by_name::<()>("cancel", &[]);
    let bus = pipeline.bus().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let message = bus.timed_pop_filtered(None, &[gst::MessageType::Eos, gst::MessageType::Error]).unwrap();
    assert_eq!(message.type_(), gst::MessageType::Eos, "{message:?}");
    let few = rest();
    assert!(few.len() < 16, "{}", few.len());

    pipeline.set_state(gst::State::Paused).unwrap();
    seek(&pipeline, 1.0, gst::ClockTime::ZERO, gst::ClockTime::SECOND);
    pipeline.set_state(gst::State::Playing).unwrap();
    assert!(pictures(&rest()) == pictures(&all));
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn the_next_take_uses_the_next_seed() {
    let (pipeline, sink) = one_second("16/1");
    let source = pipeline.iterate_sources().next().unwrap().unwrap();
    let play = || {
        pipeline.set_state(gst::State::Playing).unwrap();
        pictures(&std::iter::from_fn(|| sink.pull_sample().ok()).collect::<Vec<_>>())
    };
    assert!(!source.emit_by_name::<bool>("regenerate", &[]), "before there is anything");
    let first = play();
    pipeline.set_state(gst::State::Paused).unwrap();
    assert!(source.emit_by_name::<bool>("regenerate", &[]));
    assert_eq!(source.property::<u64>("seed"), 1);
    let second = play();
    // READY would suffice for the source, but an appsink keeps its EOS state until NULL.
    pipeline.set_state(gst::State::Null).unwrap();
    source.set_property("seed", 0u64);
    let again = play();
    pipeline.set_state(gst::State::Null).unwrap();
    source.set_property("seed", 1u64);
    let next = play();
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(second.len(), 16);
    assert!(first == again, "the seed decides");
    assert!(first != next, "another seed is another video");
    assert!(second == next, "another take is the video of the next seed");
}

#[test]
fn frames_have_time_codes_if_enabled() {
    let source = format!("{} duration=2100000000 timecode=00:00:58:00 steps=1", tiny("t2v-unipc"));
    let made = crate::support::samples(&format!("{source} ! {SIZE},framerate=30000/1001"));
    let codes: Vec<_> = made
        .iter()
        .map(|s| s.buffer().unwrap().meta::<gst_video::VideoTimeCodeMeta>().unwrap().tc().to_string())
        .collect();
    assert_eq!(codes[0], "00:00:58;00");
    assert_eq!((codes[59].as_str(), codes[60].as_str()), ("00:00:59;29", "00:01:00;02"));

    let without = crate::support::samples(&format!("{} duration=1 steps=1 ! {SIZE}", tiny("t2v-unipc")));
    assert!(without[0].buffer().unwrap().meta::<gst_video::VideoTimeCodeMeta>().is_none());
    let error = crate::support::error(&format!("{} timecode=soon", tiny("t2v-unipc")));
    assert!(error.matches(gst::LibraryError::Settings) && error.message().contains("10:00:00:00"), "{error}");
}

#[test]
fn presets_set_their_properties() {
    init();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/soragen/presets");
    gst::Preset::set_app_dir(folder).unwrap();
    let source = gst::ElementFactory::make("soragen").build().unwrap();
    let preset = source.dynamic_cast_ref::<gst::Preset>().unwrap();
    let names = preset.preset_names();
    assert!(
        ["draft", "standard", "broadcast"].iter().all(|name| names.iter().any(|n| n == name)),
        "{names:?}"
    );
    preset.load_preset("draft").unwrap();
    assert_eq!(source.property::<u32>("steps"), 2);
    preset.load_preset("broadcast").unwrap();
    assert_eq!(source.property::<String>("timecode"), "10:00:00:00");
    preset.load_preset("standard").unwrap();
    assert_eq!((source.property::<u32>("steps"), source.property::<Option<String>>("timecode")), (0, None));
}
