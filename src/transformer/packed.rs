//! The blocks with packed weights, for the CPU kernels.
//!
//! Norms, activations and copies between the matrix products can take longer than the products. Each thread therefore runs a
//! portion of the tokens through a whole block, in buffers that stay in the CPU cache. The threads synchronise once per
//! block, for the keys and values of all tokens.

use std::sync::{Arc, OnceLock};

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::attention::KeyValue;
use super::block_store::BlockStore;
use super::control::ControlEmbedding;
use super::ring::{RingPass, Slot, SlotKv};
use super::rope::Rotation;
use super::{Attended, Config, Pass, Tokens};
use crate::checkpoint::Tensors;
use crate::kernels::attention::{PackedKv, attend};
use crate::kernels::linear::{Linear, WeightFormat};
use crate::kernels::norm::{layer_norm, rms_norm, rotate};
use crate::kernels::{self, Arch, Epilogue};
use crate::{Cancel, Result};

/// The settings shared by all blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct PackedConfig {
    arch: Arch,
    format: WeightFormat,
    heads: usize,
    head_dim: usize,
}

impl PackedConfig {
    pub(super) fn new(arch: Arch, format: WeightFormat, config: &Config) -> Self {
        Self { arch, format, heads: config.num_attention_heads, head_dim: config.attention_head_dim }
    }

    fn dim(self) -> usize {
        self.heads * self.head_dim
    }

    /// Packs keys and values, `[tokens, dim]` each.
    fn pack_kv(self, keys: &[f32], values: &[f32]) -> PackedKv {
        PackedKv::new(self.arch, self.format, (self.heads, self.head_dim), keys, values)
    }
}

/// The packed form of [`Block`](super::block::Block).
#[derive(Clone, Debug)]
pub(super) struct PackedBlock {
    packing: PackedConfig,
    eps: f32,
    /// `[6, dim]`.
    table: Vec<f32>,
    /// The query, key and value projections of self attention as one layer.
    to_qkv: Linear,
    norm_q: Vec<f32>,
    norm_k: Vec<f32>,
    to_out: Linear,
    /// Weight and bias.
    norm2: Option<(Vec<f32>, Vec<f32>)>,
    cross: CrossAttention,
    ffn_in: Linear,
    ffn_out: Linear,
    ffn_dim: usize,
}

/// Cross attention to the prompt, and for some models to images.
#[derive(Clone, Debug)]
struct CrossAttention {
    to_q: Linear,
    norm_q: Vec<f32>,
    prompt: CrossProjections,
    images: Option<CrossProjections>,
    to_out: Linear,
}

/// The projections to keys and values of a cross attention.
#[derive(Clone, Debug)]
struct CrossProjections {
    to_k: Linear,
    norm_k: Vec<f32>,
    to_v: Linear,
}

/// The packed form of [`ContextKv`](super::attention::ContextKv).
#[derive(Clone, Debug)]
pub(super) struct PackedContextKv {
    prompt: PackedKv,
    images: Option<PackedKv>,
}

/// The self attention projections of all tokens, `[tokens, dim]` each.
struct Projections {
    query: Vec<f32>,
    /// Before rotation, as the cache stores them.
    key: Vec<f32>,
    rotated: Vec<f32>,
    value: Vec<f32>,
}

