//! `sorafilter`: video goes in and comes out restyled.

use gst::prelude::*;
use soragen::checkpoint::Parts;
use soragen::{Cancel, DynamicImage, Length, Model, OpenOptions, Request, Restyle, RgbImage, Session, Size};
use soragen_tests::fixtures::{control_branch, copy, path};
use soragen_tests::with;

use crate::provenance::detection_stats;
use crate::support::{Pipeline, error, parse, pictures, pixels, samples, tiny};

const SIZE: Size = Size { width: 48, height: 16 };
/// Frames of the first chunk, and of the others.
const CHUNKS: [usize; 2] = [5, 8];

/// `frames` frames of a moving ball.
fn video(frames: usize, rate: &str) -> String {
    format!(
        "videotestsrc pattern=ball num-buffers={frames} ! video/x-raw,format=RGB,width=48,height=16,framerate={rate}"
    )
}

fn filter(arguments: &str) -> String {
    let model = path("miniature");
    format!(
        "sorafilter name=filter model=\"{}\" prompt=\"the red fox\" watermark=false motion-noise=0 {arguments} ! \
         video/x-raw,format=RGB",
        model.display()
    )
}

fn times(samples: &[gst::Sample]) -> Vec<u64> {
    samples.iter().map(|sample| sample.buffer().unwrap().pts().unwrap().mseconds()).collect()
}

/// What the engine makes of these frames. `strengths` are those from each chunk on.
fn by_the_engine(frames: &[Vec<u8>], strengths: &[f64]) -> Vec<Vec<u8>> {
    let model =
        Model::open(path("miniature").to_str().unwrap(), &OpenOptions::default(), &Cancel::new()).unwrap();
    let restyle = |strength| Restyle { strength, motion_noise: 0.0 };
    let request = with!(Request::default();
        prompt: "the red fox".into(),
        length: Length::Endless,
        watermark: None,
        restyle: Some(restyle(strengths[0])));
    let mut session = Session::new(model, request).unwrap();
    let (mut rest, mut made, mut strengths) = (frames, Vec::new(), strengths.iter());
    loop {
        if let Some(&strength) = strengths.next() {
            session.set_restyle(restyle(strength)).unwrap();
        }
        let wanted = session.missing_frames() as usize;
        let (now, later) = rest.split_at(wanted.min(rest.len()));
        now.iter().for_each(|frame| session.push_frames(frame).unwrap());
        rest = later;
        if now.len() < wanted {
            session.end_video();
        }
        let Some(chunk) = session.next_chunk(&Cancel::new(), &mut |_| {}).unwrap() else { return made };
        made.extend(chunk.iter().map(<[u8]>::to_vec));
    }
}

#[test]
fn frames_equal_those_of_the_engine_and_keep_their_times() {
    // The last chunk has 4 of 8 frames.
    let count = CHUNKS[0] + CHUNKS[1] + 4;
    let frames = pictures(&samples(&video(count, "16/1")));
    let made = samples(&format!("{} ! {}", video(count, "16/1"), filter("strength=0.6")));
    assert!(pictures(&made) == by_the_engine(&frames, &[0.6]));
    assert_eq!(times(&made), (0..count as u64).map(|i| i * 125 / 2).collect::<Vec<_>>());
    let caps = made[0].caps().unwrap().structure(0).unwrap();
    assert_eq!(caps.get::<gst::Fraction>("framerate").unwrap(), gst::Fraction::new(16, 1));
}

#[test]
fn strength_1_makes_the_video_of_the_source() {
    let count = CHUNKS[0] + 2 * CHUNKS[1];
    let made = samples(&format!("{} ! {}", video(count, "16/1"), filter("strength=1")));
    let source = samples(&format!(
        "soragen model=\"{}\" prompt=\"the red fox\" watermark=false cache-dir=none duration={} ! video/x-raw,format=RGB",
        path("miniature").display(),
        count * 62_500_000
    ));
    assert!(pictures(&made) == pictures(&source));
}

