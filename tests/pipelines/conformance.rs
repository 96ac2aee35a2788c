//! GStreamer's conformance checks for sources.

use std::collections::HashMap;
use std::fmt::Write;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use gst::prelude::*;

use crate::clients::plugin_folder;
use crate::support::{parse, tiny};

const SIZE: &str = "video/x-raw,width=48,height=32";

#[test]
fn timestamps_and_offsets_have_no_gaps_at_any_frame_rate() {
    for rate in ["24000/1001", "25/1", "30000/1001", "50/1", "60000/1001"] {
        let source = format!("{} duration=1500000000 steps=1 ! {SIZE},framerate={rate}", tiny("t2v-unipc"));
        let checks = "identity check-imperfect-timestamp=true check-imperfect-offset=true";
        let pipeline = parse(&format!("{source} ! {checks} ! fakesink"));
        pipeline.set_state(gst::State::Playing).unwrap();
        let bus = pipeline.bus().unwrap();
        let ends = [gst::MessageType::Eos, gst::MessageType::Error, gst::MessageType::Element];
        let imperfect = loop {
            let message = bus.timed_pop_filtered(None, &ends).unwrap();
            match message.view() {
                gst::MessageView::Eos(_) => break None,
                gst::MessageView::Error(error) => break Some(error.error().to_string()),
                _ if message.structure().unwrap().name().starts_with("imperfect") => {
                    break Some(message.structure().unwrap().to_string());
                }
                _ => {}
            }
        };
        pipeline.set_state(gst::State::Null).unwrap();
        assert_eq!(imperfect, None, "at {rate}");
    }
}

/// A very slow video in a harness: the pad is linked, and nothing waits for frames.
fn harness(steps: u32) -> gst_check::Harness {
    let source = tiny("t2v-unipc").replace("steps=2", &format!("steps={steps}"));
    crate::support::init();
    let bin =
        gst::parse::bin_from_description(&format!("{source} name=source ! capsfilter caps={SIZE}"), true)
            .unwrap();
    gst_check::Harness::with_element(&bin, None, Some("src"))
}

