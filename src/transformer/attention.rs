//! Attention with RMS-normalised queries and keys: diffusers' `WanAttention`.

use candle_core::{D, DType, Tensor};

use super::Config;
use super::rope::Rotation;
use crate::Result;
use crate::checkpoint::{Layer, Tensors};
use crate::cuda;

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
    to_q: Layer,
    to_k: Layer,
    to_v: Layer,
    to_out: Layer,
    norm_q: HeadNorm,
    norm_k: HeadNorm,
    images: Option<ImageProjections>,
}

/// The projections of images in a cross attention.
#[derive(Clone, Debug)]
struct ImageProjections {
    to_k: Layer,
    to_v: Layer,
    norm_k: HeadNorm,
}

impl CrossAttention {
    pub(super) fn load(tensors: &Tensors, config: &Config) -> Result<Self> {
        let dim = config.inner_dim();
        let images = |width: usize| -> Result<ImageProjections> {
            Ok(ImageProjections {
                to_k: tensors.linear(width, dim, "add_k_proj")?,
                to_v: tensors.linear(width, dim, "add_v_proj")?,
                norm_k: HeadNorm::load(tensors, config, "norm_added_k")?,
            })
        };
        Ok(Self {
            to_q: tensors.linear(dim, dim, "to_q")?,
            to_k: tensors.linear(dim, dim, "to_k")?,
            to_v: tensors.linear(dim, dim, "to_v")?,
            to_out: tensors.linear(dim, dim, "to_out.0")?,
            norm_q: HeadNorm::load(tensors, config, "norm_q")?,
            norm_k: HeadNorm::load(tensors, config, "norm_k")?,
            images: config.added_kv_proj_dim.map(images).transpose()?,
        })
    }

    /// Projects the prompt `[1, length, inner_dim]`, and images of the same form.
    pub(super) fn key_value(&self, prompt: &Tensor, images: Option<&Tensor>) -> Result<ContextKv> {
        let project = |to_k: &Layer, to_v: &Layer, norm: &HeadNorm, x: &Tensor| -> Result<KeyValue> {
            Ok(KeyValue { key: norm.apply(&to_k.forward(x)?, None)?, value: norm.split(&to_v.forward(x)?)? })
        };
        let of_images = |(layers, x): (&ImageProjections, &Tensor)| {
            project(&layers.to_k, &layers.to_v, &layers.norm_k, x)
        };
        Ok(ContextKv {
            text: project(&self.to_k, &self.to_v, &self.norm_k, prompt)?,
            images: self.images.as_ref().zip(images).map(of_images).transpose()?,
        })
    }

    /// Attends from `normed` `[.., inner_dim]`, and adds the result to `x` of the same shape.
    pub(super) fn forward(&self, x: &Tensor, normed: &Tensor, context: &ContextKv) -> Result<Tensor> {
        let query = self.norm_q.apply(&self.to_q.forward(normed)?, None)?;
        let to = |kv: &KeyValue| cuda::attention(&query, &kv.key, &kv.value);
        let mut attended = to(&context.text)?;
        if let Some(images) = &context.images {
            attended = (attended + to(images)?)?;
        }
        let (change, bias) = self.to_out.product(&attended.reshape(x.shape())?)?;
        Ok(cuda::residual(x, &change, bias, None)?)
    }
}

/// The RMS norm of queries or keys over all heads, and their rotation.
#[derive(Clone, Debug)]
pub(super) struct HeadNorm {
    /// f32 `[inner_dim]`.
    weight: Tensor,
    heads: usize,
    eps: f64,
}

impl HeadNorm {
    fn load(tensors: &Tensors, config: &Config, name: &str) -> Result<Self> {
        let weight = tensors.to_dtype(DType::F32).get(config.inner_dim(), &format!("{name}.weight"))?;
        Ok(Self { weight, heads: config.num_attention_heads, eps: config.eps })
    }

    /// Normalises `[.., inner_dim]`, then rotates, in f32; `[tokens, heads, head_dim]`.
    pub(super) fn apply(&self, x: &Tensor, rotation: Option<&Rotation>) -> Result<Tensor> {
        let angles = rotation.map(Rotation::angles);
        Ok(cuda::normalise_rotate(x, Some(&self.weight), angles, self.heads, self.eps)?)
    }

