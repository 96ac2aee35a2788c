//! Norms and rotary embeddings of single rows.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::Arch;
use super::gelu::exp_f32s;

/// The sum of `values`, or with `mean` the sum of their squared distances from it.
struct Sums<'a> {
    values: &'a [f32],
    mean: Option<f32>,
}

impl WithSimd for Sums<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let (vectors, rest) = S::as_simd_f32s(self.values);
        let mut sum = simd.splat_f32s(0.0);
        match self.mean {
            None => {
                for &x in vectors {
                    sum = simd.add_f32s(sum, x);
                }
                simd.reduce_sum_f32s(sum) + rest.iter().sum::<f32>()
            }
            Some(mean) => {
                let mean_s = simd.splat_f32s(mean);
                for &x in vectors {
                    let off = simd.sub_f32s(x, mean_s);
                    sum = simd.mul_add_e_f32s(off, off, sum);
                }
                simd.reduce_sum_f32s(sum) + rest.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>()
            }
        }
    }
}

/// Layer norm: normalises every row of `x` to mean 0 and variance 1, × `scale` + `shift`, both per column.
pub(crate) fn layer_norm(arch: Arch, x: &[f32], eps: f32, scale: &[f32], shift: &[f32], out: &mut [f32]) {
    let dim = scale.len();
    for (x, out) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
        let mean = arch.dispatch(Sums { values: x, mean: None }) / dim as f32;
        let variance = arch.dispatch(Sums { values: x, mean: Some(mean) }) / dim as f32;
        let factor = 1.0 / (variance + eps).sqrt();
        for (((out, x), scale), shift) in out.iter_mut().zip(x).zip(scale).zip(shift) {
            *out = (x - mean) * factor * scale + shift;
        }
    }
}

/// RMS norm: divides the row `x` by its root mean square, × `weight`.
pub(crate) fn rms_norm(arch: Arch, x: &mut [f32], eps: f32, weight: &[f32]) {
    let square = arch.dispatch(Sums { values: x, mean: Some(0.0) }) / x.len() as f32;
    let factor = 1.0 / (square + eps).sqrt();
    for (x, weight) in x.iter_mut().zip(weight) {
        *x *= factor * weight;
    }
}

/// Divides every row of `x` by its L2 norm, at least 1e-12 like torch's `normalize`, × `weight`, per column. With `silu`,
/// applies `SiLU` to the result.
pub(crate) fn unit_rows(arch: Arch, x: &[f32], weight: &[f32], silu: bool, out: &mut [f32]) {
    // Rows that are worth another thread.
    let portion = (1 << 14) / weight.len() * weight.len() + weight.len();
    out.par_chunks_mut(portion).zip(x.par_chunks(portion)).for_each(|(out, x)| {
        arch.dispatch(UnitRows { x, weight, silu, out });
    });
}

struct UnitRows<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    silu: bool,
    out: &'a mut [f32],
}

impl WithSimd for UnitRows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let dim = self.weight.len();
        let (weights, weights_rest) = S::as_simd_f32s(self.weight);
        for (x, out) in self.x.chunks_exact(dim).zip(self.out.chunks_exact_mut(dim)) {
            let ((x, x_rest), (out, out_rest)) = (S::as_simd_f32s(x), S::as_mut_simd_f32s(out));
            let last = simd.partial_load_f32s(x_rest);
            let mut square = simd.mul_f32s(last, last);
            for &x in x {
                square = simd.mul_add_e_f32s(x, x, square);
            }
            let factor = simd.splat_f32s(1.0 / simd.reduce_sum_f32s(square).sqrt().max(1e-12));
            for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weights) {
                *out = scaled(simd, x, factor, weight, self.silu);
            }
            let last = scaled(simd, last, factor, simd.partial_load_f32s(weights_rest), self.silu);
            simd.partial_store_f32s(out_rest, last);
        }
    }
}

/// x × `factor` × `weight`, with optional `SiLU`. Not a closure, which would be compiled without the vector instructions.
#[inline(always)]
fn scaled<S: Simd>(simd: S, x: S::f32s, factor: S::f32s, weight: S::f32s, silu: bool) -> S::f32s {
    let y = simd.mul_f32s(simd.mul_f32s(x, factor), weight);
    if silu { silu_f32s(simd, y) } else { y }
}

/// x / (1 + e^−x).
#[inline(always)]
fn silu_f32s<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let power = exp_f32s(simd, simd.neg_f32s(x));
    simd.div_f32s(x, simd.add_f32s(simd.splat_f32s(1.0), power))
}

/// Rotates the pairs (2i, 2i + 1) of every head of one row. `cos` and `sin` have one angle per pair of a head.
pub(crate) fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    for head in x.chunks_exact_mut(2 * cos.len()) {
        for ((pair, cos), sin) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
            let (a, b) = (pair[0], pair[1]);
            pair[0] = a * cos - b * sin;
            pair[1] = a * sin + b * cos;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::random;
    use candle_core::{Device, Tensor};

    fn assert_equal(values: &[f32], plain: Tensor) {
        let plain: Vec<f32> = plain.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(values.len(), plain.len());
        for (a, b) in values.iter().zip(&plain) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }

    #[test]
    fn the_kernels_equal_the_plain_forms() {
        let tensor = |x: &[f32], shape: &[usize]| Tensor::from_slice(x, shape, &Device::Cpu).unwrap();
        for arch in Arch::all() {
            for dim in [4, 52, 256] {
                let (x, scale, shift) = (random(3 * dim, 1), random(dim, 2), random(dim, 3));
                let mut out = vec![0.0; 3 * dim];
                layer_norm(arch, &x, 1e-6, &scale, &shift, &mut out);
                let (x_t, scale_t) = (tensor(&x, &[3, dim]), tensor(&scale, &[dim]));
                let plain = candle_nn::ops::layer_norm(&x_t, &scale_t, &tensor(&shift, &[dim]), 1e-6);
                assert_equal(&out, plain.unwrap());

                for silu in [false, true] {
                    unit_rows(arch, &x, &scale, silu, &mut out);
                    let length = x_t.sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap();
                    let plain = x_t.broadcast_div(&length).unwrap().broadcast_mul(&scale_t).unwrap();
                    assert_equal(&out, if silu { plain.silu().unwrap() } else { plain });
                }
                unit_rows(arch, &vec![0.0; dim], &scale, true, &mut out[..dim]);
                assert!(out[..dim].iter().all(|&x| x == 0.0), "{arch:?} {dim}");

                let mut row = x[..dim].to_vec();
                rms_norm(arch, &mut row, 1e-6, &scale);
                let first = x_t.narrow(0, 0, 1).unwrap();
                assert_equal(&row, candle_nn::ops::rms_norm(&first, &scale_t, 1e-6).unwrap());
            }
        }
        // Two heads of two pairs.
        let (x, cos, sin) = (random(8, 4), random(2, 5), random(2, 6));
        let mut rotated = x.clone();
        rotate(&mut rotated, &cos, &sin);
        let heads = tensor(&x, &[1, 2, 1, 4]);
        let plain = candle_nn::rotary_emb::rope_i(&heads, &tensor(&cos, &[1, 2]), &tensor(&sin, &[1, 2]));
        assert_equal(&rotated, plain.unwrap());
    }
}
