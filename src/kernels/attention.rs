//! Attention of a few queries at a time, whose scores stay in the cache.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::Arch;
use super::gelu::exp_f32s;
use super::panels::{Panel, Panels, accumulate};

/// Keys and values of some tokens, packed head by head.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    arch: Arch,
    tokens: usize,
    head_dim: usize,
    heads: Vec<Head>,
}

#[derive(Clone, Debug)]
struct Head {
    /// `[head_dim, tokens]`.
    keys: Panels,
    /// `[tokens, head_dim]`.
    values: Panels,
}

impl Memory {
    /// Both are `[tokens, heads × head_dim]`.
    pub(crate) fn new(arch: Arch, heads: usize, head_dim: usize, keys: &[f32], values: &[f32]) -> Self {
        let dim = heads * head_dim;
        let tokens = keys.len() / dim;
        let pack = |head: usize| {
            let first = head * head_dim;
            Head {
                keys: Panels::new(arch, (head_dim, tokens), None, |i, token| keys[token * dim + first + i]),
                values: Panels::new(arch, (tokens, head_dim), None, |token, i| {
                    values[token * dim + first + i]
                }),
            }
        };
        Self { arch, tokens, head_dim, heads: (0..heads).into_par_iter().map(pack).collect() }
    }
}

/// What `queries` `[rows, heads × head_dim]` find in all `memories` together, in `out` of the same shape; on this
/// thread.
pub(crate) fn attend(queries: &[f32], memories: &[&Memory], out: &mut [f32]) {
    if let Some(first) = memories.first() {
        first.arch.dispatch(Job { queries, memories, out });
    }
}

struct Job<'a> {
    queries: &'a [f32],
    memories: &'a [&'a Memory],
    out: &'a mut [f32],
}

impl WithSimd for Job<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if S::REGISTER_COUNT >= 32 { self.heads::<S, 8>(simd) } else { self.heads::<S, 4>(simd) }
    }
}

impl Job<'_> {
    #[inline(always)]
    fn heads<S: Simd, const ROWS: usize>(self, simd: S) {
        let Self { queries, memories, out } = self;
        let (heads, head_dim) = (memories[0].heads.len(), memories[0].head_dim);
        let dim = heads * head_dim;
        let tokens: usize = memories.iter().map(|m| m.tokens).sum();
        let scale = simd.splat_f32s(1.0 / (head_dim as f32).sqrt());
        let mut scores = vec![0f32; ROWS * tokens];
        for head in 0..heads {
            for (queries, out) in queries.chunks(ROWS * dim).zip(out.chunks_mut(ROWS * dim)) {
                let mut rows = [&queries[head * head_dim..][..head_dim]; ROWS];
                for (row, query) in rows.iter_mut().zip(queries.chunks_exact(dim)) {
                    *row = &query[head * head_dim..][..head_dim];
                }
                let mut first = 0;
                for memory in memories {
                    let keys = &memory.heads[head].keys;
                    for panel in keys.panels() {
                        let columns = (first, first + memory.tokens, tokens);
                        match panel.vectors {
                            3 => score::<S, ROWS, 3>(simd, &rows, keys, panel, scale, columns, &mut scores),
                            2 => score::<S, ROWS, 2>(simd, &rows, keys, panel, scale, columns, &mut scores),
                            _ => score::<S, ROWS, 1>(simd, &rows, keys, panel, scale, columns, &mut scores),
                        }
                    }
                    first += memory.tokens;
                }
                let mut weights = [0f32; ROWS];
                for (weight, scores) in weights.iter_mut().zip(scores.chunks_exact_mut(tokens)) {
                    *weight = 1.0 / exponentials(simd, scores);
                }
                for panel in memories[0].heads[head].values.panels() {
                    let place = (head, head_dim, dim);
                    match panel.vectors {
                        3 => collect::<S, ROWS, 3>(simd, &scores, &weights, memories, panel, place, out),
                        2 => collect::<S, ROWS, 2>(simd, &scores, &weights, memories, panel, place, out),
                        _ => collect::<S, ROWS, 1>(simd, &scores, &weights, memories, panel, place, out),
                    }
                }
            }
        }
    }
}

/// The scores of some keys, which are at `first..end` of `tokens` in all.
#[inline(always)]
fn score<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    rows: &[&[f32]; ROWS],
    keys: &Panels,
    panel: Panel,
    scale: S::f32s,
    (first, end, tokens): (usize, usize, usize),
    scores: &mut [f32],
) {
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
    accumulate(simd, &mut sums, rows, keys.rows, keys.weights::<S>(panel));
    for (sums, scores) in sums.iter().zip(scores.chunks_exact_mut(tokens)) {
        for (v, &sum) in sums.iter().enumerate() {
            let first = first + panel.first + v * S::F32_LANES;
            let range = first..(first + S::F32_LANES).min(end);
            simd.partial_store_f32s(&mut scores[range], simd.mul_f32s(sum, scale));
        }
    }
}