    /// As [`apply`](Self::apply), into the rows from `first` on of `out`.
    pub(super) fn apply_into(
        &self,
        x: &Tensor,
        rotation: Option<&Rotation>,
        out: &Tensor,
        first: usize,
    ) -> Result<()> {
        let angles = rotation.map(Rotation::angles);
        let weight = Some(&self.weight);
        Ok(cuda::normalise_rotate_into(x, weight, angles, self.heads, self.eps, out, first)?)
    }

    /// The values `[.., inner_dim]` as `[tokens, heads, head_dim]`; a copy only of a part of other rows.
    pub(super) fn split(&self, x: &Tensor) -> Result<Tensor> {
        let dim = x.dim(D::Minus1)?;
        if x.is_contiguous() {
            return Ok(x.reshape((x.elem_count() / dim, self.heads, dim / self.heads))?);
        }
        Ok(cuda::normalise_rotate(x, None, None, self.heads, self.eps)?)
    }

    /// As [`split`](Self::split), into the rows from `first` on of `out`.
    pub(super) fn split_into(&self, x: &Tensor, out: &Tensor, first: usize) -> Result<()> {
        Ok(cuda::normalise_rotate_into(x, None, None, self.heads, self.eps, out, first)?)
    }
}

/// The projections of a self attention.
#[derive(Clone, Debug)]
pub(super) struct SelfAttention {
    to_qkv: QkvLayers,
    to_out: Layer,
    norm_q: HeadNorm,
    norm_k: HeadNorm,
}

#[derive(Clone, Debug)]
enum QkvLayers {
    /// As one layer.
    Joined(Layer),
    /// Quantized ones cannot be joined.
    Separate([Layer; 3]),
}

/// Queries, keys and values of tokens, `[tokens, inner_dim]` each, before norm and rotation.
pub(super) struct Qkv<'a> {
    query: Tensor,
    pub(super) key: Tensor,
    pub(super) value: Tensor,
    pub(super) norm_k: &'a HeadNorm,
}

impl Qkv<'_> {
    /// Keys, rotated unless `rotation` is `None`, and values.
    pub(super) fn key_value(&self, rotation: Option<&Rotation>) -> Result<KeyValue> {
        Ok(KeyValue { key: self.norm_k.apply(&self.key, rotation)?, value: self.norm_k.split(&self.value)? })
    }
}

impl SelfAttention {
    pub(super) fn load(tensors: &Tensors, config: &Config) -> Result<Self> {
        let dim = config.inner_dim();
        let layer = |name: &str| tensors.linear(dim, dim, name);
        let layers = [layer("to_q")?, layer("to_k")?, layer("to_v")?];
        Ok(Self {
            to_qkv: match Layer::join(&layers)? {
                Some(joined) => QkvLayers::Joined(joined),
                None => QkvLayers::Separate(layers),
            },
            to_out: layer("to_out.0")?,
            norm_q: HeadNorm::load(tensors, config, "norm_q")?,
            norm_k: HeadNorm::load(tensors, config, "norm_k")?,
        })
    }

    /// Projects `x` `[.., inner_dim]`.
    pub(super) fn project(&self, x: &Tensor) -> Result<Qkv<'_>> {
        let dim = x.dim(D::Minus1)?;
        let rows = x.reshape(((), dim))?;
        let [query, key, value] = match &self.to_qkv {
            QkvLayers::Joined(layer) => {
                let all = layer.forward(&rows)?;
                [all.narrow(1, 0, dim)?, all.narrow(1, dim, dim)?, all.narrow(1, 2 * dim, dim)?]
            }
            QkvLayers::Separate([q, k, v]) => [q.forward(&rows)?, k.forward(&rows)?, v.forward(&rows)?],
        };
        Ok(Qkv { query, key, value, norm_k: &self.norm_k })
    }

    /// Attends from `own` to `kv`, whose keys are rotated. Returns the change and its bias, for
    /// [`cuda::residual`].
    pub(super) fn forward(
        &self,
        own: &Qkv,
        kv: &KeyValue,
        rotation: &Rotation,
    ) -> Result<(Tensor, Option<&Tensor>)> {
        let query = self.norm_q.apply(&own.query, Some(rotation))?;
        let attended = cuda::attention(&query, &kv.key, &kv.value)?;
        Ok(self.to_out.product(&attended.flatten_from(1)?)?)
    }
}
