//! Linear layers with candle's operations, on every device.

use std::sync::Arc;

use candle_core::quantized::QMatMul;
use candle_core::{DType, Module, Result, Tensor, bail};
use candle_nn::Linear;

use super::mapped::MappedMatrix;
use super::weights::QuantizedBlocks;
use crate::ops;

/// A linear layer.
#[derive(Clone, Debug)]
pub(crate) enum Layer {
    Plain(Linear),
    /// Computes with the quantized blocks of a GGUF file, in a quarter of the memory or less.
    Quantized {
        /// `[n_out, n_in]`.
        weight: QMatMul,
        /// f32 `[n_out]`.
        bias: Option<Tensor>,
        /// `n_in` and `n_out`.
        size: (usize, usize),
        /// The two layers of each LoRA; their output is added.
        loras: Vec<(Linear, Linear)>,
    },
    /// Stays in its memory-mapped file; rows are expanded to f32 while they are multiplied. CPU only.
    Mapped(MappedMatrix),
}

impl Layer {
    /// A quantized layer without a bias.
    pub fn quantized(QuantizedBlocks { weight, loras }: QuantizedBlocks) -> Self {
        let size = match *weight.shape().dims() {
            [n_out, n_in] => (n_in, n_out),
            _ => (0, 0),
        };
        let layer = |weight| Linear::new(weight, None);
        let loras = loras.into_iter().map(|(down, up)| (layer(down), layer(up))).collect();
        Self::Quantized { weight: QMatMul::QTensor(Arc::new(weight)), bias: None, size, loras }
    }

    /// The layer with `bias` `[n_out]`, f32 for a quantized layer.
    pub fn with_bias(self, bias: Tensor) -> Result<Self> {
        Ok(match self {
            Self::Quantized { weight, size, loras, .. } => {
                Self::Quantized { weight, bias: Some(bias), size, loras }
            }
            Self::Plain(layer) => Self::Plain(Linear::new(layer.weight().clone(), Some(bias))),
            Self::Mapped(_) => bail!("a layer that stays in its file has no bias"),
        })
    }

    /// These layers of the same input as one, whose outputs follow one another; `None` if one of them is quantized or stays in its file.
    pub fn join(layers: &[Self]) -> Result<Option<Self>> {
        let plain = layers.iter().map(|layer| match layer {
            Self::Plain(layer) => Some((layer.weight(), layer.bias()?)),
            Self::Quantized { .. } | Self::Mapped(_) => None,
        });
        let Some((weights, biases)) = plain.collect::<Option<(Vec<_>, Vec<_>)>>() else { return Ok(None) };
        let joined = Linear::new(Tensor::cat(&weights, 0)?, Some(Tensor::cat(&biases, 0)?));
        Ok(Some(Self::Plain(joined)))
    }

    /// The output without the bias, and the bias that is missing, for an operation that adds it on the way.
    pub fn product(&self, x: &Tensor) -> Result<(Tensor, Option<&Tensor>)> {
        match self {
            Self::Plain(layer) => {
                Ok((ops::linear(&Linear::new(layer.weight().clone(), None), x)?, layer.bias()))
            }
            Self::Quantized { .. } | Self::Mapped(_) => Ok((self.forward(x)?, None)),
        }
    }

    /// The data type of the input that is not rounded.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Plain(layer) => layer.weight().dtype(),
            Self::Quantized { .. } | Self::Mapped(_) => DType::F32,
        }
    }

    /// The output `[.., n_out]` for `x` `[.., n_in]`, in the data type of `x`. `x` is contiguous.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Plain(layer) => ops::linear(layer, x),
            Self::Quantized { weight, bias, size: (n_in, n_out), loras } => {
                debug_assert!(x.is_contiguous(), "strided operand {:?}", x.layout());
                debug_assert!(x.elem_count() > 0, "empty operand");
                ops::check_count(x.elem_count() / (*n_in).max(1), *n_out)?;
                let input = x.to_dtype(DType::F32)?;
                let mut product = weight.forward(&input)?;
                for (down, up) in loras {
                    product = (product + ops::linear(up, &ops::linear(down, &input)?)?)?;
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