impl PackedBlock {
    pub(super) fn load(
        packing: PackedConfig,
        weights: &Tensors,
        config: &Config,
        cancel: &Cancel,
    ) -> Result<Self> {
        let (dim, ffn_dim) = (config.inner_dim(), config.ffn_dim);
        let vector = |name: &str, n: usize| Ok::<_, crate::Error>(kernels::to_vec(&weights.get(n, name)?)?);
        let linear = |(names, n_in, n_out): (&[&str], usize, usize)| -> Result<Linear> {
            cancel.check()?;
            let (mut weight, mut bias) = (Vec::new(), Vec::new());
            for name in names {
                weight.extend(kernels::to_vec(&weights.get((n_out, n_in), &format!("{name}.weight"))?)?);
                bias.extend(vector(&format!("{name}.bias"), n_out)?);
            }
            Ok(Linear::new(packing.arch, packing.format, (n_in, names.len() * n_out), &weight, Some(&bias)))
        };
        let mut layers: Vec<(&[&str], usize, usize)> = vec![
            (&["attn1.to_q", "attn1.to_k", "attn1.to_v"], dim, dim),
            (&["attn1.to_out.0"], dim, dim),
            (&["attn2.to_q"], dim, dim),
            (&["attn2.to_k"], dim, dim),
            (&["attn2.to_v"], dim, dim),
            (&["attn2.to_out.0"], dim, dim),
            (&["ffn.net.0.proj"], dim, ffn_dim),
            (&["ffn.net.2"], ffn_dim, dim),
        ];
        if let Some(width) = config.added_kv_proj_dim {
            layers.extend([(&["attn2.add_k_proj"][..], width, dim), (&["attn2.add_v_proj"], width, dim)]);
        }
        // In parallel: offloaded blocks are loaded one by one, and all threads wait for each.
        let mut layers = layers.into_par_iter().map(linear).collect::<Result<Vec<_>>>()?;
        let added = layers.split_off(8);
        let [to_qkv, to_out, to_q, to_k, to_v, cross_out, ffn_in, ffn_out] =
            <[Linear; 8]>::try_from(layers).unwrap_or_else(|_| unreachable!("as many layers as names"));
        let images = match <[Linear; 2]>::try_from(added) {
            Ok([to_k, to_v]) => {
                Some(CrossProjections { to_k, norm_k: vector("attn2.norm_added_k.weight", dim)?, to_v })
            }
            Err(_) => None,
        };
        let norm2 = || Ok::<_, crate::Error>((vector("norm2.weight", dim)?, vector("norm2.bias", dim)?));
        Ok(Self {
            packing,
            eps: config.eps as f32,
            table: kernels::to_vec(&weights.get((1, 6, dim), "scale_shift_table")?)?,
            to_qkv,
            norm_q: vector("attn1.norm_q.weight", dim)?,
            norm_k: vector("attn1.norm_k.weight", dim)?,
            to_out,
            norm2: config.cross_attn_norm.then(norm2).transpose()?,
            cross: CrossAttention {
                to_q,
                norm_q: vector("attn2.norm_q.weight", dim)?,
                prompt: CrossProjections { to_k, norm_k: vector("attn2.norm_k.weight", dim)?, to_v },
                images,
                to_out: cross_out,
            },
            ffn_in,
            ffn_out,
            ffn_dim,
        })
    }

    fn dim(&self) -> usize {
        self.packing.dim()
    }

    /// Cross attention keys and values of the prompt `[1, length, dim]`, and of images of the same form.
    fn context(&self, prompt: &Tensor, images: Option<&Tensor>) -> Result<PackedContextKv> {
        let of_images = self.cross.images.as_ref().zip(images);
        Ok(PackedContextKv {
            prompt: self.key_value(&self.cross.prompt, prompt)?,
            images: of_images.map(|(layers, images)| self.key_value(layers, images)).transpose()?,
        })
    }

    fn key_value(&self, layers: &CrossProjections, x: &Tensor) -> Result<PackedKv> {
        let x = kernels::to_vec(x)?;
        let (mut key, mut value) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        layers.to_k.run(&x, &mut key, Epilogue::Store);
        layers.to_v.run(&x, &mut value, Epilogue::Store);
        for row in key.chunks_exact_mut(self.dim()) {
            rms_norm(self.packing.arch, row, self.eps, &layers.norm_k);
        }
        Ok(self.packing.pack_kv(&key, &value))
    }

