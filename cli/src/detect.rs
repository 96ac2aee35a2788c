//! `soragen detect`.

use std::process::ExitCode;

use gst::prelude::*;
use gst_video::prelude::*;
use gstsoraprovenance::credentials::{self, Report, State};
use serde_json::{Value, json};
use soragen::watermark::{Detection, Detector, WatermarkKey};

use crate::args::DetectArgs;
use crate::error::{Error, Result};

/// Frames that are looked at together. A mark is the same in all frames of a shot, and shots are longer.
const WINDOW: u64 = 96;
/// How often it is asked whether reading has failed.
const PATIENCE: gst::ClockTime = gst::ClockTime::from_mseconds(100);

/// Prints what is found as JSON.
pub fn run(args: &DetectArgs) -> Result<ExitCode> {
    let key = WatermarkKey::open(args.watermark_key.as_deref())?;
    let anchors = args
        .trust_anchors
        .as_deref()
        .map(|path| std::fs::read_to_string(path).map_err(|e| Error::file(path, e)));
    let anchors = anchors.transpose()?;
    let mut search = Search::new(&key);
    read(&args.file, |luma, stride, width, height| search.look_at(luma, stride, width, height))?;
    search.end();
    let Search { found, frames, .. } = search;
    let marked = !found.is_empty();
    let marks: Vec<_> = found.iter().map(|(first, finding)| describe(*first, finding)).collect();
    let manifest = credentials::read(&args.file, anchors.as_deref());
    let says_so =
        matches!(&manifest, Ok(Some(manifest)) if manifest.generated && manifest.state != State::Invalid);
    let report = json!({
        "file": args.file.to_string_lossy(),
        "frames": frames,
        "marked": marked,
        "marks": marks,
        "c2pa": match &manifest {
            Ok(None) => Value::Null,
            Ok(Some(manifest)) => describe_manifest(manifest, &found),
            // One that is too damaged to be read is none to be believed.
            Err(error) => json!({ "state": "invalid", "problems": [error.to_string()] }),
        },
    });
    say!("{report:#}")?;
    Ok(if marked || says_so { ExitCode::SUCCESS } else { ExitCode::from(crate::NO) })
}

/// What is found in a file's frames.
struct Search {
    /// Those of the window.
    part: Detector,
    /// All of one size: where no part is enough by itself the whole may be.
    whole: Detector,
    frames: u64,
    /// Each with its first frame.
    found: Vec<(u64, Detection)>,
}

impl Search {
    fn new(key: &WatermarkKey) -> Self {
        Self { part: Detector::new(key), whole: Detector::new(key), frames: 0, found: Vec::new() }
    }

    fn look_at(&mut self, luma: &[u8], stride: usize, width: usize, height: usize) {
        if !self.whole.fits(width, height) {
            self.end();
        }
        self.part.push(luma, stride, width, height);
        self.whole.push(luma, stride, width, height);
        self.frames += 1;
        if self.part.frames() == WINDOW {
            self.found.extend(marked(&self.part, self.frames));
            self.part.clear();
        }
    }

    /// There are no more frames, or none that go with those before.
    fn end(&mut self) {
        self.found.extend(marked(&self.part, self.frames));
        // Of fewer it is the same.
        if self.found.is_empty() && self.whole.frames() > WINDOW {
            self.found.extend(marked(&self.whole, self.frames));
        }
        self.part.clear();
        self.whole.clear();
    }
}

/// What a detector whose last frame is the one before `end` has found, and its first frame.
fn marked(detector: &Detector, end: u64) -> Option<(u64, Detection)> {
    let finding = detector.finding().filter(Detection::is_marked)?;
    Some((end.saturating_sub(finding.frames), finding))
}

fn describe_manifest(manifest: &Report, found: &[(u64, Detection)]) -> Value {
    // Whether it was made for this video: a manifest can be taken off one and signed into another.
    let bound = || {
        manifest.marks.iter().any(|id| found.iter().any(|(_, f)| f.id.is_some_and(|f| f.to_string() == *id)))
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
        "generation-ids": manifest.marks,
        "ingredients": manifest.ingredients,
        "matches-mark": (!manifest.marks.is_empty()).then(bound),
        "problems": manifest.problems,
    })
}

fn describe(first: u64, finding: &Detection) -> Value {
    json!({
        "first-frame": first,
        "frames": finding.frames,
        "generation-id": finding.id.map(|id| id.to_string()),
        "strength": (finding.strength * 10.0).round() / 10.0,
        "scale": (finding.scale * 1000.0).round() / 1000.0,
    })
}

/// A pipeline that is stopped on every way out.
struct Running(gst::Pipeline);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}

/// Gives the luma of each picture of a file to `look`: rows, bytes from row to row, width, height.
fn read(path: &std::path::Path, mut look: impl FnMut(&[u8], usize, usize, usize)) -> Result<()> {
    let unreadable = |reason: &dyn std::fmt::Display| Error::file(path, reason);
    if !path.is_file() {
        return Err(unreadable(&"there is no such file"));
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
    let running = Running(pipeline);
    // What is wrong is said on the bus.
    let _ = running.0.set_state(gst::State::Playing);
    let mut looked = 0u64;
    loop {
        let Some(sample) = sink.try_pull_sample(PATIENCE) else {
            // A file that cannot be read ends without an end.
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
        look(luma, stride, frame.width() as usize, frame.height() as usize);
        looked += 1;
    }
    if looked == 0 {
        return Err(unreadable(&"there is no picture in it"));
    }
    Ok(())
}
