//! The self attention keys and values of the cached frames on the device, for the plain blocks.
//!
//! A ring of slots, one for each latent frame. Attention does not depend on the order of its keys, so a new frame takes the slot of
//! one that left the window, and no other frame moves. A chunk writes its own keys and values into the free slots in every step, and
//! attends to the buffer as it is.
//!
//! The keys of a frame are rotated when its position changes: once a chunk with relative positions, once in all with absolute ones.

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};

use super::attention::{KeyValue, Qkv};
use super::reference::ChunkReferences;
use super::rope::{FramePosition, Rope, Rotation};
use crate::Result;

/// The windows of all blocks.
#[derive(Debug, Default)]
pub(super) struct Window(Mutex<State>);

#[derive(Clone, Debug, Default)]
struct State {
    layout: Layout,
    /// Rows of references, before the frames.
    references: usize,
    /// Which references these are, and the time that their keys are rotated to.
    placed: Option<(u64, usize)>,
    slots: Vec<Option<WindowFrame>>,
    blocks: Vec<Buffers>,
}

/// The number of blocks, and the form of their keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Layout {
    pub(super) blocks: usize,
    /// Rows and columns of tokens in a frame.
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) heads: usize,
    pub(super) head_dim: usize,
    pub(super) dtype: Option<DType>,
    /// Whether positions change, so that keys before rotation are needed too.
    pub(super) moves: bool,
}

/// A latent frame, with the position that its keys are rotated to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct WindowFrame {
    /// Its number in the scene.
    pub(super) number: usize,
    pub(super) position: FramePosition,
}

/// The buffers of a block, `[rows, heads, head_dim]` each.
#[derive(Clone, Debug)]
struct Buffers {
    /// Keys before rotation, if positions change.
    plain: Option<Tensor>,
    /// Rotated keys.
    rotated: Tensor,
    value: Tensor,
}

/// What a pass finds in the window.
pub(super) struct WindowInputs<'a> {
    pub(super) layout: Layout,
    pub(super) rope: &'a Rope,
    pub(super) device: &'a Device,
    /// The cached frames.
    pub(super) cached: Vec<WindowFrame>,
    /// The frames of the chunk.
    pub(super) chunk: Vec<WindowFrame>,
    /// References, and the time of the chunk.
    pub(super) references: Option<(&'a ChunkReferences, usize)>,
    /// Slots that are allocated at once, for frames that come later.
    pub(super) slots: usize,
}

/// A pass that writes a chunk into the window.
pub(super) struct WindowPass<'a> {
    window: &'a Window,
    /// The rows that it attends to.
    rows: usize,
    /// The rows of the chunk, in its order: first row and count.
    runs: Vec<(usize, usize)>,
    /// Whether the chunk is finished: its keys are kept as they are before rotation.
    keep: bool,
}

impl Layout {
    fn tokens(&self) -> usize {
        self.rows * self.columns
    }
}

impl Window {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same frames in buffers of their own: passes write into them.
    pub(super) fn copy(&self) -> Result<Self> {
        let mut state = self.lock().clone();
        for Buffers { plain, rotated, value } in &mut state.blocks {
            *plain = plain.as_ref().map(Tensor::copy).transpose()?;
            (*rotated, *value) = (rotated.copy()?, value.copy()?);
        }
        Ok(Self(Mutex::new(state)))
    }

    /// Prepares a pass: finds slots for the chunk, and rotates the keys of cached frames whose position has changed. With `keep` the chunk is
    /// finished.
    pub(super) fn begin(&self, inputs: &WindowInputs, keep: bool) -> Result<WindowPass<'_>> {
        let mut state = self.lock();
        if state.layout != inputs.layout {
            *state = State { layout: inputs.layout.clone(), ..State::default() };
        }
        state.remove_all_but(&inputs.cached);
        let count = inputs.references.map_or(Ok(0), |(references, _)| references.tokens())?;
        let needed = (inputs.cached.len() + inputs.chunk.len()).max(inputs.slots).max(state.slots.len());
        if state.blocks.is_empty() || needed > state.slots.len() || count != state.references {
            state.resize(count, needed, inputs.device)?;
        }
        state.fill_holes(inputs.chunk.len())?;
        state.rotate(inputs)?;
        state.place_references(inputs)?;
        let chunk = state.insert(&inputs.chunk);
        let (first, tokens) = (state.references, state.layout.tokens());
        let used = state.slots.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        let rows_of = |run: &[usize]| (first + run[0] * tokens, run.len() * tokens);
        Ok(WindowPass {
            window: self,
            rows: first + used * tokens,
            runs: chunk.chunk_by(|a, b| a + 1 == *b).map(rows_of).collect(),
            keep,
        })
    }
}