/// e to the power of each, less the greatest; returns their sum.
#[inline(always)]
fn exponentials<S: Simd>(simd: S, scores: &mut [f32]) -> f32 {
    let (vectors, rest) = S::as_mut_simd_f32s(scores);
    let mut most = simd.splat_f32s(f32::NEG_INFINITY);
    for &x in vectors.iter() {
        most = simd.max_f32s(most, x);
    }
    let most = rest.iter().fold(simd.reduce_max_f32s(most), |most, &x| most.max(x));
    let mut sum = simd.splat_f32s(0.0);
    for x in vectors {
        *x = exp_f32s(simd, simd.sub_f32s(*x, simd.splat_f32s(most)));
        sum = simd.add_f32s(sum, *x);
    }
    let mut sum = simd.reduce_sum_f32s(sum);
    if !rest.is_empty() {
        let x = exp_f32s(simd, simd.sub_f32s(simd.partial_load_f32s(rest), simd.splat_f32s(most)));
        simd.partial_store_f32s(rest, x);
        sum += rest.iter().sum::<f32>();
    }
    sum
}

/// The values, weighted.
#[inline(always)]
fn collect<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    scores: &[f32],
    weights: &[f32; ROWS],
    memories: &[&Memory],
    panel: Panel,
    (head, head_dim, dim): (usize, usize, usize),
    out: &mut [f32],
) {
    let tokens = scores.len() / ROWS;
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
    let mut first = 0;
    for memory in memories {
        let mut rows = [scores; ROWS];
        for (row, scores) in rows.iter_mut().zip(scores.chunks_exact(tokens)) {
            *row = &scores[first..first + memory.tokens];
        }
        accumulate(simd, &mut sums, &rows, memory.tokens, memory.heads[head].values.weights::<S>(panel));
        first += memory.tokens;
    }
    for ((sums, &weight), out) in sums.iter().zip(weights).zip(out.chunks_exact_mut(dim)) {
        for (v, &sum) in sums.iter().enumerate() {
            let first = panel.first + v * S::F32_LANES;
            let range = head * head_dim + first..head * head_dim + (first + S::F32_LANES).min(head_dim);
            simd.partial_store_f32s(&mut out[range], simd.mul_f32s(sum, simd.splat_f32s(weight)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::random;
    use candle_core::{Device, Tensor};

    #[test]
    fn it_equals_the_plain_form() {
        for arch in Arch::all() {
            for (heads, head_dim, rows, lengths) in [
                (1, 4, 1, vec![1]),
                (3, 8, 11, vec![5]),
                (2, 64, 16, vec![40, 9]),
                (2, 20, 9, vec![3, 70, 64]),
            ] {
                let dim = heads * head_dim;
                let queries: Vec<_> = random(rows * dim, 1).iter().map(|x| x * 4.0).collect();
                let parts: Vec<_> = lengths
                    .iter()
                    .enumerate()
                    .map(|(i, &n)| (random(n * dim, 2 + i as u32), random(n * dim, 20 + i as u32)))
                    .collect();
                let memories: Vec<_> =
                    parts.iter().map(|(k, v)| Memory::new(arch, heads, head_dim, k, v)).collect();
                let mut out = vec![f32::NAN; queries.len()];
                attend(&queries, &memories.iter().collect::<Vec<_>>(), &mut out);

                let split = |x: &[f32]| {
                    let x = Tensor::from_slice(x, (x.len() / dim, heads, head_dim), &Device::Cpu).unwrap();
                    x.transpose(0, 1).unwrap().contiguous().unwrap()
                };
                let keys = split(&parts.iter().flat_map(|(k, _)| k.clone()).collect::<Vec<_>>());
                let values = split(&parts.iter().flat_map(|(_, v)| v.clone()).collect::<Vec<_>>());
                let scores = split(&queries).matmul(&keys.t().unwrap()).unwrap();
                let weights = (scores / (head_dim as f64).sqrt()).unwrap();
                let weights = candle_nn::ops::softmax_last_dim(&weights).unwrap();
                let plain = weights.matmul(&values).unwrap().transpose(0, 1).unwrap();
                let plain: Vec<f32> = plain.flatten_all().unwrap().to_vec1().unwrap();
                for (a, b) in out.iter().zip(&plain) {
                    assert!((a - b).abs() < 1e-5, "{arch:?} {heads}x{head_dim} {rows} {lengths:?}: {a} {b}");
                }
            }
        }
    }
}