/// Hangs if a state change or a seek waits for the model. Criticals fail the test.
#[test]
fn state_changes_seeks_and_property_writes_can_run_at_the_same_time() {
    let mut harness = harness(1000);
    let element = harness.element().unwrap();
    for _ in 0..100 {
        for state in [gst::State::Paused, gst::State::Playing, gst::State::Ready, gst::State::Null] {
            element.set_state(state).unwrap();
        }
    }

    harness.play();
    let source = element.downcast_ref::<gst::Bin>().unwrap().by_name("source").unwrap();
    let (done, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let writer = std::thread::spawn({
        let (source, done, written) = (source.clone(), done.clone(), written.clone());
        move || {
            while !done.load(Ordering::Relaxed) {
                let nth = written.fetch_add(1, Ordering::Relaxed);
                source.set_property("prompt", format!("a red fox {}", nth % 7));
                source.property::<gst::Structure>("stats");
            }
        }
    });
    let reconfigurer = std::thread::spawn({
        let (pad, done) = (source.static_pad("src").unwrap(), done.clone());
        move || {
            while !done.load(Ordering::Relaxed) {
                pad.send_event(gst::event::Reconfigure::new());
                std::thread::yield_now();
            }
        }
    });
    // On a busy machine the writer may start only after the last seek.
    for n in (0u64..).take_while(|n| *n < 500 || written.load(Ordering::Relaxed) < 20) {
        let rate = if n % 3 == 0 { -1.0 } else { 1.0 };
        let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE;
        let (start, stop) = (gst::ClockTime::from_seconds(n % 2), gst::ClockTime::from_seconds(4));
        source.seek(rate, flags, gst::SeekType::Set, start, gst::SeekType::Set, stop).unwrap();
    }
    done.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    reconfigurer.join().unwrap();
    drop(harness);
}

#[test]
fn nothing_leaks() {
    let (_folder, path) = plugin_folder();
    let source = tiny("t2v-unipc").replace("steps=2", "steps=1");
    let description = format!("{source} duration=300000000 timecode=10:00:00:00 ! {SIZE} ! fakesink");
    let output = Command::new("sh")
        .args(["-c", &format!("exec gst-launch-1.0 -q {description}")])
        .env("GST_PLUGIN_PATH", path)
        .env("GST_TRACERS", "leaks(check-refs=true)")
        .env("GST_DEBUG", "GST_TRACER:7")
        .env("GST_DEBUG_NO_COLOR", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let (format, alive): (Vec<_>, Vec<_>) = said
        .lines()
        .filter(|line| line.contains("object-alive,"))
        .partition(|line| line.contains("format string"));
    assert_eq!(format.len(), 1, "it was looked for: {said}");
    assert!(alive.is_empty(), "{alive:#?}");
}

/// Scenarios of gst-validate, in real time.
const SCENARIOS: [&str; 17] = [
    "play_5s",
    "play_15s",
    "seek_forward",
    "seek_backward",
    "seek_forward_backward",
    "simple_seeks",
    "seek_with_stop",
    "reverse_playback",
    "scrub_forward_seeking",
    "scrub_backward_seeking",
    "scrub_forward_seeking_full",
    "scrub_backward_seeking_full",
    "change_state_intensive",
    "pause_resume",
    "fast_forward",
    "fast_backward",
    "alternate_fast_backward_forward",
];

#[test]
fn gst_validate_reports_no_issues() {
    if Command::new("gst-validate-1.0").arg("--version").output().is_err() {
        eprintln!(
            "SKIPPED: gst-validate-1.0 is not on PATH (Debian 12 has none); its scenarios were not run"
        );
        return;
    }
    let (_folder, path) = plugin_folder();
    let miniature = soragen_tests::fixtures::path("miniature");
    let source = format!("soragen model={} prompt=fox duration=500000000000", miniature.display());
    let run = |scenario: &'static str| {
        // Each scenario has its own cache, so that none reuses frames of another.
        let cache = tempfile::tempdir().unwrap();
        let description =
            format!("{source} cache-dir={} ! videoconvert ! fakevideosink sync=true", cache.path().display());
        let output = Command::new("sh")
            .args(["-c", &format!("exec gst-validate-1.0 --set-scenario {scenario} {description}")])
            .env("GST_PLUGIN_PATH", &path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        // An EOS that the scenario itself sends has another sequence number. gst-validate reports this for every source.
        let asked = said.contains("Issues found: 1") && said.contains("should have the same seqnum");
        let issues = said.contains("Issues found: 0") || asked && said.contains("Action `eos`");
        assert!(output.status.success() && issues, "{scenario}: {said}");
    };
    // Sequentially, since they run in real time.
    SCENARIOS.into_iter().for_each(run);
}

/// The dataflow on the pad: one line per event and buffer. Frames are numbered by the first appearance of their content.
#[derive(Default)]
struct Flow {
    log: String,
    seen: HashMap<blake3::Hash, usize>,
}

impl Flow {
    fn buffer(&mut self, buffer: &gst::BufferRef) {
        let next = self.seen.len();
        let content = blake3::hash(&buffer.map_readable().unwrap());
        let content = *self.seen.entry(content).or_insert(next);
        let time = |time: Option<gst::ClockTime>| time.unwrap().nseconds();
        let (pts, duration, flags) = (time(buffer.pts()), time(buffer.duration()), buffer.flags());
        let flags =
            flags & (gst::BufferFlags::DISCONT | gst::BufferFlags::GAP | gst::BufferFlags::DELTA_UNIT);
        writeln!(
            self.log,
            "buffer {content} pts={pts} duration={duration} offset={} {flags:?}",
            buffer.offset()
        )
        .unwrap();
    }

    fn event(&mut self, event: &gst::EventRef) {
        match event.view() {
            gst::EventView::Segment(segment) => {
                let segment = segment.segment().downcast_ref::<gst::ClockTime>().unwrap();
                let time = |time: Option<gst::ClockTime>| {
                    time.map_or("none".into(), |time| time.nseconds().to_string())
                };
                writeln!(
                    self.log,
                    "segment rate={} start={} stop={} time={} base={} flags={:?}",
                    segment.rate(),
                    time(segment.start()),
                    time(segment.stop()),
                    time(segment.time()),
                    time(segment.base()),
                    segment.flags()
                )
                .unwrap();
            }
            gst::EventView::Caps(caps) => writeln!(self.log, "caps {}", caps.caps()).unwrap(),
            // The structure has a timestamp.
            gst::EventView::Tag(_) | gst::EventView::StreamStart(_) => {
                writeln!(self.log, "{}", event.type_().name()).unwrap();
            }
            _ => match event.structure() {
                Some(structure) => writeln!(self.log, "{} {structure}", event.type_().name()).unwrap(),
                None => writeln!(self.log, "{}", event.type_().name()).unwrap(),
            },
        }
    }
}

/// Dataflow of a video that is played, played again from the middle, and played backwards. `UPDATE_DATAFLOW=1` updates the
/// expected file after an intended change.
#[test]
fn the_dataflow_matches_the_recorded_one() {
    let film = "\"0:00 a red fox | 0:00.5 (cut) a blue bird | 0:01\"";
    let source = tiny("t2v-unipc").replace("prompt=\"a red fox\"", &format!("storyboard={film} seed=5"));
    let pipeline =
        parse(&format!("{source} name=source ! {SIZE},format=I420,framerate=16/1 ! fakesink name=sink"));
    let flow = Arc::new(Mutex::new(Flow::default()));
    let pad = pipeline.by_name("source").unwrap().static_pad("src").unwrap();
    let kinds =
        gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM | gst::PadProbeType::EVENT_FLUSH;
    pad.add_probe(kinds, {
        let flow = flow.clone();
        move |_, info| {
            let mut flow = flow.lock().unwrap();
            match &info.data {
                Some(gst::PadProbeData::Buffer(buffer)) => flow.buffer(buffer),
                Some(gst::PadProbeData::Event(event)) => flow.event(event),
                _ => {}
            }
            gst::PadProbeReturn::Ok
        }
    });
    let bus = pipeline.bus().unwrap();
    let end = || {
        pipeline.set_state(gst::State::Playing).unwrap();
        let ends = [gst::MessageType::Eos, gst::MessageType::SegmentDone, gst::MessageType::Error];
        let message = bus.timed_pop_filtered(None, &ends).unwrap();
        assert_ne!(message.type_(), gst::MessageType::Error, "{message:?}");
        // The segment-done message is posted before the event is sent.
        drop(pad.stream_lock());
    };
    end();
    let time = gst::ClockTime::from_mseconds;
    for (rate, start, stop, more) in [
        (1.0, 250, 750, gst::SeekFlags::empty()),
        (-1.0, 250, 750, gst::SeekFlags::empty()),
        (1.0, 0, 250, gst::SeekFlags::SEGMENT),
    ] {
        let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE | more;
        writeln!(flow.lock().unwrap().log, "\n# {start} to {stop} ms at {rate}").unwrap();
        pipeline.seek(rate, flags, gst::SeekType::Set, time(start), gst::SeekType::Set, time(stop)).unwrap();
        end();
    }
    pipeline.set_state(gst::State::Null).unwrap();
    let log = flow.lock().unwrap().log.clone();
    let file = soragen_tests::fixtures::path("dataflow.txt");
    if std::env::var_os("UPDATE_DATAFLOW").is_some() {
        std::fs::write(&file, &log).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap();
    for (n, (line, expected)) in log.lines().zip(expected.lines()).enumerate() {
        assert_eq!(line, expected, "line {}", n + 1);
    }
    assert_eq!(log.lines().count(), expected.lines().count());
}
