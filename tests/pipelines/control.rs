//! Changes while a video plays: from outside, and by controllers.

use std::time::{Duration, Instant};

use gst::prelude::*;
use gst_controller::prelude::*;
use soragen_tests::fixtures::path;

use crate::support::{Pipeline, init, parse, pixels};

/// The first frames of the chunks of the miniature model.
const CHUNKS: [u64; 4] = [0, 5, 13, 21];

fn video(arguments: &str) -> String {
    format!(
        "soragen name=source model=\"{}\" prompt=\"the red fox\" watermark=false cache-dir=none {arguments} ! \
         video/x-raw,format=RGB ! appsink name=sink sync=false max-buffers=1",
        path("miniature").display()
    )
}

fn sink(pipeline: &Pipeline) -> gst_app::AppSink {
    pipeline.by_name("sink").unwrap().downcast().unwrap()
}

fn source(pipeline: &Pipeline) -> gst::Element {
    pipeline.by_name("source").unwrap()
}

/// All frames of `pipeline`.
pub fn frames(pipeline: &Pipeline) -> Vec<Vec<u8>> {
    let sink = sink(pipeline);
    pipeline.set_state(gst::State::Playing).unwrap();
    let frames = std::iter::from_fn(|| sink.pull_sample().ok()).map(|sample| pixels(&sample)).collect();
    pipeline.set_state(gst::State::Null).unwrap();
    frames
}

fn control(fields: &[(&str, &dyn ToSendValue)]) -> gst::Structure {
    let mut structure = gst::Structure::new_empty("soragen-control");
    for (name, value) in fields {
        structure.set_value(*name, value.to_send_value());
    }
    structure
}

/// Steps from `before` to `after` at frame `frame`.
pub fn set_controller(source: &gst::Element, property: &str, [before, after]: [f64; 2], frame: u64) {
    let steps = gst_controller::InterpolationControlSource::new();
    steps.set_property("mode", gst_controller::InterpolationMode::None);
    steps.set(gst::ClockTime::ZERO, before);
    steps.set(gst::ClockTime::from_nseconds(frame * 62_500_000), after);
    let binding = gst_controller::DirectControlBinding::new_absolute(source, property, &steps);
    source.add_control_binding(&binding).unwrap();
}

/// Values of each property with a controller.
const CONTROLLED: [(&str, [f64; 2]); 5] = [
    ("guidance-scale", [3.0, 6.0]),
    ("steps", [2.0, 3.0]),
    ("shift", [3.0, 8.0]),
    ("seed", [0.0, 7.0]),
    ("label", [0.0, 2.0]),
];

/// Asserts that a value of `property` counts from the third chunk of `video`, of 29 frames, if a controller sets it at its first
/// frame, and also in the middle of the second one, which is then over.
fn assert_counts_from_its_chunk(video: &str, property: &str, values: [f64; 2]) {
    let constant = frames(&parse(video));
    for at in [13, 8] {
        let pipeline = parse(video);
        set_controller(&source(&pipeline), property, values, at);
        let changed = frames(&pipeline);
        assert_eq!(changed.len(), 29, "{property}");
        let first = (0..29).find(|&n| changed[n] != constant[n]);
        assert_eq!(first, Some(CHUNKS[2] as usize), "{property} at frame {at}");
    }
}

#[test]
fn a_controlled_property_counts_from_the_chunk_that_begins_at_its_time() {
    for (property, values) in CONTROLLED {
        let video = video(&format!("duration=1812500000 {property}={}", values[0] as u64));
        assert_counts_from_its_chunk(&video, property, values);
    }
}

