//! The blocks on the CPU.
//!
//! What stands between the matrix products can take longer than they do. Resident some rows of tokens go
//! through a whole block on one thread, from one buffer that stays in the cache to the next; threads wait for each
//! other once a block, for the keys and values of all tokens.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::attention::KeyValue;
use super::block_store::BlockStore;
use super::cache::KvCache;
use super::rope::Rotation;
use super::{Config, Purpose, Tokens};
use crate::checkpoint::Tensors;
use crate::kernels::attention::{PackedKv, attend};
use crate::kernels::linear::{Epilogue, Linear, WeightFormat};
use crate::kernels::norm::{layer_norm, rms_norm, rotate};
use crate::kernels::{self, Arch};
use crate::{Cancel, Result};

/// What all blocks have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    arch: Arch,
    numbers: WeightFormat,
    heads: usize,
    head_dim: usize,
}

impl Form {
    pub(super) fn new(arch: Arch, numbers: WeightFormat, config: &Config) -> Self {
        Self { arch, numbers, heads: config.num_attention_heads, head_dim: config.attention_head_dim }
    }

    fn dim(self) -> usize {
        self.heads * self.head_dim
    }

    /// Keys and values `[tokens, dim]`, packed.
    fn memory(self, keys: &[f32], values: &[f32]) -> PackedKv {
        PackedKv::new(self.arch, self.numbers, (self.heads, self.head_dim), keys, values)
    }
}

/// A block with its weights packed: [`Block`](super::block::Block).
#[derive(Clone, Debug)]
pub(super) struct PackedBlock {
    form: Form,
    eps: f32,
    /// `[6, dim]`.
    table: Vec<f32>,
    /// Queries, keys and values of self attention in one.
    to_qkv: Linear,
    norm_q: Vec<f32>,
    norm_k: Vec<f32>,
    to_out: Linear,
    /// Weight and bias.
    norm2: Option<(Vec<f32>, Vec<f32>)>,
    cross: Cross,
    ffn_in: Linear,
    ffn_out: Linear,
    ffn_dim: usize,
}

/// Attention to the prompt.
#[derive(Clone, Debug)]
struct Cross {
    to_q: Linear,
    norm_q: Vec<f32>,
    to_k: Linear,
    norm_k: Vec<f32>,
    to_v: Linear,
    to_out: Linear,
}

/// Tokens of a block, `[tokens, dim]` each.
struct Projected {
    query: Vec<f32>,
    /// Before rotation, as the cache keeps them.
    key: Vec<f32>,
    rotated: Vec<f32>,
    value: Vec<f32>,
}

