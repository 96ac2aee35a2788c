//! `soragen detect`.

use std::process::ExitCode;
use std::time::Duration;

use gstsoraprovenance::credentials::{self, ManifestReport, State};
use serde_json::{Value, json};
use soragen::watermark::{Detection, Detector, WatermarkKey};

use crate::args::DetectArgs;
use crate::decode::{Decoded, FrameReceiver, decode};
use crate::error::{Error, Result};

/// Frames per detection. Most shots are longer, and the pattern moves to another place at the start of a shot.
const WINDOW: u64 = 96;

/// Prints the report as JSON.
pub fn run(args: &DetectArgs) -> Result<ExitCode> {
    let key = WatermarkKey::open(args.watermark_key.as_deref())?;
    let anchors = args
        .trust_anchors
        .as_deref()
        .map(|path| std::fs::read_to_string(path).map_err(|e| Error::file(path, e)));
    let anchors = anchors.transpose()?;
    let Decoded { mut streams, missing } = decode(&args.file, move || Search::new(&key))?;
    streams.iter_mut().for_each(Search::flush);
    let count = streams.len();
    let frames: u64 = streams.iter().map(|stream| stream.frames).sum();
    let found: Vec<_> = streams
        .into_iter()
        .enumerate()
        .flat_map(|(stream, search)| {
            search.found.into_iter().map(move |(first, found)| (stream, first, found))
        })
        .collect();
    let marked = !found.is_empty();
    let detections: Vec<_> = found.iter().map(describe).collect();
    let manifest = credentials::read(&args.file, anchors.as_deref());
    let declared_generated =
        matches!(&manifest, Ok(Some(manifest)) if manifest.generated && manifest.state != State::Invalid);
    let report = json!({
        "file": args.file.to_string_lossy(),
        "video-streams": count,
        "frames": frames,
        "complete": missing.is_empty(),
        "marked": marked,
        "marks": detections,
        "c2pa": match &manifest {
            Ok(None) => Value::Null,
            Ok(Some(manifest)) => describe_manifest(manifest, &found),
            // Not a sign of a change: other programs write such files too.
            Err(error) => json!({ "state": "unreadable", "problems": [error.to_string()] }),
        },
    });
    print_line!("{report:#}")?;
    if !missing.is_empty() {
        eprintln!("soragen: {}: not decoded: {}", args.file.display(), missing.join(", "));
    }
    Ok(match (marked || declared_generated, missing.is_empty()) {
        (true, _) => ExitCode::SUCCESS,
        (false, true) => ExitCode::from(crate::NEGATIVE),
        // What was not decoded may have a watermark.
        (false, false) => ExitCode::FAILURE,
    })
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

impl FrameReceiver for Search {
    fn push(&mut self, luma: &[u8], stride: usize, width: usize, height: usize, time: Duration) {
        if !self.all.fits(width, height) {
            self.flush();
        }
        self.window.push(luma, stride, width, height, time);
        self.all.push(luma, stride, width, height, time);
        self.frames += 1;
        if self.window.frames() == WINDOW {
            self.found.extend(marked(&self.window, self.frames));
            self.window.clear();
        }
    }
}

/// The detection of a detector whose last frame is `end - 1`, with its first frame.
fn marked(detector: &Detector, end: u64) -> Option<(u64, Detection)> {
    let detection = detector.detect().filter(Detection::is_marked)?;
    Some((end.saturating_sub(detection.frames), detection))
}

fn describe_manifest(manifest: &ManifestReport, found: &[(usize, u64, Detection)]) -> Value {
    // A manifest can be copied to another video: its id must match a detected one.
    let matches = || {
        manifest
            .generation_ids
            .iter()
            .any(|id| found.iter().any(|(.., f)| f.id.is_some_and(|f| f.to_string() == *id)))
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

/// Describes a detection in the video stream `stream`.
fn describe((stream, first, detection): &(usize, u64, Detection)) -> Value {
    json!({
        "stream": stream,
        "first-frame": first,
        "frames": detection.frames,
        "scheme": detection.scheme.number(),
        "generation-id": detection.id.map(|id| id.to_string()),
        "strength": (detection.strength * 10.0).round() / 10.0,
        "scale": (detection.scale * 1000.0).round() / 1000.0,
    })
}
