//! OpenTimelineIO export (<https://opentimelineio.readthedocs.io>) for video editors: one clip per shot, all in one media
//! file.

use std::path::Path;

use serde_json::{Value, json};
use soragen::ShotInfo;

use crate::error::{Error, Result};
use crate::output::PartialFile;

/// The shots of a video, in order.
pub struct Timeline {
    frame_rate: f64,
    shots: Vec<Clip>,
    /// Frames before the first shot.
    offset: u64,
    /// Total number of frames.
    frames: u64,
}

struct Clip {
    start: u64,
    prompt: String,
    seed: u64,
}

impl Timeline {
    /// A timeline of shots that come after `offset` frames of another video.
    pub fn new((numerator, denominator): (u32, u32), offset: u64) -> Self {
        let frame_rate = f64::from(numerator) / f64::from(denominator);
        Self { frame_rate, shots: Vec::new(), offset, frames: 0 }
    }

    /// Adds frames of `shot` up to frame `end`. A shot may be added in several parts.
    pub fn add(&mut self, shot: &ShotInfo, end: u64) {
        let start = self.offset + shot.frame;
        if self.shots.last().is_none_or(|last| last.start < start) {
            self.shots.push(Clip { start, prompt: shot.prompt.clone(), seed: shot.seed });
        }
        self.frames = self.offset + end;
    }

    /// Writes the timeline of the video in the file `media` to `path`.
    pub fn write(&self, path: &Path, media: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.otio(media)).map_err(|e| Error::file(path, e))?;
        let file = PartialFile::new(path)?;
        std::fs::write(file.partial(), text + "\n").map_err(|e| Error::file(path, e))?;
        file.keep()
    }

    fn otio(&self, media: &Path) -> Value {
        let absolute = std::path::absolute(media).unwrap_or_else(|_| media.into());
        let url = gst::glib::filename_to_uri(&absolute, None).map_or(String::new(), String::from);
        let ends = self.shots.iter().skip(1).map(|clip| clip.start).chain([self.frames]);
        let clips: Vec<_> =
            self.shots.iter().zip(ends).map(|(clip, end)| self.clip(clip, end, &url)).collect();
        json!({
            "OTIO_SCHEMA": "Timeline.1",
            "name": media.file_stem().unwrap_or_default().to_string_lossy(),
            "tracks": {
                "OTIO_SCHEMA": "Stack.1",
                "children": [{ "OTIO_SCHEMA": "Track.1", "name": "shots", "kind": "Video", "children": clips }],
            },
        })
    }

    fn clip(&self, clip: &Clip, end: u64, url: &str) -> Value {
        json!({
            "OTIO_SCHEMA": "Clip.2",
            "name": clip.prompt,
            "metadata": { "soragen": { "prompt": clip.prompt, "seed": clip.seed } },
            "source_range": self.range(clip.start, end),
            "active_media_reference_key": "DEFAULT_MEDIA",
            "media_references": {
                "DEFAULT_MEDIA": {
                    "OTIO_SCHEMA": "ExternalReference.1",
                    "target_url": url,
                    "available_range": self.range(0, self.frames),
                },
            },
        })
    }

    fn range(&self, start: u64, end: u64) -> Value {
        let time = |frames: u64| json!({ "OTIO_SCHEMA": "RationalTime.1", "rate": self.frame_rate, "value": frames });
        json!({ "OTIO_SCHEMA": "TimeRange.1", "start_time": time(start), "duration": time(end - start) })
    }
}
