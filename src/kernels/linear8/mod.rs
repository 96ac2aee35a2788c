//! Int8 linear layers: every input row and every weight column has its own scale.
//!
//! Products and sums are exact integers; only quantization loses precision (W8A8, <https://arxiv.org/abs/2211.10438>). Every
//! instruction set therefore gives the same sums. 8-bit values take a quarter of the cache bandwidth of 32-bit ones, and VNNI
//! multiplies four times as many per instruction.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod form;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod rows;
#[cfg(target_arch = "x86_64")]
mod vnni256;

use pulp::{Simd, WithSimd};

use super::gelu::gelu_f32s;
use super::panels::{Panel, load, store};
use super::{Arch, Epilogue};
use form::{Form, MAX_SUMS, MAX_WIDTH, Tile};
use rows::{Int8Rows, max_abs, scale_of};

/// A linear layer with quantized, packed weights.
#[derive(Clone, Debug)]
pub(crate) struct Linear8 {
    arch: Arch,
    form: Form,
    n_in: usize,
    n_out: usize,
    panels: Vec<Panel>,
    /// Panel after panel, `[steps, vectors, lanes, inputs]` each.
    data: Vec<CacheLine>,
    /// The quantization step of each column.
    scale: Vec<f32>,
    bias: Vec<f32>,
    /// Initial value of each column's sum: it cancels the offset of the inputs.
    start: Vec<i32>,
}

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct CacheLine([i8; 64]);

/// Whether int8 products are faster than f32 products with `arch`.
pub(super) fn is_fast(arch: Arch) -> bool {
    match (Form::fastest(arch), arch) {
        (Form::Portable, _) => false,
        // Without VNNI, the f32 products of AVX-512 are twice as wide.
        #[cfg(target_arch = "x86_64")]
        (Form::Avx2, Arch::Avx512(_)) => false,
        _ => true,
    }
}

impl Linear8 {
    /// Quantizes and packs `weight` `[n_out, n_in]`.
    pub(crate) fn new(arch: Arch, shape: (usize, usize), weight: &[f32], bias: Option<&[f32]>) -> Self {
        Self::with_form(arch, Form::fastest(arch), shape, weight, bias)
    }

    fn with_form(
        arch: Arch,
        form: Form,
        (n_in, n_out): (usize, usize),
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Self {
        let Tile { lanes, inputs, vectors, offset, .. } = form.tile();
        let (padded, steps) = (n_out.next_multiple_of(lanes), n_in.div_ceil(inputs));
        let column = |column: usize| weight.get(column * n_in..(column + 1) * n_in).unwrap_or_default();
        let scale: Vec<_> = (0..padded).map(|c| scale_of(max_abs(column(c)))).collect();
        let quantized = |c: usize, i: usize| column(c).get(i).map_or(0, |w| (w / scale[c]).round() as i8);
        let mut bias = bias.unwrap_or_default().to_vec();
        bias.resize(padded, 0.0);
        let panels = Panel::cut(n_out, lanes, vectors);
        let mut data = vec![CacheLine([0; 64]); (padded * steps * inputs).div_ceil(64)];
        let mut bytes = data.iter_mut().flat_map(|line| &mut line.0);
        let mut start = vec![0; padded];
        for &Panel { first, vectors } in &panels {
            for step in 0..steps {
                for (column, start) in start.iter_mut().enumerate().skip(first).take(vectors * lanes) {
                    for (i, byte) in (step * inputs..(step + 1) * inputs).zip(&mut bytes) {
                        *byte = quantized(column, i);
                        *start -= offset * i32::from(*byte);
                    }
                }
            }
        }
        Self { arch, form, n_in, n_out, panels, data, scale, bias, start }
    }

    /// Applies the layer to `x` `[rows, n_in]`, with the result in `out` `[rows, n_out]`. Runs on the calling thread.
    pub(crate) fn run(&self, x: &[f32], out: &mut [f32], epilogue: Epilogue) {
        let x = Int8Rows::new(self.arch, self.form.tile(), x, self.n_in);
        self.arch.dispatch(Job { layer: self, x: &x, out, epilogue });
    }

    /// The weights of `panel`.
    fn weights(&self, Panel { first, vectors }: Panel) -> &[i8] {
        let Tile { lanes, inputs, .. } = self.form.tile();
        let column = self.n_in.div_ceil(inputs) * inputs;
        // SAFETY: `CacheLine` is 64 values without padding.
        let all = unsafe { std::slice::from_raw_parts(self.data.as_ptr().cast(), 64 * self.data.len()) };
        &all[first * column..(first + vectors * lanes) * column]
    }
}

struct Job<'a> {
    layer: &'a Linear8,
    x: &'a Int8Rows,
    out: &'a mut [f32],
    epilogue: Epilogue,
}

impl WithSimd for Job<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { layer, x, out, epilogue } = self;
        let Tile { rows, lanes, .. } = layer.form.tile();
        let mut sums = [0; MAX_SUMS];
        for &panel in &layer.panels {
            let weights = layer.weights(panel);
            let width = panel.vectors * lanes;
            for (tile, out) in out.chunks_mut(rows * layer.n_out).enumerate() {
                let first = tile * rows;
                let sums = &mut sums[..rows * width];
                layer.form.multiply(|row| x.row(first + row), weights, panel.vectors, sums);
                let each = sums.chunks_exact(width).zip(&x.scale[first..]);
                for ((sums, &scale), out) in each.zip(out.chunks_exact_mut(layer.n_out)) {
                    finish(simd, layer, panel.first, sums, scale, out, epilogue);
                }
            }
        }
    }
}