impl WindowPass<'_> {
    /// Writes the keys and values of the chunk in `block`, and returns all to attend to.
    pub(super) fn write(&self, block: usize, own: &Qkv, rotation: &Rotation) -> Result<KeyValue> {
        let state = self.window.lock();
        let Buffers { plain, rotated, value } = &state.blocks[block];
        let mut first = 0;
        for &(row, count) in &self.runs {
            let rotation = rotation.narrow(first, count)?;
            let key = own.key.narrow(0, first, count)?;
            match plain.as_ref().filter(|_| self.keep) {
                Some(plain) => {
                    let place = row - state.references;
                    own.norm_k.apply_into(&key, None, plain, place)?;
                    rotation.rotate_into(&plain.narrow(0, place, count)?, rotated, row)?;
                }
                None => own.norm_k.apply_into(&key, Some(&rotation), rotated, row)?,
            }
            own.norm_k.split_into(&own.value.narrow(0, first, count)?, value, row)?;
            first += count;
        }
        Ok(KeyValue { key: rotated.narrow(0, 0, self.rows)?, value: value.narrow(0, 0, self.rows)? })
    }
}

impl State {
    /// Frees the slots of frames that are not `cached`.
    fn remove_all_but(&mut self, cached: &[WindowFrame]) {
        for slot in &mut self.slots {
            *slot = slot.filter(|frame| cached.iter().any(|cached| cached.number == frame.number));
        }
    }

    /// Makes room for so many rows of references and so many slots. The frames stay.
    fn resize(&mut self, references: usize, slots: usize, device: &Device) -> Result<()> {
        let Layout { blocks, heads, head_dim, dtype, moves, .. } = self.layout;
        let (tokens, before) = (self.layout.tokens(), self.slots.len());
        let dtype = dtype.unwrap_or(DType::F32);
        let zeros = |rows: usize| Tensor::zeros((rows, heads, head_dim), dtype, device);
        let mut resized = Vec::with_capacity(blocks);
        for block in 0..blocks {
            let buffers = Buffers {
                plain: moves.then(|| zeros(slots * tokens)).transpose()?,
                rotated: zeros(references + slots * tokens)?,
                value: zeros(references + slots * tokens)?,
            };
            if let Some(old) = self.blocks.get(block).filter(|_| before > 0) {
                let copy = |to: &Tensor, from: &Tensor, [at, first]: [usize; 2]| -> Result<()> {
                    Ok(to.slice_set(&from.narrow(0, first, before * tokens)?, 0, at)?)
                };
                copy(&buffers.rotated, &old.rotated, [references, self.references])?;
                copy(&buffers.value, &old.value, [references, self.references])?;
                if let (Some(to), Some(from)) = (&buffers.plain, &old.plain) {
                    copy(to, from, [0, 0])?;
                }
            }
            resized.push(buffers);
        }
        self.blocks = resized;
        self.references = references;
        self.placed = None;
        self.slots.resize(slots, None);
        Ok(())
    }

    /// Moves frames into free slots until at most `more` slots before the last frame are free. Only after frames were dropped.
    fn fill_holes(&mut self, more: usize) -> Result<()> {
        loop {
            let last = self.slots.iter().rposition(Option::is_some);
            let Some(last) = last else { return Ok(()) };
            let free: Vec<_> = (0..last).filter(|&slot| self.slots[slot].is_none()).collect();
            if free.len() <= more {
                return Ok(());
            }
            let (tokens, references) = (self.layout.tokens(), self.references);
            for Buffers { plain, rotated, value } in &self.blocks {
                let after_references = [rotated, value].map(|buffer| (buffer, references));
                for (buffer, start) in after_references.into_iter().chain(plain.as_ref().map(|x| (x, 0))) {
                    let frame = buffer.narrow(0, start + last * tokens, tokens)?.copy()?;
                    buffer.slice_set(&frame, 0, start + free[0] * tokens)?;
                }
            }
            self.slots.swap(free[0], last);
        }
    }

