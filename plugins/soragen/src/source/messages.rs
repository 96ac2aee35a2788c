// SPDX-License-Identifier: MPL-2.0

//! The element's bus messages and downstream events.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gst::prelude::*;
use gst::subclass::prelude::*;
use soragen::hub::Download;
use soragen::watermark::GenerationId;
use soragen::{Progress, ShotInfo};

use super::generator::GeneratorEvent;
use super::playback::SlateReason;
use super::position::FrameTiming;
use super::{SoraGen, error};
use crate::control;

type Segment = gst::FormattedSegment<gst::ClockTime>;

/// Posts `message`. Call it without holding a lock: a sync handler may stop the element.
pub fn post(element: &SoraGen, message: gst::Message) {
    // Posting fails only without a bus.
    let _ = element.post_message(message);
}

pub fn duration_changed(element: &SoraGen) -> gst::Message {
    gst::message::DurationChanged::builder().src(element).build()
}

/// Posts the events of a generator, whose video has `total` frames if it is not endless.
pub fn event_poster(element: &SoraGen, total: Option<u64>) -> impl FnMut(GeneratorEvent) + Send + use<> {
    let element = element.downgrade();
    // Since when the video is generated, and how far it is.
    let (mut began, mut frame) = (Instant::now(), 0);
    move |event| {
        let Some(element) = element.upgrade() else { return };
        match event {
            GeneratorEvent::Loading => {
                post(&element, load_progress(&element, gst::ProgressType::Start, "Loading the model"));
            }
            GeneratorEvent::Loaded => {
                began = Instant::now();
                post(&element, load_progress(&element, gst::ProgressType::Complete, "The model is loaded"));
            }
            GeneratorEvent::Note(note) => {
                gst::element_warning!(element, gst::LibraryError::Settings, ("{note}"));
            }
            GeneratorEvent::LoadFailed => {
                post(&element, load_progress(&element, gst::ProgressType::Error, "Loading the model failed"));
            }
            GeneratorEvent::Progress(progress) => {
                if std::mem::replace(&mut frame, progress.frame) > progress.frame {
                    began = Instant::now();
                }
                let structure = progress_structure(&progress, total, began.elapsed());
                post(&element, gst::message::Element::builder(structure).src(&element).build());
            }
            GeneratorEvent::CacheFailed(error) => {
                let text = "the cache can no longer be written; set cache-dir to another folder";
                gst::element_warning!(element, gst::ResourceError::Write, ("{text}: {error}"));
            }
            GeneratorEvent::ChangeRejected(property, error) => {
                post(&element, control::refusal(element.upcast_ref(), property, &error.to_string()));
            }
            GeneratorEvent::ChunkBegins(frame) => element.imp().sync_properties(frame),
        }
    }
}

/// Progress `load`, of the model.
pub fn load_progress(element: &impl IsA<gst::Object>, kind: gst::ProgressType, text: &str) -> gst::Message {
    gst::message::Progress::builder(kind, "load", text).src(element).build()
}

/// `soragen-progress`: the phase and step of the worker, and the estimated time until the last frame.
pub fn progress_structure(progress: &Progress, total: Option<u64>, elapsed: Duration) -> gst::Structure {
    let mut structure = gst::Structure::builder("soragen-progress")
        .field("phase", progress.phase.as_str())
        .field("chunk", progress.chunk)
        .field("step", progress.step)
        .field("steps", progress.steps)
        .field("frame", progress.frame)
        .build();
    if let Some(total) = total.filter(|_| progress.frame > 0) {
        let left = total.saturating_sub(progress.frame) as f64;
        let left = elapsed.as_secs_f64() / progress.frame as f64 * left;
        structure.set("eta-ns", (left * 1e9) as u64);
    }
    structure
}

/// Progress `download`, with the bytes that were `received` of the `total`.
pub fn download_progress(
    element: &SoraGen,
    kind: gst::ProgressType,
    text: &str,
    progress: Option<&Download>,
) -> gst::Message {
    let mut message = gst::message::Progress::builder(kind, "download", text).src(element);
    if let Some(progress) = progress {
        message = message.other_field("received", progress.received).other_field("total", progress.total);
    }
    message.build()
}

