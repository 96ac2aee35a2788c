//! Live sources.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::Duration;

use gst::prelude::*;
use soragen::testing::Event;
use soragen_tests::fixtures::{copy, path};

use crate::support::{Pipeline, init, parse, pixels, shots};

/// One frame of the miniature model.
pub const FRAME: gst::ClockTime = gst::ClockTime::from_nseconds(62_500_000);

/// A live source, and a test clock that the test advances.
pub struct Live {
    pub pipeline: Pipeline,
    pub clock: gst_check::TestClock,
    pub source: gst::Element,
    sink: gst_app::AppSink,
    pulled: u64,
}

impl Live {
    /// A live source with `arguments`.
    pub fn new(arguments: &str) -> Self {
        let pipeline = parse(&format!(
            "soragen name=source is-live=true model=\"{}\" prompt=\"the red fox\" {arguments} ! \
             video/x-raw,format=RGB ! appsink name=sink sync=false",
            path("miniature").display()
        ));
        Self::of(pipeline)
    }

    pub fn of(pipeline: Pipeline) -> Self {
        let clock = gst_check::TestClock::new();
        pipeline.use_clock(Some(&clock));
        // In `soraprompt` it has another name.
        let source = pipeline.by_name("source").or_else(|| pipeline.by_name("soragen")).unwrap();
        let sink = pipeline.by_name("sink").unwrap().downcast().unwrap();
        Self { pipeline, clock, source, sink, pulled: 0 }
    }

    pub fn playing(arguments: &str) -> Self {
        let live = Self::new(arguments);
        live.pipeline.set_state(gst::State::Playing).unwrap();
        live
    }

    pub fn stat(&self, name: &str) -> u64 {
        self.source.property::<gst::Structure>("stats").get(name).unwrap()
    }

    /// The next frame. The clock goes on to its time when the model has made it, so no frame is late.
    pub fn next(&mut self) -> Option<gst::Sample> {
        while self.pulled > 0 && !self.sink.is_eos() {
            let made = self.stat("frames") > self.pulled;
            // A wait from before a pause is not the next one; the source is about to end it.
            let id = self.clock.peek_next_pending_id().filter(|id| id.time() > self.clock.time());
            // The source waits for a frame after it has pushed the one before it. After a jump of the running time it does not
            // wait.
            if let Some(sample) = self.sink.try_pull_sample(gst::ClockTime::ZERO) {
                self.pulled += 1;
                return Some(sample);
            }
            if made && let Some(id) = id {
                advance(&self.clock, &id);
                break;
            }
            std::thread::yield_now();
        }
        let sample = self.sink.pull_sample().ok()?;
        self.pulled += 1;
        Some(sample)
    }

    /// What the source pushes when the clock shows `time`.
    pub fn next_at(&mut self, time: gst::ClockTime) -> gst::Sample {
        self.pulled += 1;
        loop {
            if let Some(sample) = self.sink.try_pull_sample(gst::ClockTime::ZERO) {
                return sample;
            }
            self.advance_until(time);
        }
    }

    /// Ends the next wait of the source, if it is for `time` or earlier.
    pub fn advance_until(&self, time: gst::ClockTime) {
        if let Some(id) = self.clock.peek_next_pending_id().filter(|id| id.time() <= time) {
            advance(&self.clock, &id);
        }
        std::thread::yield_now();
    }

    /// Waits until the model has made so many frames.
    pub fn wait_for_frames(&self, count: u64) {
        while self.stat("frames") < count {
            std::thread::yield_now();
        }
    }

    fn frames(&mut self) -> Vec<gst::Sample> {
        std::iter::from_fn(|| self.next()).collect()
    }

    /// The first frame; all others are late.
    fn first_in_time(&mut self) -> gst::Sample {
        let first = self.next().unwrap();
        self.clock.set_time(gst::ClockTime::from_seconds(3600));
        first
    }

    /// The frames up to the end of a source whose frames are all due.
    pub fn due_frames(&self) -> Vec<gst::Sample> {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // A wait that began before the clock was set.
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    self.clock.process_next_clock_id();
                    std::thread::yield_now();
                }
            });
            let frames = std::iter::from_fn(|| self.sink.pull_sample().ok()).collect();
            done.store(true, Ordering::Relaxed);
            frames
        })
    }
}