    /// Rotates the keys of cached frames whose position has changed.
    fn rotate(&mut self, inputs: &WindowInputs) -> Result<()> {
        let slot_of = |slots: &[Option<WindowFrame>], number: usize| {
            slots.iter().position(|slot| slot.is_some_and(|frame| frame.number == number))
        };
        let changed: Vec<(usize, WindowFrame)> = inputs
            .cached
            .iter()
            .filter_map(|frame| Some((slot_of(&self.slots, frame.number)?, *frame)))
            .filter(|(slot, frame)| self.slots[*slot] != Some(*frame))
            .collect();
        let Layout { rows, columns, .. } = self.layout;
        let tokens = self.layout.tokens();
        if changed.is_empty() {
            return Ok(());
        }
        let positions: Vec<_> = changed.iter().map(|(_, frame)| frame.position).collect();
        let rotation = inputs.rope.rotation(&positions, rows, columns, inputs.device)?;
        let mut first = 0;
        for run in changed.chunk_by(|(a, _), (b, _)| a + 1 == *b) {
            let (slot, count) = (run[0].0 * tokens, run.len() * tokens);
            let rotation = rotation.narrow(first, count)?;
            for Buffers { plain, rotated, .. } in &self.blocks {
                if let Some(plain) = plain {
                    rotation.rotate_into(&plain.narrow(0, slot, count)?, rotated, self.references + slot)?;
                }
            }
            first += count;
        }
        for (slot, frame) in changed {
            self.slots[slot] = Some(frame);
        }
        Ok(())
    }

    /// Writes the references, if they or the time of the chunk have changed.
    fn place_references(&mut self, inputs: &WindowInputs) -> Result<()> {
        let Some((references, time)) = inputs.references else { return Ok(()) };
        let placed = Some((references.id(), time));
        if self.placed == placed {
            return Ok(());
        }
        let rotation: Rotation = references.rotation(inputs.rope, time, inputs.device)?;
        for (buffers, kv) in self.blocks.iter().zip(references.blocks()) {
            rotation.rotate_into(&kv.key, &buffers.rotated, 0)?;
            buffers.value.slice_set(&kv.value.contiguous()?, 0, 0)?;
        }
        self.placed = placed;
        Ok(())
    }

