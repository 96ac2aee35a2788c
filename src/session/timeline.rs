//! Assigns the shots of a video to its frames: one queue for shots and live prompts.

use std::collections::VecDeque;
use std::time::Duration;

use super::validate::{check_prompt, check_shot};
use crate::error::refuse;
use crate::policy::Policy;
use crate::request::{Shot, Transition};
use crate::{ModelInfo, Result, Setting};

/// The shots that have not begun yet.
pub struct Timeline {
    pending: VecDeque<PendingShot>,
    /// Start of the last shot.
    last_start: Duration,
    total: Option<u64>,
}

/// A shot in the queue.
pub struct PendingShot {
    pub start: ShotStart,
    pub shot: Shot,
}

/// The frame that a shot starts at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShotStart {
    /// It begins a scene, exactly at this frame: nothing is kept from before it.
    Scene(u64),
    /// It continues the scene, from the chunk nearest to this frame.
    Chunk(u64),
    /// A prompt that changed during generation. It counts from the next chunk, with the seed of the shot before it, and continues the
    /// scene unless it has a cut.
    Live,
}

impl PendingShot {
    fn new(shot: Shot, info: &ModelInfo, first: bool) -> Self {
        let cut = shot.transition == Transition::Cut;
        let frame = info.frame_at(shot.start);
        let start = match first || cut && (!info.remembers_shots || shot.image.is_some()) {
            true => ShotStart::Scene(frame),
            false => ShotStart::Chunk(frame),
        };
        Self { start, shot }
    }

    fn scene_start(&self) -> Option<u64> {
        match self.start {
            ShotStart::Scene(frame) => Some(frame),
            ShotStart::Chunk(_) | ShotStart::Live => None,
        }
    }
}

impl Timeline {
    /// The `shots` of a video of `total` frames; `None` without an end.
    pub fn new(shots: Vec<Shot>, info: &ModelInfo, total: Option<u64>) -> Self {
        let last_start = shots.last().map(|shot| shot.start).unwrap_or_default();
        let pending =
            shots.into_iter().enumerate().map(|(i, shot)| PendingShot::new(shot, info, i == 0)).collect();
        Self { pending, last_start, total }
    }

    /// The prompt that the next chunk begins with for certain: that of a live change, or of the first shot.
    pub fn next_prompt(&self) -> Option<&str> {
        let next = self.pending.front()?;
        let begins = matches!(next.start, ShotStart::Live | ShotStart::Scene(0));
        begins.then_some(next.shot.prompt.as_str())
    }

    /// Adds a shot after the others. `references` are the digests of what it shows without references of its own.
    pub fn add(
        &mut self,
        shot: Shot,
        references: &[String],
        info: &ModelInfo,
        policy: &Policy,
    ) -> Result<()> {
        check_shot(&shot, references, info, policy)?;
        if shot.start <= self.last_start {
            return refuse(Setting::Shots, "each shot must start later than the one before it".into());
        }
        self.last_start = shot.start;
        self.pending.push_back(PendingShot::new(shot, info, false));
        Ok(())
    }

    /// Shows `prompt` with `references`, by their digests, from the next chunk on. Of several live prompts before that chunk the last counts.
    pub fn set_prompt(
        &mut self,
        prompt: &str,
        transition: Transition,
        references: &[String],
        policy: &Policy,
    ) -> Result<()> {
        check_prompt(prompt, references, policy)?;
        self.pending.retain(|pending| pending.start != ShotStart::Live);
        let shot = Shot { transition, ..Shot::new(Duration::ZERO, prompt) };
        self.pending.push_front(PendingShot { start: ShotStart::Live, shot });
        Ok(())
    }

    /// Ends the video after `total` frames.
    pub fn end_at(&mut self, total: u64) {
        self.total = Some(total);
    }

    /// Frames of the whole video.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// The frame at which the next scene begins or the video ends.
    pub fn next_scene(&self) -> Option<u64> {
        let next = self.pending.iter().find_map(PendingShot::scene_start);
        next.into_iter().chain(self.total).min()
    }

    /// Frames of each scene, from the first to the last; `None` without an end.
    pub fn scenes(&self) -> Option<Vec<u64>> {
        let total = self.total?;
        let starts = self.pending.iter().filter_map(PendingShot::scene_start);
        let starts: Vec<_> = starts.map(|start| start.min(total)).chain([total]).collect();
        Some(starts.windows(2).map(|pair| pair[1] - pair[0]).filter(|&frames| frames > 0).collect())
    }

    /// Leaves out the first `count` scenes that have frames. Returns the frame at which the next one begins, and how many scenes are left
    /// out, with those without frames; `None` if there are no more.
    pub fn skip_scenes(&mut self, count: usize) -> Option<(u64, u64)> {
        let start = |(i, pending): (usize, &PendingShot)| pending.scene_start().map(|start| (i, start));
        let mut starts: Vec<_> = self.pending.iter().enumerate().filter_map(start).collect();
        let frames = {
            let mut frames: Vec<_> = starts.iter().map(|(_, frame)| *frame).collect();
            frames.dedup();
            frames
        };
        let frame = *frames.get(count)?;
        starts.retain(|(_, start)| *start <= frame);
        // Several may begin there; all but the last have no frames.
        let before = starts.iter().take_while(|(_, start)| *start < frame).count();
        self.pending.drain(..starts[before].0);
        Some((frame, before as u64))
    }

