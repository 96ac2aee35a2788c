//! The KV cache of StreamDiffusionV2 (`CausalWanSelfAttention` in `models/wan/causal_model.py` of
//! <https://github.com/chenfengxu714/StreamDiffusionV2>): every step writes its keys and values, as noisy as they are, into a ring of
//! latent frames, and every block replaces by itself what has become unlike the video.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::DType;
use serde::Deserialize;

use super::attention::KeyValue;
use crate::kernels::attention::PackedKv;
use crate::{Error, Result, Setting};

/// Settings of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct RingConfig {
    /// A frame of the sink is replaced when the cosine of its mean key with that of a new frame, averaged with that of the values, is
    /// below this.
    pub adaptive_sink: f64,
    /// Temporal positions go on from the first frame of the scene up to this, and then from the last frame of a full ring. Cached keys
    /// keep the positions that they were made with.
    pub last_position: usize,
}

/// The rings of all blocks.
#[derive(Debug)]
pub(super) struct Ring {
    config: RingConfig,
    /// Latent frames of the ring, and of the sink at its begin.
    slots: usize,
    sink: usize,
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// Position of the next frame.
    position: usize,
    /// Tokens of a frame; 0 before the first one.
    tokens: usize,
    /// Passes of a chunk.
    passes: usize,
    blocks: Vec<RingBlock>,
}

/// The ring of a block.
#[derive(Clone, Debug)]
struct RingBlock {
    slots: Vec<Option<Slot>>,
    /// Where frames are written when the ring is full, in order: the slot after the last one of the chunk.
    targets: VecDeque<usize>,
    filled: usize,
    /// Position after the last frame that was written.
    end: usize,
    /// Passes until the next target is used. The count begins with the second pass of the chunk that fills the ring, as in the
    /// original: the first pass of each later chunk writes where the chunk before it was, and the others write to the next target.
    passes_left: usize,
}

/// A latent frame in the ring.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    kv: Arc<SlotKv>,
    /// Means over the tokens.
    key: Vec<f32>,
    value: Vec<f32>,
}

/// Rotated keys, and values.
#[derive(Debug)]
pub(super) enum SlotKv {
    Plain(KeyValue),
    Packed(PackedKv),
}

impl SlotKv {
    /// In the layout of the packed blocks.
    pub(super) fn packed(&self) -> Option<&PackedKv> {
        match self {
            Self::Packed(kv) => Some(kv),
            Self::Plain(_) => None,
        }
    }

    pub(super) fn plain(&self) -> Option<&KeyValue> {
        match self {
            Self::Plain(kv) => Some(kv),
            Self::Packed(_) => None,
        }
    }
}

/// The part of a pass that reads and writes the ring.
#[derive(Clone, Copy)]
pub(super) struct RingPass<'a> {
    pub(super) ring: &'a Ring,
    /// Latent frames of the chunk.
    pub(super) frames: usize,
}

impl Clone for Ring {
    fn clone(&self) -> Self {
        Self { state: Mutex::new(self.lock().clone()), ..*self }
    }
}

impl Slot {
    /// A frame with rotated keys and values, `[tokens, heads, head_dim]` each.
    pub(super) fn plain(kv: KeyValue) -> Result<Self> {
        let mean = |x: &candle_core::Tensor| -> Result<Vec<f32>> {
            Ok(x.to_dtype(DType::F32)?.mean(0)?.flatten_all()?.to_vec1()?)
        };
        let (key, value) = (mean(&kv.key)?, mean(&kv.value)?);
        Ok(Self { kv: Arc::new(SlotKv::Plain(kv)), key, value })
    }

