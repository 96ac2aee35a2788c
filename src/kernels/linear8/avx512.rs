//! AVX-512 VNNI: 64 products of 8 bits per instruction.

use std::arch::x86_64::*;

use super::form::Tile;
use super::rows::Word;

const ROWS: usize = 8;
const LANES: usize = 16;

pub(super) const TILE: Tile = Tile { rows: ROWS, vectors: 3, lanes: LANES, inputs: 4, bytes: 1, offset: 128 };

/// Writes the products of `rows` and `weights` to `sums`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn multiply<const VECTORS: usize>(rows: &[&[Word]; ROWS], weights: &[i8], sums: &mut [i32]) {
    let sums = sums.as_chunks_mut::<LANES>().0;
    for (to, from) in sums.iter_mut().zip(tile::<VECTORS>(rows, weights).as_flattened()) {
        // SAFETY: the array has 16 values of 32 bits.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), *from) };
    }
}

/// The sums are returned by value: without an address in the loop, the compiler keeps them in registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
fn tile<const VECTORS: usize>(rows: &[&[Word]; ROWS], weights: &[i8]) -> [[__m512i; VECTORS]; ROWS] {
    let weights = weights.as_chunks::<64>().0.as_chunks::<VECTORS>().0;
    // Lets the compiler drop the bounds checks in the loop.
    let mut equal = *rows;
    for row in &mut equal {
        *row = &row[..weights.len()];
    }
    let mut sums = [[_mm512_setzero_si512(); VECTORS]; ROWS];
    for (step, weights) in weights.iter().enumerate() {
        let weights: [__m512i; VECTORS] = std::array::from_fn(|v| {
            // SAFETY: the array has 64 bytes.
            unsafe { _mm512_loadu_si512(weights[v].as_ptr().cast()) }
        });
        for r in 0..ROWS {
            let x = _mm512_set1_epi32(i32::from_ne_bytes(equal[r][step]));
            for v in 0..VECTORS {
                sums[r][v] = _mm512_dpbusd_epi32(sums[r][v], x, weights[v]);
            }
        }
    }
    sums
}