/// Moves `clock` to the time that `id` waits for, and ends the wait.
fn advance(clock: &gst_check::TestClock, id: &gst::ClockId) {
    clock.set_time(id.time().max(clock.time()));
    // Not `process_id`, which in these bindings releases the ID once too often.
    clock.process_next_clock_id();
}

fn pts(sample: &gst::Sample) -> gst::ClockTime {
    sample.buffer().unwrap().pts().unwrap()
}

#[test]
fn a_late_model_repeats_the_last_frame() {
    // The second chunk takes a thousand steps, so it is always late.
    let mut live = Live::playing("steps=1000 guidance-scale=1 watermark=false num-buffers=12");
    let first = live.first_in_time();
    let made: Vec<_> = std::iter::once(first).chain(live.due_frames()).collect();
    let bus = live.pipeline.bus().unwrap();
    let messages: Vec<_> = std::iter::from_fn(|| bus.pop_filtered(&[gst::MessageType::Qos])).collect();

    assert_eq!(made.len(), 12);
    for (n, message) in (5u64..).zip(&messages) {
        let gst::MessageView::Qos(qos) = message.view() else { unreachable!() };
        let (live, running_time, _, start, _) = qos.get();
        assert_eq!((live, start), (true, Some(n * FRAME)));
        let jitter = gst::ClockTime::from_seconds(3600) - running_time.unwrap();
        assert_eq!(qos.values().0 as u64, jitter.nseconds());
        let (shown, held) = qos.stats();
        assert_eq!((shown.value(), held.value()), (5, n as i64 - 4));
    }
    assert_eq!(messages.len(), 7);
    for (n, sample) in (0..).zip(&made) {
        // Timestamps continue without a gap.
        assert_eq!(pts(sample), n * FRAME, "frame {n}");
        assert_eq!(pixels(sample) == pixels(&made[4]), n >= 4, "frame {n}");
    }
    assert_eq!((live.stat("late"), live.stat("frames")), (7, 5));
}

#[test]
fn a_repeated_frame_has_the_watermark_of_its_own_time() {
    let marked = |arguments: &str| {
        let mut live = Live::playing(&format!("steps=1000 guidance-scale=1 num-buffers=12 {arguments}"));
        let first = live.first_in_time();
        std::iter::once(first).chain(live.due_frames()).map(|sample| pixels(&sample)).collect::<Vec<_>>()
    };
    let (with, without) = (marked(""), marked("watermark=false"));
    for n in 5..12 {
        assert!(without[n] == without[4] && with[n] != with[4], "frame {n}");
    }
}

#[test]
fn a_model_in_time_neither_repeats_nor_drops_frames() {
    let mut live = Live::playing("seed=3 num-buffers=5");
    let made: Vec<_> = live.frames().iter().map(pixels).collect();
    assert_eq!(live.stat("late"), 0);
    let file = format!(
        "soragen seed=3 duration=312500000 model=\"{}\" prompt=\"the red fox\" ! video/x-raw,format=RGB",
        path("miniature").display()
    );
    assert!(crate::support::samples(&file).iter().map(pixels).eq(made));
}

/// The least latency that the source states.
fn latency(source: &gst::Element) -> gst::ClockTime {
    let mut query = gst::query::Latency::new();
    assert!(source.query(&mut query));
    let (live, least, _) = query.result();
    assert!(live);
    least
}

#[test]
fn the_latency_is_one_frame_before_and_after_the_model_is_loaded() {
    let mut live = Live::new("");
    live.pipeline.set_state(gst::State::Ready).unwrap();
    assert_eq!(latency(&live.source), FRAME);
    live.pipeline.set_state(gst::State::Playing).unwrap();
    live.next().unwrap();
    assert_eq!(latency(&live.source), FRAME);
    let mut seeking = gst::query::Seeking::new(gst::Format::Time);
    assert!(live.source.query(&mut seeking));
    assert!(!seeking.result().0, "what is live cannot be sought in");
    assert_eq!(live.source.query_duration::<gst::ClockTime>(), None, "nor has it an end");
}

