//! Live sources.

use gst::prelude::*;
use soragen_tests::fixtures::path;

use crate::support::{parse, pixels, shots};

/// A live source with `arguments` and a test clock that the test advances.
fn live(arguments: &str) -> (gst::Pipeline, gst_check::TestClock, gst::Element) {
    let pipeline = parse(&format!(
        "soragen name=source is-live=true model=\"{}\" prompt=\"the red fox\" {arguments} ! video/x-raw,format=RGB ! \
         appsink name=sink sync=false",
        path("miniature").display()
    ));
    let clock = gst_check::TestClock::new();
    pipeline.use_clock(Some(&clock));
    let source = pipeline.by_name("source").unwrap();
    (pipeline, clock, source)
}

fn frames(pipeline: &gst::Pipeline) -> Vec<gst::Sample> {
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    std::iter::from_fn(|| sink.pull_sample().ok()).collect()
}

#[test]
fn a_late_model_repeats_the_last_frame() {
    // The second chunk takes a thousand steps, so it is always late.
    let (pipeline, clock, source) = live("steps=1000 guidance-scale=1 num-buffers=12");
    pipeline.set_state(gst::State::Playing).unwrap();
    clock.set_time(gst::ClockTime::from_seconds(3600));
    let made = frames(&pipeline);
    let stats = source.property::<gst::Structure>("stats");
    let bus = pipeline.bus().unwrap();
    let messages: Vec<_> = std::iter::from_fn(|| bus.pop_filtered(&[gst::MessageType::Qos])).collect();
    pipeline.set_state(gst::State::Null).unwrap();

    assert_eq!(made.len(), 12);
    for (n, message) in (5u64..).zip(&messages) {
        let gst::MessageView::Qos(qos) = message.view() else { unreachable!() };
        let (live, running_time, _, start, _) = qos.get();
        let start = start.map(gst::ClockTime::nseconds);
        assert_eq!((live, start), (true, Some(n * 62_500_000)));
        let jitter = gst::ClockTime::from_seconds(3600) - running_time.unwrap();
        assert_eq!(qos.values().0 as u64, jitter.nseconds());
        let (shown, held) = qos.stats();
        assert_eq!((shown.value(), held.value()), (5, n as i64 - 4));
    }
    assert_eq!(messages.len(), 7);
    for (n, sample) in made.iter().enumerate() {
        // Timestamps continue without a gap.
        assert_eq!(sample.buffer().unwrap().pts().unwrap().nseconds(), n as u64 * 62_500_000, "frame {n}");
        assert_eq!(pixels(sample) == pixels(&made[4]), n >= 4, "frame {n}");
    }
    assert_eq!(stats.get::<u64>("late").unwrap(), 7);
    assert_eq!(stats.get::<u64>("frames").unwrap(), 5);
}

#[test]
fn a_model_in_time_neither_repeats_nor_drops_frames() {
    // The clock stands still, so nothing is ever late.
    let (pipeline, _clock, source) = live("seed=3 num-buffers=5");
    pipeline.set_state(gst::State::Playing).unwrap();
    let made: Vec<_> = frames(&pipeline).iter().map(pixels).collect();
    let stats = source.property::<gst::Structure>("stats");
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(stats.get::<u64>("late").unwrap(), 0);
    let file = format!(
        "soragen seed=3 duration=312500000 model=\"{}\" prompt=\"the red fox\" ! video/x-raw,format=RGB",
        path("miniature").display()
    );
    assert!(crate::support::samples(&file).iter().map(pixels).eq(made));
}

#[test]
fn the_latency_query_reports_one_frame() {
    let (pipeline, _clock, source) = live("");
    pipeline.set_state(gst::State::Playing).unwrap();
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    sink.pull_sample().unwrap();
    let mut latency = gst::query::Latency::new();
    assert!(source.query(&mut latency));
    let (live, least, _) = latency.result();
    assert!(live);
    assert_eq!(least.nseconds(), 62_500_000);
    let mut seeking = gst::query::Seeking::new(gst::Format::Time);
    assert!(source.query(&mut seeking));
    assert!(!seeking.result().0, "what is live cannot be sought in");
    assert_eq!(source.query_duration::<gst::ClockTime>(), None, "nor has it an end");
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn the_size_can_change_while_live() {
    let model = path("pipelines/t2v-unipc");
    let pipeline = parse(&format!(
        "soragen is-live=true model=\"{}\" prompt=\"a red fox\" steps=2 duration=1000000000 ! \
         capsfilter name=size caps=video/x-raw,format=RGB,width=48,height=32 ! appsink name=sink sync=false max-buffers=1",
        model.display()
    ));
    let clock = gst_check::TestClock::new();
    pipeline.use_clock(Some(&clock));
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    // All frames from here on are late.
    clock.set_time(gst::ClockTime::from_seconds(3600));
    let first = sink.pull_sample().unwrap();
    let caps = "video/x-raw,format=RGB,width=80,height=64".parse::<gst::Caps>().unwrap();
    pipeline.by_name("size").unwrap().set_property("caps", &caps);
    let rest: Vec<_> = std::iter::from_fn(|| sink.pull_sample().ok()).collect();
    let error = pipeline.bus().unwrap().pop_filtered(&[gst::MessageType::Error]);
    pipeline.set_state(gst::State::Null).unwrap();
    assert!(error.is_none(), "{error:?}");
    assert_eq!(pixels(&first).len(), 48 * 32 * 3);
    assert_eq!(rest.last().map(|sample| pixels(sample).len()), Some(80 * 64 * 3));
}

#[test]
fn a_live_or_endless_stream_cannot_be_regenerated() {
    for arguments in ["is-live=true duration=2000000000", "duration=-1"] {
        let pipeline = parse(&format!(
            "soragen name=source {arguments} model=\"{}\" prompt=\"the red fox\" ! appsink name=sink sync=false max-buffers=1",
            path("miniature").display()
        ));
        let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        sink.pull_sample().unwrap();
        let source = pipeline.by_name("source").unwrap();
        assert!(!source.emit_by_name::<bool>("regenerate", &[]), "{arguments}");
        assert_eq!(source.property::<u64>("seed"), 0);
        pipeline.set_state(gst::State::Null).unwrap();
    }
}

#[test]
fn a_live_storyboard_cuts_at_the_exact_frame() {
    let film = "0:00 the red fox | 0:00.5 a blue bird | 0:01 (cut) the green cat | 0:02";
    let storyboard = format!("seed=3 watermark=false storyboard=\"{film}\"");
    let (pipeline, _clock, _) = live(&format!("{storyboard} num-buffers=32"));
    pipeline.set_state(gst::State::Playing).unwrap();
    let made: Vec<_> = frames(&pipeline).iter().map(pixels).collect();
    let starts = shots(&pipeline.bus().unwrap(), "frame");
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(starts, [0, 5, 16]);
    let model = path("miniature");
    let file = format!("soragen {storyboard} model=\"{}\" ! video/x-raw,format=RGB", model.display());
    assert!(crate::support::samples(&file).iter().map(pixels).eq(made));
}
