//! Attention with normalised queries and keys: diffusers' `WanAttention`.

use candle_core::{D, DType, Tensor};

use super::Config;
use super::rope::Rotation;
use crate::Result;
use crate::checkpoint::Layer;
use crate::checkpoint::Tensors;
use crate::ops::matmul;

/// Queries are taken in portions so that no tensor of scores has more elements than this. CUDA kernels
/// index with 32 bits, and the scores of a long clip would not fit in memory either.
const MAX_SCORES: usize = 128 << 20;

/// Keys and values of some tokens, `[1, heads, tokens, head_dim]` each; keys are normalised, not rotated.
#[derive(Clone, Debug)]
pub(super) struct KeyValue {
    pub(super) key: Tensor,
    pub(super) value: Tensor,
}

impl KeyValue {
    pub(super) fn tokens(&self) -> Result<usize> {
        Ok(self.key.dim(2)?)
    }

    /// These tokens, then those of `next`.
    pub(super) fn then(&self, next: &Self) -> Result<Self> {
        Ok(Self {
            key: Tensor::cat(&[&self.key, &next.key], 2)?,
            value: Tensor::cat(&[&self.value, &next.value], 2)?,
        })
    }

    /// `length` tokens from `first`.
    pub(super) fn narrow(&self, first: usize, length: usize) -> Result<Self> {
        Ok(Self {
            key: self.key.narrow(2, first, length)?.contiguous()?,
            value: self.value.narrow(2, first, length)?.contiguous()?,
        })
    }
}

/// The projections of one attention layer.
#[derive(Clone, Debug)]
pub(super) struct Attention {
    to_q: Layer,
    to_k: Layer,
    to_v: Layer,
    to_out: Layer,
    /// f32 `[inner_dim]`: the norm is over all heads together.
    norm_q: Tensor,
    norm_k: Tensor,
    heads: usize,
    eps: f32,
}

impl Attention {
    pub(super) fn load(tensors: &Tensors, config: &Config) -> Result<Self> {
        let dim = config.inner_dim();
        let full = tensors.to_dtype(DType::F32);
        Ok(Self {
            to_q: tensors.linear(dim, dim, "to_q")?,
            to_k: tensors.linear(dim, dim, "to_k")?,
            to_v: tensors.linear(dim, dim, "to_v")?,
            to_out: tensors.linear(dim, dim, "to_out.0")?,
            norm_q: full.get(dim, "norm_q.weight")?,
            norm_k: full.get(dim, "norm_k.weight")?,
            heads: config.num_attention_heads,
            eps: config.eps as f32,
        })
    }

    /// Keys and values of `x` `[.., inner_dim]`.
    pub(super) fn key_value(&self, x: &Tensor) -> Result<KeyValue> {
        let key = self.normalise(&self.to_k.forward(x)?, &self.norm_k)?;
        Ok(KeyValue { key: self.split(&key)?, value: self.split(&self.to_v.forward(x)?)? })
    }

    /// What the tokens `x` `[.., inner_dim]` find in `at`, in the shape of `x`. With `rotations` (of the
    /// queries, of the keys) their positions count.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        at: &KeyValue,
        rotations: Option<(&Rotation, &Rotation)>,
    ) -> Result<Tensor> {
        let query = self.split(&self.normalise(&self.to_q.forward(x)?, &self.norm_q)?)?;
        let found = match rotations {
            None => attend(&query, &at.key, &at.value, MAX_SCORES)?,
            Some((queries, keys)) => {
                attend(&queries.apply(&query)?, &keys.apply(&at.key)?, &at.value, MAX_SCORES)?
            }
        };
        let joined = found.transpose(1, 2)?.contiguous()?.reshape(x.shape())?;
        Ok(self.to_out.forward(&joined)?)
    }

    fn normalise(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let normalised = candle_nn::ops::rms_norm(&x.to_dtype(DType::F32)?, weight, self.eps)?;
        Ok(normalised.to_dtype(x.dtype())?)
    }

    /// `[.., heads × head_dim]` to `[1, heads, tokens, head_dim]`.
    fn split(&self, x: &Tensor) -> Result<Tensor> {
        let dim = x.dim(D::Minus1)?;
        let shape = (1, x.elem_count() / dim, self.heads, dim / self.heads);
        Ok(x.reshape(shape)?.transpose(1, 2)?.contiguous()?)
    }
}

/// Scaled dot product attention of contiguous `[1, heads, tokens, head_dim]`, all to all.
fn attend(query: &Tensor, key: &Tensor, value: &Tensor, max_scores: usize) -> Result<Tensor> {
    #[cfg(feature = "flash-attn")]
    if let Some(found) = flash_attend(query, key, value)? {
        return Ok(found);
    }
    let (_, heads, queries, head_dim) = query.dims4()?;
    let keys = key.dim(2)?;
    let query = (query / (head_dim as f64).sqrt())?;
    let key = key.transpose(2, 3)?.contiguous()?;
    let rows = (max_scores / (heads * keys)).max(1);
    let portions = (0..queries)
        .step_by(rows)
        .map(|first| {
            let query = query.narrow(2, first, rows.min(queries - first))?.contiguous()?;
            // In f32: a CPU would add up many small weights in the tensor's own format.
            let scores = matmul(&query, &key)?.to_dtype(DType::F32)?;
            let weights = candle_nn::ops::softmax_last_dim(&scores)?.to_dtype(value.dtype())?;
            Ok(matmul(&weights, value)?)
        })
        .collect::<Result<Vec<_>>>()?;
    match portions.as_slice() {
        [whole] => Ok(whole.clone()),
        _ => Ok(Tensor::cat(&portions, 2)?),
    }
}

/// The same by FlashAttention 2 (<https://arxiv.org/abs/2307.08691>), which holds no scores: on CUDA, of 16-bit
/// numbers and heads that its kernels are made for; else `None`.
#[cfg(feature = "flash-attn")]
fn flash_attend(query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Option<Tensor>> {
    let head_dim = query.dim(3)?;
    let narrow = [query, key, value].iter().all(|x| x.dtype() == query.dtype())
        && matches!(query.dtype(), DType::F16 | DType::BF16);
    if !(query.device().is_cuda() && narrow && head_dim.is_multiple_of(8) && head_dim <= 256) {
        return Ok(None);
    }
    // It takes, and returns, tokens before heads.
    let [query, key, value] = [query, key, value].map(|x| x.transpose(1, 2));
    let scale = 1.0 / (head_dim as f32).sqrt();
    let found = candle_flash_attn::flash_attn(&query?, &key?, &value?, scale, false)?;
    Ok(Some(found.transpose(1, 2)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn portions_of_queries_make_no_difference() {
        let random = |tokens| Tensor::randn(0f32, 1f32, (1, 3, tokens, 8), &Device::Cpu).unwrap();
        let (query, key, value) = (random(7), random(5), random(5));
        let whole: Vec<f32> = values(&attend(&query, &key, &value, MAX_SCORES).unwrap());
        // 15 scores a query: three at a time, one at a time, and one although it is too many.
        for max_scores in [45, 15, 1] {
            let portioned = values(&attend(&query, &key, &value, max_scores).unwrap());
            for (a, b) in whole.iter().zip(&portioned) {
                assert!((a - b).abs() < 1e-6, "{max_scores}: {a} {b}");
            }
        }
    }

    fn values(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }
}