#[test]
fn guidance_can_be_turned_on_and_off() {
    let video = video("duration=1812500000 guidance-scale=1");
    let without = frames(&parse(&video));
    let pipeline = parse(&video);
    set_controller(&source(&pipeline), "guidance-scale", [1.0, 4.0], 13);
    let with = frames(&pipeline);
    assert!(with[..13] == without[..13] && with[13] != without[13]);
    // The same video again, from the changes that were applied.
    let sink = sink(&pipeline);
    pipeline.set_state(gst::State::Playing).unwrap();
    let first: Vec<_> = (0..29).map(|_| pixels(&sink.pull_sample().unwrap())).collect();
    pipeline.seek_simple(gst::SeekFlags::FLUSH, gst::ClockTime::ZERO).unwrap();
    let second: Vec<_> =
        std::iter::from_fn(|| sink.pull_sample().ok()).map(|sample| pixels(&sample)).collect();
    assert!(first == with && second == with);
}

#[test]
fn all_numbers_that_may_change_can_have_a_controller() {
    init();
    let source = gst::ElementFactory::make("soragen").build().unwrap();
    let filter = gst::ElementFactory::make("sorafilter").build().unwrap();
    let controllable = |element: &gst::Element| -> Vec<_> {
        let specs = element.list_properties();
        let own = specs.iter().filter(|spec| spec.flags().contains(gst::PARAM_FLAG_CONTROLLABLE));
        own.map(|spec| spec.name().to_string()).collect()
    };
    let of_source = controllable(&source);
    let mut tested: Vec<_> = CONTROLLED.iter().map(|(name, _)| *name).chain(["blend-chunks"]).collect();
    tested.sort_unstable();
    let mut found = of_source.clone();
    found.sort();
    assert_eq!(found, tested);
    for name in of_source.iter().filter(|name| *name != "steps") {
        assert!(controllable(&filter).contains(name), "{name}");
    }
    for name in ["strength", "motion-noise", "control-scale"] {
        assert!(controllable(&filter).iter().any(|found| found == name), "{name}");
    }
}

/// The prompts of the shots on the bus. Removes all messages.
fn prompts(pipeline: &Pipeline) -> Vec<String> {
    let bus = pipeline.bus().unwrap();
    let shots = std::iter::from_fn(|| bus.pop()).filter(|message| message.has_name("soragen-shot"));
    shots.map(|message| message.structure().unwrap().get("prompt").unwrap()).collect()
}

#[test]
fn an_event_from_behind_an_encoder_changes_the_video() {
    let pipeline = parse(&format!(
        "soragen name=source model=\"{}\" prompt=\"the red fox\" duration=-1 cache-dir=none ! videoconvert ! x264enc tune=zerolatency ! \
         h264parse ! appsink name=sink sync=false max-buffers=1",
        path("miniature").display()
    ));
    let (source, sink) = (source(&pipeline), sink(&pipeline));
    pipeline.set_state(gst::State::Playing).unwrap();
    sink.pull_sample().unwrap();
    let pad = sink.static_pad("sink").unwrap();
    let send = |structure| pad.push_event(gst::event::CustomUpstream::new(structure));
    assert!(send(control(&[("prompt", &"a blue bird"), ("element", &"source"), ("seed", &7i64)])));
    assert_eq!(source.property::<String>("prompt"), "a blue bird");
    assert_eq!(source.property::<u64>("seed"), 7);
    // For another element: nothing happens.
    send(control(&[("prompt", &"a green cat"), ("element", &"another")]));
    assert_eq!(source.property::<String>("prompt"), "a blue bird");
    let mut shown = Vec::new();
    while shown.last().is_none_or(|prompt| prompt != "a blue bird") {
        sink.pull_sample().unwrap();
        shown.extend(prompts(&pipeline));
    }
    assert!(shown.len() <= 2, "one change: {shown:?}");
}

