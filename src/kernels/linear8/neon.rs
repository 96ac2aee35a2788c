//! NEON with the extensions for dot products (`sdot`) or matrix products (`smmla`). Both are inline assembly, because their
//! intrinsics are unstable.

use std::arch::aarch64::*;
use std::arch::asm;

use super::form::Tile;
use super::rows::Word;

const ROWS: usize = 8;
const LANES: usize = 4;

/// 24 sums, three vectors of weights and an input take 28 of the 32 registers.
pub(super) const DOT: Tile = Tile { rows: ROWS, vectors: 3, lanes: LANES, inputs: 4, bytes: 1, offset: 0 };

/// 24 sums of two rows and two columns, six vectors of weights and two rows of inputs take 31 of the 32 registers.
pub(super) const MATRIX: Tile = Tile { rows: ROWS, vectors: 3, lanes: LANES, inputs: 8, bytes: 1, offset: 0 };

/// Writes the products of `rows` and `weights` to `sums`.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn multiply_dot<const VECTORS: usize>(rows: &[&[Word]; ROWS], weights: &[i8], sums: &mut [i32]) {
    let weights = weights.as_chunks::<16>().0.as_chunks::<VECTORS>().0;
    // Lets the compiler drop the bounds checks in the loop.
    let mut equal = *rows;
    for row in &mut equal {
        *row = &row[..weights.len()];
    }
    let mut tile = [[vdupq_n_s32(0); VECTORS]; ROWS];
    for (step, weights) in weights.iter().enumerate() {
        // SAFETY: the arrays have 16 bytes.
        let weights: [int8x16_t; VECTORS] = std::array::from_fn(|v| unsafe { vld1q_s8(weights[v].as_ptr()) });
        for r in 0..ROWS {
            let x = vreinterpretq_s8_s32(vdupq_n_s32(i32::from_ne_bytes(equal[r][step])));
            for v in 0..VECTORS {
                tile[r][v] = sdot(tile[r][v], x, weights[v]);
            }
        }
    }
    for (to, from) in sums.as_chunks_mut::<LANES>().0.iter_mut().zip(tile.as_flattened()) {
        // SAFETY: the array has 4 values of 32 bits.
        unsafe { vst1q_s32(to.as_mut_ptr(), *from) };
    }
}

/// Adds to each lane of `sum` the products of its four values.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn sdot(mut sum: int32x4_t, x: int8x16_t, weights: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction reads and writes these registers only.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {x:v}.16b, {weights:v}.16b",
            sum = inout(vreg) sum,
            x = in(vreg) x,
            weights = in(vreg) weights,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// Writes the products of `rows` and `weights` to `sums`.
#[target_feature(enable = "neon,i8mm")]
pub(super) fn multiply_matrix<const VECTORS: usize>(
    rows: &[&[Word]; ROWS],
    weights: &[i8],
    sums: &mut [i32],
) {
    // Each vector of four columns is two registers.
    let weights = weights.as_chunks::<16>().0.as_chunks::<2>().0.as_chunks::<VECTORS>().0;
    // Lets the compiler drop the bounds checks in the loop.
    let equal: [&[[Word; 2]]; ROWS] = std::array::from_fn(|r| &rows[r].as_chunks().0[..weights.len()]);
    let mut tile = [[[vdupq_n_s32(0); 2]; VECTORS]; ROWS / 2];
    for (step, weights) in weights.iter().enumerate() {
        let weights: [[int8x16_t; 2]; VECTORS] = std::array::from_fn(|v| {
            // SAFETY: the arrays have 16 bytes.
            std::array::from_fn(|i| unsafe { vld1q_s8(weights[v][i].as_ptr()) })
        });
        for r in 0..ROWS / 2 {
            // SAFETY: two words have 8 bytes.
            let half = |row: usize| unsafe { vld1_s8(equal[row][step].as_ptr().cast()) };
            let x = vcombine_s8(half(2 * r), half(2 * r + 1));
            for v in 0..VECTORS {
                for i in 0..2 {
                    tile[r][v][i] = smmla(tile[r][v][i], x, weights[v][i]);
                }
            }
        }
    }
    let rows = sums.chunks_exact_mut(2 * VECTORS * LANES).zip(&tile);
    for (two, tile) in rows {
        let (first, second) = two.split_at_mut(VECTORS * LANES);
        let vectors = first.as_chunks_mut::<LANES>().0.iter_mut().zip(second.as_chunks_mut::<LANES>().0);
        for ((first, second), [left, right]) in vectors.zip(tile) {
            let row = |half: fn(int32x4_t) -> int32x2_t| vcombine_s32(half(*left), half(*right));
            // SAFETY: the arrays have 4 values of 32 bits.
            unsafe {
                vst1q_s32(first.as_mut_ptr(), row(|x| vget_low_s32(x)));
                vst1q_s32(second.as_mut_ptr(), row(|x| vget_high_s32(x)));
            }
        }
    }
}

/// Adds to `sum`, two rows by two columns, the products of two rows of `x` and two columns of `weights`, eight values each.
#[target_feature(enable = "neon,i8mm")]
#[inline]
fn smmla(mut sum: int32x4_t, x: int8x16_t, weights: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction reads and writes these registers only.
    unsafe {
        asm!(
            "smmla {sum:v}.4s, {x:v}.16b, {weights:v}.16b",
            sum = inout(vreg) sum,
            x = in(vreg) x,
            weights = in(vreg) weights,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}
