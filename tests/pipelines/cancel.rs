//! State changes, seeks and queries while the model computes.

use gst::prelude::*;

use crate::support::{Pipeline, parse, samples, tiny};

/// Starts a very slow video and waits until the worker is in `phase`.
fn start_and_wait_for(phase: &str) -> Pipeline {
    // The decode phase must be reached quickly.
    let steps = if phase == "decode" { "steps=1" } else { "steps=1000" };
    let source = tiny("t2v-unipc").replace("steps=2", steps);
    let pipeline = parse(&format!("{source} ! video/x-raw,width=256,height=256 ! fakesink"));
    pipeline.set_state(gst::State::Playing).unwrap();
    let bus = pipeline.bus().unwrap();
    loop {
        let message = bus.timed_pop(None).unwrap();
        match message.view() {
            gst::MessageView::Error(error) => panic!("{error:?}"),
            gst::MessageView::Progress(_) if phase == "load" => return pipeline,
            gst::MessageView::Element(element) => {
                let structure = element.structure().unwrap();
                if structure.name() == "soragen-progress" && structure.get::<&str>("phase").unwrap() == phase
                {
                    return pipeline;
                }
            }
            _ => {}
        }
    }
}

/// Hangs for a thousand steps if the streaming thread waits for the model.
#[test]
fn the_pipeline_stops_in_every_phase() {
    for phase in ["load", "text", "denoise", "decode"] {
        start_and_wait_for(phase).set_state(gst::State::Null).unwrap();

        let pipeline = start_and_wait_for(phase);
        pipeline.set_state(gst::State::Ready).unwrap();
        pipeline.set_state(gst::State::Null).unwrap();
    }
}

#[test]
fn a_seek_and_eos_work_while_denoising() {
    let pipeline = start_and_wait_for("denoise");
    let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE;
    pipeline.seek_simple(flags, gst::ClockTime::SECOND).unwrap();
    assert_eq!(pipeline.query_duration::<gst::ClockTime>().unwrap().nseconds(), 5_062_500_000);
    assert!(pipeline.send_event(gst::event::Eos::new()));
    let bus = pipeline.bus().unwrap();
    bus.timed_pop_filtered(None, &[gst::MessageType::Eos]).unwrap();
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn properties_can_be_read_while_the_model_computes() {
    let pipeline = start_and_wait_for("denoise");
    let source = pipeline.iterate_sources().next().unwrap().unwrap();
    source.set_property("prompt", "a blue whale");
    assert_eq!(source.property::<String>("prompt"), "a blue whale");
    let stats = source.property::<gst::Structure>("stats");
    assert_eq!(stats.get::<u64>("frames").unwrap(), 0);
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn a_stopped_video_is_the_same_when_played_again() {
    let bytes = || -> Vec<Vec<u8>> {
        let made =
            samples(&format!("{} duration=300000000 ! video/x-raw,width=32,height=32", tiny("t2v-unipc")));
        made.iter().map(|s| s.buffer().unwrap().map_readable().unwrap().to_vec()).collect()
    };
    let first = bytes();
    start_and_wait_for("denoise").set_state(gst::State::Null).unwrap();
    assert!(bytes() == first);
}