#[test]
fn motion_keeps_its_speed_at_other_frame_rates() {
    for (rate, frames) in [("25/1", 25), ("60/1", 60), ("8/1", 8)] {
        let made = samples(&format!("{} ! {}", video(frames, rate), filter("strength=0")));
        assert_eq!(made.len(), 16, "{rate}: one second");
        let times = times(&made);
        assert!(times.is_sorted_by(|a, b| a < b) && times.last().unwrap() < &1000, "{rate}: {times:?}");
    }
    let every = samples(&format!("{} ! {}", video(25, "25/1"), filter("strength=0 rate-mode=every")));
    assert_eq!(times(&every), (0..25).map(|i| i * 40).collect::<Vec<_>>());
    let caps = every[0].caps().unwrap().structure(0).unwrap();
    assert_eq!(caps.get::<gst::Fraction>("framerate").unwrap(), gst::Fraction::new(25, 1));
}

/// The filter behind an `appsrc`.
struct FilterWithSource {
    pipeline: Pipeline,
    source: gst_app::AppSrc,
    sink: gst_app::AppSink,
}

impl FilterWithSource {
    fn new(arguments: &str) -> Self {
        let pipeline = parse(&format!(
            "appsrc name=source format=time caps=\"{}\" ! {} ! appsink name=sink sync=false async=false",
            caps("RGB"),
            filter(arguments)
        ));
        let source = pipeline.by_name("source").unwrap().downcast().unwrap();
        let sink = pipeline.by_name("sink").unwrap().downcast().unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        Self { pipeline, source, sink }
    }

    fn push(&self, frames: &[Vec<u8>], first: usize) {
        for (i, frame) in frames.iter().enumerate() {
            let mut buffer = gst::Buffer::from_slice(frame.clone());
            let time = gst::ClockTime::from_nseconds((first + i) as u64 * 62_500_000);
            let writable = buffer.get_mut().unwrap();
            writable.set_pts(time);
            writable.set_duration(gst::ClockTime::from_nseconds(62_500_000));
            self.source.push_buffer(buffer).unwrap();
        }
    }

    fn pull(&self, count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|_| pixels(&self.sink.pull_sample().unwrap())).collect()
    }

    fn filter(&self) -> gst::Element {
        self.pipeline.by_name("filter").unwrap()
    }
}

fn caps(format: &str) -> String {
    format!("video/x-raw,format={format},width=48,height=16,framerate=16/1")
}

#[test]
fn a_new_strength_and_a_new_prompt_start_with_the_next_chunk() {
    let count = CHUNKS[0] + 2 * CHUNKS[1];
    let frames = pictures(&samples(&video(count, "16/1")));
    let fed = FilterWithSource::new("strength=0.8");
    let (first, others) = frames.split_at(CHUNKS[0]);
    fed.push(first, 0);
    let mut made = fed.pull(first.len());
    fed.filter().set_property("strength", 0.4);
    fed.push(others, first.len());
    fed.source.end_of_stream().unwrap();
    made.extend(fed.pull(others.len()));
    assert!(fed.sink.pull_sample().is_err() && fed.sink.is_eos());
    assert!(made == by_the_engine(&frames, &[0.8, 0.4]));

    let fed = FilterWithSource::new("strength=0.8");
    fed.push(first, 0);
    let same = fed.pull(first.len());
    assert!(same == made[..first.len()]);
    fed.filter().set_property("prompt", "a blue bird");
    fed.push(&others[..CHUNKS[1]], first.len());
    assert!(fed.pull(CHUNKS[1]) != by_the_engine(&frames, &[0.8])[first.len()..][..CHUNKS[1]]);
    let bus = fed.pipeline.bus().unwrap();
    let shots = std::iter::from_fn(|| bus.pop()).filter(|message| message.has_name("soragen-shot"));
    let prompts: Vec<String> = shots.map(|shot| shot.structure().unwrap().get("prompt").unwrap()).collect();
    assert_eq!(prompts, ["the red fox", "a blue bird"]);
}

