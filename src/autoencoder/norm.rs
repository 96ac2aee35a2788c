//! The RMS norm of Wan's autoencoders.

use candle_core::{DType, Module, Result, Tensor, bail};
use candle_nn::VarBuilder;

use crate::kernels::{self, Arch, lock_storage};

/// Divides each pixel by the L2 norm over its channels, and multiplies by one weight per channel: `WanRMS_norm`.
#[derive(Clone, Debug)]
pub enum RmsNorm {
    /// candle's operations. The weight is `[1, C, 1, 1]` and includes the factor √C.
    Plain(Tensor),
    /// The CPU kernel, with the same weight per channel.
    Packed(Arch, Vec<f32>),
}

impl RmsNorm {
    /// Loads `gamma`, which is `[C, 1, 1, 1]`, or `[C, 1, 1]` in layers of `images`.
    pub fn load(vb: VarBuilder, channels: usize, images: bool) -> Result<Self> {
        let gamma =
            if images { vb.get((channels, 1, 1), "gamma")? } else { vb.get((channels, 1, 1, 1), "gamma")? };
        let weight = (gamma.to_dtype(DType::F32)?.reshape((1, channels, 1, 1))? * (channels as f64).sqrt())?;
        Ok(match kernels::arch(gamma.dtype(), gamma.device()) {
            Some(arch) => Self::Packed(arch, kernels::to_vec(&weight)?),
            None => Self::Plain(weight),
        })
    }

    /// The norm followed by `SiLU`.
    pub fn silu(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Plain(_) => self.forward(x)?.silu(),
            Self::Packed(arch, weight) => unit_rows(*arch, x, weight, true),
        }
    }
}

impl Module for RmsNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Plain(gamma) => {
                let wide = x.to_dtype(DType::F32)?;
                // torch's `normalize` divides by at least 1e-12.
                let norm = wide.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(1e-12)?;
                wide.broadcast_div(&norm)?.broadcast_mul(gamma)?.to_dtype(x.dtype())
            }
            Self::Packed(arch, weight) => unit_rows(*arch, x, weight, false),
        }
    }
}

fn unit_rows(arch: Arch, x: &Tensor, weight: &[f32], silu: bool) -> Result<Tensor> {
    if x.dims().last() != Some(&weight.len()) {
        bail!("invalid input {x:?} for a norm of {} channels", weight.len());
    }
    let x = x.contiguous()?;
    let mut out = vec![0.0; x.elem_count()];
    kernels::norm::unit_rows(arch, lock_storage(&x).values()?, weight, silu, &mut out);
    Tensor::from_vec(out, x.shape(), x.device())
}
