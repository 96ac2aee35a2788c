//! What a live source shows while there is no video.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use gst::prelude::*;
use soragen::testing::Event;
use soragen_tests::fixtures::{copy, path};

use crate::live::{FRAME, Live};
use crate::support::{error, init, parse, pixels, samples};

/// Frames of the first chunk of the miniature model, and of the others.
const FIRST: u64 = 5;
const CHUNK: u64 = 8;

fn is_black(sample: &gst::Sample) -> bool {
    pixels(sample).iter().all(|&sample| sample == 0)
}

fn pts(sample: &gst::Sample) -> gst::ClockTime {
    sample.buffer().unwrap().pts().unwrap()
}

/// A copy of the model, for hooks of its own.
fn model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&path("miniature"), folder.path());
    folder
}

/// Loads `model` when the sender is dropped.
fn load_slowly(model: &tempfile::TempDir) -> (mpsc::Sender<()>, soragen::testing::HookGuard) {
    let (loading, wait) = mpsc::channel();
    let wait = Mutex::new(wait);
    let hook = soragen::testing::set_hook(model.path(), move |event, _| {
        if event == Event::Load {
            let _ = wait.lock().unwrap().recv();
        }
        Ok(())
    });
    (loading, hook)
}

fn live(model: &tempfile::TempDir, arguments: &str) -> Live {
    Live::of(parse(&format!(
        "soragen name=source is-live=true model=\"{}\" prompt=fox cache-dir=none watermark=false {arguments} ! video/x-raw,format=RGB ! \
         appsink name=sink sync=false",
        model.path().display()
    )))
}

/// The reasons of the slate on the bus, in order, with `None` where the video comes back. Removes all messages.
fn switches(live: &Live) -> Vec<Option<String>> {
    let bus = live.pipeline.bus().unwrap();
    let messages = std::iter::from_fn(|| bus.pop()).filter(|message| message.has_name("soragen-slate"));
    messages.map(|message| message.structure().unwrap().get("reason").ok()).collect()
}

#[test]
fn the_slate_is_shown_from_the_first_frame_while_the_model_loads() {
    let model = model();
    let (loading, _hook) = load_slowly(&model);
    let mut live = live(&model, "slate=black");
    live.pipeline.set_state(gst::State::Playing).unwrap();
    // Five seconds of the pipeline's clock.
    let slates = 5 * 16;
    for n in 0..slates {
        let sample = live.next_at(n * FRAME);
        assert!(is_black(&sample), "frame {n}");
        assert_eq!(pts(&sample), n * FRAME, "frame {n}");
    }
    drop(loading);
    live.wait_for_frames(FIRST);
    for n in slates..slates + FIRST {
        let sample = live.next_at(n * FRAME);
        assert!(!is_black(&sample), "frame {n}");
        assert_eq!(pts(&sample), n * FRAME, "frame {n}");
        // The video begins here.
        assert_eq!(sample.buffer().unwrap().offset(), n - slates);
    }
    assert_eq!(switches(&live), [Some("loading".into()), None]);
}

#[test]
fn a_model_that_fails_is_a_warning_and_can_start_again() {
    let model = model();
    let hook = soragen::testing::failing(model.path(), 2);
    let mut live = live(&model, "slate=black late-policy=hold");
    let made = FIRST + CHUNK;
    live.pipeline.set_state(gst::State::Playing).unwrap();
    assert!(is_black(&live.next_at(gst::ClockTime::ZERO)), "the model is not loaded");
    let mut frames = Vec::new();
    for n in 1..=made {
        // The second chunk is begun when the first one is read.
        live.wait_for_frames(if n <= 2 { FIRST } else { made });
        frames.push(pixels(&live.next_at(n * FRAME)));
        assert!(frames.last().unwrap().iter().any(|&sample| sample > 0), "frame {n}");
    }
    let mut n = made + 1;
    // Until the failure is known the next frame is late.
    loop {
        let sample = live.next_at(n * FRAME);
        assert_eq!(pts(&sample), n * FRAME, "frame {n}");
        n += 1;
        if is_black(&sample) {
            break;
        }
        assert_eq!(Some(&pixels(&sample)), frames.last());
    }
    for _ in 0..20 {
        let sample = live.next_at(n * FRAME);
        assert!(is_black(&sample), "frame {n}");
        assert_eq!(pts(&sample), n * FRAME, "frame {n}");
        n += 1;
    }
    let bus = live.pipeline.bus().unwrap();
    let warnings: Vec<_> = std::iter::from_fn(|| bus.pop_filtered(&[gst::MessageType::Warning])).collect();
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    let gst::MessageView::Warning(warning) = warning.view() else { unreachable!() };
    assert!(warning.error().message().contains("injected fault"), "{warning:?}");
    assert!(warning.error().matches(gst::StreamError::Failed));

    drop(hook);
    assert!(live.source.emit_by_name::<bool>("regenerate", &[]));
    assert!(!live.source.emit_by_name::<bool>("regenerate", &[]), "it has not failed again");
    assert_eq!(live.source.property::<u64>("seed"), 1);
    live.wait_for_frames(made + FIRST);
    let first = loop {
        let sample = live.next_at(n * FRAME);
        assert_eq!(pts(&sample), n * FRAME, "frame {n}");
        n += 1;
        if !is_black(&sample) {
            break sample;
        }
    };
    assert_eq!(first.buffer().unwrap().offset(), 0, "the video begins again");
    assert_ne!(pixels(&first), frames[0], "with another seed");
}

