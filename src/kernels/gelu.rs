//! GELU in the tanh form (<https://arxiv.org/abs/1606.08415>).
//!
//! candle calls the C library's `tanh` for every number, which takes a fifth of a transformer's time on a
//! CPU. Since (1 + tanh u) / 2 = 1 / (1 + e^−2u), one exponential does, and a polynomial for it that the
//! compiler turns into vector instructions.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// x / (1 + e^−2u), u = √(2/π) (x + 0.044715 x³): what `x.gelu()` gives, to a few units in the last place.
pub(crate) fn gelu(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() && x.dtype() == DType::F32 && x.is_contiguous() {
        x.apply_op1_no_bwd(&Gelu)
    } else {
        x.gelu()
    }
}

struct Gelu;

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        // As many numbers as are worth another thread.
        const PORTION: usize = 1 << 13;
        let first = layout.start_offset();
        let source = &storage.as_slice::<f32>()?[first..first + layout.shape().elem_count()];
        let mut out = vec![0f32; source.len()];
        out.par_chunks_mut(PORTION).zip(source.par_chunks(PORTION)).for_each(|(out, source)| {
            for (out, &x) in out.iter_mut().zip(source) {
                const TWO_SQRT_2_OVER_PI: f32 = 1.595_769_2;
                *out = x / (1.0 + exp(-TWO_SQRT_2_OVER_PI * (x + 0.044715 * x * x * x)));
            }
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

/// e^x for |x| up to 87, and no more beyond: x = n ln 2 + r, a polynomial in r, times 2^n. The polynomial is
/// that of Cephes' `expf`.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Added to a small number, it leaves the number's integer part in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 87.0);
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn it_equals_the_plain_form() {
        // From −30 to 30 and some far out, in more than one portion.
        let numbers = (-30_000..30_000).map(|i| i as f32 / 1000.0).chain([-1e9, 1e9, -1e-9, 1e-9]);
        let x = Tensor::from_iter(numbers, &Device::Cpu).unwrap();
        let values = |t: Tensor| t.to_vec1::<f32>().unwrap();
        for (kernel, plain) in values(gelu(&x).unwrap()).into_iter().zip(values(x.gelu().unwrap())) {
            assert!((kernel - plain).abs() <= 1e-6 * plain.abs().max(1.0), "{kernel} {plain}");
        }
        let nan = Tensor::new(&[f32::NAN], &Device::Cpu).unwrap();
        assert!(values(gelu(&nan).unwrap())[0].is_nan());
    }

    #[test]
    fn it_reads_a_part_of_a_tensor() {
        let x = Tensor::arange(0f32, 8.0, &Device::Cpu).unwrap().reshape((4, 2)).unwrap();
        let part = x.narrow(0, 1, 2).unwrap();
        let values = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (kernel, plain) in values(gelu(&part).unwrap()).into_iter().zip(values(part.gelu().unwrap())) {
            assert!((kernel - plain).abs() < 1e-6, "{kernel} {plain}");
        }
    }
}