#[test]
fn a_flush_starts_over() {
    let frames = pictures(&samples(&video(CHUNKS[0] + 3, "16/1")));
    let fed = FilterWithSource::new("strength=0.8");
    // Three frames of the second chunk are lost with the flush.
    fed.push(&frames, 0);
    let made = fed.pull(CHUNKS[0]);
    assert!(fed.source.send_event(gst::event::FlushStart::new()));
    assert!(fed.source.send_event(gst::event::FlushStop::new(true)));
    fed.push(&frames[..CHUNKS[0]], 0);
    assert!(fed.pull(CHUNKS[0]) == made);
    // A prompt stays after a flush.
    fed.filter().set_property("prompt", "a blue bird");
    fed.push(&vec![frames[0].clone(); CHUNKS[1]], CHUNKS[0]);
    fed.pull(CHUNKS[1]);
    assert!(fed.source.send_event(gst::event::FlushStart::new()));
    assert!(fed.source.send_event(gst::event::FlushStop::new(true)));
    fed.push(&frames[..CHUNKS[0]], 0);
    assert!(fed.pull(CHUNKS[0]) != made);
}

#[test]
fn another_format_in_the_middle_loses_no_frame() {
    let frames = pictures(&samples(&video(7, "16/1")));
    let fed = FilterWithSource::new("strength=0");
    fed.push(&frames, 0);
    fed.source.set_caps(Some(&caps("BGR").parse().unwrap()));
    let swapped: Vec<Vec<u8>> =
        frames.iter().map(|frame| frame.chunks(3).flat_map(|p| [p[2], p[1], p[0]]).collect()).collect();
    fed.push(&swapped, 7);
    fed.source.end_of_stream().unwrap();
    let made: Vec<_> = std::iter::from_fn(|| fed.sink.pull_sample().ok()).collect();
    assert_eq!(made.len(), 14);
    let made = pictures(&made);
    assert!(made[..7] == made[7..], "the same frames in another format");
}

#[test]
fn a_live_video_gets_the_latency_of_a_chunk() {
    let pipeline = parse(&format!(
        "{} ! {} ! fakesink",
        video(40, "16/1").replace("videotestsrc", "videotestsrc is-live=true"),
        filter("strength=0")
    ));
    pipeline.set_state(gst::State::Playing).unwrap();
    let bus = pipeline.bus().unwrap();
    let ends = [gst::MessageType::AsyncDone, gst::MessageType::Error];
    let done = bus.timed_pop_filtered(None, &ends).unwrap();
    assert_eq!(done.type_(), gst::MessageType::AsyncDone, "{done:?}");
    let mut query = gst::query::Latency::new();
    let filter = pipeline.by_name("filter").unwrap();
    assert!(filter.static_pad("src").unwrap().query(&mut query));
    let (is_live, min, _) = query.result();
    // Twice the 8 frames of a chunk: to collect them and to make them.
    assert!(is_live && min >= gst::ClockTime::SECOND, "{min}");
}

/// When the sinks show their buffers: running time and timestamp of each.
fn shown(pipeline: &Pipeline, name: &str) -> std::sync::mpsc::Receiver<(gst::ClockTime, gst::ClockTime)> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let clocked = pipeline.downgrade();
    pipeline.by_name(name).unwrap().connect("handoff", false, move |values| {
        let buffer = values[1].get::<gst::Buffer>().unwrap();
        let now = clocked.upgrade().and_then(|pipeline| pipeline.current_running_time());
        let _ = sender.send((now?, buffer.pts()?));
        None
    });
    receiver
}