impl PackedBlock {
    pub(super) fn load(form: Form, weights: &Tensors, config: &Config) -> Result<Self> {
        let (dim, ffn_dim) = (config.inner_dim(), config.ffn_dim);
        let vector = |name: &str, n: usize| Ok::<_, crate::Error>(kernels::numbers(&weights.get(n, name)?)?);
        let linear = |(names, n_in, n_out): (&[&str], usize, usize)| -> Result<Linear> {
            let (mut weight, mut bias) = (Vec::new(), Vec::new());
            for name in names {
                weight.extend(kernels::numbers(&weights.get((n_out, n_in), &format!("{name}.weight"))?)?);
                bias.extend(vector(&format!("{name}.bias"), n_out)?);
            }
            Ok(Linear::new(form.arch, form.numbers, (n_in, names.len() * n_out), &weight, Some(&bias)))
        };
        let layers: [(&[&str], usize, usize); 8] = [
            (&["attn1.to_q", "attn1.to_k", "attn1.to_v"], dim, dim),
            (&["attn1.to_out.0"], dim, dim),
            (&["attn2.to_q"], dim, dim),
            (&["attn2.to_k"], dim, dim),
            (&["attn2.to_v"], dim, dim),
            (&["attn2.to_out.0"], dim, dim),
            (&["ffn.net.0.proj"], dim, ffn_dim),
            (&["ffn.net.2"], ffn_dim, dim),
        ];
        // Together: of blocks that are brought one by one, all threads wait for each.
        let layers = layers.into_par_iter().map(linear).collect::<Result<Vec<_>>>()?;
        let [to_qkv, to_out, to_q, to_k, to_v, cross_out, ffn_in, ffn_out] =
            <[Linear; 8]>::try_from(layers).unwrap_or_else(|_| unreachable!("one for each"));
        let norm2 = || Ok::<_, crate::Error>((vector("norm2.weight", dim)?, vector("norm2.bias", dim)?));
        Ok(Self {
            form,
            eps: config.eps as f32,
            table: kernels::numbers(&weights.get((1, 6, dim), "scale_shift_table")?)?,
            to_qkv,
            norm_q: vector("attn1.norm_q.weight", dim)?,
            norm_k: vector("attn1.norm_k.weight", dim)?,
            to_out,
            norm2: config.cross_attn_norm.then(norm2).transpose()?,
            cross: Cross {
                to_q,
                norm_q: vector("attn2.norm_q.weight", dim)?,
                to_k,
                norm_k: vector("attn2.norm_k.weight", dim)?,
                to_v,
                to_out: cross_out,
            },
            ffn_in,
            ffn_out,
            ffn_dim,
        })
    }

    fn dim(&self) -> usize {
        self.form.dim()
    }

    /// The prompt `[1, length, dim]` as this block sees it.
    fn text(&self, prompt: &Tensor) -> Result<PackedKv> {
        let prompt = kernels::numbers(prompt)?;
        let (mut key, mut value) = (vec![0.0; prompt.len()], vec![0.0; prompt.len()]);
        self.cross.to_k.run(&prompt, &mut key, Epilogue::Store);
        self.cross.to_v.run(&prompt, &mut value, Epilogue::Store);
        for row in key.chunks_exact_mut(self.dim()) {
            rms_norm(self.form.arch, row, self.eps, &self.cross.norm_k);
        }
        Ok(self.form.memory(&key, &value))
    }

    fn project(&self, x: &[f32], angles: &Angles, modulation: &Modulation, portion: usize) -> Projected {
        let dim = self.dim();
        let empty = || vec![0.0; x.len()];
        let mut all = Projected { query: empty(), key: empty(), rotated: empty(), value: empty() };
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
                let place = r * dim..(r + 1) * dim;
                let (cos, sin) = angles.query(i * portion + r);
                let query = &mut query[place.clone()];
                query.copy_from_slice(&row[..dim]);
                rms_norm(self.form.arch, query, self.eps, &self.norm_q);
                rotate(query, cos, sin);
                let key = &mut key[place.clone()];
                key.copy_from_slice(&row[dim..2 * dim]);
                rms_norm(self.form.arch, key, self.eps, &self.norm_k);
                let rotated = &mut rotated[place.clone()];
                rotated.copy_from_slice(key);
                rotate(rotated, cos, sin);
                value[place].copy_from_slice(&row[2 * dim..]);
            }
        });
        all
    }

    /// The rest of the block, of `x` in place.
    fn finish(
        &self,
        x: &mut [f32],
        query: &[f32],
        seen: &[&PackedKv],
        text: &PackedKv,
        modulation: &Modulation,
        portion: usize,
    ) {
        let dim = self.dim();
        let portions = x.par_chunks_mut(portion * dim).zip(query.par_chunks(portion * dim));
        portions.enumerate().for_each(|(i, (x, query))| {
            let first = i * portion;
            let mut found = vec![0.0; x.len()];
            attend(query, seen, &mut found);
            let mut change = vec![0.0; x.len()];
            self.to_out.run(&found, &mut change, Epilogue::Store);
            modulation.add_gated(x, first, &change, 2);

            let mut normed = vec![0.0; x.len()];
            match &self.norm2 {
                None => normed.copy_from_slice(x),
                Some((weight, bias)) => layer_norm(self.form.arch, x, self.eps, weight, bias, &mut normed),
            }
            let mut query = change;
            self.cross.to_q.run(&normed, &mut query, Epilogue::Store);
            for row in query.chunks_exact_mut(dim) {
                rms_norm(self.form.arch, row, self.eps, &self.cross.norm_q);
            }
            attend(&query, &[text], &mut found);
            self.cross.to_out.run(&found, x, Epilogue::Add);

            let normed = self.modulated(x, first, modulation, 3);
            let mut fed = vec![0.0; x.len() / dim * self.ffn_dim];
            self.ffn_in.run(&normed, &mut fed, Epilogue::Gelu);
            let mut change = query;
            self.ffn_out.run(&fed, &mut change, Epilogue::Store);
            modulation.add_gated(x, first, &change, 5);
        });
    }

    /// The norm of `x`, tokens from `first` on, scaled and shifted by numbers `shift` + 1 and `shift`.
    fn modulated(&self, x: &[f32], first: usize, modulation: &Modulation, shift: usize) -> Vec<f32> {
        let dim = self.dim();
        let mut out = vec![0.0; x.len()];
        for (i, (x, out)) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)).enumerate() {
            let at = |n| modulation.at(first + i, n);
            layer_norm(self.form.arch, x, self.eps, at(shift + 1), at(shift), out);
        }
        out
    }
}