    /// Returns the next shot that begins with this chunk: `length` frames from frame `first` on. Call it until `None`. A live
    /// prompt comes last.
    ///
    /// A scene begins when its frame is reached. A shot that continues begins with the chunk whose first frame is nearest to
    /// its time, the earlier of two, and at the latest with the last chunk of its scene.
    pub fn next_due(&mut self, first: u64, length: u64) -> Option<PendingShot> {
        let live = self.pending.front().is_some_and(|pending| pending.start == ShotStart::Live);
        let index = usize::from(live);
        if self.pending.get(index).is_some_and(|pending| self.is_due(pending.start, first, length)) {
            return self.pending.remove(index);
        }
        if live { self.pending.pop_front() } else { None }
    }

    fn is_due(&self, start: ShotStart, first: u64, length: u64) -> bool {
        let end = first.saturating_add(length);
        match start {
            ShotStart::Live => true,
            ShotStart::Scene(frame) => frame <= first,
            ShotStart::Chunk(frame) if frame <= first => true,
            ShotStart::Chunk(frame) => {
                let last_chunk =
                    self.next_scene().is_some_and(|scene_end| frame < scene_end && end >= scene_end);
                last_chunk || (frame <= end && frame - first <= end - frame)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Parts;

    /// 12 frames per second, chunks of 4 frames after the first.
    fn info() -> ModelInfo {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/miniature");
        ModelInfo::read(folder, &Parts::default()).unwrap()
    }

    fn shot(info: &ModelInfo, frame: u64, transition: Transition) -> Shot {
        let (numerator, denominator) = info.frame_rate;
        let start = Duration::from_secs_f64(frame as f64 * f64::from(denominator) / f64::from(numerator));
        Shot { transition, ..Shot::new(start, format!("shot at {frame}")) }
    }

    fn prompts(timeline: &mut Timeline, first: u64, length: u64) -> Vec<String> {
        std::iter::from_fn(|| timeline.next_due(first, length)).map(|pending| pending.shot.prompt).collect()
    }

    #[test]
    fn a_shot_that_continues_begins_with_the_nearest_chunk() {
        let info = info();
        let shots = [0, 6, 15].map(|frame| shot(&info, frame, Transition::Continue)).to_vec();
        let mut timeline = Timeline::new(shots, &info, Some(32));
        assert_eq!(prompts(&mut timeline, 0, 1), ["shot at 0"]);
        // Frame 6 is nearer to 5 than to 9.
        assert_eq!(prompts(&mut timeline, 1, 4), [""; 0]);
        assert_eq!(prompts(&mut timeline, 5, 4), ["shot at 6"]);
        // As near to 13 as to 17: the earlier one.
        assert_eq!(prompts(&mut timeline, 9, 4), [""; 0]);
        assert_eq!(prompts(&mut timeline, 13, 4), ["shot at 15"]);
    }

    #[test]
    fn a_scene_begins_at_its_frame_and_the_shots_before_it_are_not_lost() {
        let info = info();
        let shots = vec![
            shot(&info, 0, Transition::Cut),
            shot(&info, 8, Transition::Continue),
            shot(&info, 9, Transition::Cut),
        ];
        let mut timeline = Timeline::new(shots, &info, Some(16));
        assert_eq!(timeline.scenes(), Some(vec![9, 7]));
        assert_eq!(prompts(&mut timeline, 0, 1), ["shot at 0"]);
        assert_eq!(timeline.next_scene(), Some(9));
        // The last chunk of the scene, though frame 8 is nearer to 9.
        assert_eq!(prompts(&mut timeline, 5, 4), ["shot at 8"]);
        assert_eq!(prompts(&mut timeline, 8, 4), [""; 0]);
        assert_eq!(prompts(&mut timeline, 9, 4), ["shot at 9"]);
        assert_eq!(timeline.next_scene(), Some(16));
    }

    #[test]
    fn a_live_prompt_is_the_last_of_the_shots_that_begin_together() {
        let info = info();
        let policy = Policy::built_in();
        let shots = vec![shot(&info, 0, Transition::Cut), shot(&info, 16, Transition::Continue)];
        let mut timeline = Timeline::new(shots, &info, None);
        timeline.set_prompt("first", Transition::Continue, &[], &policy).unwrap();
        timeline.set_prompt("second", Transition::Continue, &[], &policy).unwrap();
        assert_eq!(prompts(&mut timeline, 0, 1), ["shot at 0", "second"]);
        assert_eq!(prompts(&mut timeline, 1, 4), [""; 0]);
        timeline.set_prompt("third", Transition::Continue, &[], &policy).unwrap();
        assert_eq!(prompts(&mut timeline, 1, 4), ["third"]);
        assert_eq!(prompts(&mut timeline, 17, 4), ["shot at 16"]);
        assert_eq!(timeline.scenes(), None);
    }
}
