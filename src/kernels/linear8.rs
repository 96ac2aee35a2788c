//! Int8 linear layers: every input row and every weight column has its own scale.
//!
//! Products and sums are exact integers; only quantization loses precision (W8A8, <https://arxiv.org/abs/2211.10438>).
//! AVX-512 VNNI multiplies four times as many 8-bit values per instruction as 32-bit ones, and the weights take a quarter of
//! the cache bandwidth.

use pulp::{Simd, WithSimd};

use super::gelu::gelu_each;
use super::panels::Panel;
use super::{Arch, Epilogue};

/// Columns per vector.
const LANES: usize = 16;
/// Inputs per lane that one instruction multiplies.
const GROUP: usize = 4;
/// Rows per tile.
const ROWS: usize = 8;

/// A linear layer with quantized, packed weights.
#[derive(Clone, Debug)]
pub(crate) struct Linear8 {
    arch: Arch,
    n_in: usize,
    n_out: usize,
    panels: Vec<Panel>,
    /// Panel after panel, `[groups, vectors]` each.
    data: Vec<Vector>,
    /// The quantization step of each column.
    scale: Vec<f32>,
    bias: Vec<f32>,
    /// Initial value of each column's sum: it cancels the offset of 128 that makes inputs unsigned.
    start: Vec<i32>,
}

/// The weights of a group of inputs, column by column.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Vector([[i8; GROUP]; LANES]);

impl Linear8 {
    /// Quantizes and packs `weight` `[n_out, n_in]`.
    pub(crate) fn new(
        arch: Arch,
        (n_in, n_out): (usize, usize),
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Self {
        let (padded, groups) = (n_out.next_multiple_of(LANES), n_in.div_ceil(GROUP));
        let column = |column: usize| weight.get(column * n_in..(column + 1) * n_in).unwrap_or_default();
        let scale: Vec<_> = (0..padded).map(|c| scale_of(max_abs(column(c)))).collect();
        let quantized = |c: usize, i: usize| column(c).get(i).map_or(0, |w| (w / scale[c]).round() as i8);
        let mut bias = bias.unwrap_or_default().to_vec();
        bias.resize(padded, 0.0);
        let panels = Panel::cut(n_out, LANES);
        let mut data = Vec::with_capacity(padded / LANES * groups);
        let mut start = vec![0; padded];
        for &Panel { first, vectors } in &panels {
            for group in 0..groups {
                for first in (first..).step_by(LANES).take(vectors) {
                    let weight = |lane, i| quantized(first + lane, group * GROUP + i);
                    let vector = Vector(std::array::from_fn(|lane| std::array::from_fn(|i| weight(lane, i))));
                    for (start, weights) in start[first..].iter_mut().zip(&vector.0) {
                        *start -= 128 * weights.iter().map(|&weight| i32::from(weight)).sum::<i32>();
                    }
                    data.push(vector);
                }
            }
        }
        Self { arch, n_in, n_out, panels, data, scale, bias, start }
    }

    /// Applies the layer to `x` `[rows, n_in]`, with the result in `out` `[rows, n_out]`. Runs on the calling thread.
    pub(crate) fn run(&self, x: &[f32], out: &mut [f32], epilogue: Epilogue) {
        let x = Int8Rows::new(self.arch, x, self.n_in);
        for &panel in &self.panels {
            #[cfg(target_arch = "x86_64")]
            if vnni(self.arch) {
                // SAFETY: `vnni` checked that this CPU has the instructions.
                unsafe {
                    match panel.vectors {
                        3 => self.panel_vnni::<3>(&x, panel, out, epilogue),
                        2 => self.panel_vnni::<2>(&x, panel, out, epilogue),
                        _ => self.panel_vnni::<1>(&x, panel, out, epilogue),
                    }
                }
                continue;
            }
            self.arch.dispatch(Portable { layer: self, x: &x, panel, out, epilogue });
        }
        if let Epilogue::Gelu = epilogue {
            gelu_each(self.arch, out);
        }
    }

    fn weights(&self, Panel { first, vectors }: Panel) -> &[Vector] {
        let (first, groups) = (first / LANES, self.n_in.div_ceil(GROUP));
        &self.data[first * groups..(first + vectors) * groups]
    }

    /// Scales the sums of one row for the vector of columns from `first` on, and applies the epilogue.
    #[inline(always)]
    fn finish(&self, sums: &[i32; LANES], scale: f32, first: usize, out: &mut [f32], epilogue: Epilogue) {
        let columns = self.scale[first..first + LANES].iter().zip(&self.bias[first..first + LANES]);
        let out = &mut out[first..(first + LANES).min(self.n_out)];
        for ((out, &sum), (column, bias)) in out.iter_mut().zip(sums).zip(columns) {
            let value = sum as f32 * (scale * column) + bias;
            *out = if let Epilogue::Add = epilogue { *out + value } else { value };
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn panel_vnni<const VECTORS: usize>(
        &self,
        x: &Int8Rows,
        panel: Panel,
        out: &mut [f32],
        epilogue: Epilogue,
    ) {
        use std::arch::x86_64::*;

        let weights = self.weights(panel);
        let columns = panel.first..panel.first + VECTORS * LANES;
        let starts: [__m512i; VECTORS] = std::array::from_fn(|v| {
            let start = &self.start[columns.clone()][v * LANES..][..LANES];
            // SAFETY: the slice has 16 values of 32 bits.
            unsafe { _mm512_loadu_si512(start.as_ptr().cast()) }
        });
        let vectors = |values: &[f32]| -> [__m512; VECTORS] {
            std::array::from_fn(|v| {
                let values = &values[columns.clone()][v * LANES..][..LANES];
                // SAFETY: the slice has 16 values of 32 bits.
                unsafe { _mm512_loadu_ps(values.as_ptr()) }
            })
        };
        let (scales, biases) = (vectors(&self.scale), vectors(&self.bias));
        for (tile, out) in out.chunks_mut(ROWS * self.n_out).enumerate() {
            let rows = std::array::from_fn(|r| x.row(tile * ROWS + r));
            let sums = sums_vnni(starts, &rows, weights);
            for (r, (sums, out)) in sums.iter().zip(out.chunks_exact_mut(self.n_out)).enumerate() {
                let scale = _mm512_set1_ps(x.scale[tile * ROWS + r]);
                for (v, &sum) in sums.iter().enumerate() {
                    let first = panel.first + v * LANES;
                    let out = &mut out[first..(first + LANES).min(self.n_out)];
                    let mask = u16::MAX >> (LANES - out.len());
                    let factor = _mm512_mul_ps(scale, scales[v]);
                    let mut value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), factor, biases[v]);
                    // SAFETY: the mask limits reads and writes to the length of `out`.
                    unsafe {
                        if let Epilogue::Add = epilogue {
                            value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, out.as_ptr()));
                        }
                        _mm512_mask_storeu_ps(out.as_mut_ptr(), mask, value);
                    }
                }
            }
        }
    }
}