    /// Normalises and projects `x`, and rotates queries and keys.
    fn project(&self, x: &[f32], angles: &Angles, modulation: &Modulation, portion: usize) -> Projections {
        let dim = self.dim();
        let empty = || vec![0.0; x.len()];
        let mut all = Projections { query: empty(), key: empty(), rotated: empty(), value: empty() };
        let outputs = all
            .query
            .par_chunks_mut(portion * dim)
            .zip(all.key.par_chunks_mut(portion * dim))
            .zip(all.rotated.par_chunks_mut(portion * dim))
            .zip(all.value.par_chunks_mut(portion * dim));
        x.par_chunks(portion * dim).zip(outputs).enumerate().for_each(|(i, (x, outputs))| {
            let (((query, key), rotated), value) = outputs;
            let normed = self.modulated(x, i * portion, modulation, 0);
            let mut qkv = vec![0.0; 3 * x.len()];
            self.to_qkv.run(&normed, &mut qkv, Epilogue::Store);
            for (r, row) in qkv.chunks_exact(3 * dim).enumerate() {
                let range = r * dim..(r + 1) * dim;
                let (cos, sin) = angles.at(i * portion + r);
                let query = &mut query[range.clone()];
                query.copy_from_slice(&row[..dim]);
                rms_norm(self.packing.arch, query, self.eps, &self.norm_q);
                rotate(query, cos, sin);
                let key = &mut key[range.clone()];
                key.copy_from_slice(&row[dim..2 * dim]);
                rms_norm(self.packing.arch, key, self.eps, &self.norm_k);
                let rotated = &mut rotated[range.clone()];
                rotated.copy_from_slice(key);
                rotate(rotated, cos, sin);
                value[range].copy_from_slice(&row[2 * dim..]);
            }
        });
        all
    }

    /// Everything after the projections, in place on `x`: attention to `kv`, cross attention to `context`, feed forward.
    fn finish(
        &self,
        x: &mut [f32],
        query: &[f32],
        kv: &[&PackedKv],
        context: &PackedContextKv,
        modulation: &Modulation,
        portion: usize,
    ) {
        let dim = self.dim();
        let portions = x.par_chunks_mut(portion * dim).zip(query.par_chunks(portion * dim));
        portions.enumerate().for_each(|(i, (x, query))| {
            let first = i * portion;
            let mut attended = vec![0.0; x.len()];
            attend(query, kv, &mut attended);
            let mut change = vec![0.0; x.len()];
            self.to_out.run(&attended, &mut change, Epilogue::Store);
            modulation.add_gated(x, first, &change, 2);

            let mut normed = vec![0.0; x.len()];
            match &self.norm2 {
                None => normed.copy_from_slice(x),
                Some((weight, bias)) => layer_norm(self.packing.arch, x, self.eps, weight, bias, &mut normed),
            }
            let mut query = change;
            self.cross.to_q.run(&normed, &mut query, Epilogue::Store);
            for row in query.chunks_exact_mut(dim) {
                rms_norm(self.packing.arch, row, self.eps, &self.cross.norm_q);
            }
            attend(&query, &[&context.prompt], &mut attended);
            if let Some(images) = &context.images {
                let mut seen = vec![0.0; attended.len()];
                attend(&query, &[images], &mut seen);
                attended.iter_mut().zip(seen).for_each(|(attended, seen)| *attended += seen);
            }
            self.cross.to_out.run(&attended, x, Epilogue::Add);

            let normed = self.modulated(x, first, modulation, 3);
            let mut fed = vec![0.0; x.len() / dim * self.ffn_dim];
            self.ffn_in.run(&normed, &mut fed, Epilogue::Gelu);
            let mut change = query;
            self.ffn_out.run(&fed, &mut change, Epilogue::Store);
            modulation.add_gated(x, first, &change, 5);
        });
    }

    /// Layer norm of the tokens `x`, which start at index `first`, scaled by row `shift` + 1 of the modulation and shifted by
    /// row `shift`.
    fn modulated(&self, x: &[f32], first: usize, modulation: &Modulation, shift: usize) -> Vec<f32> {
        let dim = self.dim();
        let mut out = vec![0.0; x.len()];
        for (i, (x, out)) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)).enumerate() {
            let row = |n| modulation.row(first + i, n);
            layer_norm(self.packing.arch, x, self.eps, row(shift + 1), row(shift), out);
        }
        out
    }
}