/// What the timesteps make of a block: six rows of numbers for each of them, as they are used.
struct Modulation {
    /// `[M, 6, dim]`; of each six, numbers 1 and 4 scale, and have 1 added.
    numbers: Vec<f32>,
    dim: usize,
    /// Tokens of a timestep.
    group: usize,
}

impl Modulation {
    /// The timesteps' own `[M, 6, dim]`, and the block's.
    fn new(timesteps: &[f32], table: &[f32], tokens: usize) -> Self {
        let dim = table.len() / 6;
        let one = |i: usize| if matches!(i / dim, 1 | 4) { 1.0 } else { 0.0 };
        let sums = |six: &[f32]| -> Vec<f32> {
            six.iter().zip(table).enumerate().map(|(i, (a, b))| a + b + one(i)).collect()
        };
        let numbers = timesteps.chunks_exact(table.len()).flat_map(sums).collect();
        Self { numbers, dim, group: tokens * table.len() / timesteps.len() }
    }

    /// Row `n` of the six for `token`.
    fn at(&self, token: usize, n: usize) -> &[f32] {
        &self.numbers[(token / self.group * 6 + n) * self.dim..][..self.dim]
    }

    /// `x`, tokens from `first` on, and `change` × row `gate`.
    fn add_gated(&self, x: &mut [f32], first: usize, change: &[f32], gate: usize) {
        for (i, (x, change)) in x.chunks_exact_mut(self.dim).zip(change.chunks_exact(self.dim)).enumerate() {
            for ((x, change), gate) in x.iter_mut().zip(change).zip(self.at(first + i, gate)) {
                *x += change * gate;
            }
        }
    }
}

/// Tokens of a thread at a time. As many portions for every thread, that none waits for another, and at least two; of so
/// many tokens that weights which have left the cache are used often when they come again.
fn portion(tokens: usize) -> usize {
    const MOST: usize = 192;
    let threads = rayon::current_num_threads();
    let portions = threads * tokens.div_ceil(threads * MOST).max(2);
    tokens.div_ceil(portions).next_multiple_of(8)
}

/// Cosines and sines of past tokens and, after them, of the queries.
struct Angles {
    cos: Vec<f32>,
    sin: Vec<f32>,
    pairs: usize,
    past: usize,
}

impl Angles {
    fn at(&self, token: usize) -> (&[f32], &[f32]) {
        let place = token * self.pairs..(token + 1) * self.pairs;
        (&self.cos[place.clone()], &self.sin[place])
    }

