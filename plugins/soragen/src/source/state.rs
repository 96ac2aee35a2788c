// SPDX-License-Identifier: MPL-2.0

//! The state of the element between `start` and `stop`.

use std::sync::Arc;
use std::time::Duration;

use gst_video::{ValidVideoTimeCode, VideoInfo};
use soragen::{Cancel, ModelInfo, Shot, ShotInfo};

use super::frame_time;
use super::generator::{Generator, Output};
use super::playback::LivePlayback;
use super::position::Position;
use super::settings::VideoLength;

#[derive(Default)]
pub enum State {
    #[default]
    Stopped,
    /// The model is being downloaded; the start completes later.
    Downloading(PendingDownload),
    /// Boxed because it is large.
    Running(Box<Running>),
}

/// A download before the start.
pub struct PendingDownload {
    pub cancel: Cancel,
    /// Cues that arrived during the download.
    pub cues: Vec<PendingCue>,
}

/// Information about shots that arrives while the element runs.
pub enum PendingCue {
    /// A new shot; all shots before it have arrived.
    Shot(Box<Shot>),
    /// All shots that start before this time have arrived.
    CompleteUntil(Duration),
    /// All shots have arrived.
    End(CueEnd),
}

/// Where the last shot ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CueEnd {
    /// At this time.
    At(Duration),
    /// It starts at this time and is as long as the model's natural length.
    NaturalAfter(Duration),
    /// No shot has arrived.
    NoShots,
}

/// What to report after a cue arrived.
pub enum CueOutcome {
    Accepted,
    /// The shot was dropped: empty, or out of order.
    Dropped,
    DurationChanged,
}

pub struct Running {
    pub info: ModelInfo,
    /// `None` for an endless video.
    pub length: Option<VideoLength>,
    pub generator: Generator,
    /// What the frames of the generator are like.
    pub output: Option<Output>,
    /// The negotiated format.
    pub video: Option<VideoInfo>,
    pub position: Position,
    pub live: Option<LivePlayback>,
    /// Cues of a live source that arrived before its first frame.
    pub early_cues: Vec<PendingCue>,
    /// The time code of the first frame.
    pub timecode: Option<ValidVideoTimeCode>,
    /// [`Generator::restarts`] at the last frame.
    pub restarts: u64,
    /// The seed to start over with at the next seek.
    pub new_seed: Option<u64>,
    /// The shot of the last frame.
    pub shot: Option<Arc<ShotInfo>>,
    /// Tags to push before the next frame.
    pub tags: Option<gst::TagList>,
    /// The image files that the video starts from.
    pub images: Vec<String>,
    /// The video that it continues, a file or a URI.
    pub extend: Option<String>,
    /// Cancels the download that preceded the start, so that it does not complete the start after `stop`.
    pub download: Option<Cancel>,
}

impl State {
    pub fn running(&self) -> Option<&Running> {
        match self {
            Self::Running(running) => Some(running),
            _ => None,
        }
    }

    pub fn running_mut(&mut self) -> Option<&mut Running> {
        match self {
            Self::Running(running) => Some(running),
            _ => None,
        }
    }

    /// Stops a download that completes the start.
    pub fn cancel_download(&self) {
        let cancel = match self {
            Self::Stopped => None,
            Self::Downloading(download) => Some(&download.cancel),
            Self::Running(running) => running.download.as_ref(),
        };
        if let Some(cancel) = cancel {
            cancel.cancel();
        }
    }
}

impl Running {
    /// Passes `cue` to the generator. The times of cues are running times; those of a live source count from its first frame.
    pub fn apply(&mut self, cue: PendingCue, is_live: bool) -> CueOutcome {
        match self.in_video_time(cue) {
            Ok(cue) => self.apply_in_video_time(cue, is_live),
            Err(early) => {
                self.early_cues.push(early);
                CueOutcome::Accepted
            }
        }
    }

    /// Passes the cues to the generator that have waited for the first frame of a live source.
    pub fn apply_early_cues(&mut self) -> Vec<CueOutcome> {
        std::mem::take(&mut self.early_cues).into_iter().map(|cue| self.apply(cue, true)).collect()
    }

    /// `cue` with times of the video; the unchanged cue if they are not known yet.
    fn in_video_time(&self, cue: PendingCue) -> Result<PendingCue, PendingCue> {
        let Some(live) = &self.live else { return Ok(cue) };
        match cue {
            // The first shot starts with the video.
            PendingCue::Shot(shot) if shot.start.is_zero() => Ok(PendingCue::Shot(shot)),
            PendingCue::Shot(mut shot) => match live.shot_start(shot.start, self.info.frame_rate) {
                Some(start) => {
                    shot.start = start;
                    Ok(PendingCue::Shot(shot))
                }
                None => Err(PendingCue::Shot(shot)),
            },
            PendingCue::End(CueEnd::At(end)) => {
                live.video_time(end).map(|end| PendingCue::End(CueEnd::At(end))).ok_or(cue)
            }
            PendingCue::End(CueEnd::NaturalAfter(start)) => {
                live.video_time(start).map(|start| PendingCue::End(CueEnd::NaturalAfter(start))).ok_or(cue)
            }
            cue => Ok(cue),
        }
    }

    fn apply_in_video_time(&mut self, cue: PendingCue, is_live: bool) -> CueOutcome {
        match cue {
            PendingCue::Shot(shot) => {
                let start = shot.start;
                let added = self.generator.add_shot(*shot);
                self.set_complete_until(start, is_live);
                if added { CueOutcome::Accepted } else { CueOutcome::Dropped }
            }
            PendingCue::CompleteUntil(time) => {
                self.set_complete_until(time, is_live);
                CueOutcome::Accepted
            }
            PendingCue::End(CueEnd::NoShots) => {
                let reason = "no text has arrived, so there is nothing to show; check that the file has cues, and that the \
                              parser before this element reads its format";
                self.generator.fail(soragen::Error::Generation(reason.into()));
                CueOutcome::Accepted
            }
            PendingCue::End(end) => {
                let length = self.length_until(end);
                self.length = Some(length);
                self.generator.finish_shots(length.frames);
                CueOutcome::DurationChanged
            }
        }
    }

    fn length_until(&self, end: CueEnd) -> VideoLength {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        match end {
            CueEnd::At(time) => {
                VideoLength { frames: self.info.frame_at(time).max(1), time: nanoseconds(time) }
            }
            CueEnd::NaturalAfter(start) => {
                let natural = frame_time::frame_start(self.info.natural_frames, self.info.frame_rate);
                VideoLength {
                    frames: self.info.frame_at(start).saturating_add(self.info.natural_frames),
                    time: nanoseconds(start).saturating_add(natural),
                }
            }
            CueEnd::NoShots => VideoLength { frames: 0, time: 0 },
        }
    }

    fn set_complete_until(&self, time: Duration, is_live: bool) {
        // A live source does not wait for shots that may still arrive.
        let frame = if is_live { u64::MAX } else { self.info.frame_at(time) };
        self.generator.set_shots_complete_until(frame);
    }
}