/// On the wall clock, for `SORAGEN_LIVE_SECONDS`: part of `make endurance`.
#[test]
#[ignore = "takes a minute and measures time; make endurance runs it"]
fn a_live_video_through_a_slow_model_keeps_its_latency_and_its_memory() {
    let seconds = std::env::var("SORAGEN_LIVE_SECONDS").map_or(60, |text| text.parse::<u64>().unwrap());
    let chunk = gst::ClockTime::from_mseconds(500);
    // A chunk of half a second has four steps: once at a quarter of the time, once at twice the time.
    for (delay, is_fast) in [(31, true), (250, false)] {
        let folder = tempfile::tempdir().unwrap();
        copy(&path("miniature"), folder.path());
        let _hook = soragen::testing::slow(
            folder.path(),
            std::time::Duration::from_millis(delay),
            soragen::testing::wait,
        );
        let pipeline = parse(&format!(
            "{} ! sorafilter name=filter model=\"{}\" prompt=fox strength=1 motion-noise=0 ! \
             fakesink name=video sync=true signal-handoffs=true audiotestsrc is-live=true ! \
             audio/x-raw,rate=48000 ! fakesink name=audio sync=true signal-handoffs=true",
            video(100_000, "16/1").replace("videotestsrc", "videotestsrc is-live=true"),
            folder.path().display()
        ));
        let (video, audio) = (shown(&pipeline, "video"), shown(&pipeline, "audio"));
        let filter = pipeline.by_name("filter").unwrap();
        let bus = pipeline.bus().unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        let mut memory = Vec::new();
        let end = gst::ClockTime::from_seconds(seconds);
        while pipeline.current_running_time().is_none_or(|now| now < end) {
            let kinds = [gst::MessageType::Error, gst::MessageType::Latency];
            if let Some(message) = bus.timed_pop_filtered(gst::ClockTime::from_mseconds(200), &kinds) {
                assert_eq!(message.type_(), gst::MessageType::Latency, "{message:?}");
                pipeline.recalculate_latency().unwrap();
            }
            memory.push(crate::memory::memory("VmRSS").unwrap());
        }
        let latency = latency_of(&filter);
        let stats = filter.property::<gst::Structure>("stats");
        pipeline.set_state(gst::State::Null).unwrap();
        let (video, audio): (Vec<_>, Vec<_>) = (video.try_iter().collect(), audio.try_iter().collect());
        let (made, dropped) = (stats.get::<u64>("frames").unwrap(), stats.get::<u64>("dropped").unwrap());
        let worst = |shown: &[(gst::ClockTime, gst::ClockTime)]| {
            let late = shown
                .iter()
                .skip(shown.len() / 4)
                .map(|(now, pts)| now.nseconds() as i64 - pts.nseconds() as i64);
            gst::ClockTime::from_nseconds(late.max().unwrap().max(0) as u64)
        };
        let (late, behind) = (worst(&video), worst(&audio));
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let (early, last) = (memory[memory.len() / 3], memory[memory.len() - 1]);
        println!(
            "{delay} ms a step: {made} frames, {dropped} dropped, latency {latency}, video shown after {late}, audio after {behind}, \
             {:.1} MB after a third, {:.1} MB at the end",
            megabytes(early),
            megabytes(last)
        );
        assert_eq!(dropped > 0, !is_fast, "{stats}");
        // All frames are made or counted, but those that still wait: two chunks, and the one that is made.
        let all = seconds * 16;
        assert!(
            (all - 40..=all + 16).contains(&(made + dropped)),
            "{made} made and {dropped} dropped of {all}"
        );
        assert!(late <= latency + chunk / 2, "{late} after the latency of {latency}");
        let apart = if late > behind { late - behind } else { behind - late };
        assert!(apart <= chunk, "video and audio are {apart} apart");
        assert!(last < early + (8 << 20), "the memory grows from {early} to {last}");
    }
}

