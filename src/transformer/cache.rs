//! The key-value cache of a causal model.

use std::sync::OnceLock;

use candle_core::Tensor;
use serde::Deserialize;

use super::attention::KeyValue;
use super::control::Control;
use super::reference::{ChunkReferences, Placement, ReferenceKv};
use super::ring::{Ring, RingConfig};
use super::rope::FramePosition;
use super::window::{Window, WindowFrame};
use crate::kernels::attention::PackedKv;
use crate::{Error, Result};

/// The sizes of the cache, in latent frames.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct KvCacheConfig {
    /// Frames generated at a time.
    pub chunk: usize,
    /// Number of most recent frames in the cache.
    pub window: usize,
    /// Number of first frames that stay in the cache permanently, in addition to the window (the attention sink).
    #[serde(default)]
    pub sink: usize,
    /// What the cache keeps across a cut; `None` clears it.
    #[serde(default)]
    pub shots: Option<ShotMemory>,
    /// Temporal positions of the frames.
    #[serde(default)]
    pub positions: Positions,
    /// Keeps frames in a ring in place of a sink and a window; its size is that of both and a chunk.
    #[serde(default)]
    pub ring: Option<RingConfig>,
}

/// Where the temporal positions of frames are counted from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// From the first cached frame, so that positions stay within the trained range for a video of any length
    /// (Infinity-RoPE, <https://arxiv.org/abs/2511.20649>).
    #[default]
    Relative,
    /// From the first frame of the scene, as in Self-Forcing. A scene has at most as many latent frames as the model has
    /// positions.
    Absolute,
}

/// What the cache keeps across a cut, following LongLive 2 (`multi_shot_sink` and `multi_shot_rope_offset` in
/// `pipeline/causal_diffusion_inference.py`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct ShotMemory {
    /// First latent frames of a shot that stay in the cache until the next cut; part of the window.
    pub sink: usize,
    /// Temporal positions that a cut skips between the frames before and after it.
    pub offset: usize,
}

/// Keys and values of finished latent frames in every block: the first `sink` frames, unless the sink is being rebuilt, and
/// the last `window` frames.
///
/// Keys are stored before rotation. With relative [`Positions`] cached frames have consecutive positions from 0, and the next
/// chunk follows them.
#[derive(Debug)]
pub struct KvCache {
    /// Most recent frames, and frames of a chunk.
    recent: usize,
    chunk: usize,
    sink: usize,
    /// Frames to append until the sink is rebuilt; 0 if it is in place.
    until_sink: usize,
    shots: ShotMemory,
    positions: Positions,
    /// The cached frames, in order.
    frames: Vec<CachedFrame>,
    /// Number of the next frame.
    next: usize,
    /// The shot of the next frames.
    shot: u64,
    /// Where the camera is in the next frames, in columns of tokens.
    camera: f64,
    /// Tokens of a cached frame.
    tokens: usize,
    /// Keys before rotation and values of the cached frames, for the [`packed`](super::packed) blocks.
    pub(super) blocks: Vec<KeyValue>,
    /// `blocks` in the layout of the packed blocks, computed on first use.
    pub(super) packed: OnceLock<Vec<PackedKv>>,
    /// In place of `blocks`, for the plain blocks.
    pub(super) window: Window,
    /// What the next chunk attends to besides the cached frames.
    pub(super) references: ChunkReferences,
    /// The references of the next chunk at their places.
    pub(super) overlay: Option<Tensor>,
    /// What steers the next chunk.
    pub(super) control: Option<Control>,
    /// In place of the cached frames and the references.
    pub(super) ring: Option<Ring>,
}

/// A latent frame in the cache.
#[derive(Clone, Copy, Debug)]
struct CachedFrame {
    /// Its number in the scene, from 0.
    number: usize,
    shot: u64,
    /// In columns of tokens, to the right.
    camera: f64,
}

impl KvCache {
    /// An empty cache.
    pub fn new(config: KvCacheConfig) -> Self {
        Self {
            recent: config.window,
            chunk: config.chunk,
            sink: config.sink,
            until_sink: 0,
            shots: config.shots.unwrap_or(ShotMemory { sink: 0, offset: 0 }),
            positions: config.positions,
            frames: Vec::new(),
            next: 0,
            shot: 0,
            camera: 0.0,
            tokens: 0,
            blocks: Vec::new(),
            packed: OnceLock::new(),
            window: Window::default(),
            references: ChunkReferences::default(),
            overlay: None,
            control: None,
            ring: config
                .ring
                .map(|ring| Ring::new(ring, config.sink + config.window + config.chunk, config.sink)),
        }
    }