    /// A frame with rotated keys and values of `dim` numbers for each token, and both packed.
    pub(super) fn packed(kv: PackedKv, keys: &[f32], values: &[f32], dim: usize) -> Self {
        let mean = |rows: &[f32]| {
            let mut sum = vec![0.0; dim];
            for row in rows.chunks_exact(dim) {
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
            let count = (rows.len() / dim) as f32;
            sum.into_iter().map(|sum| sum / count).collect()
        };
        Self { kv: Arc::new(SlotKv::Packed(kv)), key: mean(keys), value: mean(values) }
    }

    fn similarity(&self, other: &Self) -> f64 {
        (cosine(&self.key, &other.key) + cosine(&self.value, &other.value)) / 2.0
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 0.0 }
}

impl Ring {
    pub(super) fn new(config: RingConfig, slots: usize, sink: usize) -> Self {
        Self { config, slots, sink, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next chunk has so many passes.
    pub(super) fn set_passes(&self, passes: usize) {
        self.lock().passes = passes;
    }

    /// Temporal positions of the next `frames` frames.
    pub(super) fn times(&self, frames: usize) -> Vec<usize> {
        let position = self.lock().position;
        (position..position + frames).collect()
    }

    /// Frames in the ring.
    pub(super) fn frames(&self) -> usize {
        self.lock().blocks.first().map_or(0, |block| block.filled)
    }

    /// Rejects a chunk whose frames differ in size from those before.
    pub(super) fn check(&self, tokens: usize) -> Result<()> {
        let before = self.lock().tokens;
        match before == 0 || before == tokens {
            true => Ok(()),
            false => Err(Error::Request(Setting::Shape, "the frame size changed within a shot".into())),
        }
    }

    /// The chunk of `frames` frames of `tokens` tokens is finished.
    pub(super) fn advance(&self, frames: usize, tokens: usize) {
        let mut state = self.lock();
        state.tokens = tokens;
        state.position += frames;
        if state.position >= self.config.last_position {
            state.position = self.slots - 1;
        }
    }

    pub(super) fn clear(&self) {
        *self.lock() = State::default();
    }
}

impl RingPass<'_> {
    /// Writes the frames of the chunk into the ring of `block`, and returns all frames to attend to.
    pub(super) fn write(&self, block: usize, chunk: Vec<Slot>) -> Vec<Arc<SlotKv>> {
        let Ring { config, slots, sink, .. } = *self.ring;
        let State { position, passes, blocks, .. } = &mut *self.ring.lock();
        if blocks.len() <= block {
            blocks.resize(block + 1, RingBlock::new(slots));
        }
        let block = &mut blocks[block];
        if let [frame] = chunk.as_slice() {
            block.replace_unlike(frame, sink, config.adaptive_sink);
        }
        block.write(chunk, *position, sink, *passes)
    }
}

impl RingBlock {
    fn new(slots: usize) -> Self {
        Self { slots: vec![None; slots], targets: VecDeque::new(), filled: 0, end: 0, passes_left: 0 }
    }

    /// Writes the next frame over the frame of the sink that is least like `frame`, if it is not like it.
    fn replace_unlike(&mut self, frame: &Slot, sink: usize, threshold: f64) {
        // A slot without a frame is like nothing.
        let similarity = |slot: &Option<Slot>| slot.as_ref().map_or(0.0, |slot| slot.similarity(frame));
        let similarities = self.slots[..sink].iter().map(similarity).enumerate();
        if let Some((least, similarity)) = similarities.min_by(|(_, a), (_, b)| a.total_cmp(b))
            && similarity < threshold
        {
            self.targets.push_front(least + 1);
        }
    }

