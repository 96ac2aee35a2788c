//! The element compared with the engine, with the built-in model: `make bench`.
//!
//! With `-- MINUTES` it generates that much video and prints the memory use after every minute. With `-- MINUTES FOLDER` it
//! also writes a frame every 20 seconds to the folder.

mod memory;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gst::prelude::*;
use memory::memory;
use soragen::testing::Event;
use soragen::{Cancel, Length, Model, OpenOptions, Request, Session};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const PROMPT: &str = "a red fox runs over the snow";
const FRAMES: u64 = 49;
/// Rounds of each measurement, so that at least one is undisturbed.
const ROUNDS: usize = 9;
/// Frame rate of the built-in model.
const RATE: u64 = 16;

fn main() -> Result<()> {
    gst::init()?;
    gstsoragen::plugin_register_static()?;
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let Some(minutes) = arguments.first() {
        return measure_endurance(minutes.parse()?, arguments.get(1).map(Path::new));
    }
    soragen_builtin::register();
    let model = Model::open("builtin", &OpenOptions::default(), &Cancel::new())?;
    // Alternate, so that other load on the machine affects both.
    let mut best = [Duration::MAX; 2];
    for _ in 0..ROUNDS {
        best = [best[0].min(engine(&model)?), best[1].min(element(FRAMES)?)];
    }
    // Later measurements include loading.
    drop(model);
    let rate = |time: Duration| FRAMES as f64 / time.as_secs_f64();
    println!(
        "{FRAMES} frames: engine {:.1} frames/s, element {:.1} frames/s; element time {:+.1} %",
        rate(best[0]),
        rate(best[1]),
        (best[1].as_secs_f64() / best[0].as_secs_f64() - 1.0) * 100.0
    );
    // Typical use: with the watermark, and with an encoder on the same cores.
    for sink in ["fakesink", "x264enc ! mp4mux ! fakesink"] {
        let frames = 10 * RATE;
        let description = format!("soragen prompt=\"{PROMPT}\" duration=10000000000 cache-dir=\"\" ! {sink}");
        let time = run_to_eos(&gst::parse::launch(&description)?)?;
        println!(
            "soragen ! {sink}: {:.1} frames/s, {:.2} x real time",
            frames as f64 / time.as_secs_f64(),
            frames as f64 / RATE as f64 / time.as_secs_f64()
        );
    }
    let [one_after_the_other, overlapped] = rendering_beside_denoising()?;
    println!(
        "a slow model and an equally slow decoder, threads=1: {:.2} of the time of one after the other",
        overlapped.as_secs_f64() / one_after_the_other.as_secs_f64()
    );
    for seconds in [1, 60, 3600] {
        println!(
            "first frame of {seconds} s of video after {:.2} s, including loading the model",
            first_frame(seconds)?.as_secs_f64()
        );
    }
    Ok(())
}

/// The time of the engine from the request to the last frame.
fn engine(model: &Arc<Model>) -> Result<Duration> {
    let start = Instant::now();
    let mut request = Request::new(PROMPT);
    request.length = Length::Frames(FRAMES);
    let mut session = Session::new(model.clone(), request)?;
    while session.next_raw_chunk(&Cancel::new(), &mut |_| {})?.is_some() {}
    Ok(start.elapsed())
}

/// The times of the engine, and of the element with one thread, for a model that takes as long for a chunk as its decoder.
fn rendering_beside_denoising() -> Result<[Duration; 2]> {
    const DELAY: Duration = Duration::from_millis(80);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/miniature");
    let _hook = soragen::testing::set_hook(&folder, |event, cancel| {
        if matches!(event, Event::Step { .. } | Event::Decode { .. }) {
            soragen::testing::wait(DELAY, cancel);
        }
        cancel.check()
    });
    let model = folder.to_str().ok_or("a folder")?;
    let opened = Model::open(model, &OpenOptions::default(), &Cancel::new())?;
    let mut request = Request::new("fox");
    (request.length, request.steps) = (Length::Frames(FRAMES), Some(1));
    let start = Instant::now();
    let mut session = Session::new(opened, request)?;
    while session.next_chunk(&Cancel::new(), &mut |_| {})?.is_some() {}
    let one_after_the_other = start.elapsed();
    let duration = gst::ClockTime::SECOND * FRAMES / RATE;
    let description = format!(
        "soragen model=\"{model}\" prompt=fox steps=1 threads=1 duration={} cache-dir=none ! fakesink",
        duration.nseconds()
    );
    Ok([one_after_the_other, run_to_eos(&gst::parse::launch(&description)?)?])
}

