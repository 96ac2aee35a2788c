//! Decodes all video streams of a file.

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gst::prelude::*;
use gst_video::prelude::*;
use gstsoragen::{NO_PICTURE_REASON, is_no_picture, post_no_picture};

use crate::error::{Error, Result};

/// Seconds without progress after which a decoder is regarded as stalled. Some demuxers never signal the end of the file.
const STALL_LIMIT: u64 = 10;

/// Receives the frames of one stream.
pub trait FrameReceiver: Send + 'static {
    /// Receives the luma plane of the next frame, its stride, width, height and time.
    fn push(&mut self, luma: &[u8], stride: usize, width: usize, height: usize, time: Duration);
}

/// The receivers of all streams, in the order of the file.
pub struct Decoded<T> {
    pub streams: Vec<T>,
    /// What was not decoded, for the user.
    pub missing: Vec<String>,
}

/// What has been read and decoded, to tell a slow decoder from a stalled one.
#[derive(Default)]
struct Progress {
    steps: AtomicU64,
    /// Number of frames that receivers are working on.
    busy: AtomicUsize,
    /// End of the last and of the furthest part of the file that was read.
    last_read: AtomicU64,
    furthest_read: AtomicU64,
}

impl Progress {
    fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self, end: u64) {
        self.last_read.store(end, Ordering::Relaxed);
        // A demuxer that reads the same part again and again does not progress.
        if self.furthest_read.fetch_max(end, Ordering::Relaxed) < end {
            self.step();
        }
    }
}

/// The streams that were found, and the receivers of their frames.
type Streams<T> = Arc<Mutex<Vec<Arc<Mutex<Option<T>>>>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Decodes the file at `path`. Each video stream gets a receiver from `new`.
///
/// # Errors
/// If the file cannot be decoded or has no picture.
pub fn decode<T: FrameReceiver>(
    path: &Path,
    new: impl Fn() -> T + Send + Sync + 'static,
) -> Result<Decoded<T>> {
    let unreadable = |reason: &dyn std::fmt::Display| Error::file(path, reason);
    let file = std::fs::metadata(path).map_err(|e| unreadable(&e))?;
    if !file.is_file() {
        return Err(unreadable(&"this is not a regular file; copy it to one"));
    }
    gst::init().map_err(|e| unreadable(&e))?;
    let pipeline = gst::Pipeline::new();
    let make = |name| {
        let made = gst::ElementFactory::make(name).build();
        made.map_err(|e| {
            unreadable(&format_args!("{e}; are the base and good plugins of GStreamer installed?"))
        })
    };
    let (source, decoder) = (make("filesrc")?, make("decodebin")?);
    source.set_property("location", path);
    pipeline.add_many([&source, &decoder]).map_err(|e| unreadable(&e))?;
    source.link(&decoder).map_err(|e| unreadable(&e))?;

    let (progress, streams) = (Arc::<Progress>::default(), Streams::<T>::default());
    if let Some(pad) = source.static_pad("src") {
        let progress = progress.clone();
        let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::PUSH | gst::PadProbeType::PULL;
        pad.add_probe(kinds, move |_, info| {
            if let Some(buffer) = info.buffer() {
                progress.read(buffer.offset().saturating_add(buffer.size() as u64));
            }
            gst::PadProbeReturn::Ok
        });
    }
    decoder.connect_pad_added({
        let (pipeline, progress, streams) = (pipeline.downgrade(), progress.clone(), streams.clone());
        move |decoder, pad| {
            let Some(pipeline) = pipeline.upgrade() else { return };
            if let Err(error) = add_stream(&pipeline, pad, &progress, &streams, &new) {
                gst::element_error!(decoder, gst::CoreError::Negotiation, ("cannot read a stream: {error}"));
            }
        }
    });
    decoder.connect_no_more_pads({
        let streams = streams.clone();
        move |decoder| {
            if lock(&streams).is_empty() {
                post_no_picture(decoder);
            }
        }
    });

    let bus = pipeline.bus().ok_or_else(|| unreadable(&"the pipeline has no bus"))?;
    // The error is on the bus.
    let _ = pipeline.set_state(gst::State::Playing);
    let mut missing = Vec::new();
    let ended = wait(&bus, &progress, &mut missing);
    match &ended {
        // A stalled thread might never stop. The command ends soon, and the thread with it.
        Ok(End::Stalled) => std::mem::forget(pipeline),
        _ => drop(pipeline.set_state(gst::State::Null)),
    }
    match ended.map_err(|reason| unreadable(&reason))? {
        // The file was read to its end: all frames have arrived.
        End::Stalled if progress.last_read.load(Ordering::Relaxed) < file.len() => {
            missing.push(format!("the end of the file: nothing was decoded for {STALL_LIMIT} s"));
        }
        End::Stalled | End::Complete => {}
        End::NoPicture => return Err(no_picture(path, &missing)),
    }
    let streams = lock(&streams).drain(..).filter_map(|stream| lock(&stream).take()).collect::<Vec<_>>();
    if streams.is_empty() {
        return Err(no_picture(path, &missing));
    }
    Ok(Decoded { streams, missing })
}