    /// A cache with the same frames. References and what steers the next chunk are set anew.
    pub fn copy(&self) -> Result<Self> {
        Ok(Self {
            frames: self.frames.clone(),
            blocks: self.blocks.clone(),
            packed: OnceLock::new(),
            window: self.window.copy()?,
            references: ChunkReferences::default(),
            overlay: None,
            control: None,
            ring: self.ring.clone(),
            ..*self
        })
    }

    /// The next chunk has so many denoising steps; for a ring.
    pub fn set_passes(&self, passes: usize) {
        if let Some(ring) = &self.ring {
            ring.set_passes(passes);
        }
    }

    /// Number of cached latent frames.
    pub fn frames(&self) -> usize {
        self.ring.as_ref().map_or(self.frames.len(), Ring::frames)
    }

    /// Shows these references at these places from the next chunk on, in place of those before. Chunks of a model with references
    /// have one latent frame.
    pub fn set_references(&mut self, references: &[(ReferenceKv, Placement)]) -> Result<()> {
        self.references = ChunkReferences::new(references)?;
        Ok(())
    }

    /// Covers the next chunk with the references at their places: the latents of each as it moves, times its alpha, and the alpha,
    /// `[1, in_channels + alpha values per latent, T, H, W]`, zero elsewhere. A model without `reference_overlay` ignores it.
    pub fn set_overlay(&mut self, overlay: Option<Tensor>) {
        self.overlay = overlay;
    }

    /// Steers the next chunk, for a model with a control branch; its latents have the frames, rows and columns of the chunk.
    pub fn set_control(&mut self, control: Option<Control>) {
        self.control = control;
    }

    /// In the next chunk the camera is so many columns of tokens to the right of where it was at the start. A model without
    /// `camera_depths` ignores it.
    pub fn set_camera(&mut self, columns: f64) {
        if columns != self.camera {
            self.camera = columns;
            self.forget_packed();
        }
    }

    /// The cached frames with their positions, followed by those of `more` new frames.
    pub(super) fn placed(&self, more: usize) -> Vec<WindowFrame> {
        let place = |(frame, time): (CachedFrame, usize)| WindowFrame {
            number: frame.number,
            position: FramePosition { time, moved: self.camera - frame.camera },
        };
        self.frames_with(more).zip(self.positions(more)).map(place).collect()
    }

    /// Latent frames that the cache has room for.
    pub(super) fn capacity(&self) -> usize {
        self.sink.saturating_add(self.recent).saturating_add(self.chunk)
    }

    /// Whether the position of a cached frame changes with each chunk.
    pub(super) fn positions_change(&self) -> bool {
        self.positions == Positions::Relative
    }

    /// Starts a new shot with the next chunk: its sink replaces that of the previous shot.
    pub fn begin_shot(&mut self) {
        self.shot += 1;
    }

    /// Temporal positions of the cached frames, followed by those of `more` new frames.
    fn positions(&self, more: usize) -> Vec<usize> {
        if self.positions == Positions::Absolute {
            return self.frames_with(more).map(|frame| frame.number).collect();
        }
        let (mut before, mut next) = (None, 0usize);
        self.frames_with(more)
            .map(|CachedFrame { shot, .. }| {
                // Only cuts between cached frames count: otherwise positions would grow without bound.
                let cut = before.replace(shot).is_some_and(|before| before != shot);
                let position = next.saturating_add(if cut { self.shots.offset } else { 0 });
                next = position.saturating_add(1);
                position
            })
            .collect()
    }

    /// The cached frames, followed by `more` new frames.
    fn frames_with(&self, more: usize) -> impl Iterator<Item = CachedFrame> {
        let new = self.next..self.next + more;
        let new = new.map(move |number| CachedFrame { number, shot: self.shot, camera: self.camera });
        self.frames.iter().copied().chain(new)
    }