fn pipeline(duration: gst::ClockTime) -> Result<(gst::Element, gst::Pad)> {
    let description = format!(
        "soragen prompt=\"{PROMPT}\" duration={} watermark=false cache-dir=\"\" ! fakesink name=sink",
        duration.nseconds()
    );
    let pipeline = gst::parse::launch(&description)?;
    let sink = pipeline.downcast_ref::<gst::Bin>().and_then(|bin| bin.by_name("sink")).ok_or("no sink")?;
    Ok((pipeline, sink.static_pad("sink").ok_or("no pad")?))
}

/// The time of the element from READY, with the model loaded, to the last frame.
fn element(frames: u64) -> Result<Duration> {
    run_to_eos(&pipeline(gst::ClockTime::SECOND * frames / RATE)?.0)
}

fn run_to_eos(pipeline: &gst::Element) -> Result<Duration> {
    pipeline.set_state(gst::State::Ready)?;
    let start = Instant::now();
    pipeline.set_state(gst::State::Playing)?;
    wait(pipeline)?;
    let time = start.elapsed();
    pipeline.set_state(gst::State::Null)?;
    Ok(time)
}

fn wait(pipeline: &gst::Element) -> Result<()> {
    let bus = pipeline.bus().ok_or("no bus")?;
    let end = bus.timed_pop_filtered(None, &[gst::MessageType::Eos, gst::MessageType::Error]);
    match end.as_ref().map(|message| message.view()) {
        Some(gst::MessageView::Error(error)) => Err(error.error().into()),
        _ => Ok(()),
    }
}

fn first_frame(seconds: u64) -> Result<Duration> {
    let (pipeline, _) = pipeline(gst::ClockTime::from_seconds(seconds))?;
    let start = Instant::now();
    pipeline.set_state(gst::State::Paused)?;
    // Wait for preroll: the first frame is at the sink.
    pipeline.state(None).0?;
    let time = start.elapsed();
    pipeline.set_state(gst::State::Null)?;
    Ok(time)
}

/// Generates `minutes` of video and prints the memory use.
fn measure_endurance(minutes: u64, folder: Option<&Path>) -> Result<()> {
    let (pipeline, pad) = pipeline(gst::ClockTime::from_seconds(60 * minutes))?;
    let (send, frames) = std::sync::mpsc::sync_channel(0);
    let keep = folder.is_some();
    let counted = AtomicU64::new(0);
    pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let count = counted.fetch_add(1, Ordering::Relaxed) + 1;
        let minute = count.is_multiple_of(60 * RATE);
        let wanted = keep && count % (20 * RATE) == 1;
        if minute || wanted {
            let sample = info.buffer().filter(|_| wanted).zip(pad.current_caps());
            let sample =
                sample.map(|(buffer, caps)| gst::Sample::builder().buffer(buffer).caps(&caps).build());
            let _ = send.send((count, sample));
        }
        gst::PadProbeReturn::Ok
    });
    let start = Instant::now();
    pipeline.set_state(gst::State::Playing)?;
    let mut first = None;
    while let Ok((count, sample)) = frames.recv() {
        if let (Some(sample), Some(folder)) = (sample, folder) {
            let png = gst::Caps::builder("image/png").build();
            let picture = gst_video::convert_sample(&sample, &png, gst::ClockTime::NONE)?;
            let bytes = picture.buffer().ok_or("no picture")?.map_readable()?;
            std::fs::write(folder.join(format!("{:04}.png", count / RATE)), &bytes)?;
        }
        if count.is_multiple_of(60 * RATE) {
            let now = memory("VmRSS").ok_or("no VmRSS")?;
            let initial = *first.get_or_insert(now);
            println!(
                "minute {}: {:.1} MiB, {:+.2} % since the first; {:.1} frames/s on average",
                count / 60 / RATE,
                now as f64 / f64::from(1 << 20),
                (now as f64 / initial as f64 - 1.0) * 100.0,
                count as f64 / start.elapsed().as_secs_f64()
            );
        }
        if count == 60 * RATE * minutes {
            break;
        }
    }
    pipeline.set_state(gst::State::Null)?;
    Ok(())
}
