//! Attention with RMS-normalised queries and keys: diffusers' `WanAttention`.

use candle_core::{D, DType, Tensor};

use super::Config;
use super::rope::Rotation;
use crate::Result;
use crate::checkpoint::{Layer, Tensors};
use crate::ops::matmul;

/// Queries are processed in chunks so that no score tensor has more elements than this. CUDA kernels index with 32 bits,
/// and the scores of a long clip would not fit in memory either.
const MAX_SCORES: usize = 128 << 20;

/// Keys and values, `[tokens, heads, head_dim]` each; a projection has this layout already. Keys are normalised.
#[derive(Clone, Debug)]
pub(super) struct KeyValue {
    pub(super) key: Tensor,
    pub(super) value: Tensor,
}

impl KeyValue {
    pub(super) fn tokens(&self) -> Result<usize> {
        Ok(self.key.dim(0)?)
    }

    /// Concatenates the tokens of `self` and `next`.
    pub(super) fn concat(&self, next: &Self) -> Result<Self> {
        Ok(Self {
            key: Tensor::cat(&[&self.key, &next.key], 0)?,
            value: Tensor::cat(&[&self.value, &next.value], 0)?,
        })
    }

    /// The same in storage of its own, if it is a part of other storage.
    pub(super) fn into_contiguous(self) -> Result<Self> {
        Ok(Self { key: self.key.force_contiguous()?, value: self.value.force_contiguous()? })
    }

    /// The `length` tokens from index `first`, without a copy.
    pub(super) fn narrow(&self, first: usize, length: usize) -> Result<Self> {
        Ok(Self { key: self.key.narrow(0, first, length)?, value: self.value.narrow(0, first, length)? })
    }
}

/// The keys and values of a cross attention.
#[derive(Clone, Debug)]
pub(super) struct ContextKv {
    text: KeyValue,
    /// Of the images that the model reads beside the prompt.
    images: Option<KeyValue>,
}

/// Cross attention to the prompt, and for some models to images.
#[derive(Clone, Debug)]
pub(super) struct CrossAttention {
    attention: Attention,
    images: Option<ImageProjections>,
}

/// The projections of images in a cross attention.
#[derive(Clone, Debug)]
struct ImageProjections {
    to_k: Layer,
    to_v: Layer,
    /// f32 `[inner_dim]`.
    norm_k: Tensor,
}

impl CrossAttention {
    pub(super) fn load(tensors: &Tensors, config: &Config) -> Result<Self> {
        let images = |width: usize| -> Result<ImageProjections> {
            let dim = config.inner_dim();
            Ok(ImageProjections {
                to_k: tensors.linear(width, dim, "add_k_proj")?,
                to_v: tensors.linear(width, dim, "add_v_proj")?,
                norm_k: tensors.to_dtype(DType::F32).get(dim, "norm_added_k.weight")?,
            })
        };
        Ok(Self {
            attention: Attention::load(tensors, config)?,
            images: config.added_kv_proj_dim.map(images).transpose()?,
        })
    }

    /// Projects the prompt `[1, length, inner_dim]`, and images of the same form.
    pub(super) fn key_value(&self, prompt: &Tensor, images: Option<&Tensor>) -> Result<ContextKv> {
        let of_images = |(layers, x): (&ImageProjections, &Tensor)| -> Result<KeyValue> {
            let key = self.attention.normalise(&layers.to_k.forward(x)?, &layers.norm_k)?;
            Ok(KeyValue {
                key: self.attention.split(&key)?,
                value: self.attention.split(&layers.to_v.forward(x)?)?,
            })
        };
        Ok(ContextKv {
            text: self.attention.key_value(prompt)?,
            images: self.images.as_ref().zip(images).map(of_images).transpose()?,
        })
    }

    /// Attends from the tokens `x` `[.., inner_dim]`; the result has the shape of `x`.
    pub(super) fn forward(&self, x: &Tensor, context: &ContextKv) -> Result<Tensor> {
        let query = self.attention.query(x)?;
        let to = |kv: &KeyValue| attend(&query, &kv.key, &kv.value, MAX_SCORES);
        let mut attended = to(&context.text)?;
        if let Some(images) = &context.images {
            attended = (attended + to(images)?)?;
        }
        self.attention.output(&attended, x)
    }
}

/// The projections of one attention layer.
#[derive(Clone, Debug)]
pub(super) struct Attention {
    to_q: Layer,
    to_k: Layer,
    to_v: Layer,
    to_out: Layer,
    /// f32 `[inner_dim]`: one norm over all heads.
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

    /// Projects `x` `[.., inner_dim]` to keys, not rotated, and values.
    pub(super) fn key_value(&self, x: &Tensor) -> Result<KeyValue> {
        let key = self.normalise(&self.to_k.forward(x)?, &self.norm_k)?;
        Ok(KeyValue { key: self.split(&key)?, value: self.split(&self.to_v.forward(x)?)? })
    }