/// `starts` plus the products of `rows` and `weights`, `VECTORS` vectors per group. The sums are returned by value: without
/// an address in the loop, the compiler keeps them in registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
fn sums_vnni<const VECTORS: usize>(
    starts: [std::arch::x86_64::__m512i; VECTORS],
    rows: &[&[[u8; GROUP]]; ROWS],
    weights: &[Vector],
) -> [[std::arch::x86_64::__m512i; VECTORS]; ROWS] {
    use std::arch::x86_64::*;

    let groups = weights.len() / VECTORS;
    // Lets the compiler drop the bounds checks in the loop.
    let mut equal = *rows;
    for row in &mut equal {
        *row = &row[..groups];
    }
    let mut sums = [starts; ROWS];
    for group in 0..groups {
        let weights: [__m512i; VECTORS] = std::array::from_fn(|v| {
            // SAFETY: a `Vector` has 64 bytes and is aligned to 64.
            unsafe { _mm512_load_si512((&raw const weights[group * VECTORS + v]).cast()) }
        });
        for r in 0..ROWS {
            let four = _mm512_set1_epi32(i32::from_ne_bytes(equal[r][group]));
            for v in 0..VECTORS {
                sums[r][v] = _mm512_dpbusd_epi32(sums[r][v], four, weights[v]);
            }
        }
    }
    sums
}

/// Whether to use the AVX-512 VNNI instructions.
#[cfg(target_arch = "x86_64")]
pub(super) fn vnni(arch: Arch) -> bool {
    matches!(arch, Arch::Avx512(_)) && is_x86_feature_detected!("avx512vnni")
}

fn max_abs(values: &[f32]) -> f32 {
    values.iter().fold(0f32, |max, x| max.max(x.abs()))
}

/// The quantization step: the greatest absolute value becomes 127.
fn scale_of(max_abs: f32) -> f32 {
    if max_abs > 0.0 { max_abs / 127.0 } else { 1.0 }
}