    fn query(&self, token: usize) -> (&[f32], &[f32]) {
        self.at(self.past + token)
    }
}

/// All of them.
#[derive(Clone, Debug)]
pub(super) struct PackedBlocks {
    form: Form,
    block_store: BlockStore<PackedBlock>,
}

impl PackedBlocks {
    /// Those that `load` makes; see [`BlockStore::new`].
    pub(super) fn new(
        form: Form,
        count: usize,
        away: bool,
        load: impl Fn(usize) -> Result<PackedBlock> + Send + Sync + 'static,
    ) -> Result<Self> {
        Ok(Self { form, block_store: BlockStore::new(count, away, load)? })
    }

    /// The prompt `[1, length, dim]` as each sees it.
    pub(super) fn text(&self, prompt: &Tensor) -> Result<Vec<PackedKv>> {
        self.block_store.map(|block| block.text(prompt))
    }

    /// Goes through the blocks, as [`WanTransformer::run`](super::WanTransformer).
    pub(super) fn run(
        &self,
        tokens: Tokens,
        texts: &[PackedKv],
        cache: Option<&KvCache>,
        keys: &Rotation,
        purpose: Purpose,
        cancel: &Cancel,
    ) -> Result<(Tensor, Vec<KeyValue>)> {
        let (groups, each, dim) = tokens.x.dims3()?;
        let count = groups * each;
        let (cos, sin) = keys.numbers()?;
        let pairs = cos.len() / keys.tokens()?;
        let angles = Angles { past: cos.len() / pairs - count, cos, sin, pairs };
        let past = match cache {
            Some(cache) if cache.frames() > 0 => Some(past(self.form, cache, &angles)?),
            _ => None,
        };
        let timesteps = kernels::numbers(&tokens.modulation)?;
        let portion = portion(count);

        let mut x = kernels::numbers(&tokens.x)?;
        let mut collected = Vec::new();
        for (i, text) in texts.iter().enumerate() {
            cancel.check()?;
            let block = self.block_store.get(i)?;
            let modulation = Modulation::new(&timesteps, &block.table, count);
            let own = block.project(&x, &angles, &modulation, portion);
            let last = purpose == Purpose::Cache && i + 1 == texts.len();
            if !last {
                let now = self.form.memory(&own.rotated, &own.value);
                let seen: Vec<_> = past.and_then(|past| past.get(i)).into_iter().chain([&now]).collect();
                block.finish(&mut x, &own.query, &seen, text, &modulation, portion);
            }
            if purpose == Purpose::Cache {
                // As one head of all numbers: this is how they lie.
                let tensor = |x| Tensor::from_vec(x, (1, 1, count, dim), &Device::Cpu);
                collected.push(KeyValue { key: tensor(own.key)?, value: tensor(own.value)? });
            }
        }
        cancel.check()?;
        Ok((Tensor::from_vec(x, (groups, each, dim), &Device::Cpu)?, collected))
    }
}

/// What `cache` remembers, with the keys turned; packed once for all steps of a chunk.
fn past<'a>(form: Form, cache: &'a KvCache, angles: &Angles) -> Result<&'a [PackedKv]> {
    if let Some(packed) = cache.packed.get() {
        return Ok(packed);
    }
    let pack = |kept: &KeyValue| {
        let (mut keys, values) = (kernels::numbers(&kept.key)?, kernels::numbers(&kept.value)?);
        for (token, key) in keys.chunks_exact_mut(form.dim()).enumerate() {
            let (cos, sin) = angles.at(token);
            rotate(key, cos, sin);
        }
        Ok(form.memory(&keys, &values))
    };
    let packed = cache.blocks.iter().map(pack).collect::<Result<Vec<_>>>()?;
    Ok(cache.packed.get_or_init(|| packed))
}