#[test]
fn values_come_as_they_are_as_strings_and_as_numbers() {
    init();
    let source = gst::ElementFactory::make("soragen").build().unwrap();
    let set =
        |fields: &[(&str, &dyn ToSendValue)]| source.emit_by_name::<bool>("control", &[&control(fields)]);
    assert!(set(&[("prompt", &"a fox, it runs"), ("steps", &"3"), ("label", &"ai"), ("shift", &2i32)]));
    assert_eq!(source.property::<String>("prompt"), "a fox, it runs");
    assert_eq!(source.property::<u32>("steps"), 3);
    assert_eq!(source.property::<f64>("shift"), 2.0);
    assert!(source.property_value("label").serialize().unwrap().contains("ai"));
    assert!(set(&[("steps", &4.0f64), ("seed", &5.0f64), ("guidance-scale", &"2.5")]));
    assert_eq!(source.property::<u32>("steps"), 4);
    assert_eq!(source.property::<u64>("seed"), 5);
    assert_eq!(source.property::<f64>("guidance-scale"), 2.5);
}

/// The properties and reasons of refusals on the bus.
fn refusals(bus: &gst::Bus) -> Vec<(Option<String>, String)> {
    let warnings = std::iter::from_fn(|| bus.pop_filtered(&[gst::MessageType::Warning]));
    let details = warnings.map(|message| match message.view() {
        gst::MessageView::Warning(warning) => {
            let details = warning.details().unwrap();
            (details.get("property").ok(), details.get("reason").unwrap())
        }
        _ => unreachable!(),
    });
    details.collect()
}

#[test]
fn what_cannot_be_set_is_a_warning_and_the_rest_is_set() {
    init();
    let source = gst::ElementFactory::make("soragen").build().unwrap();
    let bus = gst::Bus::new();
    source.set_bus(Some(&bus));
    let structure = control(&[
        ("colour", &"red"),
        ("model", &"other"),
        ("steps", &-1i32),
        ("seed", &1.5f64),
        ("shift", &"far"),
        ("label", &"large"),
        ("guidance-scale", &1000.0f64),
        ("prompt", &"a fox"),
    ]);
    assert!(!source.emit_by_name::<bool>("control", &[&structure]));
    assert_eq!(source.property::<Option<String>>("prompt").as_deref(), Some("a fox"));
    assert_eq!(source.property::<String>("model"), "builtin");
    let refused: Vec<_> = refusals(&bus).into_iter().map(|(property, _)| property.unwrap()).collect();
    assert_eq!(refused, ["colour", "model", "steps", "seed", "shift", "label", "guidance-scale"]);
    assert!(!source.emit_by_name::<bool>("control", &[&gst::Structure::new_empty("other")]));
    assert_eq!(refusals(&bus).len(), 1);
    source.set_bus(None);
}

#[test]
fn what_the_policy_or_the_model_refuses_is_a_warning() {
    let pipeline = parse(&video("duration=-1"));
    let (source, sink, bus) = (source(&pipeline), sink(&pipeline), pipeline.bus().unwrap());
    source.connect("prompt-check", false, |args| {
        Some((!args[1].get::<String>().unwrap().contains("wolf")).to_value())
    });
    pipeline.set_state(gst::State::Playing).unwrap();
    sink.pull_sample().unwrap();
    // Plays until a refusal comes.
    let refused = |prompt: &str| {
        assert!(source.emit_by_name::<bool>("control", &[&control(&[("prompt", &prompt)])]));
        loop {
            sink.pull_sample().unwrap();
            let refused = refusals(&bus);
            if !refused.is_empty() {
                return refused;
            }
        }
    };
    assert_eq!(refused("a fox :: 0.5 | a wolf")[0].0.as_deref(), Some("prompt"));
    let refused = refused("a fox :: red");
    assert!(refused[0].1.contains("weight"), "{refused:?}");
}

#[test]
fn of_a_burst_of_changes_the_last_one_counts() {
    let pipeline = parse(&video("is-live=true"));
    let (source, sink) = (source(&pipeline), sink(&pipeline));
    pipeline.set_state(gst::State::Playing).unwrap();
    sink.pull_sample().unwrap();
    let pad = sink.static_pad("sink").unwrap();
    for n in 0..5000u64 {
        let prompt = format!("fox number {n}");
        let sent =
            pad.push_event(gst::event::CustomUpstream::new(control(&[("prompt", &prompt), ("seed", &n)])));
        assert!(sent);
        assert_eq!(source.property::<u64>("seed"), n);
    }
    let mut shown = Vec::new();
    while shown.last().is_none_or(|prompt| prompt != "fox number 4999") {
        sink.pull_sample().unwrap();
        shown.extend(prompts(&pipeline));
    }
    assert!(shown.len() < 100, "{} shots", shown.len());
    assert_eq!(source.property::<String>("prompt"), "fox number 4999");
}