    /// Removes all frames.
    pub fn clear(&mut self) {
        self.until_sink = 0;
        self.next = 0;
        if let Some(ring) = &self.ring {
            ring.clear();
        }
        self.frames.clear();
        self.blocks.clear();
        self.forget_packed();
    }

    /// After a change of the cached frames, and so of the positions.
    fn forget_packed(&mut self) {
        self.packed = OnceLock::new();
        self.references.invalidate_packed();
    }

    /// Prepares to append the last `frames` frames again: of the frames before them only the sink stays.
    pub fn rewind(&mut self, frames: usize) -> Result<()> {
        let next = self.next.saturating_sub(frames);
        let kept = self.frames.iter().take(self.sink()).filter(|frame| frame.number < next).count();
        if kept == 0 {
            let until_sink = self.until_sink;
            self.clear();
            // The same frames are appended again, and the sink is rebuilt after them.
            self.until_sink = if until_sink > 0 { until_sink + frames } else { 0 };
        } else {
            let first = |block: &KeyValue| block.narrow(0, self.tokens * kept);
            self.blocks = self.blocks.iter().map(first).collect::<Result<_>>()?;
            self.frames.truncate(kept);
            self.forget_packed();
        }
        self.next = next;
        Ok(())
    }

    /// Drops the sink with the next append. After `after` appended frames, the first frames in the cache at that point become
    /// the new sink.
    pub fn renew_sink(&mut self, after: usize) {
        self.until_sink = after;
    }

    /// Size of the current sink; 0 while it is being rebuilt.
    fn sink(&self) -> usize {
        if self.until_sink > 0 { 0 } else { self.sink }
    }

    /// Rejects a chunk whose frames differ in size from the cached ones.
    pub(super) fn check(&self, tokens_per_frame: usize) -> Result<()> {
        if let Some(ring) = &self.ring {
            return ring.check(tokens_per_frame);
        }
        match self.frames.is_empty() || self.tokens == tokens_per_frame {
            true => Ok(()),
            false => {
                Err(Error::Request(crate::Setting::Shape, "the frame size changed within a shot".into()))
            }
        }
    }

