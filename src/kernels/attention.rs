//! Attention for a few queries at a time, so that their scores stay in the CPU cache.
//!
//! With int8 linear layers, keys, values and softmax weights are bf16 if the CPU has fast products of bf16 pairs. Sums are
//! always f32.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::Arch;
use super::gelu::exp_f32s;
use super::linear::WeightFormat;
use super::pairs::{self, accumulate_pairs};
use super::panels::{Panel, Panels, Sums, accumulate, load, store};

/// Keys and values of a range of tokens, packed head by head.
#[derive(Clone, Debug)]
pub(crate) struct PackedKv {
    arch: Arch,
    tokens: usize,
    head_dim: usize,
    /// Whether an f32 holds a pair of bf16: two adjacent channels of a key, or the values of two adjacent tokens.
    paired: bool,
    heads: Vec<Head>,
}

#[derive(Clone, Debug)]
struct Head {
    /// `[head_dim, tokens]`, with half as many rows if paired.
    keys: Panels,
    /// `[tokens, head_dim]`, with half as many rows if paired.
    values: Panels,
}

impl PackedKv {
    /// Packs keys and values, `[tokens, heads × head_dim]` each. `format` is the weight format of the linear layers.
    pub(crate) fn new(
        arch: Arch,
        format: WeightFormat,
        (heads, head_dim): (usize, usize),
        keys: &[f32],
        values: &[f32],
    ) -> Self {
        let paired = format == WeightFormat::Int8 && pairs::are_fast(arch);
        Self::packed(arch, paired, (heads, head_dim), keys, values)
    }

    /// Like [`new`](Self::new), with pairs even where they are not fast.
    pub(super) fn packed(
        arch: Arch,
        paired: bool,
        (heads, head_dim): (usize, usize),
        keys: &[f32],
        values: &[f32],
    ) -> Self {
        let dim = heads * head_dim;
        let tokens = keys.len() / dim;
        let columns = if paired { tokens.next_multiple_of(2) } else { tokens };
        let pack = |head: usize| {
            let first = head * head_dim;
            let at = |all: &[f32], token: usize, i: usize| all[token * dim + first + i];
            if !paired {
                return Head {
                    keys: Panels::new(arch, (head_dim, tokens), None, |i, token| at(keys, token, i)),
                    values: Panels::new(arch, (tokens, head_dim), None, |token, i| at(values, token, i)),
                };
            }
            // An odd count is padded with zeros.
            let at = |all, token, i| if token < tokens && i < head_dim { at(all, token, i) } else { 0.0 };
            Head {
                keys: Panels::new(arch, (head_dim.div_ceil(2), columns), None, |i, token| {
                    pairs::pair(at(keys, token, 2 * i), at(keys, token, 2 * i + 1))
                }),
                values: Panels::new(arch, (tokens.div_ceil(2), head_dim), None, |token, i| {
                    pairs::pair(at(values, 2 * token, i), at(values, 2 * token + 1, i))
                }),
            }
        };
        let heads = (0..heads).into_par_iter().map(pack).collect();
        Self { arch, tokens, head_dim, paired, heads }
    }
}

/// Attends from `queries` `[rows, heads × head_dim]` to the concatenation of `kv`, into `out` of the same shape. Runs on the
/// calling thread.
pub(crate) fn attend(queries: &[f32], kv: &[&PackedKv], out: &mut [f32]) {
    if let Some(first) = kv.first() {
        first.arch.dispatch(Job { queries, kv, out });
    }
}

/// Queries that share a pass over a block of keys and values.
const QUERIES: usize = 64;
/// Tokens per block: keys and values of a head of 128 channels take less than half a megabyte of cache.
const BLOCK: usize = 384;

struct Job<'a> {
    queries: &'a [f32],
    kv: &'a [&'a PackedKv],
    out: &'a mut [f32],
}

impl WithSimd for Job<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match (S::REGISTER_COUNT >= 32, self.kv[0].paired) {
            (true, false) => self.heads::<S, 8, false>(simd),
            (true, true) => self.heads::<S, 8, true>(simd),
            (false, false) => self.heads::<S, 4, false>(simd),
            (false, true) => self.heads::<S, 4, true>(simd),
        }
    }
}

