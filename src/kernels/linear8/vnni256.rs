//! VNNI with 256 bits: 32 products of 8 bits per instruction.

use std::arch::x86_64::*;

use super::form::Tile;
use super::rows::Word;

const ROWS: usize = 4;
const LANES: usize = 8;

/// 12 sums, three vectors of weights and an input take the 16 registers.
pub(super) const TILE: Tile = Tile { rows: ROWS, vectors: 3, lanes: LANES, inputs: 4, bytes: 1, offset: 128 };

/// Defines a function that writes the products of `rows` and `weights` to `sums`. The instruction has two encodings, each
/// with its own intrinsic.
macro_rules! multiply {
    ($multiply:ident, $tile:ident, $features:literal, $dpbusd:ident) => {
        #[target_feature(enable = $features)]
        pub(super) fn $multiply<const VECTORS: usize>(
            rows: &[&[Word]; ROWS],
            weights: &[i8],
            sums: &mut [i32],
        ) {
            let sums = sums.as_chunks_mut::<LANES>().0;
            for (to, from) in sums.iter_mut().zip($tile::<VECTORS>(rows, weights).as_flattened()) {
                // SAFETY: the array has 8 values of 32 bits.
                unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), *from) };
            }
        }

        /// The sums are returned by value: without an address in the loop, the compiler keeps them in registers.
        #[target_feature(enable = $features)]
        #[inline]
        fn $tile<const VECTORS: usize>(rows: &[&[Word]; ROWS], weights: &[i8]) -> [[__m256i; VECTORS]; ROWS] {
            let weights = weights.as_chunks::<32>().0.as_chunks::<VECTORS>().0;
            // Lets the compiler drop the bounds checks in the loop.
            let mut equal = *rows;
            for row in &mut equal {
                *row = &row[..weights.len()];
            }
            let mut sums = [[_mm256_setzero_si256(); VECTORS]; ROWS];
            for (step, weights) in weights.iter().enumerate() {
                let weights: [__m256i; VECTORS] = std::array::from_fn(|v| {
                    // SAFETY: the array has 32 bytes.
                    unsafe { _mm256_loadu_si256(weights[v].as_ptr().cast()) }
                });
                for r in 0..ROWS {
                    let x = _mm256_set1_epi32(i32::from_ne_bytes(equal[r][step]));
                    for v in 0..VECTORS {
                        sums[r][v] = $dpbusd(sums[r][v], x, weights[v]);
                    }
                }
            }
            sums
        }
    };
}

multiply!(multiply_avx, tile_avx, "avx2,avxvnni", _mm256_dpbusd_avx_epi32);
#[cfg(test)]
multiply!(multiply_avx512, tile_avx512, "avx2,avx512vnni,avx512vl", _mm256_dpbusd_epi32);
