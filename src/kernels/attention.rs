//! Attention of a few queries at a time, whose scores stay in the cache.
//!
//! Where linear layers compute in 8 bits, keys, values and the weights of values are bf16, if the CPU multiplies pairs of
//! them: sums are f32 all the same.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::Arch;
use super::gelu::exp_f32s;
use super::linear::WeightFormat;
use super::pairs::{self, accumulate_pairs};
use super::panels::{Panel, Panels, Sums, accumulate};

/// Keys and values of some tokens, packed head by head.
#[derive(Clone, Debug)]
pub(crate) struct PackedKv {
    arch: Arch,
    tokens: usize,
    head_dim: usize,
    /// Whether two numbers of bf16 stand for one of f32: two of a head, or of two tokens.
    paired: bool,
    heads: Vec<Head>,
}

#[derive(Clone, Debug)]
struct Head {
    /// `[head_dim, tokens]`, or half as many rows.
    keys: Panels,
    /// `[tokens, head_dim]`, or half as many rows.
    values: Panels,
}

impl PackedKv {
    /// Both are `[tokens, heads × head_dim]`; `numbers` is what the linear layers beside it compute in.
    pub(crate) fn new(
        arch: Arch,
        numbers: WeightFormat,
        (heads, head_dim): (usize, usize),
        keys: &[f32],
        values: &[f32],
    ) -> Self {
        let paired = numbers == WeightFormat::Int8 && pairs::are_fast(arch);
        Self::packed(arch, paired, (heads, head_dim), keys, values)
    }

    /// `paired` wherever it is, fast or not.
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
            // Zero beyond the last of an odd number.
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

/// What `queries` `[rows, heads × head_dim]` find in all `memories` together, in `out` of the same shape; on this
/// thread.
pub(crate) fn attend(queries: &[f32], memories: &[&PackedKv], out: &mut [f32]) {
    if let Some(first) = memories.first() {
        first.arch.dispatch(Job { queries, memories, out });
    }
}

/// Queries that go through a block of keys and values together.
const QUERIES: usize = 64;
/// Tokens of a block: their keys and values, of a head of 128, stay in half a megabyte of cache.
const BLOCK: usize = 384;

struct Job<'a> {
    queries: &'a [f32],
    memories: &'a [&'a PackedKv],
    out: &'a mut [f32],
}

impl WithSimd for Job<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match (S::REGISTER_COUNT >= 32, self.memories[0].paired) {
            (true, false) => self.heads::<S, 8, false>(simd),
            (true, true) => self.heads::<S, 8, true>(simd),
            (false, false) => self.heads::<S, 4, false>(simd),
            (false, true) => self.heads::<S, 4, true>(simd),
        }
    }
}

/// Some tokens of one memory.
struct Part<'a> {
    memory: &'a PackedKv,
    panels: Vec<Panel>,
    /// The first token, in the memory and in the block.
    first: usize,
    column: usize,
    /// One more column than it has tokens, where these are paired and odd.
    width: usize,
}

impl Part<'_> {
    /// The column that counts for nothing, if there is one.
    fn spare(&self) -> Option<usize> {
        (self.first + self.width > self.memory.tokens).then(|| self.column + self.width - 1)
    }
}

/// All tokens of `memories`, no more than fit in the cache at a time.
fn blocks<'a>(memories: &[&'a PackedKv], lanes: usize) -> Vec<Vec<Part<'a>>> {
    let (mut blocks, mut block, mut width) = (Vec::new(), Vec::<Part>::new(), 0);
    for &memory in memories {
        let mut begins = true;
        for panel in memory.heads[0].keys.panels() {
            let columns = (panel.vectors * lanes).min(memory.heads[0].keys.columns - panel.first);
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
                    memory,
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

/// The softmax of a row's scores so far.
#[derive(Clone, Copy)]
struct Row {
    most: f32,
    sum: f32,
    /// What was collected before this block is worth so much.
    factor: f32,
}

/// Where the numbers of one head are in a row.
#[derive(Clone, Copy)]
struct Place {
    head: usize,
    head_dim: usize,
    /// Of a row, all heads.
    dim: usize,
}

impl Place {
    fn range(self) -> Range<usize> {
        self.head * self.head_dim..(self.head + 1) * self.head_dim
    }
}

impl Job<'_> {
    #[inline(always)]
    fn heads<S: Simd, const ROWS: usize, const PAIRED: bool>(self, simd: S) {
        let Self { queries, memories, out } = self;
        let (heads, head_dim) = (memories[0].heads.len(), memories[0].head_dim);
        let dim = heads * head_dim;
        let blocks = blocks(memories, S::F32_LANES);
        let count = (queries.len() / dim).min(QUERIES).next_multiple_of(ROWS);
        let mut scores = vec![0f32; count * BLOCK];
        let mut own = Vec::with_capacity(count * head_dim);
        for head in 0..heads {
            let place = Place { head, head_dim, dim };
            for (queries, out) in queries.chunks(QUERIES * dim).zip(out.chunks_mut(QUERIES * dim)) {
                own.clear();
                for query in queries.chunks_exact(dim) {
                    let query = &query[place.range()];
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
                attend_head::<S, ROWS, PAIRED>(simd, &own, &blocks, place, &mut scores, out);
            }
        }
    }
}

/// Adds to `sums` as [`accumulate`] does, or as [`accumulate_pairs`].
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

/// One head of some queries, `[count, head_dim]` or half as many pairs.
#[inline(always)]
fn attend_head<S: Simd, const ROWS: usize, const PAIRED: bool>(
    simd: S,
    queries: &[f32],
    blocks: &[Vec<Part>],
    place: Place,
    scores: &mut [f32],
    out: &mut [f32],
) {
    let count = out.len() / place.dim;
    let mut state = [Row { most: f32::NEG_INFINITY, sum: 0.0, factor: 0.0 }; QUERIES];
    for (i, block) in blocks.iter().enumerate() {
        let width = block.iter().map(|part| part.width).sum();
        for (part, &panel) in block.iter().flat_map(|part| part.panels.iter().map(move |p| (part, p))) {
            let keys = (&part.memory.heads[place.head].keys, panel);
            let columns = part.column + panel.first - part.first..part.column + part.width;
            match panel.vectors {
                3 => score::<S, ROWS, 3, PAIRED>(simd, queries, keys, columns, width, scores),
                2 => score::<S, ROWS, 2, PAIRED>(simd, queries, keys, columns, width, scores),
                _ => score::<S, ROWS, 1, PAIRED>(simd, queries, keys, columns, width, scores),
            }
        }
        for (row, scores) in state[..count].iter_mut().zip(scores.chunks_exact_mut(width)) {
            for column in block.iter().filter_map(Part::spare) {
                scores[column] = f32::NEG_INFINITY;
            }
            exponentials(simd, scores, row);
            if PAIRED {
                pairs::pair_all(simd, scores);
            }
        }
        let ends = (i == 0, i + 1 == blocks.len());
        let Some(part) = block.first() else { continue };
        for panel in part.memory.heads[place.head].values.panels() {
            let columns = (&block[..], panel, width);
            match panel.vectors {
                3 => collect::<S, ROWS, 3, PAIRED>(simd, scores, &state, columns, place, ends, out),
                2 => collect::<S, ROWS, 2, PAIRED>(simd, scores, &state, columns, place, ends, out),
                _ => collect::<S, ROWS, 1, PAIRED>(simd, scores, &state, columns, place, ends, out),
            }
        }
    }
}

/// The scores of a panel of keys, in `columns` of a block that is `width` wide.
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
                simd.partial_store_f32s(&mut scores[first..(first + S::F32_LANES).min(columns.end)], sum);
            }
        }
    }
}

