//! Products with a matrix stored in a compact format: a tile at a time is expanded to f32, multiplied and discarded.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::Arch;

/// A matrix in a compact format.
pub(crate) trait Rows: Sync {
    /// Number of rows and columns.
    fn shape(&self) -> [usize; 2];

    /// Writes the values of `row` from column `from` on to `out`. Should be inlined, to be compiled for the vector
    /// instructions of the caller.
    fn expand(&self, row: usize, from: usize, out: &mut [f32]);
}

/// Columns expanded at a time: those of a tile's rows fit in the L1 cache.
const COLUMNS: usize = 1024;
/// Distance between the expanded rows: a power of two would map them to the same cache sets.
const STRIDE: usize = COLUMNS + 16;
/// Rows per job.
const PORTION: usize = 48;

/// The product of `x` `[count, columns]` and the transposed matrix: `[count, rows]`.
pub(crate) fn multiply(arch: Arch, x: &[f32], matrix: &impl Rows) -> Vec<f32> {
    let [rows, columns] = matrix.shape();
    let count = x.len() / columns;
    // Each portion is `[count, its rows]`.
    let portion = |first: usize| {
        let rows = PORTION.min(rows - first);
        let mut out = vec![0.0; count * rows];
        arch.dispatch(Job { matrix, first, rows, x, out: &mut out });
        out
    };
    let starts: Vec<_> = (0..rows).step_by(PORTION).collect();
    let portions: Vec<_> = starts.into_par_iter().map(portion).collect();
    let mut out = Vec::with_capacity(rows * count);
    for i in 0..count {
        for portion in &portions {
            let rows = portion.len() / count;
            out.extend_from_slice(&portion[i * rows..(i + 1) * rows]);
        }
    }
    out
}

struct Job<'a, R> {
    matrix: &'a R,
    /// The first row.
    first: usize,
    rows: usize,
    x: &'a [f32],
    /// `[count, rows]`.
    out: &'a mut [f32],
}

impl<R: Rows> WithSimd for Job<'_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if S::REGISTER_COUNT >= 32 { self.tiles::<S, 6>(simd) } else { self.tiles::<S, 3>(simd) }
    }
}

impl<R: Rows> Job<'_, R> {
    #[inline(always)]
    fn tiles<S: Simd, const ROWS: usize>(self, simd: S) {
        const XS: usize = 4;
        let columns = self.matrix.shape()[1];
        let count = self.x.len() / columns;
        let mut expanded = vec![0.0; ROWS * STRIDE];
        for from in (0..columns).step_by(COLUMNS) {
            let length = COLUMNS.min(columns - from);
            for tile in (0..self.rows).step_by(ROWS) {
                let rows = ROWS.min(self.rows - tile);
                for (row, values) in expanded.chunks_exact_mut(STRIDE).take(rows).enumerate() {
                    self.matrix.expand(self.first + tile + row, from, &mut values[..length]);
                }
                let weights: [&[f32]; ROWS] = std::array::from_fn(|r| &expanded[r * STRIDE..][..length]);
                for first in (0..count).step_by(XS) {
                    // An incomplete tile recomputes the last input, and reuses stale rows whose sums are dropped.
                    let x = |i: usize| &self.x[(first + i).min(count - 1) * columns + from..][..length];
                    let sums = products::<S, XS, ROWS>(simd, std::array::from_fn(x), weights);
                    for (out, sums) in self.out.chunks_exact_mut(self.rows).skip(first).zip(sums) {
                        out[tile..].iter_mut().zip(&sums[..rows]).for_each(|(out, sum)| *out += sum);
                    }
                }
            }
        }
    }
}

/// The dot products of each of `x` with each of `rows`, all of the same length.
// Plain index loops: with iterators or more code the sums do not stay in registers.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
fn products<S: Simd, const XS: usize, const ROWS: usize>(
    simd: S,
    x: [&[f32]; XS],
    rows: [&[f32]; ROWS],
) -> [[f32; ROWS]; XS] {
    let (x, rows) = (x.map(S::as_simd_f32s), rows.map(S::as_simd_f32s));
    let vectors = x[0].0.len();
    // Lets the compiler drop the bounds checks in the loop.
    let (xs, weights) = (x.map(|x| &x.0[..vectors]), rows.map(|row| &row.0[..vectors]));
    let mut sums = [[simd.splat_f32s(0.0); XS]; ROWS];
    for i in 0..vectors {
        for r in 0..ROWS {
            let weight = weights[r][i];
            for t in 0..XS {
                sums[r][t] = simd.mul_add_e_f32s(xs[t][i], weight, sums[r][t]);
            }
        }
    }
    let mut out = [[0.0; ROWS]; XS];
    for r in 0..ROWS {
        for t in 0..XS {
            out[t][r] = simd.reduce_sum_f32s(sums[r][t]);
        }
    }
    if !x[0].1.is_empty() {
        add_products(&mut out, &x.map(|x| x.1), &rows.map(|row| row.1));
    }
    out
}

/// Adds to `out` the products of the elements after the last whole vector.
#[cold]
fn add_products<const XS: usize, const ROWS: usize>(
    out: &mut [[f32; ROWS]; XS],
    x: &[&[f32]; XS],
    rows: &[&[f32]; ROWS],
) {
    for (out, x) in out.iter_mut().zip(x) {
        for (out, row) in out.iter_mut().zip(rows) {
            *out += row.iter().zip(*x).map(|(row, x)| row * x).sum::<f32>();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::random;

    struct Doubled {
        shape: [usize; 2],
        halves: Vec<f32>,
    }

    impl Rows for Doubled {
        fn shape(&self) -> [usize; 2] {
            self.shape
        }

        fn expand(&self, row: usize, from: usize, out: &mut [f32]) {
            let halves = &self.halves[row * self.shape[1] + from..];
            out.iter_mut().zip(halves).for_each(|(out, half)| *out = 2.0 * half);
        }
    }

    #[test]
    fn it_equals_the_plain_form() {
        for arch in Arch::all() {
            for (count, rows, columns) in
                [(1, 1, 1), (3, 50, 17), (4, 6, 1024), (9, 13, 2100), (24, 97, 1030)]
            {
                let (x, halves) = (random(count * columns, 1), random(rows * columns, 2));
                let matrix = Doubled { shape: [rows, columns], halves };
                let out = multiply(arch, &x, &matrix);
                for (i, value) in out.iter().enumerate() {
                    let (t, row) = (i / rows, i % rows);
                    let pairs = x[t * columns..].iter().zip(&matrix.halves[row * columns..]).take(columns);
                    let sum: f64 = pairs.map(|(x, half)| 2.0 * f64::from(*x) * f64::from(*half)).sum();
                    let off = (f64::from(*value) - sum).abs();
                    assert!(off < 1e-4, "{arch:?} {count}x{rows}x{columns}: {value}, not {sum}");
                }
            }
        }
    }
}