    /// Attends from the tokens `x` `[.., inner_dim]` to `kv`, whose keys are rotated; the result has the shape of `x`. `rotation` is that
    /// of the queries.
    pub(super) fn forward(&self, x: &Tensor, kv: &KeyValue, rotation: &Rotation) -> Result<Tensor> {
        let query = rotation.apply(&self.query(x)?)?;
        self.output(&attend(&query, &kv.key, &kv.value, MAX_SCORES)?, x)
    }

    /// Projects `x` `[.., inner_dim]` to queries.
    fn query(&self, x: &Tensor) -> Result<Tensor> {
        self.split(&self.normalise(&self.to_q.forward(x)?, &self.norm_q)?)
    }

    /// Projects what the tokens `x` attended to, in the shape of `x`.
    fn output(&self, attended: &Tensor, x: &Tensor) -> Result<Tensor> {
        Ok(self.to_out.forward(&attended.reshape(x.shape())?)?)
    }

    fn normalise(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let normalised = candle_nn::ops::rms_norm(&x.to_dtype(DType::F32)?, weight, self.eps)?;
        Ok(normalised.to_dtype(x.dtype())?)
    }

    /// Views `[.., heads × head_dim]` as `[tokens, heads, head_dim]`.
    fn split(&self, x: &Tensor) -> Result<Tensor> {
        let dim = x.dim(D::Minus1)?;
        Ok(x.reshape((x.elem_count() / dim, self.heads, dim / self.heads))?)
    }
}

/// Scaled dot-product attention without a mask. All tensors, and the result, are contiguous, `[tokens, heads, head_dim]`.
fn attend(query: &Tensor, key: &Tensor, value: &Tensor, max_scores: usize) -> Result<Tensor> {
    #[cfg(feature = "flash-attn")]
    if let Some(attended) = flash_attend(query, key, value)? {
        return Ok(attended);
    }
    let (queries, heads, head_dim) = query.dims3()?;
    let keys = key.dim(0)?;
    // The products of matrices take no strides, so these are copies.
    let query = (query / (head_dim as f64).sqrt())?.transpose(0, 1)?.contiguous()?;
    let key = key.permute((1, 2, 0))?.contiguous()?;
    let value = value.transpose(0, 1)?.contiguous()?;
    let rows = (max_scores / (heads * keys)).max(1);
    let chunks = (0..queries)
        .step_by(rows)
        .map(|first| {
            let query = query.narrow(1, first, rows.min(queries - first))?.contiguous()?;
            // Softmax in f32: a CPU would sum the many small weights in the tensor's own data type.
            let scores = matmul(&query, &key)?.to_dtype(DType::F32)?;
            let weights = candle_nn::ops::softmax_last_dim(&scores)?.to_dtype(value.dtype())?;
            Ok(matmul(&weights, &value)?)
        })
        .collect::<Result<Vec<_>>>()?;
    let attended = match chunks.as_slice() {
        [whole] => whole.clone(),
        _ => Tensor::cat(&chunks, 1)?,
    };
    Ok(attended.transpose(0, 1)?.contiguous()?)
}

/// FlashAttention 2 (<https://arxiv.org/abs/2307.08691>), which keeps no scores in memory. `None` unless the tensors are on
/// CUDA, have 16 bits, and the kernels support the head size.
#[cfg(feature = "flash-attn")]
fn flash_attend(query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Option<Tensor>> {
    let head_dim = query.dim(2)?;
    let half = [query, key, value].iter().all(|x| x.dtype() == query.dtype())
        && matches!(query.dtype(), DType::F16 | DType::BF16);
    if !(query.device().is_cuda() && half && head_dim.is_multiple_of(8) && head_dim <= 256) {
        return Ok(None);
    }
    let [query, key, value] = [query, key, value].map(|x| x.unsqueeze(0));
    let scale = 1.0 / (head_dim as f32).sqrt();
    let attended = candle_flash_attn::flash_attn(&query?, &key?, &value?, scale, false)?;
    Ok(Some(attended.squeeze(0)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn the_result_does_not_depend_on_the_chunk_size() {
        let random = |tokens| Tensor::randn(0f32, 1f32, (tokens, 3, 8), &Device::Cpu).unwrap();
        let (query, key, value) = (random(7), random(5), random(5));
        let whole: Vec<f32> = values(&attend(&query, &key, &value, MAX_SCORES).unwrap());
        // 15 scores per query: three queries at a time, one, and one although it exceeds the limit.
        for max_scores in [45, 15, 1] {
            let chunked = values(&attend(&query, &key, &value, max_scores).unwrap());
            for (a, b) in whole.iter().zip(&chunked) {
                assert!((a - b).abs() < 1e-6, "{max_scores}: {a} {b}");
            }
        }
    }

    fn values(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }
}
