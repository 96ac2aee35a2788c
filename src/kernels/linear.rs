//! Linear layers for a few rows; the epilogue runs while the sums are in registers.

use pulp::{Simd, WithSimd};

use super::gelu::gelu_f32s;
use super::linear8::Linear8;
use super::panels::{Panel, Panels, accumulate, load, store};
use super::{Arch, Epilogue};

/// A linear layer with its weights packed.
#[derive(Clone, Debug)]
pub(crate) struct Linear(Weights);

#[derive(Clone, Debug)]
enum Weights {
    F32(Panels),
    Int8(Linear8),
}

/// The format in which the weights of linear layers are stored and multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WeightFormat {
    F32,
    /// Weights and inputs quantized to 8 bits.
    Int8,
}

impl Linear {
    /// Packs `weight` `[n_out, n_in]`.
    pub(crate) fn new(
        arch: Arch,
        format: WeightFormat,
        (n_in, n_out): (usize, usize),
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Self {
        Self(match format {
            WeightFormat::F32 => {
                let at = |row, column| weight[column * n_in + row];
                Weights::F32(Panels::new(arch, (n_in, n_out), bias, at))
            }
            WeightFormat::Int8 => Weights::Int8(Linear8::new(arch, (n_in, n_out), weight, bias)),
        })
    }

    /// Applies the layer to `x` `[rows, n_in]`, with the result in `out` `[rows, n_out]`. Runs on the calling thread.
    pub(crate) fn run(&self, x: &[f32], out: &mut [f32], epilogue: Epilogue) {
        match &self.0 {
            Weights::F32(panels) => panels.arch.dispatch(Job { panels, x, out, epilogue }),
            Weights::Int8(layer) => layer.run(x, out, epilogue),
        }
    }
}

struct Job<'a> {
    panels: &'a Panels,
    x: &'a [f32],
    out: &'a mut [f32],
    epilogue: Epilogue,
}

impl WithSimd for Job<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if S::REGISTER_COUNT >= 32 { self.rows::<S, 8>(simd) } else { self.rows::<S, 4>(simd) }
    }
}

impl Job<'_> {
    #[inline(always)]
    fn rows<S: Simd, const ROWS: usize>(mut self, simd: S) {
        for panel in self.panels.panels() {
            match panel.vectors {
                3 => self.panel::<S, ROWS, 3>(simd, panel),
                2 => self.panel::<S, ROWS, 2>(simd, panel),
                _ => self.panel::<S, ROWS, 1>(simd, panel),
            }
        }
    }

    #[inline(always)]
    fn panel<S: Simd, const ROWS: usize, const VECTORS: usize>(&mut self, simd: S, panel: Panel) {
        let (n_in, n_out) = (self.panels.rows, self.panels.columns);
        let weights = self.panels.weights::<S>(panel);
        let mut initial = [simd.splat_f32s(0.0); VECTORS];
        initial.copy_from_slice(self.panels.bias::<S>(panel));
        for (x, out) in self.x.chunks(ROWS * n_in).zip(self.out.chunks_mut(ROWS * n_out)) {
            let mut rows = [&x[..n_in]; ROWS];
            for (row, x) in rows.iter_mut().zip(x.chunks_exact(n_in)) {
                *row = x;
            }
            let mut sums = [initial; ROWS];
            accumulate(simd, &mut sums, &rows, n_in, weights);
            for (sums, out) in sums.iter().zip(out.chunks_exact_mut(n_out)) {
                for (v, &sum) in sums.iter().enumerate() {
                    let first = panel.first + v * S::F32_LANES;
                    let range = first..(first + S::F32_LANES).min(n_out);
                    let value = match self.epilogue {
                        Epilogue::Store => sum,
                        Epilogue::Gelu => gelu_f32s(simd, sum),
                        Epilogue::Add => simd.add_f32s(sum, load(simd, &out[range.clone()])),
                    };
                    store(simd, &mut out[range], value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::random;

    #[test]
    fn it_equals_the_plain_form() {
        for arch in Arch::all() {
            for (rows, n_in, n_out) in [(1, 1, 1), (7, 20, 17), (8, 64, 48), (19, 33, 130)] {
                let (x, weight) = (random(rows * n_in, 1), random(n_in * n_out, 2));
                let (bias, before) = (random(n_out, 3), random(rows * n_out, 4));
                let layer = Linear::new(arch, WeightFormat::F32, (n_in, n_out), &weight, Some(&bias));
                let plain = |row: usize, column: usize| {
                    let products = (0..n_in).map(|i| x[row * n_in + i] * weight[column * n_in + i]);
                    bias[column] + products.sum::<f32>()
                };
                let gelu = |x: f32| x / (1.0 + (-1.595_769_2 * (x + 0.044715 * x.powi(3))).exp());
                for epilogue in [Epilogue::Store, Epilogue::Gelu, Epilogue::Add] {
                    let mut out = before.clone();
                    layer.run(&x, &mut out, epilogue);
                    for (i, &value) in out.iter().enumerate() {
                        let sum = plain(i / n_out, i % n_out);
                        let expected = match epilogue {
                            Epilogue::Store => sum,
                            Epilogue::Gelu => gelu(sum),
                            Epilogue::Add => before[i] + sum,
                        };
                        let off = (value - expected).abs();
                        assert!(
                            off < 2e-5,
                            "{arch:?} {rows}x{n_in}x{n_out} {epilogue:?}: {value}, not {expected}"
                        );
                    }
                }
            }
        }
    }
}