/// QoS: the last frame was pushed again in place of the one of `timing`; `late` frames were late so far, and `now` is
/// the running time in nanoseconds.
pub fn late_frame(
    element: &SoraGen,
    segment: &Segment,
    timing: &FrameTiming,
    late: u64,
    now: u64,
) -> gst::Message {
    let start = gst::ClockTime::from_nseconds(timing.start);
    let running_time = segment.to_running_time(start);
    let jitter = now as i64 - running_time.map_or(timing.start, gst::ClockTime::nseconds) as i64;
    // After a change to a lower frame rate there can be more late frames than frames.
    let (frames, on_time) = (timing.offset + 1, (timing.offset + 1).saturating_sub(late));
    // The factor by which the model is too slow.
    let proportion = frames as f64 / on_time.max(1) as f64;
    gst::message::Qos::builder(true)
        .src(element)
        .running_time(running_time)
        .stream_time(segment.to_stream_time(start))
        .timestamp(start)
        .duration(gst::ClockTime::from_nseconds(timing.end - timing.start))
        .values(jitter, proportion, 1_000_000)
        .stats(gst::format::Default::from_u64(on_time), gst::format::Default::from_u64(late))
        .build()
}

/// A warning of an error that does not end the stream.
pub fn warning(element: &SoraGen, error: &soragen::Error) -> gst::Message {
    gst::message::Warning::builder_from_error(error::kind(error).error(error)).src(element).build()
}

/// `soragen-slate`: whether the slate is shown from here on, and why.
pub fn slate_switch(element: &SoraGen, reason: Option<&SlateReason>) -> gst::Message {
    let structure = gst::Structure::builder("soragen-slate").field("shown", reason.is_some());
    let structure = structure.field_if_some(
        "reason",
        reason.map(|reason| match reason {
            SlateReason::Loading => "loading",
            SlateReason::Failed(_) => "failed",
        }),
    );
    gst::message::Element::builder(structure.build()).src(element).build()
}

/// What the element announces about the first frame of a shot.
pub struct ShotAnnouncement {
    pub shot: Arc<ShotInfo>,
    /// Time of the frame in nanoseconds.
    pub start: u64,
    pub model: String,
    /// The image files that the video starts from.
    pub images: Vec<String>,
    /// Whether it changes or continues a video: a file with both is not generated alone.
    pub restyled: bool,
    /// The file of that video.
    pub ingredient: Option<String>,
    /// Payload of the watermark, if the frames have one.
    pub generation_id: Option<GenerationId>,
    /// Frames of another shot were pushed before.
    pub after_another: bool,
}

impl ShotAnnouncement {
    /// `soragen-shot`, sent on the bus and downstream.
    pub fn structure(&self) -> gst::Structure {
        let shot = &self.shot;
        let mut structure = gst::Structure::builder("soragen-shot")
            .field("index", shot.index)
            .field("prompt", shot.prompt.as_str())
            .field("seed", shot.seed)
            .field("start", self.start)
            .field("frame", shot.frame)
            .field("cut", shot.cut)
            .field("software", "soragen")
            .field("version", env!("CARGO_PKG_VERSION"))
            .field("model", self.model.as_str())
            .build();
        if let Some(id) = self.generation_id {
            structure.set("generation-id", id.get());
        }
        if !shot.references.is_empty() {
            structure.set("references", gst::List::new(shot.references.clone()));
        }
        if !self.images.is_empty() {
            // The signer keeps the provenance of these images.
            structure.set("images", gst::List::new(self.images.clone()));
        }
        if self.restyled {
            structure.set("restyled", true);
        }
        if let Some(ingredient) = &self.ingredient {
            structure.set("ingredient", ingredient.as_str());
        }
        structure
    }
}

/// A request for a key frame at the frame at `start`, in nanoseconds: the one with this `count`.
///
/// It has no running time, which means the current frame: an encoder that shifts its timestamps (x264enc) would
/// compare a running time with a shifted one and insert a second key frame.
pub fn key_unit_event(start: u64, count: u64) -> gst::Event {
    let time = gst::ClockTime::from_nseconds(start);
    gst_video::DownstreamForceKeyUnitEvent::builder()
        .timestamp(time)
        .stream_time(time)
        .all_headers(true)
        .count(u32::try_from(count).unwrap_or(u32::MAX))
        .build()
}
