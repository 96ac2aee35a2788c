//! Timestamps and frames.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use gst::prelude::*;
use soragen::testing::Event;
use soragen_tests::fixtures::{copy, json, path};
use soragen_tests::with;

use crate::support::{init, parse, pixels, samples, tiny};

const SIZE: &str = "video/x-raw,width=48,height=32";

fn times(samples: &[gst::Sample]) -> Vec<(u64, u64)> {
    let time = |t: Option<gst::ClockTime>| t.unwrap().nseconds();
    samples.iter().map(|s| s.buffer().unwrap()).map(|b| (time(b.pts()), time(b.duration()))).collect()
}

#[test]
fn frames_match_the_engine() {
    use soragen::{Cancel, Length, Model, OpenOptions, Request, Session, Size};

    let folder = path("pipelines/t2v-unipc");
    let model = Model::open(&folder.to_string_lossy(), &OpenOptions::default(), &Cancel::new()).unwrap();
    let request = with!(
        Request::default();
        prompt: "a red fox".into(),
        size: Some(Size { width: 48, height: 32 }),
        length: Length::Frames(5),
        seed: 3,
        steps: Some(2),
    );
    let mut session = Session::new(model, request).unwrap();
    let mut expected = Vec::new();
    while let Some(frames) = session.next_raw_chunk(&Cancel::new(), &mut |_| {}).unwrap() {
        expected
            .extend(frames.iter().map(|f| f.iter().map(|s| (s * 255.0).round() as u8).collect::<Vec<_>>()));
    }

    let source = tiny("t2v-unipc");
    let made = samples(&format!("{source} seed=3 duration=312500000 ! {SIZE},format=RGB"));
    assert_eq!(made.iter().map(pixels).collect::<Vec<_>>(), expected);
}

#[test]
fn the_number_of_threads_does_not_change_frames() {
    let source = format!("{} duration=500000000", tiny("t2v-unipc"));
    let frames = |source: &str| samples(&format!("{source} ! {SIZE}")).iter().map(pixels).collect::<Vec<_>>();
    let cpus = std::thread::available_parallelism().unwrap().get();
    // More threads than CPUs are not used.
    let pipeline = parse(&format!("{source} threads={} ! {SIZE} ! fakesink", cpus + 1));
    pipeline.set_state(gst::State::Paused).unwrap();
    pipeline.state(gst::ClockTime::from_seconds(30)).0.unwrap();
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
    // No other test sets the number of threads, and threads of an earlier pipeline may still run.
    let number = |name: &String| name.trim_end().strip_prefix("soragen-")?.parse::<usize>().ok();
    let mut names: Vec<_> = names.filter(|name| number(name).is_some()).collect();
    names.sort();
    let warning = pipeline.bus().unwrap().pop_filtered(&[gst::MessageType::Warning]).unwrap();
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(names.len(), cpus, "{names:?}");
    let gst::MessageView::Warning(warning) = warning.view() else { panic!("{warning:?}") };
    assert!(warning.error().message().contains("CPUs"), "{warning:?}");

    let all = frames(&source);
    assert_eq!(frames(&format!("{source} threads=1")), all);
    assert_eq!(frames(&format!("{source} threads={cpus}")), all);
}

#[test]
fn the_stream_ends_after_the_natural_length_of_the_model() {
    let natural =
        if json("pipelines/t2v-unipc/model_index.json")["expand_timesteps"] == true { 121 } else { 81 };
    let made = samples(&format!("{} steps=1 ! {SIZE}", tiny("t2v-unipc")));
    assert_eq!(made.len(), natural);
    assert_eq!(times(&made)[natural - 1], (5_000_000_000, 62_500_000));
}

#[test]
fn another_frame_rate_keeps_the_speed() {
    let source = format!("{} duration=500000000", tiny("t2v-unipc"));
    let own: Vec<_> = samples(&format!("{source} ! {SIZE}")).iter().map(pixels).collect();
    assert_eq!(own.len(), 8);

    let twice = samples(&format!("{source} ! {SIZE},framerate=32/1"));
    assert_eq!(twice.len(), 16);
    for (n, sample) in twice.iter().enumerate() {
        assert!(pixels(sample) == own[n / 2], "frame {n}");
    }
    let half = samples(&format!("{source} ! {SIZE},framerate=8/1"));
    assert!(half.iter().map(pixels).eq(own.iter().step_by(2).cloned()));
}

#[test]
fn timestamps_are_exact_at_ntsc_rates() {
    let made = samples(&format!("{} duration=1000000000 ! {SIZE},framerate=30000/1001", tiny("t2v-unipc")));
    assert_eq!(made.len(), 30);
    for (n, (pts, duration)) in times(&made).into_iter().enumerate() {
        let start = |n: u64| n * 1_001_000_000_000 / 30_000;
        assert_eq!(pts, start(n as u64), "frame {n}");
        assert_eq!(pts + duration, start(n as u64 + 1), "frame {n}");
    }
}

#[test]
fn a_video_starts_with_its_image() {
    let image = path("pipelines/i2v-22/image.png");
    let source = format!("{} duration=1", tiny("i2v-22"));
    let size = "video/x-raw,format=RGB,width=64,height=64";
    let with = samples(&format!("{source} image=\"{}\" ! {size}", image.display()));
    let without = samples(&format!("{source} ! {size}"));
    assert_eq!((with.len(), without.len()), (1, 1));
    assert_ne!(pixels(&with[0]), pixels(&without[0]));
}