    /// Takes the first free slots for the frames of a chunk.
    fn insert(&mut self, chunk: &[WindowFrame]) -> Vec<usize> {
        let free = (0..self.slots.len()).filter(|&slot| self.slots[slot].is_none());
        let taken: Vec<_> = free.take(chunk.len()).collect();
        for (&slot, frame) in taken.iter().zip(chunk) {
            self.slots[slot] = Some(*frame);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use candle_nn::{VarBuilder, VarMap};

    use super::*;
    use crate::transformer::rope::counts;
    use crate::transformer::{
        Config, Context, KvCache, KvCacheConfig, Positions, ShotMemory, WanTransformer,
    };
    use crate::{Cancel, Precision};

    const BLOCKS: usize = 2;
    const TOKENS: usize = 6;

    /// Random weights. With [`Precision::Gguf`] the blocks are the plain ones.
    struct Transformers {
        plain: (WanTransformer, Context),
        packed: (WanTransformer, Context),
    }

    fn random(shape: &[usize]) -> Tensor {
        Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
    }

    impl Transformers {
        fn new() -> Self {
            let config = Config {
                num_attention_heads: 2,
                attention_head_dim: 12,
                ffn_dim: 40,
                num_layers: BLOCKS,
                text_dim: 8,
                in_channels: 4,
                out_channels: Some(4),
                ..Config::default()
            };
            let weights = VarMap::new();
            let build = VarBuilder::from_varmap(&weights, DType::F32, &Device::Cpu);
            let prompt = random(&[1, 3, 8]);
            let load = |precision| {
                let transformer = WanTransformer::load(build.clone(), &config, precision).unwrap();
                let context = transformer.context(&prompt, &Cancel::new()).unwrap();
                (transformer, context)
            };
            // The first one creates the variables.
            load(Precision::F32);
            for variable in weights.all_vars() {
                variable.set(&(random(variable.dims()) * 0.3).unwrap()).unwrap();
            }
            Self { plain: load(Precision::Gguf), packed: load(Precision::F32) }
        }
    }

    fn latents(frames: usize) -> Tensor {
        random(&[1, 4, frames, 4, 6])
    }

    fn config(chunk: usize, window: usize, sink: usize, positions: Positions) -> KvCacheConfig {
        KvCacheConfig { chunk, window, sink, positions, shots: None, ring: None }
    }

    fn step((transformer, context): &(WanTransformer, Context), chunk: &Tensor, cache: &KvCache) -> Vec<f32> {
        let velocity = transformer.forward_chunk(chunk, &[500.0], context, cache, &Cancel::new()).unwrap();
        velocity.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn keep((transformer, context): &(WanTransformer, Context), chunk: &Tensor, cache: &mut KvCache) {
        transformer.cache_chunk(chunk, &[0.0], context, cache, &Cancel::new()).unwrap();
    }

    /// One chunk of one frame: three steps, then its keys and values.
    fn generate(transformer: &(WanTransformer, Context), cache: &mut KvCache) {
        let chunk = latents(1);
        (0..3).for_each(|_| drop(step(transformer, &chunk, cache)));
        keep(transformer, &chunk, cache);
    }

    #[test]
    fn a_full_window_needs_no_table_and_rotates_no_key_twice_for_a_position() {
        let Transformers { plain, .. } = Transformers::new();
        // Queries and keys of the chunk; its last block computes no query when it is kept.
        let own = (3 * 2 * BLOCKS + 2 * BLOCKS - 1) * TOKENS;
        for (positions, tables, past) in
            [(Positions::Relative, 0, 3 * BLOCKS * TOKENS), (Positions::Absolute, 1, 0)]
        {
            let mut cache = KvCache::new(config(1, 3, 1, positions));
            (0..6).for_each(|_| generate(&plain, &mut cache));
            counts::take(&counts::TABLES);
            counts::take(&counts::ROTATED);
            generate(&plain, &mut cache);
            assert_eq!(counts::take(&counts::TABLES), tables, "{positions:?}");
            // The frame of the sink keeps its position.
            assert_eq!(counts::take(&counts::ROTATED), own + past, "{positions:?}");
        }
    }

    #[test]
    fn it_equals_the_packed_cache_whatever_leaves_the_window() {
        let Transformers { plain, packed } = Transformers::new();
        for positions in [Positions::Relative, Positions::Absolute] {
            let shots = Some(ShotMemory { sink: 1, offset: 4 });
            let config = KvCacheConfig { shots, ..config(2, 4, 1, positions) };
            let [mut a, mut b] = [KvCache::new(config), KvCache::new(config)];
            for (i, frames) in [1, 2, 2, 2, 1, 2, 1, 1, 2, 2, 2, 1, 2].into_iter().enumerate() {
                match i {
                    4 => [&mut a, &mut b].map(|cache| cache.begin_shot()).into_iter().collect(),
                    7 => [&mut a, &mut b].map(|cache| cache.renew_sink(2)).into_iter().collect(),
                    10 => [&mut a, &mut b].map(|cache| cache.rewind(3).unwrap()).into_iter().collect(),
                    _ => (),
                }
                let chunk = latents(frames);
                let [x, y] = [step(&plain, &chunk, &a), step(&packed, &chunk, &b)];
                let off = x.iter().zip(&y).fold(0f32, |max, (x, y)| max.max((x - y).abs()));
                assert!(off < 1e-4, "{positions:?}, chunk {i}: {off}");
                keep(&plain, &chunk, &mut a);
                keep(&packed, &chunk, &mut b);
            }
        }
    }
}