#[test]
fn a_latency_that_changes_is_announced() {
    let pipeline = parse(&format!(
        "soragen name=source is-live=true model=\"{}\" prompt=x ! video/x-raw,framerate=25/1 ! appsink name=sink sync=false",
        path("miniature").display()
    ));
    let mut live = Live::of(pipeline);
    live.pipeline.set_state(gst::State::Playing).unwrap();
    live.next().unwrap();
    let bus = live.pipeline.bus().unwrap();
    assert!(bus.pop_filtered(&[gst::MessageType::Latency]).is_some());
    assert_eq!(latency(&live.source).mseconds(), 40);
    // A model that is not on this machine has no frame rate yet.
    init();
    let source = gst::ElementFactory::make("soragen").property("is-live", true);
    let source = source.property("model", "hf:soragen/there-is-none").build().unwrap();
    assert_eq!(latency(&source), gst::ClockTime::ZERO);
}

#[test]
fn the_size_can_change_while_live() {
    let model = path("pipelines/t2v-unipc");
    let pipeline = parse(&format!(
        "soragen name=source is-live=true model=\"{}\" prompt=\"a red fox\" steps=2 duration=1000000000 ! \
         capsfilter name=size caps=video/x-raw,format=RGB,width=48,height=32 ! appsink name=sink sync=false max-buffers=1",
        model.display()
    ));
    let mut live = Live::of(pipeline);
    live.pipeline.set_state(gst::State::Playing).unwrap();
    let first = live.first_in_time();
    let caps = "video/x-raw,format=RGB,width=80,height=64".parse::<gst::Caps>().unwrap();
    live.pipeline.by_name("size").unwrap().set_property("caps", &caps);
    let rest = live.due_frames();
    let error = live.pipeline.bus().unwrap().pop_filtered(&[gst::MessageType::Error]);
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
    let mut live = Live::playing(&format!("{storyboard} num-buffers=32"));
    let made: Vec<_> = live.frames().iter().map(pixels).collect();
    let starts = shots(&live.pipeline.bus().unwrap(), "frame");
    assert_eq!(starts, [0, 5, 16]);
    let model = path("miniature");
    let file = format!("soragen {storyboard} model=\"{}\" ! video/x-raw,format=RGB", model.display());
    assert!(crate::support::samples(&file).iter().map(pixels).eq(made));
}

#[test]
fn a_source_that_is_added_later_starts_at_the_running_time() {
    init();
    let three = gst::ClockTime::from_seconds(3);
    let pipeline = Pipeline(gst::Pipeline::new());
    let clock = gst_check::TestClock::new();
    pipeline.use_clock(Some(&clock));
    pipeline.set_state(gst::State::Playing).unwrap();
    clock.set_time(three);
    let description = format!(
        "soragen name=source is-live=true model=\"{}\" prompt=\"the red fox\" ! appsink name=sink sync=false async=false",
        path("miniature").display()
    );
    let bin = gst::parse::bin_from_description(&description, false).unwrap();
    let (source, sink) = (bin.by_name("source").unwrap(), bin.by_name("sink").unwrap());
    pipeline.add(&bin).unwrap();
    bin.sync_state_with_parent().unwrap();
    let mut live = Live { pipeline, clock, source, sink: sink.downcast().unwrap(), pulled: 0 };
    for n in 0..6 {
        assert_eq!(pts(&live.next().unwrap()), three + n * FRAME);
    }
}

#[test]
fn a_source_follows_the_running_time_after_a_pause() {
    let mut live = Live::playing("");
    let pause = |live: &Live| {
        // While the source waits for the time of a frame.
        while live.clock.peek_id_count() == 0 {
            std::thread::yield_now();
        }
        live.pipeline.set_state(gst::State::Paused).unwrap();
        live.clock.advance_time(10_000_000_000);
    };
    let play = |live: &Live| live.pipeline.set_state(gst::State::Playing).unwrap();
    for n in 0..3 {
        assert_eq!(pts(&live.next().unwrap()), n * FRAME);
    }
    // The pipeline keeps its running time: timestamps go on.
    pause(&live);
    play(&live);
    for n in 3..6 {
        assert_eq!(pts(&live.next().unwrap()), n * FRAME);
    }
    // The application sets the base time, and so the running time goes on in a pause.
    let before = live.pipeline.current_running_time().unwrap();
    live.pipeline.set_start_time(gst::ClockTime::NONE);
    pause(&live);
    play(&live);
    let sample = live.next().unwrap();
    assert_eq!(pts(&sample), before + gst::ClockTime::from_seconds(10));
    assert!(sample.buffer().unwrap().flags().contains(gst::BufferFlags::DISCONT));
    let next = live.next().unwrap();
    assert_eq!(pts(&next), pts(&sample) + FRAME);
    assert!(!next.buffer().unwrap().flags().contains(gst::BufferFlags::DISCONT));
    // A base time that makes the running time start again.
    pause(&live);
    live.pipeline.set_base_time(live.clock.time());
    play(&live);
    assert_eq!(pts(&live.next().unwrap()), gst::ClockTime::ZERO);
    assert_eq!(pts(&live.next().unwrap()), FRAME);
}