/// e to the power of each, less the greatest so far (<https://arxiv.org/abs/1805.02867>).
#[inline(always)]
fn exponentials<S: Simd>(simd: S, scores: &mut [f32], row: &mut Row) {
    let (vectors, rest) = S::as_mut_simd_f32s(scores);
    let mut most = simd.splat_f32s(row.most);
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
    let factor = if row.sum > 0.0 { (row.most - most).exp() } else { 0.0 };
    *row = Row { most, sum: row.sum * factor + sum, factor };
}

/// The values of a block, weighted. What was collected in blocks before is gone on from; after the last it is divided by
/// the sum of the weights.
#[inline(always)]
fn collect<S: Simd, const ROWS: usize, const VECTORS: usize, const PAIRED: bool>(
    simd: S,
    scores: &[f32],
    state: &[Row],
    (block, panel, width): (&[Part], Panel, usize),
    place: Place,
    (begins, ends): (bool, bool),
    out: &mut [f32],
) {
    let range = |v: usize| {
        let Range { start, end } = place.range();
        let first = start + panel.first + v * S::F32_LANES;
        first..(first + S::F32_LANES).min(end)
    };
    let tiles = state.chunks_exact(ROWS).zip(scores.chunks_exact(ROWS * width));
    for ((state, scores), out) in tiles.zip(out.chunks_mut(ROWS * place.dim)) {
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
        if !begins {
            for ((sums, row), out) in sums.iter_mut().zip(state).zip(out.chunks_exact(place.dim)) {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = simd.mul_f32s(simd.partial_load_f32s(&out[range(v)]), simd.splat_f32s(row.factor));
                }
            }
        }
        for part in block {
            // Pairs are at the beginning of a row.
            let each = if PAIRED { 2 } else { 1 };
            let count = part.width / each;
            let mut rows = [scores; ROWS];
            for (row, scores) in rows.iter_mut().zip(scores.chunks_exact(width)) {
                *row = &scores[part.column / each..][..count];
            }
            let values = part.memory.heads[place.head].values.weights::<S>(panel);
            let values = &values[part.first / each * VECTORS..][..count * VECTORS];
            add::<S, ROWS, VECTORS, PAIRED>(simd, &mut sums, &rows, count, values);
        }
        for ((sums, row), out) in sums.iter().zip(state).zip(out.chunks_exact_mut(place.dim)) {
            let weight = simd.splat_f32s(if ends { 1.0 / row.sum } else { 1.0 });
            for (v, &sum) in sums.iter().enumerate() {
                simd.partial_store_f32s(&mut out[range(v)], simd.mul_f32s(sum, weight));
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
        // Without vectors blocks may end in the middle of a pair.
        for (arch, paired) in all.filter(|(arch, paired)| !paired || !matches!(arch, Arch::Scalar)) {
            for (heads, head_dim, rows, lengths) in [
                (1, 4, 1, vec![1]),
                (3, 8, 11, vec![5]),
                (2, 64, 16, vec![40, 9]),
                (2, 20, 9, vec![3, 70, 64]),
                // Several blocks of keys, one within a memory and one across two, and of queries.
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
                let memories: Vec<_> = parts
                    .iter()
                    .map(|(k, v)| PackedKv::packed(arch, paired, (heads, head_dim), k, v))
                    .collect();
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
                // bf16 has 8 bits of a number.
                let most = if paired { 1.5e-2 } else { 1e-5 };
                for (a, b) in out.iter().zip(&plain) {
                    let what = format!("{arch:?} {paired} {heads}x{head_dim} {rows} {lengths:?}");
                    assert!((a - b).abs() < most, "{what}: {a} {b}");
                }
            }
        }
    }
}