fn no_picture(path: &Path, missing: &[String]) -> Error {
    let reason = match missing {
        [] => NO_PICTURE_REASON.to_string(),
        missing => format!("{NO_PICTURE_REASON} that can be decoded; missing: {}", missing.join(", ")),
    };
    Error::file(path, reason)
}

/// How decoding ended.
enum End {
    Complete,
    NoPicture,
    Stalled,
}

/// Waits for the end. Adds the names of missing decoders to `missing`.
fn wait(bus: &gst::Bus, progress: &Progress, missing: &mut Vec<String>) -> std::result::Result<End, String> {
    let kinds = [
        gst::MessageType::Eos,
        gst::MessageType::Error,
        gst::MessageType::Application,
        gst::MessageType::Element,
    ];
    let (mut before, mut idle) = (0, 0);
    loop {
        let message = bus.timed_pop_filtered(gst::ClockTime::SECOND, &kinds);
        match message.as_ref().map(|message| message.view()) {
            Some(gst::MessageView::Eos(_)) => return Ok(End::Complete),
            Some(gst::MessageView::Error(error)) => return Err(error.error().to_string()),
            Some(gst::MessageView::Application(message)) if is_no_picture(message) => {
                return Ok(End::NoPicture);
            }
            Some(gst::MessageView::Element(message)) if message.has_name("missing-plugin") => {
                let name = message.structure().filter(|missing| may_be_video(missing));
                let name = name.and_then(|missing| missing.get::<String>("name").ok());
                missing.extend(name.filter(|name| !missing.contains(name)));
            }
            Some(_) => {}
            None => {
                let steps = progress.steps.load(Ordering::Relaxed);
                let is_idle = steps == before && progress.busy.load(Ordering::Relaxed) == 0;
                idle = if is_idle { idle + 1 } else { 0 };
                before = steps;
                if idle == STALL_LIMIT {
                    return Ok(End::Stalled);
                }
            }
        }
    }
}

/// Whether the missing plugin would decode a picture.
fn may_be_video(missing: &gst::StructureRef) -> bool {
    let caps = missing.get::<gst::Caps>("detail").ok();
    let name = caps.as_ref().and_then(|caps| caps.structure(0)).map(|caps| caps.name());
    name.is_none_or(|name| name.starts_with("video/") || name.starts_with("image/"))
}

/// Links a stream of the decoder: a video to a receiver, anything else to nothing.
fn add_stream<T: FrameReceiver>(
    pipeline: &gst::Pipeline,
    pad: &gst::Pad,
    progress: &Arc<Progress>,
    streams: &Streams<T>,
    new: &impl Fn() -> T,
) -> std::result::Result<(), gst::glib::BoolError> {
    let failed = |e: &dyn std::fmt::Display| gst::glib::bool_error!("{}", e);
    let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
    let is_video = caps.structure(0).is_some_and(|caps| caps.name() == "video/x-raw");
    // Sinks do not wait for their first buffer: a stream may have none.
    let description = match is_video {
        true => {
            "videoconvert ! video/x-raw,format=I420 ! appsink name=sink sync=false async=false max-buffers=4"
        }
        false => "fakesink sync=false async=false",
    };
    let bin = gst::parse::bin_from_description(description, true).map_err(|e| failed(&e))?;
    if is_video {
        let sink = bin.by_name("sink").and_downcast::<gst_app::AppSink>();
        let sink = sink.ok_or_else(|| failed(&"no appsink"))?;
        let receiver = Arc::new(Mutex::new(Some(new())));
        lock(streams).push(receiver.clone());
        let progress = progress.clone();
        let mut number = 0;
        let on_sample = move |sink: &gst_app::AppSink| {
            let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
            progress.busy.fetch_add(1, Ordering::Relaxed);
            let pushed =
                lock(&receiver).as_mut().map_or(Some(()), |receiver| push(receiver, &sample, number));
            number += 1;
            progress.step();
            progress.busy.fetch_sub(1, Ordering::Relaxed);
            pushed.map(|()| gst::FlowSuccess::Ok).ok_or(gst::FlowError::NotNegotiated)
        };
        sink.set_callbacks(gst_app::AppSinkCallbacks::builder().new_sample(on_sample).build());
    } else {
        let progress = progress.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            progress.step();
            gst::PadProbeReturn::Ok
        });
    }
    pipeline.add(&bin)?;
    bin.sync_state_with_parent()?;
    let target = bin.static_pad("sink").ok_or_else(|| failed(&"no sink pad"))?;
    // A stream that ends before the others, as in chained files, has no end of stream of its own.
    pad.connect_unlinked(|_, target| {
        target.send_event(gst::event::Eos::new());
    });
    pad.link(&target).map_err(|e| failed(&e))?;
    Ok(())
}

/// Gives frame `number` to its receiver; `None` if it cannot be read.
fn push(receiver: &mut impl FrameReceiver, sample: &gst::Sample, number: u64) -> Option<()> {
    let info = gst_video::VideoInfo::from_caps(sample.caps()?).ok()?;
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(sample.buffer()?, &info).ok()?;
    let stride = usize::try_from(frame.plane_stride()[0]).ok()?;
    let time = gstsoraprovenance::frame_time(frame.buffer(), number, &info);
    receiver.push(frame.plane_data(0).ok()?, stride, frame.width() as usize, frame.height() as usize, time);
    Some(())
}
