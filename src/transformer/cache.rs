//! What a causal model remembers of the frames it has made.

use std::sync::OnceLock;

use serde::Deserialize;

use super::attention::KeyValue;
use crate::kernels::attention::PackedKv;
use crate::{Error, Result};

/// How a causal model goes along its video, in latent frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct CausalConfig {
    /// Frames made at a time.
    pub chunk: usize,
    /// Last frames that are remembered.
    pub window: usize,
    /// First frames that are remembered for good, besides.
    #[serde(default)]
    pub sink: usize,
    /// How it goes on over a cut; `None`: it forgets what was before.
    #[serde(default)]
    pub shots: Option<ShotMemory>,
}

/// What a causal model remembers over a cut, as LongLive 2 (`multi_shot_sink` and `multi_shot_rope_offset` in
/// `pipeline/causal_diffusion_inference.py`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct ShotMemory {
    /// First latent frames of the shot that are remembered as long as it lasts; part of the window.
    pub sink: usize,
    /// Latent frames' time that a cut takes: how much further than neighbours the frames beside it are apart.
    pub offset: usize,
}

/// Keys and values, in every block, of finished latent frames: the first `sink`, unless they are being renewed, and the last
/// `window`.
///
/// Keys are kept before rotation. The frames that are remembered are taken to stand one after the other
/// from position 0, and the chunk being made after them, so that positions stay within what the model has
/// seen however long the video gets.
#[derive(Clone, Debug)]
pub struct KvCache {
    window: usize,
    sink: usize,
    /// Frames that are still to come before any are remembered for good.
    renewing: usize,
    shots: ShotMemory,
    /// Which shot each frame that is remembered is of.
    frames: Vec<u64>,
    /// That of the frames that come next.
    shot: u64,
    pub(super) blocks: Vec<KeyValue>,
    /// The same as [`packed`](super::packed) blocks read them, once they have.
    pub(super) packed: OnceLock<Vec<PackedKv>>,
}

impl KvCache {
    /// Remembers nothing yet.
    pub fn new(config: CausalConfig) -> Self {
        Self {
            window: config.window,
            sink: config.sink,
            renewing: 0,
            shots: config.shots.unwrap_or(ShotMemory { sink: 0, offset: 0 }),
            frames: Vec::new(),
            shot: 0,
            blocks: Vec::new(),
            packed: OnceLock::new(),
        }
    }

    /// Latent frames that are remembered.
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// The next chunk is the first of another shot: its sink takes the place of that of the shot before.
    pub fn begin_shot(&mut self) {
        self.shot += 1;
    }

    /// Where in time the frames that are remembered stand, and after them `more` new ones.
    pub(super) fn positions(&self, more: usize) -> Vec<usize> {
        let (mut before, mut next) = (None, 0usize);
        self.shots_with(more)
            .map(|shot| {
                // Only cuts between frames that are still remembered, or the table would run out.
                let cut = before.replace(shot).is_some_and(|before| before != shot);
                let position = next.saturating_add(if cut { self.shots.offset } else { 0 });
                next = position.saturating_add(1);
                position
            })
            .collect()
    }

    /// Which shot each frame is of, and after those that are remembered `more` new ones.
    fn shots_with(&self, more: usize) -> impl Iterator<Item = u64> {
        self.frames.iter().copied().chain(std::iter::repeat_n(self.shot, more))
    }

    /// Forgets everything, as at a cut.
    pub fn clear(&mut self) {
        self.renewing = 0;
        self.frames.clear();
        self.blocks.clear();
        self.packed = OnceLock::new();
    }

    /// Forgets all but the first frames that are remembered for good.
    pub fn keep_sink(&mut self) -> Result<()> {
        let kept = self.frames().min(self.sink());
        if kept == 0 {
            self.clear();
            return Ok(());
        }
        let first = |block: &KeyValue| block.narrow(0, block.tokens()? / self.frames() * kept);
        self.blocks = self.blocks.iter().map(first).collect::<Result<_>>()?;
        self.frames.truncate(kept);
        self.packed = OnceLock::new();
        Ok(())
    }

    /// The frames that are remembered for good are forgotten with the next that comes. When `after` have come, the first of
    /// those that are remembered then take their place.
    pub fn renew_sink(&mut self, after: usize) {
        self.renewing = after;
    }

    /// How many of the first frames are not forgotten now.
    fn sink(&self) -> usize {
        if self.renewing > 0 { 0 } else { self.sink }
    }

    /// What `block` remembers.
    pub(super) fn block(&self, block: usize) -> Option<&KeyValue> {
        self.blocks.get(block)
    }

    /// Refuses a chunk of frames of another size than those remembered.
    pub(super) fn check(&self, tokens_per_frame: usize) -> Result<()> {
        match self.blocks.first() {
            Some(first) if first.tokens()? != self.frames() * tokens_per_frame => Err(Error::Request(
                crate::Setting::Shape,
                "the size of the frames changed in the middle of a shot".into(),
            )),
            _ => Ok(()),
        }
    }