/// The latency that `element` answers.
fn latency_of(element: &gst::Element) -> gst::ClockTime {
    let mut query = gst::query::Latency::new();
    assert!(element.static_pad("src").unwrap().query(&mut query));
    query.result().1
}

#[test]
fn state_changes_can_come_at_any_time() {
    let pipeline = parse(&format!("{} ! {} ! fakesink", video(1000, "16/1"), filter("strength=0.5")));
    for i in 0..100 {
        pipeline.set_state(gst::State::Playing).unwrap();
        if i % 10 == 0 {
            let bus = pipeline.bus().unwrap();
            let kinds = [gst::MessageType::AsyncDone, gst::MessageType::Error];
            let done = bus.timed_pop_filtered(None, &kinds).unwrap();
            assert_eq!(done.type_(), gst::MessageType::AsyncDone, "{done:?}");
        }
        pipeline.set_state(gst::State::Null).unwrap();
    }
    let (gone, is_gone) = std::sync::mpsc::channel();
    pipeline.by_name("filter").unwrap().add_weak_ref_notify(move || gone.send(()).unwrap());
    drop(pipeline);
    // The bin may still hold it in a thread of its own.
    is_gone.recv_timeout(std::time::Duration::from_secs(30)).expect("nothing keeps the element");
}

#[test]
fn frames_are_marked_and_announced() {
    let source = "videotestsrc pattern=ball num-buffers=33 ! video/x-raw,width=320,height=192,framerate=16/1";
    let filter = "sorafilter prompt=\"a cat in the snow\" strength=0.5 ingredient=film.mp4";
    let stats = detection_stats(&format!("{source} ! {filter} ! soradetect name=detect ! fakesink"));
    assert!(stats.get::<bool>("marked").unwrap(), "{stats}");

    let pipeline = parse(&format!("{source} ! {filter} ! fakesink"));
    pipeline.set_state(gst::State::Playing).unwrap();
    let bus = pipeline.bus().unwrap();
    let shot = loop {
        let message = bus.timed_pop(None).unwrap();
        assert_ne!(message.type_(), gst::MessageType::Error, "{message:?}");
        if message.has_name("soragen-shot") {
            break message.structure().unwrap().to_owned();
        }
    };
    assert!(shot.get::<bool>("restyled").unwrap());
    assert_eq!(shot.get::<&str>("ingredient").unwrap(), "film.mp4");
    assert_eq!(shot.get::<&str>("prompt").unwrap(), "a cat in the snow");
}

#[test]
fn a_variable_frame_rate_goes_through() {
    let source = "appsrc name=source format=time caps=\"video/x-raw,format=RGB,width=48,height=16\"";
    for mode in ["model", "every"] {
        let pipeline = parse(&format!(
            "{source} ! {} ! appsink name=sink sync=false",
            filter(&format!("strength=0 rate-mode={mode}"))
        ));
        pipeline.set_state(gst::State::Playing).unwrap();
        let source: gst_app::AppSrc = pipeline.by_name("source").unwrap().downcast().unwrap();
        for time in [0, 30, 120] {
            let mut buffer = gst::Buffer::from_slice(vec![90u8; SIZE.samples()]);
            buffer.get_mut().unwrap().set_pts(gst::ClockTime::from_mseconds(time));
            source.push_buffer(buffer).unwrap();
        }
        source.end_of_stream().unwrap();
        let sink: gst_app::AppSink = pipeline.by_name("sink").unwrap().downcast().unwrap();
        let made: Vec<_> = std::iter::from_fn(|| sink.pull_sample().ok()).collect();
        let expected: &[u64] = if mode == "model" { &[0, 62, 120] } else { &[0, 30, 120] };
        assert_eq!(times(&made), expected, "{mode}");
    }
}

/// `frames` frames that steer, beside a video of 16 frames per second.
fn side_video(pad: &str, pattern: &str, frames: usize, rate: &str) -> String {
    format!(
        "videotestsrc pattern={pattern} num-buffers={frames} ! \
         video/x-raw,format=RGB,width=48,height=16,framerate={rate} ! filter.{pad}"
    )
}

