//! `soragen detect`.

use std::process::ExitCode;

use gst::prelude::*;
use gst_video::prelude::*;
use gstsoraprovenance::credentials::{self, ManifestReport, State};
use serde_json::{Value, json};
use soragen::watermark::{Detection, Detector, WatermarkKey};

use crate::args::DetectArgs;
use crate::error::{Error, Result};

/// Frames per detection. The watermark is constant within a shot, and most shots are longer.
const WINDOW: u64 = 96;
/// Interval at which the bus is checked for errors.
const POLL_INTERVAL: gst::ClockTime = gst::ClockTime::from_mseconds(100);

/// Prints the report as JSON.
pub fn run(args: &DetectArgs) -> Result<ExitCode> {
    let key = WatermarkKey::open(args.watermark_key.as_deref())?;
    let anchors = args
        .trust_anchors
        .as_deref()
        .map(|path| std::fs::read_to_string(path).map_err(|e| Error::file(path, e)));
    let anchors = anchors.transpose()?;
    let mut search = Search::new(&key);
    read(&args.file, |luma, stride, width, height| search.push(luma, stride, width, height))?;
    search.flush();
    let Search { found, frames, .. } = search;
    let marked = !found.is_empty();
    let detections: Vec<_> = found.iter().map(|(first, detection)| describe(*first, detection)).collect();
    let manifest = credentials::read(&args.file, anchors.as_deref());
    let declared_generated =
        matches!(&manifest, Ok(Some(manifest)) if manifest.generated && manifest.state != State::Invalid);
    let report = json!({
        "file": args.file.to_string_lossy(),
        "frames": frames,
        "marked": marked,
        "marks": detections,
        "c2pa": match &manifest {
            Ok(None) => Value::Null,
            Ok(Some(manifest)) => describe_manifest(manifest, &found),
            // A manifest that cannot be read is not valid.
            Err(error) => json!({ "state": "invalid", "problems": [error.to_string()] }),
        },
    });
    print_line!("{report:#}")?;
    Ok(if marked || declared_generated { ExitCode::SUCCESS } else { ExitCode::from(crate::NEGATIVE) })
}

/// Detections in the frames of a file.
struct Search {
    /// The frames of the current window.
    window: Detector,
    /// All frames of one size: together they may suffice where no window does.
    all: Detector,
    frames: u64,
    /// The first frame of each detection, and the detection.
    found: Vec<(u64, Detection)>,
}

impl Search {
    fn new(key: &WatermarkKey) -> Self {
        Self { window: Detector::new(key), all: Detector::new(key), frames: 0, found: Vec::new() }
    }

    fn push(&mut self, luma: &[u8], stride: usize, width: usize, height: usize) {
        if !self.all.fits(width, height) {
            self.flush();
        }
        self.window.push(luma, stride, width, height);
        self.all.push(luma, stride, width, height);
        self.frames += 1;
        if self.window.frames() == WINDOW {
            self.found.extend(marked(&self.window, self.frames));
            self.window.clear();
        }
    }

    /// Detects in the remaining frames, at the end of the file or when the frame size changes.
    fn flush(&mut self) {
        self.found.extend(marked(&self.window, self.frames));
        // With fewer frames the window had all of them.
        if self.found.is_empty() && self.all.frames() > WINDOW {
            self.found.extend(marked(&self.all, self.frames));
        }
        self.window.clear();
        self.all.clear();
    }
}

/// The detection of a detector whose last frame is `end - 1`, with its first frame.
fn marked(detector: &Detector, end: u64) -> Option<(u64, Detection)> {
    let detection = detector.detect().filter(Detection::is_marked)?;
    Some((end.saturating_sub(detection.frames), detection))
}

fn describe_manifest(manifest: &ManifestReport, found: &[(u64, Detection)]) -> Value {
    // A manifest can be copied to another video: its id must match a detected one.
    let matches = || {
        manifest
            .generation_ids
            .iter()
            .any(|id| found.iter().any(|(_, f)| f.id.is_some_and(|f| f.to_string() == *id)))
    };
    json!({
        "state": match manifest.state {
            State::Invalid => "invalid",
            State::Valid => "valid",
            State::Trusted => "trusted",
        },
        "manifest": manifest.manifest,
        "signer": manifest.signer,
        "generated": manifest.generated,
        "time": manifest.time,
        "software": manifest.software.as_ref().map(|(name, version)| format!("{name} {version}")),
        "models": manifest.models,
        "provider": manifest.provider,
        "prompts": manifest.prompts,
        "generation-ids": manifest.generation_ids,
        "ingredients": manifest.ingredients,
        "matches-mark": (!manifest.generation_ids.is_empty()).then(matches),
        "problems": manifest.problems,
    })
}

fn describe(first: u64, detection: &Detection) -> Value {
    json!({
        "first-frame": first,
        "frames": detection.frames,
        "generation-id": detection.id.map(|id| id.to_string()),
        "strength": (detection.strength * 10.0).round() / 10.0,
        "scale": (detection.scale * 1000.0).round() / 1000.0,
    })
}

/// Stops the pipeline on drop.
struct PipelineGuard(gst::Pipeline);

impl Drop for PipelineGuard {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}

/// Decodes a file and calls `push` for each frame with its luma plane, stride, width and height.
fn read(path: &std::path::Path, mut push: impl FnMut(&[u8], usize, usize, usize)) -> Result<()> {
    let unreadable = |reason: &dyn std::fmt::Display| Error::file(path, reason);
    if !path.is_file() {
        return Err(unreadable(&"no such file"));
    }
    gst::init().map_err(|e| unreadable(&e))?;
    let description = "filesrc name=source ! decodebin ! videoconvert ! \
                       video/x-raw,format=I420 ! appsink name=sink sync=false max-buffers=4";
    let pipeline = gst::parse::launch(description)
        .map_err(|e| unreadable(&format_args!("{e}; are the base and good plugins of GStreamer installed?")))?
        .downcast::<gst::Pipeline>()
        .map_err(|_| unreadable(&"not a pipeline"))?;
    let by_name = |name: &str| pipeline.by_name(name).ok_or_else(|| unreadable(&name));
    by_name("source")?.set_property("location", path);
    let sink = by_name("sink")?.downcast::<gst_app::AppSink>().map_err(|_| unreadable(&"no appsink"))?;
    let bus = pipeline.bus().ok_or_else(|| unreadable(&"the pipeline has no bus"))?;
    let running = PipelineGuard(pipeline);
    // The error is on the bus.
    let _ = running.0.set_state(gst::State::Playing);
    let mut count = 0u64;
    loop {
        let Some(sample) = sink.try_pull_sample(POLL_INTERVAL) else {
            // After an error there is no end of stream.
            let message = bus.pop_filtered(&[gst::MessageType::Error]);
            if let Some(gst::MessageView::Error(e)) = message.as_ref().map(|m| m.view()) {
                return Err(unreadable(&e.error()));
            }
            if sink.is_eos() {
                break;
            }
            continue;
        };
        let (Some(buffer), Some(caps)) = (sample.buffer(), sample.caps()) else { continue };
        let info = gst_video::VideoInfo::from_caps(caps).map_err(|e| unreadable(&e))?;
        let frame =
            gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &info).map_err(|e| unreadable(&e))?;
        let stride = usize::try_from(frame.plane_stride()[0]).unwrap_or_default();
        let luma = frame.plane_data(0).map_err(|e| unreadable(&e))?;
        push(luma, stride, frame.width() as usize, frame.height() as usize);
        count += 1;
    }
    if count == 0 {
        return Err(unreadable(&"the file has no video frames"));
    }
    Ok(())
}
