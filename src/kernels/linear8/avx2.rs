//! AVX2: 16 products of 16 bits per instruction, with exact sums.
//!
//! The product of 8-bit values, `vpmaddubsw`, saturates unless one operand gets the signs of the other, and needs as many
//! instructions then. Its best tile was 0.87 times as fast.

use std::arch::x86_64::*;

use super::form::Tile;
use super::rows::Word;

const ROWS: usize = 6;
const LANES: usize = 8;

/// 12 sums, two vectors of weights, an input and a product take the 16 registers.
pub(super) const TILE: Tile = Tile { rows: ROWS, vectors: 2, lanes: LANES, inputs: 2, bytes: 2, offset: 0 };

/// Writes the products of `rows` and `weights` to `sums`.
#[target_feature(enable = "avx2")]
pub(super) fn multiply<const VECTORS: usize>(rows: &[&[Word]; ROWS], weights: &[i8], sums: &mut [i32]) {
    let sums = sums.as_chunks_mut::<LANES>().0;
    for (to, from) in sums.iter_mut().zip(tile::<VECTORS>(rows, weights).as_flattened()) {
        // SAFETY: the array has 8 values of 32 bits.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), *from) };
    }
}

/// The sums are returned by value: without an address in the loop, the compiler keeps them in registers.
#[target_feature(enable = "avx2")]
#[inline]
fn tile<const VECTORS: usize>(rows: &[&[Word]; ROWS], weights: &[i8]) -> [[__m256i; VECTORS]; ROWS] {
    let weights = weights.as_chunks::<16>().0.as_chunks::<VECTORS>().0;
    // Lets the compiler drop the bounds checks in the loop.
    let mut equal = *rows;
    for row in &mut equal {
        *row = &row[..weights.len()];
    }
    let mut sums = [[_mm256_setzero_si256(); VECTORS]; ROWS];
    for (step, weights) in weights.iter().enumerate() {
        let weights: [__m256i; VECTORS] = std::array::from_fn(|v| {
            // SAFETY: the array has 16 bytes.
            let weights = unsafe { _mm_loadu_si128(weights[v].as_ptr().cast()) };
            _mm256_cvtepi8_epi16(weights)
        });
        for r in 0..ROWS {
            let x = _mm256_set1_epi32(i32::from_ne_bytes(equal[r][step]));
            for v in 0..VECTORS {
                sums[r][v] = _mm256_add_epi32(sums[r][v], _mm256_madd_epi16(x, weights[v]));
            }
        }
    }
    sums
}