/// Scales the sums of one row for the columns from `first` on, and applies the epilogue.
#[inline(always)]
fn finish<S: Simd>(
    simd: S,
    layer: &Linear8,
    first: usize,
    sums: &[i32],
    scale: f32,
    out: &mut [f32],
    epilogue: Epilogue,
) {
    let columns = first..(first + sums.len()).min(layer.n_out);
    let mut values = [0.0; MAX_WIDTH];
    for ((value, sum), start) in values.iter_mut().zip(sums).zip(&layer.start[columns.clone()]) {
        *value = (sum + start) as f32;
    }
    let values = values[..columns.len()].chunks(S::F32_LANES);
    let scales = layer.scale[columns.clone()].chunks(S::F32_LANES);
    let biases = layer.bias[columns.clone()].chunks(S::F32_LANES);
    let outs = out[columns].chunks_mut(S::F32_LANES);
    for (((value, column), bias), out) in values.zip(scales).zip(biases).zip(outs) {
        let factor = simd.mul_f32s(simd.splat_f32s(scale), load(simd, column));
        let bias = load(simd, bias);
        let value = simd.mul_add_e_f32s(load(simd, value), factor, bias);
        let value = match epilogue {
            Epilogue::Store => value,
            Epilogue::Gelu => gelu_f32s(simd, value),
            Epilogue::Add => simd.add_f32s(value, load(simd, out)),
        };
        store(simd, out, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::random;

    /// Every form with every instruction set for the rest.
    fn all() -> Vec<(Arch, Form)> {
        let forms = |arch| Form::all(arch).into_iter().map(move |form| (arch, form));
        Arch::all().into_iter().flat_map(forms).collect()
    }

    /// Quantizes every value by itself and multiplies in f64.
    fn plain(x: &[f32], weight: &[f32], bias: f32) -> f64 {
        let (sx, sw) = (f64::from(scale_of(max_abs(x))), f64::from(scale_of(max_abs(weight))));
        let sum: f64 = x
            .iter()
            .zip(weight)
            .map(|(x, w)| (f64::from(*x) / sx + 0.5).floor() * (f64::from(*w) / sw).round())
            .sum();
        sum * sx * sw + f64::from(bias)
    }

    #[test]
    fn it_equals_the_product_of_quantized_values() {
        for (arch, form) in all() {
            for (rows, n_in, n_out) in [(1, 1, 1), (7, 22, 17), (8, 64, 48), (19, 33, 130)] {
                let (mut x, weight) = (random(rows * n_in, 1), random(n_in * n_out, 2));
                let (bias, before) = (random(n_out, 3), random(rows * n_out, 4));
                // Rows of very different magnitude, and one of zeros.
                for (i, x) in x.iter_mut().enumerate() {
                    *x *= [1.0, 300.0, 0.0][i / n_in % 3];
                }
                let layer = Linear8::with_form(arch, form, (n_in, n_out), &weight, Some(&bias));
                let gelu = |x: f64| x / (1.0 + (-1.595_769_121_605_731 * (x + 0.044715 * x.powi(3))).exp());
                for epilogue in [Epilogue::Store, Epilogue::Gelu, Epilogue::Add] {
                    let mut out = before.clone();
                    layer.run(&x, &mut out, epilogue);
                    for (i, &value) in out.iter().enumerate() {
                        let (row, column) = (i / n_out, i % n_out);
                        let x = &x[row * n_in..][..n_in];
                        let sum = plain(x, &weight[column * n_in..][..n_in], bias[column]);
                        let expected = match epilogue {
                            Epilogue::Store => sum,
                            Epilogue::Gelu => gelu(sum),
                            Epilogue::Add => f64::from(before[i]) + sum,
                        };
                        // A value halfway between two steps may round either way.
                        let step = f64::from(
                            scale_of(max_abs(x)) * scale_of(max_abs(&weight[column * n_in..][..n_in])),
                        ) * 127.0;
                        let off = (f64::from(value) - expected).abs();
                        assert!(
                            off <= 1.2 * step + 1e-4 * expected.abs() + 1e-5,
                            "{arch:?} {form:?} {rows}x{n_in}x{n_out} {epilogue:?} at {row}, {column}: {value}, not {expected}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn all_forms_give_the_same_values() {
        for (rows, n_in, n_out) in [(1, 1, 1), (5, 37, 19), (13, 130, 100), (24, 256, 64)] {
            let (x, weight) = (random(rows * n_in, 5), random(n_in * n_out, 6));
            let run = |arch, form| {
                let mut out = vec![f32::NAN; rows * n_out];
                let layer = Linear8::with_form(arch, form, (n_in, n_out), &weight, None);
                layer.run(&x, &mut out, Epilogue::Store);
                out
            };
            let portable = run(Arch::Scalar, Form::Portable);
            for (arch, form) in all() {
                assert!(run(arch, form) == portable, "{arch:?} {form:?} {rows}x{n_in}x{n_out}");
            }
        }
    }

    /// Sums of two products with the inputs 127 + 128 exceed 16 bits.
    #[test]
    fn the_largest_sums_do_not_overflow() {
        for (arch, form) in all() {
            for (n_in, n_out) in [(8, 48), (20_000, 16)] {
                for (x, weight) in [(-1.0, 1.0), (1.0, 1.0), (1.0, -1.0), (-1.0, -1.0)] {
                    let weights = vec![weight; n_in * n_out];
                    let layer = Linear8::with_form(arch, form, (n_in, n_out), &weights, None);
                    let mut out = vec![0.0; n_out];
                    layer.run(&vec![x; n_in], &mut out, Epilogue::Store);
                    let sum = x * weight * n_in as f32;
                    assert!(
                        out.iter().all(|out| (out - sum).abs() <= 1e-6 * sum.abs()),
                        "{arch:?} {form:?} {n_in}: {out:?}, not {sum}"
                    );
                }
            }
        }
    }
}