#[test]
fn without_a_slate_a_failure_is_an_error() {
    let model = model();
    let _hook = soragen::testing::failing(model.path(), 0);
    let failed = error(&format!(
        "soragen is-live=true model=\"{}\" prompt=fox cache-dir=none",
        model.path().display()
    ));
    assert!(failed.matches(gst::StreamError::Failed));
    let failed =
        error(&format!("soragen slate=black model=\"{}\" prompt=fox cache-dir=none", model.path().display()));
    assert!(failed.matches(gst::StreamError::Failed), "not live");
}

#[test]
fn late_frames_are_replaced_as_the_policy_says() {
    // The second chunk takes a thousand steps, so it is always late.
    let arguments = "steps=1000 guidance-scale=1 watermark=false slate=black late-policy=slate";
    let mut live = Live::playing(arguments);
    assert!(is_black(&live.next_at(gst::ClockTime::ZERO)), "the model is not loaded");
    live.wait_for_frames(FIRST);
    for n in 1..12 {
        let sample = live.next_at(n * FRAME);
        assert_eq!(pts(&sample), n * FRAME);
        assert_eq!(is_black(&sample), n > FIRST, "frame {n}");
    }
    assert_eq!(live.stat("late"), 6);
    assert_eq!(switches(&live), [Some("loading".into()), None], "a late frame is no cut");
}

#[test]
fn a_dropped_frame_is_a_gap() {
    let mut live = Live::new("steps=1000 guidance-scale=1 watermark=false late-policy=drop");
    let (sender, gaps) = mpsc::channel();
    live.source.static_pad("src").unwrap().add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if let Some(gst::EventView::Gap(gap)) = info.event().map(|event| event.view()) {
            let _ = sender.send(gap.get());
        }
        gst::PadProbeReturn::Ok
    });
    live.pipeline.set_state(gst::State::Playing).unwrap();
    live.next().unwrap();
    for n in 1..FIRST {
        assert_eq!(pts(&live.next_at(n * FRAME)), n * FRAME);
    }
    for n in FIRST..FIRST + 3 {
        let gap = loop {
            match gaps.try_recv() {
                Ok(gap) => break gap,
                Err(_) => live.advance_until(n * FRAME),
            }
        };
        assert_eq!(gap, (n * FRAME, Some(FRAME)));
    }
}

#[test]
fn a_picture_is_a_slate_and_a_wrong_one_is_an_error() {
    init();
    let model = model();
    let (loading, _hook) = load_slowly(&model);
    let picture = model.path().join("slate.png");
    soragen::RgbImage::from_pixel(30, 20, [9, 99, 199].into()).save(&picture).unwrap();
    let mut live = live(&model, &format!("slate=\"file:{}\"", picture.display()));
    live.pipeline.set_state(gst::State::Playing).unwrap();
    let shown = pixels(&live.next_at(gst::ClockTime::ZERO));
    let middle = shown.len() / 2 / 3 * 3;
    assert!(shown.chunks_exact(3).any(|pixel| pixel == [9, 99, 199]), "{:?}", &shown[middle..middle + 3]);
    drop(loading);
    let of = |arguments: &str| error(&format!("soragen is-live=true prompt=fox {arguments}"));
    assert!(of("slate=white").matches(gst::LibraryError::Settings));
    assert!(of("late-policy=slate").matches(gst::LibraryError::Settings));
    assert!(of("slate=file:no/such.png").matches(gst::ResourceError::NotFound));
}