/// The modulation of a block: six rows of shifts, scales and gates per timestep.
struct Modulation {
    /// `[M, 6, dim]`. Rows 1 and 4 are scales, with 1 already added.
    rows: Vec<f32>,
    dim: usize,
    /// Tokens per timestep.
    group: usize,
}

impl Modulation {
    /// The sum of the timestep projections `[M, 6, dim]` and the block's table `[6, dim]`.
    fn new(timesteps: &[f32], table: &[f32], tokens: usize) -> Self {
        let dim = table.len() / 6;
        let one = |i: usize| if matches!(i / dim, 1 | 4) { 1.0 } else { 0.0 };
        let sums = |six: &[f32]| -> Vec<f32> {
            six.iter().zip(table).enumerate().map(|(i, (a, b))| a + b + one(i)).collect()
        };
        let rows = timesteps.chunks_exact(table.len()).flat_map(sums).collect();
        Self { rows, dim, group: tokens * table.len() / timesteps.len() }
    }

    /// Row `n` of the six that apply to `token`.
    fn row(&self, token: usize, n: usize) -> &[f32] {
        &self.rows[(token / self.group * 6 + n) * self.dim..][..self.dim]
    }

    /// Adds `change` × row `gate` to the tokens `x`, which start at index `first`.
    fn add_gated(&self, x: &mut [f32], first: usize, change: &[f32], gate: usize) {
        for (i, (x, change)) in x.chunks_exact_mut(self.dim).zip(change.chunks_exact(self.dim)).enumerate() {
            for ((x, change), gate) in x.iter_mut().zip(change).zip(self.row(first + i, gate)) {
                *x += change * gate;
            }
        }
    }
}

/// Number of tokens that a thread processes at a time. Every thread gets the same number of portions, at least two, so that
/// none waits. Portions are large enough to reuse weights that are fetched from memory again.
fn portion(tokens: usize) -> usize {
    const MAX_TOKENS: usize = 192;
    let threads = rayon::current_num_threads();
    let portions = threads * tokens.div_ceil(threads * MAX_TOKENS).max(2);
    tokens.div_ceil(portions).next_multiple_of(8)
}

/// Cosines and sines of tokens.
struct Angles {
    cos: Vec<f32>,
    sin: Vec<f32>,
    pairs: usize,
}

impl Angles {
    fn new(rotation: &Rotation) -> Result<Self> {
        let (cos, sin) = rotation.to_vecs()?;
        Ok(Self { pairs: cos.len() / rotation.tokens()?, cos, sin })
    }