#[test]
fn a_seek_gives_the_same_frames() {
    init();
    let source = format!("{} duration=1000000000", tiny("t2v-unipc"));
    let all: Vec<_> = samples(&format!("{source} ! {SIZE}")).iter().map(pixels).collect();

    let pipeline = parse(&format!("{source} ! {SIZE} ! appsink name=sink sync=false"));
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Paused).unwrap();
    sink.pull_preroll().unwrap();
    let seek_with = |rate: f64, start: u64, stop: u64, more: gst::SeekFlags| {
        let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE | more;
        let time = gst::ClockTime::from_mseconds;
        pipeline.seek(rate, flags, gst::SeekType::Set, time(start), gst::SeekType::Set, time(stop)).unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        std::iter::from_fn(|| sink.pull_sample().ok()).map(|s| pixels(&s)).collect::<Vec<_>>()
    };
    let seek = |rate: f64, start: u64, stop: u64| seek_with(rate, start, stop, gst::SeekFlags::empty());
    assert!(seek(1.0, 250, 750) == all[4..12], "forwards");
    assert!(seek(-1.0, 250, 750).iter().eq(all[4..12].iter().rev()), "backwards, mirrored");

    let third = |frames: &[usize]| frames.iter().map(|&i| all[i].clone()).collect::<Vec<_>>();
    assert_eq!(seek(3.0, 250, 750).len(), 8, "fast, but every frame");
    assert!(seek_with(3.0, 250, 750, gst::SeekFlags::TRICKMODE) == third(&[4, 7, 10]), "skipping");
    assert!(seek_with(-3.0, 250, 750, gst::SeekFlags::TRICKMODE) == third(&[11, 8, 5]), "skipping backwards");
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn tags_describe_the_request() {
    let pipeline = parse(&format!("{} seed=7 duration=1 ! {SIZE} ! fakesink", tiny("t2v-unipc")));
    pipeline.set_state(gst::State::Playing).unwrap();
    let bus = pipeline.bus().unwrap();
    let tags = bus.timed_pop_filtered(None, &[gst::MessageType::Tag, gst::MessageType::Error]).unwrap();
    pipeline.set_state(gst::State::Null).unwrap();
    let gst::MessageView::Tag(tags) = tags.view() else { panic!("{tags:?}") };
    let tags = tags.tags();
    assert_eq!(tags.get::<gst::tags::Title>().unwrap().get(), "a red fox");
    assert!(tags.get::<gst::tags::Encoder>().unwrap().get().contains("t2v-unipc"));
    assert!(tags.get::<gst::tags::DateTime>().is_some());
    let request: serde_json::Value =
        serde_json::from_str(tags.get::<gst::tags::Comment>().unwrap().get()).unwrap();
    assert_eq!((&request["prompt"], &request["seed"]), (&"a red fox".into(), &7.into()));
    assert_eq!((&request["steps"], &request["guidance_scale"]), (&2.into(), &5.0.into()));
}

#[test]
fn a_cached_video_is_only_decoded() {
    init();
    let folder = tempfile::tempdir().unwrap();
    let source =
        format!("{} cache-dir=\"{}\" name=source ! {SIZE}", tiny("t2v-unipc"), folder.path().display());
    let play = |source: &str| {
        let pipeline = parse(&format!("{source} ! appsink name=sink sync=false"));
        let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        let made: Vec<_> = std::iter::from_fn(|| sink.pull_sample().ok()).map(|s| pixels(&s)).collect();
        let stats = pipeline.by_name("source").unwrap().property::<gst::Structure>("stats");
        let warning = pipeline.bus().unwrap().pop_filtered(&[gst::MessageType::Warning]);
        pipeline.set_state(gst::State::Null).unwrap();
        (made, stats.get::<u64>("cached").unwrap(), stats.get::<u64>("forwards").unwrap(), warning)
    };
    let (first, cached, forwards, _) = play(&source);
    assert!(cached == 0 && forwards > 0);
    let (second, cached, forwards, _) = play(&source);
    assert!(second == first);
    assert_eq!((cached, forwards), (first.len() as u64, 0));

    // A read-only cache folder only causes a warning.
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let source = format!("{} cache-dir=\"{}\" name=source ! {SIZE}", tiny("t2v-unipc"), file.display());
    let (third, _, _, warning) = play(&source);
    assert!(third == first);
    let warning = warning.unwrap();
    let gst::MessageView::Warning(warning) = warning.view() else { panic!("{warning:?}") };
    assert!(warning.error().matches(gst::ResourceError::Write), "{warning:?}");
}

#[test]
fn a_chunk_is_rendered_while_the_next_is_denoised() {
    let folder = tempfile::tempdir().unwrap();
    copy(&path("miniature"), folder.path());
    let begun = Arc::new((Mutex::new(false), Condvar::new()));
    let _hook = soragen::testing::set_hook(folder.path(), move |event, cancel| {
        let (next, changed) = &*begun;
        match event {
            Event::Step { chunk: 1, .. } => {
                *next.lock().unwrap() = true;
                changed.notify_all();
            }
            Event::Decode { chunk: 0 } => {
                let limit = Duration::from_secs(60);
                let waited = changed.wait_timeout_while(next.lock().unwrap(), limit, |next| !*next).unwrap();
                assert!(!waited.1.timed_out(), "the next chunk waits for this one to be rendered");
            }
            _ => (),
        }
        cancel.check()
    });
    let source = |threads| {
        format!(
            "soragen model=\"{}\" prompt=fox cache-dir=none threads={threads} num-buffers=13 ! video/x-raw,format=RGB",
            folder.path().display()
        )
    };
    assert_eq!(samples(&source(1)).len(), 13);
    assert_eq!(samples(&source(0)).len(), 13);
}
