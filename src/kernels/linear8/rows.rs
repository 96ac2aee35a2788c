//! Quantization of the inputs of a linear layer.

use pulp::{Simd, WithSimd};

use super::super::Arch;
use super::Tile;

/// The inputs that one lane multiplies in an instruction: four of 8 bits, or two of 16.
pub(super) type Word = [u8; 4];

/// The rows of an input, quantized.
pub(super) struct Int8Rows {
    /// Words per row.
    words: usize,
    rows: usize,
    data: Vec<Word>,
    /// The quantization step of each row.
    pub(super) scale: Vec<f32>,
}

impl Int8Rows {
    pub(super) fn new(arch: Arch, tile: Tile, x: &[f32], n_in: usize) -> Self {
        let bytes = n_in.next_multiple_of(tile.inputs) * tile.bytes;
        let (words, rows) = (bytes / size_of::<Word>(), x.len() / n_in);
        let mut quantized = Self { words, rows, data: vec![[0; 4]; rows * words], scale: vec![0.0; rows] };
        arch.dispatch(Quantize { tile, x, n_in, into: &mut quantized });
        quantized
    }

    /// The row `row`; beyond the end, the last one.
    pub(super) fn row(&self, row: usize) -> &[Word] {
        &self.data[row.min(self.rows - 1) * self.words..][..self.words]
    }
}

struct Quantize<'a> {
    tile: Tile,
    x: &'a [f32],
    n_in: usize,
    into: &'a mut Int8Rows,
}

impl WithSimd for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { tile, x, n_in, into } = self;
        // Adding it to a small value leaves the nearest integer in the low bits, plus the offset.
        let magic = 12_582_912.0 + tile.offset as f32;
        let rows = x.chunks_exact(n_in).zip(into.data.chunks_exact_mut(into.words)).zip(&mut into.scale);
        for ((x, data), scale) in rows {
            let (vectors, rest) = S::as_simd_f32s(x);
            let mut max = simd.splat_f32s(0.0);
            for &x in vectors {
                max = simd.max_f32s(max, simd.abs_f32s(x));
            }
            *scale = scale_of(rest.iter().fold(simd.reduce_max_f32s(max), |max, x| max.max(x.abs())));
            let inverse = 1.0 / *scale;
            let bytes = data.as_flattened_mut();
            match tile.bytes {
                1 => {
                    for (byte, &x) in bytes.iter_mut().zip(x) {
                        *byte = (x * inverse + magic).to_bits() as u8;
                    }
                }
                _ => {
                    for (two, &x) in bytes.as_chunks_mut().0.iter_mut().zip(x) {
                        *two = ((x * inverse + magic).to_bits() as u16).to_ne_bytes();
                    }
                }
            }
        }
    }
}

pub(super) fn max_abs(values: &[f32]) -> f32 {
    values.iter().fold(0f32, |max, x| max.max(x.abs()))
}

/// The quantization step: the greatest absolute value becomes 127.
pub(super) fn scale_of(max_abs: f32) -> f32 {
    if max_abs > 0.0 { max_abs / 127.0 } else { 1.0 }
}