/// A range of tokens of one [`PackedKv`].
struct Part<'a> {
    kv: &'a PackedKv,
    panels: Vec<Panel>,
    /// The first token within `kv`.
    first: usize,
    /// The column of the first token within the block.
    column: usize,
    /// Number of columns: one more than tokens if these are paired and odd.
    width: usize,
}

impl Part<'_> {
    /// The padding column, if there is one.
    fn padding(&self) -> Option<usize> {
        (self.first + self.width > self.kv.tokens).then(|| self.column + self.width - 1)
    }
}

/// Splits all tokens of `parts` into blocks that fit in the cache.
fn blocks<'a>(parts: &[&'a PackedKv], lanes: usize) -> Vec<Vec<Part<'a>>> {
    let (mut blocks, mut block, mut width) = (Vec::new(), Vec::<Part>::new(), 0);
    for &kv in parts {
        let mut begins = true;
        for panel in kv.heads[0].keys.panels() {
            let columns = (panel.vectors * lanes).min(kv.heads[0].keys.columns - panel.first);
            if width > 0 && width + columns > BLOCK {
                blocks.push(std::mem::take(&mut block));
                (width, begins) = (0, true);
            }
            match block.last_mut().filter(|_| !begins) {
                Some(part) => {
                    part.panels.push(panel);
                    part.width += columns;
                }
                None => block.push(Part {
                    kv,
                    panels: vec![panel],
                    first: panel.first,
                    column: width,
                    width: columns,
                }),
            }
            (width, begins) = (width + columns, false);
        }
    }
    blocks.push(block);
    blocks
}

/// The running softmax of a row of scores.
#[derive(Clone, Copy)]
struct SoftmaxRow {
    /// The greatest score so far.
    max: f32,
    /// The sum of the exponentials so far.
    sum: f32,
    /// Rescales what was accumulated before the current block.
    factor: f32,
}

/// The position of one head in a row.
#[derive(Clone, Copy)]
struct HeadLayout {
    head: usize,
    head_dim: usize,
    /// Width of a row: all heads.
    dim: usize,
}

impl HeadLayout {
    fn range(self) -> Range<usize> {
        self.head * self.head_dim..(self.head + 1) * self.head_dim
    }
}

impl Job<'_> {
    #[inline(always)]
    fn heads<S: Simd, const ROWS: usize, const PAIRED: bool>(self, simd: S) {
        let Self { queries, kv, out } = self;
        let (heads, head_dim) = (kv[0].heads.len(), kv[0].head_dim);
        let dim = heads * head_dim;
        let blocks = blocks(kv, S::F32_LANES);
        let count = (queries.len() / dim).min(QUERIES).next_multiple_of(ROWS);
        let mut scores = vec![0f32; count * BLOCK];
        let mut own = Vec::with_capacity(count * head_dim);
        for head in 0..heads {
            let layout = HeadLayout { head, head_dim, dim };
            for (queries, out) in queries.chunks(QUERIES * dim).zip(out.chunks_mut(QUERIES * dim)) {
                own.clear();
                for query in queries.chunks_exact(dim) {
                    let query = &query[layout.range()];
                    let scale = 1.0 / (head_dim as f32).sqrt();
                    match PAIRED {
                        false => own.extend(query.iter().map(|x| x * scale)),
                        true => {
                            own.extend(query.chunks(2).map(|two| {
                                pairs::pair(two[0] * scale, two.get(1).map_or(0.0, |x| x * scale))
                            }))
                        }
                    }
                }
                attend_head::<S, ROWS, PAIRED>(simd, &own, &blocks, layout, &mut scores, out);
            }
        }
    }
}

/// [`accumulate`], or [`accumulate_pairs`] if `PAIRED`.
#[inline(always)]
fn add<S: Simd, const ROWS: usize, const VECTORS: usize, const PAIRED: bool>(
    simd: S,
    sums: &mut Sums<S, ROWS, VECTORS>,
    rows: &[&[f32]; ROWS],
    length: usize,
    weights: &[S::f32s],
) {
    match PAIRED {
        false => accumulate(simd, sums, rows, length, weights),
        true => accumulate_pairs(simd, sums, rows, length, weights),
    }
}