#[test]
fn a_controlled_control_scale_counts_from_the_chunk_of_its_frame() {
    let folder = tempfile::tempdir().unwrap();
    let branch = control_branch(folder.path());
    let count = CHUNKS[0] + 2 * CHUNKS[1];
    let control = side_video("control", "snow", count, "16/1");
    let filter = filter(&format!("strength=0.8 control-scale=0.5 vace=\"{}\"", branch.display()));
    let video = format!("{control} {} ! {filter} ! appsink name=sink sync=false", video(count, "16/1"));
    let constant = crate::control::frames(&parse(&video));
    let pipeline = parse(&video);
    let element = pipeline.by_name("filter").unwrap();
    crate::control::set_controller(&element, "control-scale", [0.5, 1.5], CHUNKS[0] as u64 + 2);
    let changed = crate::control::frames(&pipeline);
    let first = (0..count).find(|&n| changed[n] != constant[n]);
    assert_eq!(first, Some(CHUNKS[0] + CHUNKS[1]));
}

#[test]
fn the_pads_control_and_mask_steer_the_frames_at_their_time() {
    let folder = tempfile::tempdir().unwrap();
    let branch = control_branch(folder.path());
    let count = CHUNKS[0] + CHUNKS[1];
    let control = side_video("control", "snow", count.div_ceil(2), "8/1");
    let mask = side_video("mask", "checkers-8", count, "16/1");
    let filter = filter(&format!("strength=0.8 control-scale=0.7 vace=\"{}\"", branch.display()));
    let made = pictures(&samples(&format!("{control} {mask} {} ! {filter}", video(count, "16/1"))));

    let pictures_of = |side: &str| pictures(&samples(side.split(" ! filter.").next().unwrap()));
    let (controls, masks) = (pictures_of(&control), pictures_of(&mask));
    let image = |pixels: &[u8]| RgbImage::from_raw(SIZE.width, SIZE.height, pixels.to_vec()).unwrap();
    let parts = Parts { vace: Some(branch), ..Parts::default() };
    let options = with!(OpenOptions::default(); parts: parts);
    let model = Model::open(path("miniature").to_str().unwrap(), &options, &Cancel::new()).unwrap();
    let by_the_engine = |steered: bool| {
        let request = with!(Request::default();
            prompt: "the red fox".into(),
            length: Length::Endless,
            watermark: None,
            control_scale: 0.7,
            restyle: Some(Restyle { strength: 0.8, motion_noise: 0.0 }));
        let mut session = Session::new(model.clone(), request).unwrap();
        for (i, frame) in pictures(&samples(&video(count, "16/1"))).iter().enumerate() {
            session.push_frames(frame).unwrap();
            if steered {
                let mask = DynamicImage::from(image(&masks[i])).into_luma8();
                session.push_control(image(&controls[i / 2]), Some(mask)).unwrap();
            }
        }
        let mut made: Vec<Vec<u8>> = Vec::new();
        for _ in CHUNKS {
            let chunk = session.next_chunk(&Cancel::new(), &mut |_| {}).unwrap().unwrap();
            made.extend(chunk.iter().map(<[u8]>::to_vec));
        }
        made
    };
    assert!(made == by_the_engine(true));
    assert!(made != by_the_engine(false));
}

#[test]
fn one_thread_may_feed_both_pads() {
    let folder = tempfile::tempdir().unwrap();
    let branch = control_branch(folder.path());
    let steering = side_video("control", "snow", 8, "16/1").replace("filter.control", "tee name=both");
    let made = samples(&format!(
        "{steering} both. ! filter.control both. ! filter.mask {} ! {}",
        video(8, "16/1"),
        filter(&format!("vace=\"{}\"", branch.display()))
    ));
    assert_eq!(made.len(), 8);
}