    fn at(&self, token: usize) -> (&[f32], &[f32]) {
        let range = token * self.pairs..(token + 1) * self.pairs;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// The packed form of [`ControlBlock`](super::control::ControlBlock).
#[derive(Clone, Debug)]
pub(super) struct PackedControlBlock {
    /// Of the first block.
    proj_in: Option<Linear>,
    block: PackedBlock,
    proj_out: Linear,
}

impl PackedControlBlock {
    pub(super) fn load(
        packing: PackedConfig,
        weights: &Tensors,
        config: &Config,
        first: bool,
        cancel: &Cancel,
    ) -> Result<Self> {
        let dim = config.inner_dim();
        let linear = |name: &str| -> Result<Linear> {
            let layer = weights.pp(name);
            let weight = kernels::to_vec(&layer.get((dim, dim), "weight")?)?;
            let bias = kernels::to_vec(&layer.get(dim, "bias")?)?;
            Ok(Linear::new(packing.arch, packing.format, (dim, dim), &weight, Some(&bias)))
        };
        Ok(Self {
            proj_in: first.then(|| linear("proj_in")).transpose()?,
            block: PackedBlock::load(packing, weights, config, cancel)?,
            proj_out: linear("proj_out")?,
        })
    }
}

/// The control branch during a pass, as [`RunningBranch`](super::control::RunningBranch).
struct RunningBranch<'a> {
    embedding: &'a ControlEmbedding,
    blocks: &'a BlockStore<PackedControlBlock>,
    contexts: &'a [PackedContextKv],
    tokens: Vec<f32>,
    scale: f32,
}

impl RunningBranch<'_> {
    /// What is added to the tokens after block `i` of the transformer; `x` are the tokens before it.
    fn added(&mut self, i: usize, x: &[f32], pass: &PassInputs, cancel: &Cancel) -> Result<Option<Vec<f32>>> {
        let Some(index) = self.embedding.beside(i) else { return Ok(None) };
        let beside = self.blocks.get(index, cancel)?;
        let (block, portion) = (&beside.block, pass.portion);
        let size = portion * block.dim();
        if let Some(proj_in) = &beside.proj_in {
            let mut tokens = x.to_vec();
            let portions = tokens.par_chunks_mut(size).zip(self.tokens.par_chunks(size));
            portions.for_each(|(out, tokens)| proj_in.run(tokens, out, Epilogue::Add));
            self.tokens = tokens;
        }
        let modulation = Modulation::new(&pass.timesteps, &block.table, self.tokens.len() / block.dim());
        let own = block.project(&self.tokens, &pass.angles, &modulation, portion);
        let kv = block.packing.pack_kv(&own.rotated, &own.value);
        block.finish(&mut self.tokens, &own.query, &[&kv], &self.contexts[index], &modulation, portion);
        let mut added = vec![0.0; x.len()];
        added.par_chunks_mut(size).zip(self.tokens.par_chunks(size)).for_each(|(out, tokens)| {
            beside.proj_out.run(tokens, out, Epilogue::Store);
            out.iter_mut().for_each(|value| *value *= self.scale);
        });
        Ok(Some(added))
    }
}

/// What all blocks of a pass read.
struct PassInputs {
    angles: Angles,
    /// `[M, 6, dim]`.
    timesteps: Vec<f32>,
    portion: usize,
}

/// All blocks of the transformer.
#[derive(Clone, Debug)]
pub(super) struct PackedBlocks {
    packing: PackedConfig,
    block_store: BlockStore<PackedBlock>,
    /// The blocks of the control branch.
    branch: BlockStore<PackedControlBlock>,
}

impl PackedBlocks {
    pub(super) fn new(
        packing: PackedConfig,
        block_store: BlockStore<PackedBlock>,
        branch: BlockStore<PackedControlBlock>,
    ) -> Self {
        Self { packing, block_store, branch }
    }

    /// The cross attention keys and values of the prompt `[1, length, dim]`, and of images of the same form, for every block, and for
    /// every block of the control branch.
    pub(super) fn context(
        &self,
        prompt: &Tensor,
        images: Option<&Tensor>,
        cancel: &Cancel,
    ) -> Result<[Vec<PackedContextKv>; 2]> {
        Ok([
            self.block_store.map(cancel, |block| block.context(prompt, images))?,
            self.branch.map(cancel, |beside| beside.block.context(prompt, images))?,
        ])
    }

    /// Writes the keys and values of a chunk into the ring of `block`, and returns all in it.
    fn in_ring(&self, own: &Projections, pass: RingPass, block: usize) -> Vec<Arc<SlotKv>> {
        let dim = self.packing.dim();
        let each = own.rotated.len() / pass.frames;
        let frames = own.rotated.chunks_exact(each).zip(own.value.chunks_exact(each));
        let slot = |(keys, values): (&[f32], &[f32])| {
            Slot::packed(self.packing.pack_kv(keys, values), keys, values, dim)
        };
        pass.write(block, frames.map(slot).collect())
    }