/// One head of up to `QUERIES` queries, `[count, head_dim]`, or half as many pairs.
#[inline(always)]
fn attend_head<S: Simd, const ROWS: usize, const PAIRED: bool>(
    simd: S,
    queries: &[f32],
    blocks: &[Vec<Part>],
    layout: HeadLayout,
    scores: &mut [f32],
    out: &mut [f32],
) {
    let count = out.len() / layout.dim;
    let mut state = [SoftmaxRow { max: f32::NEG_INFINITY, sum: 0.0, factor: 0.0 }; QUERIES];
    for (i, block) in blocks.iter().enumerate() {
        let width = block.iter().map(|part| part.width).sum();
        for (part, &panel) in block.iter().flat_map(|part| part.panels.iter().map(move |p| (part, p))) {
            let keys = (&part.kv.heads[layout.head].keys, panel);
            let columns = part.column + panel.first - part.first..part.column + part.width;
            match panel.vectors {
                3 => score::<S, ROWS, 3, PAIRED>(simd, queries, keys, columns, width, scores),
                2 => score::<S, ROWS, 2, PAIRED>(simd, queries, keys, columns, width, scores),
                _ => score::<S, ROWS, 1, PAIRED>(simd, queries, keys, columns, width, scores),
            }
        }
        for (row, scores) in state[..count].iter_mut().zip(scores.chunks_exact_mut(width)) {
            for column in block.iter().filter_map(Part::padding) {
                scores[column] = f32::NEG_INFINITY;
            }
            exponentials(simd, scores, row);
            if PAIRED {
                pairs::pair_all(simd, scores);
            }
        }
        let ends = (i == 0, i + 1 == blocks.len());
        let Some(part) = block.first() else { continue };
        for panel in part.kv.heads[layout.head].values.panels() {
            let columns = (&block[..], panel, width);
            match panel.vectors {
                3 => collect::<S, ROWS, 3, PAIRED>(simd, scores, &state, columns, layout, ends, out),
                2 => collect::<S, ROWS, 2, PAIRED>(simd, scores, &state, columns, layout, ends, out),
                _ => collect::<S, ROWS, 1, PAIRED>(simd, scores, &state, columns, layout, ends, out),
            }
        }
    }
}

/// Writes the scores of a panel of keys to the columns `columns` of a block of `width` columns.
#[inline(always)]
fn score<S: Simd, const ROWS: usize, const VECTORS: usize, const PAIRED: bool>(
    simd: S,
    queries: &[f32],
    (keys, panel): (&Panels, Panel),
    columns: Range<usize>,
    width: usize,
    scores: &mut [f32],
) {
    let weights = keys.weights::<S>(panel);
    for (queries, scores) in queries.chunks(ROWS * keys.rows).zip(scores.chunks_exact_mut(ROWS * width)) {
        let mut rows = [&queries[..keys.rows]; ROWS];
        for (row, query) in rows.iter_mut().zip(queries.chunks_exact(keys.rows)) {
            *row = query;
        }
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
        add::<S, ROWS, VECTORS, PAIRED>(simd, &mut sums, &rows, keys.rows, weights);
        for (sums, scores) in sums.iter().zip(scores.chunks_exact_mut(width)) {
            for (v, &sum) in sums.iter().enumerate() {
                let first = columns.start + v * S::F32_LANES;
                store(simd, &mut scores[first..(first + S::F32_LANES).min(columns.end)], sum);
            }
        }
    }
}

/// Replaces each score by exp(score − maximum so far) and updates the running softmax (<https://arxiv.org/abs/1805.02867>).
#[inline(always)]
fn exponentials<S: Simd>(simd: S, scores: &mut [f32], row: &mut SoftmaxRow) {
    let (vectors, rest) = S::as_mut_simd_f32s(scores);
    let mut max = simd.splat_f32s(row.max);
    for &x in vectors.iter() {
        max = simd.max_f32s(max, x);
    }
    let max = rest.iter().fold(simd.reduce_max_f32s(max), |max, &x| max.max(x));
    let mut sum = simd.splat_f32s(0.0);
    for x in vectors {
        *x = exp_f32s(simd, simd.sub_f32s(*x, simd.splat_f32s(max)));
        sum = simd.add_f32s(sum, *x);
    }
    let mut sum = simd.reduce_sum_f32s(sum);
    if !rest.is_empty() {
        let x = exp_f32s(simd, simd.sub_f32s(simd.partial_load_f32s(rest), simd.splat_f32s(max)));
        simd.partial_store_f32s(rest, x);
        sum += rest.iter().sum::<f32>();
    }
    let factor = if row.sum > 0.0 { (row.max - max).exp() } else { 0.0 };
    *row = SoftmaxRow { max, sum: row.sum * factor + sum, factor };
}

