//! A plain loop for any CPU, which the compiler vectorises.

use super::form::Tile;
use super::rows::Word;

const LANES: usize = 16;

pub(super) const TILE: Tile = Tile { rows: 1, vectors: 3, lanes: LANES, inputs: 4, bytes: 1, offset: 128 };

/// Writes the products of `row` and `weights` to `sums`.
#[inline(always)]
pub(super) fn multiply(row: &[Word], weights: &[i8], vectors: usize, sums: &mut [i32]) {
    let weights = weights.as_chunks::<4>().0.as_chunks::<LANES>().0;
    for (v, sums) in sums.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        *sums = [0; LANES];
        for (four, weights) in row.iter().zip(weights.chunks_exact(vectors)) {
            let four = four.map(i16::from);
            for (sum, weights) in sums.iter_mut().zip(&weights[v]) {
                for (x, weight) in four.iter().zip(weights) {
                    *sum += i32::from(*x) * i32::from(*weight);
                }
            }
        }
    }
}