/// Frames of each chunk of the miniature model but the first, which has five.
const CHUNK: u64 = 8;

/// Runs a live source on a test clock until `end`, with a model that takes `delay` of the clock's time for each chunk. Returns for each frame its timestamp and the running time at which it left, and the number of late frames.
fn paced(delay: Duration, end: gst::ClockTime) -> (Vec<(gst::ClockTime, gst::ClockTime)>, u64) {
    let folder = tempfile::tempdir().unwrap();
    copy(&path("miniature"), folder.path());
    let pipeline = parse(&format!(
        "soragen name=source is-live=true model=\"{}\" prompt=fox steps=1 watermark=false cache-dir=none ! appsink name=sink \
         sync=false max-buffers=1 drop=true",
        folder.path().display()
    ));
    let live = Live::of(pipeline);
    let model_clock = live.clock.clone();
    // The chunk that is denoised.
    let begun = Arc::new(AtomicU64::new(0));
    let denoised = begun.clone();
    let _hook = soragen::testing::set_hook(folder.path(), move |event, cancel| {
        if let Event::Step { chunk, .. } = event {
            denoised.store(chunk as u64, Ordering::Relaxed);
            let end = model_clock.time() + gst::ClockTime::try_from(delay).unwrap();
            // The time passes when the test moves the clock.
            let _ = model_clock.new_single_shot_id(end).wait();
        }
        cancel.check()
    });
    let left = Arc::new(Mutex::new(Vec::new()));
    let (times, clock) = (left.clone(), live.clock.clone());
    live.source.static_pad("src").unwrap().add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        // The base time is 0.
        times.lock().unwrap().push((info.buffer().unwrap().pts().unwrap(), clock.time()));
        gst::PadProbeReturn::Ok
    });
    let (end_reached, ended) = mpsc::channel();
    let (stopping, stopped) = (AtomicBool::new(false), AtomicBool::new(false));
    let late = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stopped.load(Ordering::Relaxed) {
                let (waiting, first, pushed) = {
                    let left: MutexGuard<Vec<(gst::ClockTime, _)>> = left.lock().unwrap();
                    (live.clock.peek_id_count(), left.first().map(|(first, _)| *first), left.len() as u64)
                };
                let Some(id) = live.clock.peek_next_pending_id() else {
                    std::thread::yield_now();
                    continue;
                };
                // Both are read once, in this order: a chunk that is begun after the first reading does not count.
                let chunk = begun.load(Ordering::Relaxed);
                let made = live.stat("frames");
                // Rendering the chunk before takes no time of the clock.
                let rendered = chunk == 0 || made >= 5 + CHUNK * (chunk - 1);
                // The clock goes on when both threads wait for it, or one while the other has nothing to do: the source before
                // the first frame, the model while it is a chunk ahead.
                let source_waits = first.is_some_and(|first| id.time() == first + pushed * FRAME);
                // The source has shown all frames but those that it repeated.
                let model_idles = source_waits && made + live.stat("late") >= pushed + CHUNK;
                let nothing_made = pushed == 0 && made == 0;
                if rendered && (pushed > 0 && waiting >= 2 || nothing_made || model_idles)
                    || stopping.load(Ordering::Relaxed)
                {
                    advance(&live.clock, &id);
                } else {
                    std::thread::yield_now();
                }
                if live.clock.time() >= end {
                    // Only the first is received.
                    let _ = end_reached.send(());
                }
            }
        });
        live.pipeline.set_state(gst::State::Playing).unwrap();
        ended.recv().unwrap();
        let late = live.stat("late");
        stopping.store(true, Ordering::Relaxed);
        live.pipeline.set_state(gst::State::Null).unwrap();
        stopped.store(true, Ordering::Relaxed);
        late
    });
    let left = std::mem::take(&mut *left.lock().unwrap());
    (left, late)
}