/// Accumulates the weighted values of a block in `out`, after rescaling the sum of earlier blocks. The last block divides by
/// the sum of the weights.
#[inline(always)]
fn collect<S: Simd, const ROWS: usize, const VECTORS: usize, const PAIRED: bool>(
    simd: S,
    scores: &[f32],
    state: &[SoftmaxRow],
    (block, panel, width): (&[Part], Panel, usize),
    layout: HeadLayout,
    (begins, ends): (bool, bool),
    out: &mut [f32],
) {
    let range = |v: usize| {
        let Range { start, end } = layout.range();
        let first = start + panel.first + v * S::F32_LANES;
        first..(first + S::F32_LANES).min(end)
    };
    let tiles = state.chunks_exact(ROWS).zip(scores.chunks_exact(ROWS * width));
    for ((state, scores), out) in tiles.zip(out.chunks_mut(ROWS * layout.dim)) {
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
        if !begins {
            for ((sums, row), out) in sums.iter_mut().zip(state).zip(out.chunks_exact(layout.dim)) {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = simd.mul_f32s(load(simd, &out[range(v)]), simd.splat_f32s(row.factor));
                }
            }
        }
        for part in block {
            // `pair_all` left the pairs in the first half of each row.
            let each = if PAIRED { 2 } else { 1 };
            let count = part.width / each;
            let mut rows = [scores; ROWS];
            for (row, scores) in rows.iter_mut().zip(scores.chunks_exact(width)) {
                *row = &scores[part.column / each..][..count];
            }
            let values = part.kv.heads[layout.head].values.weights::<S>(panel);
            let values = &values[part.first / each * VECTORS..][..count * VECTORS];
            add::<S, ROWS, VECTORS, PAIRED>(simd, &mut sums, &rows, count, values);
        }
        for ((sums, row), out) in sums.iter().zip(state).zip(out.chunks_exact_mut(layout.dim)) {
            let weight = simd.splat_f32s(if ends { 1.0 / row.sum } else { 1.0 });
            for (v, &sum) in sums.iter().enumerate() {
                store(simd, &mut out[range(v)], simd.mul_f32s(sum, weight));
            }
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
        let all = Arch::all().into_iter().flat_map(|arch| [(arch, false), (arch, true)]);
        // Scalar blocks can end within a pair.
        for (arch, paired) in all.filter(|(arch, paired)| !paired || !matches!(arch, Arch::Scalar)) {
            for (heads, head_dim, rows, lengths) in [
                (1, 4, 1, vec![1]),
                (3, 8, 11, vec![5]),
                (2, 64, 16, vec![40, 9]),
                (2, 20, 9, vec![3, 70, 64]),
                // Several blocks of queries and of keys; one block spans two `PackedKv`.
                (1, 64, 70, vec![500, 300, 7]),
                (2, 5, 3, vec![1, 3, 48]),
            ] {
                let dim = heads * head_dim;
                let queries: Vec<_> = random(rows * dim, 1).iter().map(|x| x * 4.0).collect();
                let parts: Vec<_> = lengths
                    .iter()
                    .enumerate()
                    .map(|(i, &n)| (random(n * dim, 2 + i as u32), random(n * dim, 20 + i as u32)))
                    .collect();
                let packed: Vec<_> = parts
                    .iter()
                    .map(|(k, v)| PackedKv::packed(arch, paired, (heads, head_dim), k, v))
                    .collect();
                let mut out = vec![f32::NAN; queries.len()];
                attend(&queries, &packed.iter().collect::<Vec<_>>(), &mut out);

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
                // bf16 has 8 significant bits.
                let tolerance = if paired { 1.5e-2 } else { 1e-5 };
                for (a, b) in out.iter().zip(&plain) {
                    let what = format!("{arch:?} {paired} {heads}x{head_dim} {rows} {lengths:?}");
                    assert!((a - b).abs() < tolerance, "{what}: {a} {b}");
                }
            }
        }
    }
}