    /// Runs the blocks, like `WanTransformer::run`.
    pub(super) fn run(
        &self,
        tokens: Tokens,
        [contexts, branch_contexts]: &[Vec<PackedContextKv>; 2],
        embedding: Option<&ControlEmbedding>,
        attended: &Attended,
        pass: Pass,
        cancel: &Cancel,
    ) -> Result<(Tensor, Vec<KeyValue>)> {
        let (groups, each, dim) = tokens.x.dims3()?;
        let count = groups * each;
        let angles = Angles::new(&attended.rotation)?;
        let past = match attended.cache {
            Some(cache) if cache.frames() > 0 => {
                let rotation = || attended.past_rotation();
                Some(rotated(self.packing, &cache.blocks, &cache.packed, rotation)?)
            }
            _ => None,
        };
        let references = match attended.references {
            Some((placed, time)) => {
                let rotation = || placed.rotation(attended.rope, time, attended.device);
                Some(rotated(self.packing, placed.blocks(), &placed.packed, rotation)?)
            }
            None => None,
        };
        let timesteps = kernels::to_vec(&tokens.modulation)?;
        let inputs = PassInputs { angles, timesteps, portion: portion(count) };
        let PassInputs { angles, timesteps, portion } = &inputs;
        let mut branch = match (embedding, &tokens.control) {
            (Some(embedding), Some(control)) => Some(RunningBranch {
                embedding,
                blocks: &self.branch,
                contexts: branch_contexts,
                tokens: kernels::to_vec(&control.x)?,
                scale: control.scale as f32,
            }),
            _ => None,
        };

        let mut x = kernels::to_vec(&tokens.x)?;
        let mut collected = Vec::new();
        for (i, context) in contexts.iter().enumerate() {
            let last = pass == Pass::CacheUpdate && i + 1 == contexts.len();
            // Before the block is loaded: with `offload` one block at a time is in memory.
            let added = match &mut branch {
                Some(branch) if !last => branch.added(i, &x, &inputs, cancel)?,
                _ => None,
            };
            let block = self.block_store.get(i, cancel)?;
            let modulation = Modulation::new(timesteps, &block.table, count);
            let own = block.project(&x, angles, &modulation, *portion);
            if !last {
                if let Some(ring) = attended.ring {
                    let slots = self.in_ring(&own, ring, i);
                    let kv: Vec<_> = slots.iter().filter_map(|slot| slot.packed()).collect();
                    block.finish(&mut x, &own.query, &kv, context, &modulation, *portion);
                } else {
                    let current = self.packing.pack_kv(&own.rotated, &own.value);
                    let before = [references, past].into_iter().flatten().filter_map(|before| before.get(i));
                    let kv: Vec<_> = before.chain([&current]).collect();
                    block.finish(&mut x, &own.query, &kv, context, &modulation, *portion);
                }
                if let Some(added) = added {
                    x.iter_mut().zip(added).for_each(|(x, added)| *x += added);
                }
            }
            if pass == Pass::CacheUpdate {
                // Stored as a single head of size `dim`, which is the layout of the projections.
                let tensor = |x| Tensor::from_vec(x, (count, 1, dim), &Device::Cpu);
                collected.push(KeyValue { key: tensor(own.key)?, value: tensor(own.value)? });
            }
        }
        cancel.check()?;
        Ok((Tensor::from_vec(x, (groups, each, dim), &Device::Cpu)?, collected))
    }
}

/// The keys of `blocks`, rotated, and their values, packed once for all denoising steps of a chunk.
fn rotated<'a>(
    packing: PackedConfig,
    blocks: &[KeyValue],
    packed: &'a OnceLock<Vec<PackedKv>>,
    rotation: impl FnOnce() -> Result<Rotation>,
) -> Result<&'a [PackedKv]> {
    if let Some(packed) = packed.get() {
        return Ok(packed);
    }
    let angles = Angles::new(&rotation()?)?;
    let pack = |block: &KeyValue| {
        let (mut keys, values) = (kernels::to_vec(&block.key)?, kernels::to_vec(&block.value)?);
        for (token, key) in keys.chunks_exact_mut(packing.dim()).enumerate() {
            let (cos, sin) = angles.at(token);
            rotate(key, cos, sin);
        }
        Ok(packing.pack_kv(&keys, &values))
    };
    let made = blocks.iter().map(pack).collect::<Result<Vec<_>>>()?;
    Ok(packed.get_or_init(|| made))
}
