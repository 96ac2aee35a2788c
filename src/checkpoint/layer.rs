//! Linear layers of candle, on every device.

use std::sync::Arc;

use candle_core::quantized::QMatMul;
use candle_core::{DType, Module, Result, Tensor, bail};
use candle_nn::Linear;

use crate::checkpoint::{Blocks, Mapped};
use crate::ops;

/// A linear layer.
#[derive(Clone, Debug)]
pub(crate) enum Layer {
    /// Its weights are numbers.
    Plain(Linear),
    /// They stay in the blocks that a GGUF file has of them, and are multiplied so: in a quarter of the memory, or less.
    Quantised {
        /// `[n_out, n_in]`.
        weight: QMatMul,
        /// f32 `[n_out]`.
        bias: Option<Tensor>,
        /// `n_in` and `n_out`.
        sides: (usize, usize),
        /// Of a LoRA: one layer after the other, and what comes out is added.
        added: Vec<(Linear, Linear)>,
    },
    /// They stay in their file, and some become f32 at a time. For layers that are used once in a while, on the CPU.
    Mapped(Mapped),
}

impl Layer {
    /// Without a bias.
    pub fn quantised(Blocks { weight, added }: Blocks) -> Self {
        let sides = match *weight.shape().dims() {
            [n_out, n_in] => (n_in, n_out),
            _ => (0, 0),
        };
        let layer = |weight| Linear::new(weight, None);
        let added = added.into_iter().map(|(down, up)| (layer(down), layer(up))).collect();
        Self::Quantised { weight: QMatMul::QTensor(Arc::new(weight)), bias: None, sides, added }
    }

    /// With `bias`, f32 `[n_out]`, in a layer of blocks.
    pub fn with_bias(self, bias: Tensor) -> Result<Self> {
        Ok(match self {
            Self::Quantised { weight, sides, added, .. } => {
                Self::Quantised { weight, bias: Some(bias), sides, added }
            }
            Self::Plain(layer) => Self::Plain(Linear::new(layer.weight().clone(), Some(bias))),
            Self::Mapped(_) => bail!("a layer that stays in its file has no bias"),
        })
    }

    /// What it takes without rounding.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Plain(layer) => layer.weight().dtype(),
            Self::Quantised { .. } | Self::Mapped(_) => DType::F32,
        }
    }

    /// The layer of the contiguous `x` `[.., n_in]`, in its number format.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Plain(layer) => ops::linear(layer, x),
            Self::Quantised { weight, bias, sides: (n_in, n_out), added } => {
                debug_assert!(x.is_contiguous(), "strided operand {:?}", x.layout());
                debug_assert!(x.elem_count() > 0, "empty operand");
                ops::check_count(x.elem_count() / (*n_in).max(1), *n_out)?;
                let numbers = x.to_dtype(DType::F32)?;
                let mut product = weight.forward(&numbers)?;
                for (down, up) in added {
                    product = (product + ops::linear(up, &ops::linear(down, &numbers)?)?)?;
                }
                match bias {
                    Some(bias) => product.broadcast_add(bias)?,
                    None => product,
                }
                .to_dtype(x.dtype())
            }
            Self::Mapped(weight) => weight.multiply(x),
        }
    }
}