/// The rows of an input, quantized.
struct Int8Rows {
    groups: usize,
    rows: usize,
    /// Quantized values plus 128.
    data: Vec<[u8; GROUP]>,
    /// The quantization step of each row.
    scale: Vec<f32>,
}

impl Int8Rows {
    fn new(arch: Arch, x: &[f32], n_in: usize) -> Self {
        let (groups, rows) = (n_in.div_ceil(GROUP), x.len() / n_in);
        let mut quantized =
            Self { groups, rows, data: vec![[0; GROUP]; rows * groups], scale: vec![0.0; rows] };
        arch.dispatch(Quantize { x, n_in, into: &mut quantized });
        quantized
    }

    /// The row `row`; beyond the end, the last one.
    fn row(&self, row: usize) -> &[[u8; GROUP]] {
        &self.data[row.min(self.rows - 1) * self.groups..][..self.groups]
    }
}

struct Quantize<'a> {
    x: &'a [f32],
    n_in: usize,
    into: &'a mut Int8Rows,
}

impl WithSimd for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Adding it to a small value leaves the nearest integer plus 128 in the low bits.
        const MAGIC: f32 = 12_582_912.0 + 128.0;
        let Self { x, n_in, into } = self;
        let rows = x.chunks_exact(n_in).zip(into.data.chunks_exact_mut(into.groups)).zip(&mut into.scale);
        for ((x, data), scale) in rows {
            let (vectors, rest) = S::as_simd_f32s(x);
            let mut max = simd.splat_f32s(0.0);
            for &x in vectors {
                max = simd.max_f32s(max, simd.abs_f32s(x));
            }
            *scale = scale_of(rest.iter().fold(simd.reduce_max_f32s(max), |max, x| max.max(x.abs())));
            let inverse = 1.0 / *scale;
            for (byte, &x) in data.as_flattened_mut().iter_mut().zip(x) {
                *byte = (x * inverse + MAGIC).to_bits() as u8;
            }
        }
    }
}

/// A panel in portable code, which the compiler vectorises.
struct Portable<'a> {
    layer: &'a Linear8,
    x: &'a Int8Rows,
    panel: Panel,
    out: &'a mut [f32],
    epilogue: Epilogue,
}

impl WithSimd for Portable<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { layer, x, panel, out, epilogue } = self;
        let weights = layer.weights(panel);
        for (row, out) in out.chunks_exact_mut(layer.n_out).enumerate() {
            for v in 0..panel.vectors {
                let first = panel.first + v * LANES;
                let mut sums = [0i32; LANES];
                sums.copy_from_slice(&layer.start[first..first + LANES]);
                for (four, weights) in x.row(row).iter().zip(weights.chunks_exact(panel.vectors)) {
                    let four = four.map(i16::from);
                    for (sum, weights) in sums.iter_mut().zip(&weights[v].0) {
                        for (x, weight) in four.iter().zip(weights) {
                            *sum += i32::from(*x) * i32::from(*weight);
                        }
                    }
                }
                layer.finish(&sums, x.scale[row], first, out, epilogue);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::random;

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
        for arch in Arch::all() {
            for (rows, n_in, n_out) in [(1, 1, 1), (7, 22, 17), (8, 64, 48), (19, 33, 130)] {
                let (mut x, weight) = (random(rows * n_in, 1), random(n_in * n_out, 2));
                let (bias, before) = (random(n_out, 3), random(rows * n_out, 4));
                // Rows of very different magnitude, and one of zeros.
                for (i, x) in x.iter_mut().enumerate() {
                    *x *= [1.0, 300.0, 0.0][i / n_in % 3];
                }
                let layer = Linear8::new(arch, (n_in, n_out), &weight, Some(&bias));
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
                            "{arch:?} {rows}x{n_in}x{n_out} {epilogue:?} at {row}, {column}: {value}, not {expected}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_largest_sums_do_not_overflow() {
        for arch in Arch::all() {
            let (n_in, n_out) = (20_000, 16);
            let layer = Linear8::new(arch, (n_in, n_out), &vec![1.0; n_in * n_out], None);
            let mut out = vec![0.0; n_out];
            layer.run(&vec![-1.0; n_in], &mut out, Epilogue::Store);
            assert!(out.iter().all(|x| (x + n_in as f32).abs() < 1.0), "{arch:?} {out:?}");
        }
    }
}