    /// Appends `frames` frames of `tokens` tokens, given by the keys and values of every block unless they are in the window, and removes
    /// the oldest frames that exceed the window and are in no sink.
    pub(super) fn append(&mut self, frames: usize, tokens: usize, blocks: Vec<KeyValue>) -> Result<()> {
        let all: Vec<_> = self.frames_with(frames).collect();
        // The first shot has no shot sink: the permanent sink holds its first frames.
        let in_shot = |frame: &CachedFrame| frame.shot == self.shot && frame.shot > 0;
        let first = all.iter().position(in_shot).unwrap_or(all.len());
        let shot_sink = first..first.saturating_add(self.shots.sink);
        let sink = self.sink();
        let mut excess = all.len().saturating_sub(sink + self.recent);
        let kept: Vec<_> = (0..all.len())
            .filter(|&i| {
                let removed = excess > 0 && i >= sink && !shot_sink.contains(&i);
                excess -= usize::from(removed);
                !removed
            })
            .collect();
        let runs: Vec<_> = kept.chunk_by(|a, b| a + 1 == *b).map(|run| (run[0], run.len())).collect();
        let blocks = blocks
            .into_iter()
            .enumerate()
            .map(|(i, new)| {
                let block = match self.blocks.get(i) {
                    Some(old) => old.concat(&new)?,
                    None => new,
                };
                let parts = runs.iter().map(|&(first, count)| block.narrow(first * tokens, count * tokens));
                let joined = parts.reduce(|before, after| before?.concat(&after?));
                joined.transpose()?.map(KeyValue::into_contiguous).transpose()
            })
            .collect::<Result<Option<Vec<_>>>>()?;
        // Assign last, so that an error leaves the cache unchanged.
        self.frames = kept.into_iter().map(|i| all[i]).collect();
        self.blocks = blocks.unwrap_or_default();
        self.tokens = tokens;
        self.next += frames;
        self.until_sink = self.until_sink.saturating_sub(frames);
        self.forget_packed();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn config(chunk: usize, window: usize, sink: usize, shots: Option<ShotMemory>) -> KvCacheConfig {
        KvCacheConfig { chunk, window, sink, shots, positions: Positions::Relative, ring: None }
    }

    /// The cached frames, identified by their keys.
    fn cached(cache: &KvCache) -> Vec<f32> {
        let keys = cache.blocks.first().map(|block| block.key.flatten_all().unwrap().to_vec1().unwrap());
        keys.unwrap_or_default()
    }

    fn append(cache: &mut KvCache, frames: std::ops::Range<u32>) {
        let count = frames.len();
        let keys: Vec<_> = frames.map(|frame| frame as f32).collect();
        let key = Tensor::from_vec(keys, (count, 1, 1), &Device::Cpu).unwrap();
        cache.append(count, 1, vec![KeyValue { value: key.clone(), key }]).unwrap();
    }

    #[test]
    fn a_shot_sink_stays_until_the_next_cut() {
        let shots = Some(ShotMemory { sink: 2, offset: 8 });
        let mut cache = KvCache::new(config(2, 4, 2, shots));
        append(&mut cache, 0..2);
        append(&mut cache, 2..4);
        cache.begin_shot();
        assert_eq!(cache.positions(2), [0, 1, 2, 3, 12, 13]);
        append(&mut cache, 4..6);
        assert_eq!(cached(&cache), [0., 1., 2., 3., 4., 5.]);
        append(&mut cache, 6..8);
        append(&mut cache, 8..10);
        assert_eq!(cached(&cache), [0., 1., 4., 5., 8., 9.], "both sinks and the most recent frames");
        assert_eq!(cache.positions(1), [0, 1, 10, 11, 12, 13, 14]);
        cache.begin_shot();
        append(&mut cache, 10..12);
        assert_eq!(cached(&cache), [0., 1., 8., 9., 10., 11.], "the shot sink is replaced");
        assert_eq!(cache.positions(1), [0, 1, 10, 11, 20, 21, 22]);
    }

    #[test]
    fn renew_sink_rebuilds_the_sink() {
        let mut cache = KvCache::new(config(1, 2, 1, None));
        append(&mut cache, 0..2);
        append(&mut cache, 2..5);
        assert_eq!(cached(&cache), [0., 3., 4.]);
        cache.renew_sink(3);
        let mut history = Vec::new();
        for frame in 5..11 {
            append(&mut cache, frame..frame + 1);
            history.push(cached(&cache));
        }
        assert_eq!(history[0], [4., 5.]);
        assert_eq!(history[2], [6., 7.]);
        assert_eq!(history[3], [6., 7., 8.]);
        assert_eq!(history[5], [6., 9., 10.]);
    }

    /// LongLive 1: chunks of 3 attend to 12 frames.
    #[test]
    fn rewind_keeps_the_sink_unless_it_is_appended_again() {
        let made = |positions| {
            let mut cache = KvCache::new(KvCacheConfig { positions, ..config(3, 6, 3, None) });
            (0..15).step_by(3).for_each(|first| append(&mut cache, first..first + 3));
            assert_eq!(cached(&cache), [0., 1., 2., 9., 10., 11., 12., 13., 14.]);
            cache
        };
        let mut cache = made(Positions::Absolute);
        assert_eq!(cache.positions(3), [0, 1, 2, 9, 10, 11, 12, 13, 14, 15, 16, 17]);
        cache.rewind(9).unwrap();
        assert_eq!(cached(&cache), [0., 1., 2.]);
        assert_eq!(cache.positions(9), [0, 1, 2, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
        append(&mut cache, 6..15);
        assert_eq!(cached(&cache), [0., 1., 2., 9., 10., 11., 12., 13., 14.]);
        assert_eq!(cache.positions(1), [0, 1, 2, 9, 10, 11, 12, 13, 14, 15]);
        cache.rewind(15).unwrap();
        assert_eq!(cache.positions(2), [0, 1]);

        let mut cache = made(Positions::Relative);
        assert_eq!(cache.positions(3), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        cache.rewind(9).unwrap();
        assert_eq!(cache.positions(9), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    }

    #[test]
    fn a_large_cut_offset_does_not_overflow() {
        let shots = Some(ShotMemory { sink: 0, offset: usize::MAX });
        let mut cache = KvCache::new(config(1, 4, 0, shots));
        append(&mut cache, 0..1);
        cache.begin_shot();
        assert_eq!(cache.positions(2), [0, usize::MAX, usize::MAX]);
    }
}