#[test]
fn a_flush_does_not_wait_for_a_frame_that_steers() {
    let folder = tempfile::tempdir().unwrap();
    let branch = control_branch(folder.path());
    let pipeline = parse(&format!(
        "appsrc name=control format=time caps=\"{}\" ! filter.control {} ! {} ! fakesink async=false",
        caps("RGB"),
        video(5, "16/1"),
        filter(&format!("vace=\"{}\"", branch.display()))
    ));
    let pad = pipeline.by_name("filter").unwrap().static_pad("sink").unwrap();
    let (sender, arrived) = std::sync::mpsc::channel();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        let _ = sender.send(());
        gst::PadProbeReturn::Ok
    });
    pipeline.set_state(gst::State::Playing).unwrap();
    arrived.recv().unwrap();
    assert!(pad.send_event(gst::event::FlushStart::new()));
    assert!(pad.send_event(gst::event::FlushStop::new(true)));
}

#[test]
fn errors_say_what_to_do() {
    let source = video(5, "16/1");
    let empty = error(&format!("{source} ! {}", filter("prompt=\" \"")));
    assert!(
        empty.matches(gst::LibraryError::Settings) && empty.message().contains("prompt is empty"),
        "{empty}"
    );
    let clip = error(&format!(
        "{source} ! {}",
        tiny("t2v-unipc").replace("soragen ", "sorafilter ").replace("steps=2", "")
    ));
    assert!(clip.matches(gst::LibraryError::Settings) && clip.message().contains("builtin"), "{clip}");
    let control = side_video("control", "snow", 5, "16/1");
    let steered = error(&format!("{control} {source} ! {}", filter("")));
    assert!(
        steered.matches(gst::LibraryError::Settings) && steered.message().contains("`vace`"),
        "{steered}"
    );
    let folder = tempfile::tempdir().unwrap();
    let branch = format!("vace=\"{}\"", control_branch(folder.path()).display());
    let masked = error(&format!("{} {source} ! {}", side_video("mask", "snow", 5, "16/1"), filter(&branch)));
    assert!(masked.matches(gst::LibraryError::Settings) && masked.message().contains("control"), "{masked}");
    let missing = error(&format!("{source} ! sorafilter model=/nowhere prompt=snow"));
    assert!(missing.matches(gst::ResourceError::NotFound), "{missing:?}");
    let policy = tempfile::tempdir().unwrap();
    let file = policy.path().join("policy.toml");
    std::fs::write(
        &file,
        "name = \"t\"\n[[category]]\nname = \"stones\"\naction = \"block\"\nphrases = [\"quartz\"]",
    )
    .unwrap();
    let refused =
        error(&format!("{source} ! {}", filter(&format!("policy=\"{}\" prompt=\"quartz\"", file.display()))));
    assert!(refused.matches(gst::ResourceError::NotAuthorized), "{refused:?}");
}

#[test]
fn both_pads_have_the_sizes_of_the_model() {
    let pipeline = parse(&format!("videotestsrc num-buffers=1 ! {} ! fakesink", filter("strength=0")));
    pipeline.set_state(gst::State::Paused).unwrap();
    let bus = pipeline.bus().unwrap();
    let done = bus.timed_pop_filtered(None, &[gst::MessageType::AsyncDone, gst::MessageType::Error]).unwrap();
    assert_eq!(done.type_(), gst::MessageType::AsyncDone, "{done:?}");
    for pad in ["sink", "src"] {
        let caps = pipeline.by_name("filter").unwrap().static_pad(pad).unwrap().current_caps().unwrap();
        let size = (
            caps.structure(0).unwrap().get("width").unwrap(),
            caps.structure(0).unwrap().get("height").unwrap(),
        );
        assert_eq!(size, (SIZE.width as i32, SIZE.height as i32), "{pad}");
    }
}