    fn write(&mut self, chunk: Vec<Slot>, position: usize, sink: usize, passes: usize) -> Vec<Arc<SlotKv>> {
        let (count, size, end) = (chunk.len(), self.slots.len(), position + chunk.len());
        let after = if end > size || self.filled >= size {
            self.filled = size;
            let target = self.targets.front().copied().unwrap_or(size);
            if self.passes_left == 0 {
                self.passes_left = passes;
            }
            self.passes_left = self.passes_left.saturating_sub(1);
            if self.passes_left == 0
                && let Some(target) = self.targets.pop_front().filter(|&target| target > sink)
            {
                self.targets.push_back(target);
            }
            target
        } else {
            self.filled = (self.filled + end).saturating_sub(self.end).min(size);
            let next = end + count;
            if next > sink && next <= size && self.targets.back() != Some(&next) {
                self.targets.push_back(next);
            }
            self.filled
        };
        self.end = end;
        let first = after.max(count).min(size) - count;
        for (slot, frame) in self.slots[first..].iter_mut().zip(chunk) {
            *slot = Some(frame);
        }
        self.slots[..self.filled].iter().flatten().map(|slot| slot.kv.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    /// A frame whose key and value are a direction.
    fn frame(degrees: f32) -> Slot {
        let (sin, cos) = degrees.to_radians().sin_cos();
        let direction = Tensor::from_vec(vec![cos, sin], (1, 1, 2), &Device::Cpu).unwrap();
        Slot::plain(KeyValue { key: direction.clone(), value: direction }).unwrap()
    }

    /// The directions that a chunk of these frames attends to.
    fn written(ring: &Ring, frames: &[f32]) -> Vec<i32> {
        let pass = RingPass { ring, frames: frames.len() };
        let degrees = |kv: &Arc<SlotKv>| match &**kv {
            SlotKv::Plain(kv) => {
                let direction: Vec<f32> = kv.key.flatten_all().unwrap().to_vec1().unwrap();
                direction[1].atan2(direction[0]).to_degrees().round() as i32
            }
            SlotKv::Packed(_) => panic!("a plain frame"),
        };
        pass.write(0, frames.iter().map(|degrees| frame(*degrees)).collect()).iter().map(degrees).collect()
    }

    /// As in the recipe, apart from the last position.
    fn ring(passes: usize) -> Ring {
        let ring = Ring::new(RingConfig { adaptive_sink: 0.2, last_position: 20 }, 6, 3);
        ring.set_passes(passes);
        ring
    }

    #[test]
    fn the_oldest_frame_after_the_sink_is_replaced() {
        let ring = ring(1);
        assert_eq!(written(&ring, &[0.0, 1.0]), [0, 1]);
        ring.advance(2, 1);
        for (now, expected) in [
            (2.0, &[0, 1, 2][..]),
            (3.0, &[0, 1, 2, 3]),
            (4.0, &[0, 1, 2, 3, 4]),
            (5.0, &[0, 1, 2, 3, 4, 5]),
            // The last frame of the sink was empty when its frame came, and thus unlike it.
            (6.0, &[0, 1, 6, 3, 4, 5]),
            (7.0, &[0, 1, 6, 7, 4, 5]),
            (8.0, &[0, 1, 6, 7, 8, 5]),
            (9.0, &[0, 1, 6, 7, 8, 9]),
            (10.0, &[0, 1, 6, 10, 8, 9]),
        ] {
            assert_eq!(written(&ring, &[now]), expected);
            ring.advance(1, 1);
        }
        assert_eq!(ring.times(1), [11]);
        ring.advance(9, 1);
        assert_eq!(ring.times(1), [5], "positions go back behind the ring");
    }

    #[test]
    fn with_two_passes_the_first_one_writes_where_the_chunk_before_was() {
        let ring = ring(2);
        for chunk in [&[0.0, 1.0][..], &[2.0], &[3.0], &[4.0], &[5.0]] {
            written(&ring, chunk);
            written(&ring, chunk);
            ring.advance(chunk.len(), 1);
        }
        assert_eq!(written(&ring, &[6.0]), [0, 1, 6, 3, 4, 5]);
        assert_eq!(written(&ring, &[7.0]), [0, 1, 6, 7, 4, 5]);
        ring.advance(1, 1);
        assert_eq!(written(&ring, &[8.0]), [0, 1, 6, 8, 4, 5]);
        assert_eq!(written(&ring, &[9.0]), [0, 1, 6, 8, 9, 5]);
    }

    #[test]
    fn a_frame_that_is_unlike_the_sink_becomes_a_part_of_it() {
        let ring = ring(1);
        written(&ring, &[0.0, 60.0]);
        ring.advance(2, 1);
        for now in [1.0, 2.0, 3.0, 4.0] {
            written(&ring, &[now]);
            ring.advance(1, 1);
        }
        // Its direction is at right angles to the first frame.
        assert_eq!(written(&ring, &[90.0]), [90, 60, 1, 2, 3, 4]);
    }
}