    /// Adds `frames` frames, of which `blocks` holds every block's keys and values, and forgets the oldest beyond
    /// the window that are in no sink.
    pub(super) fn append(&mut self, frames: usize, blocks: Vec<KeyValue>) -> Result<()> {
        let all: Vec<_> = self.shots_with(frames).collect();
        // Of the first shot nothing is remembered but by the sink of all.
        let first = all.iter().position(|&shot| shot == self.shot && shot > 0).unwrap_or(all.len());
        let shot_sink = first..first.saturating_add(self.shots.sink);
        let sink = self.sink();
        let mut forget = all.len().saturating_sub(sink + self.window);
        let kept: Vec<_> = (0..all.len())
            .filter(|&i| {
                let forgotten = forget > 0 && i >= sink && !shot_sink.contains(&i);
                forget -= usize::from(forgotten);
                !forgotten
            })
            .collect();
        let runs: Vec<_> = kept.chunk_by(|a, b| a + 1 == *b).map(|run| (run[0], run.len())).collect();
        let blocks = blocks
            .into_iter()
            .enumerate()
            .map(|(i, new)| {
                let block = match self.block(i) {
                    Some(old) => old.then(&new)?,
                    None => new,
                };
                let each = block.tokens()? / all.len();
                let parts = runs.iter().map(|&(first, count)| block.narrow(first * each, count * each));
                let joined = parts.reduce(|before, after| before?.then(&after?));
                joined.transpose()
            })
            .collect::<Result<Option<Vec<_>>>>()?;
        // Only now, so that an error leaves everything as it was.
        self.frames = kept.into_iter().map(|i| all[i]).collect();
        self.blocks = blocks.unwrap_or_default();
        self.renewing = self.renewing.saturating_sub(frames);
        self.packed = OnceLock::new();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    /// Frames that are told apart by their keys.
    fn remembered(cache: &KvCache) -> Vec<f32> {
        let keys = cache.blocks.first().map(|block| block.key.flatten_all().unwrap().to_vec1().unwrap());
        keys.unwrap_or_default()
    }

    fn append(cache: &mut KvCache, frames: std::ops::Range<u32>) {
        let count = frames.len();
        let numbers: Vec<_> = frames.map(|frame| frame as f32).collect();
        let key = Tensor::from_vec(numbers, (1, 1, count, 1), &Device::Cpu).unwrap();
        cache.append(count, vec![KeyValue { value: key.clone(), key }]).unwrap();
    }

    #[test]
    fn a_shots_first_frames_stay_until_the_next_cut() {
        let shots = Some(ShotMemory { sink: 2, offset: 8 });
        let mut cache = KvCache::new(CausalConfig { chunk: 2, window: 4, sink: 2, shots });
        append(&mut cache, 0..2);
        append(&mut cache, 2..4);
        cache.begin_shot();
        assert_eq!(cache.positions(2), [0, 1, 2, 3, 12, 13]);
        append(&mut cache, 4..6);
        assert_eq!(remembered(&cache), [0., 1., 2., 3., 4., 5.]);
        append(&mut cache, 6..8);
        append(&mut cache, 8..10);
        assert_eq!(remembered(&cache), [0., 1., 4., 5., 8., 9.], "both sinks and what was last");
        assert_eq!(cache.positions(1), [0, 1, 10, 11, 12, 13, 14]);
        cache.begin_shot();
        append(&mut cache, 10..12);
        assert_eq!(remembered(&cache), [0., 1., 8., 9., 10., 11.], "the first shot's is let go");
        assert_eq!(cache.positions(1), [0, 1, 10, 11, 20, 21, 22]);
    }

    #[test]
    fn a_sink_is_renewed() {
        let mut cache = KvCache::new(CausalConfig { chunk: 1, window: 2, sink: 1, shots: None });
        append(&mut cache, 0..2);
        append(&mut cache, 2..5);
        assert_eq!(remembered(&cache), [0., 3., 4.]);
        cache.renew_sink(3);
        let mut seen = Vec::new();
        for frame in 5..11 {
            append(&mut cache, frame..frame + 1);
            seen.push(remembered(&cache));
        }
        assert_eq!(seen[0], [4., 5.]);
        assert_eq!(seen[2], [6., 7.]);
        assert_eq!(seen[3], [6., 7., 8.]);
        assert_eq!(seen[5], [6., 9., 10.]);
    }

    #[test]
    fn a_cut_of_any_length_is_a_position() {
        let shots = Some(ShotMemory { sink: 0, offset: usize::MAX });
        let mut cache = KvCache::new(CausalConfig { chunk: 1, window: 4, sink: 0, shots });
        append(&mut cache, 0..1);
        cache.begin_shot();
        assert_eq!(cache.positions(2), [0, usize::MAX, usize::MAX]);
    }
}