#[test]
fn the_programme_goes_on_in_a_transport_stream() {
    let model = model();
    let _hook = soragen::testing::failing(model.path(), 1);
    let file = model.path().join("programme.ts");
    let pipeline = parse(&format!(
        "soragen name=source is-live=true slate=black model=\"{}\" prompt=fox cache-dir=none ! videoconvert ! x264enc tune=zerolatency ! \
         h264parse ! mpegtsmux name=mux ! filesink location=\"{}\" \
         audiotestsrc is-live=true ! avenc_aac ! aacparse ! mux.",
        model.path().display(),
        file.display()
    ));
    let bus = pipeline.bus().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let kinds = [gst::MessageType::Warning, gst::MessageType::Error];
    let message = bus.timed_pop_filtered(None, &kinds).unwrap();
    let gst::MessageView::Warning(warning) = message.view() else { panic!("{message:?}") };
    assert!(warning.error().message().contains("injected fault"));
    // A second of slate.
    let (sender, slates) = mpsc::channel();
    let source = pipeline.by_name("source").unwrap().static_pad("src").unwrap();
    source.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        let _ = sender.send(());
        gst::PadProbeReturn::Ok
    });
    (0..16).for_each(|_| slates.recv().unwrap());
    pipeline.send_event(gst::event::Eos::new());
    let message = bus.timed_pop_filtered(None, &[kinds[0], kinds[1], gst::MessageType::Eos]).unwrap();
    assert_eq!(message.type_(), gst::MessageType::Eos, "one warning, no error");

    let shown = samples(&format!(
        "filesrc location=\"{}\" ! tsdemux ! h264parse ! avdec_h264 ! video/x-raw,format=I420",
        file.display()
    ));
    let times: Vec<_> = shown.iter().map(pts).collect();
    for pair in times.windows(2) {
        // A transport stream has a clock of 90 kHz.
        assert!((pair[1] - pair[0]).nseconds().abs_diff(FRAME.nseconds()) < 100_000, "{pair:?}");
    }
    let dark: Vec<_> =
        shown.iter().map(|sample| pixels(sample)[..64].iter().all(|&luma| luma < 20)).collect();
    // While the model loads, and after it has failed.
    let video = dark.iter().position(|dark| !dark).unwrap();
    assert!(dark[video..].iter().filter(|dark| !**dark).count() >= FIRST as usize, "{dark:?}");
    assert!(dark[dark.len() - 10..].iter().all(|&dark| dark), "{dark:?}");
}

#[test]
fn ten_live_instances_share_the_weights_and_keep_their_pace() {
    init();
    let loads = |count: usize| {
        let model = model();
        let loaded = Arc::new(AtomicU64::new(0));
        let counted = loaded.clone();
        let _hook = soragen::testing::set_hook(model.path(), move |event, _| {
            counted.fetch_add(u64::from(event == Event::Load), Ordering::Relaxed);
            Ok(())
        });
        let branch = |n: usize| {
            format!(
                "soragen name=source{n} is-live=true slate=black model=\"{}\" prompt=fox seed={n} cache-dir=none ! \
                 appsink name=sink{n} sync=false ",
                model.path().display()
            )
        };
        let pipeline = parse(&(0..count).map(branch).collect::<String>());
        let clock = gst_check::TestClock::new();
        pipeline.use_clock(Some(&clock));
        pipeline.set_state(gst::State::Playing).unwrap();
        let sinks: Vec<_> = (0..count)
            .map(|n| pipeline.by_name(&format!("sink{n}")).unwrap().downcast::<gst_app::AppSink>().unwrap())
            .collect();
        let source = |n: usize| pipeline.by_name(&format!("source{n}")).unwrap();
        for n in 0..20 {
            let time = n * FRAME;
            // One frame of each source at each frame time, and no second one.
            for sink in &sinks {
                let sample = loop {
                    if let Some(sample) = sink.try_pull_sample(gst::ClockTime::ZERO) {
                        break sample;
                    }
                    if clock.peek_next_pending_id().is_some_and(|id| id.time() <= time) {
                        clock.set_time(time);
                        clock.process_next_clock_id();
                    }
                    std::thread::yield_now();
                };
                assert_eq!(pts(&sample), time);
            }
            if n == 0 {
                // Until all have their first frames.
                for n in 0..count {
                    while source(n).property::<gst::Structure>("stats").get::<u64>("frames").unwrap() == 0 {
                        std::thread::yield_now();
                    }
                }
            }
        }
        loaded.load(Ordering::Relaxed)
    };
    assert_eq!(loads(10), loads(1));
}