/// For two minutes of the test clock, or `SORAGEN_LIVE_SECONDS`.
#[test]
fn frames_leave_at_their_time_whether_the_model_is_fast_or_slow() {
    let seconds = std::env::var("SORAGEN_LIVE_SECONDS").map_or(120, |text| text.parse().unwrap());
    // Four times as fast as the video is shown, and half as fast.
    for (delay, fast) in [(CHUNK / 4 * FRAME, true), (2 * CHUNK * FRAME, false)] {
        // No two threads wait for the same time.
        let delay = delay + gst::ClockTime::NSECOND;
        let (left, late) = paced(delay.into(), gst::ClockTime::from_seconds(seconds));
        assert!(left.len() as u64 >= (seconds - 2) * 16, "{} frames", left.len());
        // The first frame is shown when the first chunk is made.
        assert_eq!(left[0].0, delay);
        for (n, (pts, left)) in (0..).zip(&left) {
            assert_eq!(*pts, delay + n * FRAME);
            assert!(left >= pts && *left - *pts <= FRAME, "frame {n} of {pts} left at {left}");
        }
        // The slow one is a chunk ahead now and then, and does nothing for the time of one frame.
        let part = late as f64 / left.len() as f64;
        assert!(if fast { late == 0 } else { (0.49..0.54).contains(&part) }, "{late} late of {}", left.len());
    }
}

#[test]
fn a_model_that_fails_shows_what_it_has_made() {
    let folder = tempfile::tempdir().unwrap();
    copy(&path("miniature"), folder.path());
    let _hook = soragen::testing::failing(folder.path(), 2);
    let pipeline = parse(&format!(
        "soragen name=source is-live=true model=\"{}\" prompt=fox cache-dir=none ! appsink name=sink sync=false",
        folder.path().display()
    ));
    let mut live = Live::of(pipeline);
    live.pipeline.set_state(gst::State::Playing).unwrap();
    let made = live.frames();
    assert!(made.iter().map(pts).eq((0..5 + CHUNK).map(|n| n * FRAME)), "{} frames", made.len());
    let error = live.pipeline.bus().unwrap().pop_filtered(&[gst::MessageType::Error]).unwrap();
    let gst::MessageView::Error(error) = error.view() else { unreachable!() };
    assert!(error.error().message().contains("injected fault"), "{error:?}");
}

#[test]
fn cues_count_in_running_time() {
    let three = gst::ClockTime::from_seconds(3);
    let pipeline = parse(&format!(
        "appsrc name=text format=time caps=text/x-raw,format=utf8 ! \
         soraprompt soragen::is-live=true soragen::model=\"{}\" soragen::watermark=false ! \
         appsink name=sink sync=false",
        path("miniature").display()
    ));
    let text = pipeline.by_name("text").unwrap().downcast::<gst_app::AppSrc>().unwrap();
    let mut live = Live::of(pipeline);
    let push = |words: &'static str, at: gst::ClockTime| {
        let mut buffer = gst::Buffer::from_slice(words);
        buffer.get_mut().unwrap().set_pts(at);
        text.push_buffer(buffer).unwrap();
    };
    live.pipeline.set_state(gst::State::Playing).unwrap();
    live.clock.set_time(three);
    // Both arrive before the first frame.
    push("snow", three);
    push("rain", three + 16 * FRAME);
    while text.current_level_buffers() > 0 {
        std::thread::yield_now();
    }
    for n in 0..24 {
        assert_eq!(pts(&live.next().unwrap()), three + n * FRAME);
    }
    push("fog", three + 48 * FRAME);
    while text.current_level_buffers() > 0 {
        std::thread::yield_now();
    }
    for _ in 24..64 {
        live.next().unwrap();
    }
    let starts = shots(&live.pipeline.bus().unwrap(), "start");
    let frames: Vec<_> = starts.iter().map(|start| (start - three.nseconds()) / FRAME.nseconds()).collect();
    // A shot that continues the video begins with the chunk nearest to its time; chunks begin at 5 + 8 n.
    assert_eq!(frames, [0, 13, 45]);
}