#[test]
fn blend_chunks_counts_for_the_next_prompt() {
    // A storyboard in the middle of which the number changes: its third shot comes in at once, or over two chunks.
    let film = "storyboard=\"0:00 the red fox | 0:00.8125 a blue bird | 0:02\"";
    let blended = |controlled: bool| {
        let pipeline = parse(&video(&format!("{film} blend-chunks=0")));
        if controlled {
            set_controller(&source(&pipeline), "blend-chunks", [0.0, 2.0], 13);
        }
        frames(&pipeline)
    };
    let (at_once, slowly) = (blended(false), blended(true));
    assert!(at_once[..13] == slowly[..13] && at_once[13] != slowly[13]);
    let constant = frames(&parse(&video(&format!("{film} blend-chunks=2"))));
    assert!(constant == slowly);
}

#[test]
fn a_controlled_property_of_the_filter_counts_from_the_chunk_of_its_frame() {
    let video = |arguments: &str| {
        format!(
            "videotestsrc pattern=ball num-buffers=29 ! video/x-raw,format=RGB,width=48,height=16,framerate=16/1 ! sorafilter name=source \
             model=\"{}\" prompt=\"the red fox\" watermark=false motion-noise=0 strength=1 {arguments} ! video/x-raw,format=RGB ! \
             appsink name=sink sync=false max-buffers=1",
            path("miniature").display()
        )
    };
    let of_filter = CONTROLLED.into_iter().filter(|(name, _)| *name != "steps");
    for (property, values) in of_filter.chain([("strength", [1.0, 0.5]), ("motion-noise", [0.0, 1.0])]) {
        let video = video(&format!("{property}={}", values[0] as u64));
        assert_counts_from_its_chunk(&video, property, values);
    }
}

/// On the wall clock: part of `make endurance`.
#[test]
#[ignore = "takes ten seconds and measures time; make endurance runs it"]
fn five_hundred_changes_a_second_leave_memory_flat_and_reads_fast() {
    let pipeline = parse(&video("is-live=true"));
    let (source, sink) = (source(&pipeline), sink(&pipeline));
    pipeline.set_state(gst::State::Playing).unwrap();
    sink.pull_sample().unwrap();
    let pad = sink.static_pad("sink").unwrap();
    let drain = |sink: &gst_app::AppSink| while sink.try_pull_sample(gst::ClockTime::ZERO).is_some() {};
    let (began, mut slowest, mut memory) = (Instant::now(), Duration::ZERO, Vec::new());
    for n in 0..5000u64 {
        let prompt = format!("fox number {n}");
        pad.push_event(gst::event::CustomUpstream::new(control(&[("prompt", &prompt), ("seed", &n)])));
        let read = Instant::now();
        assert_eq!(source.property::<u64>("seed"), n);
        slowest = slowest.max(read.elapsed());
        drain(&sink);
        prompts(&pipeline);
        memory.push(crate::memory::memory("VmRSS").unwrap());
        let next = began + Duration::from_millis(2 * (n + 1));
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let (early, last) = (memory[memory.len() / 3], memory[memory.len() - 1]);
    println!("slowest read {slowest:?}; {early} bytes after a third, {last} at the end");
    assert!(slowest <= Duration::from_millis(5), "{slowest:?}");
    assert!(last < early + (8 << 20), "{early} {last}");
    while sink.pull_sample().is_ok() {
        if prompts(&pipeline).iter().any(|prompt| prompt == "fox number 4999") {
            return;
        }
    }
}
