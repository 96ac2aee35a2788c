//! The timestep and prompt embeddings: diffusers' `WanTimeTextImageEmbedding`.

use candle_core::{DType, Device, Module, Tensor};
use candle_nn::LayerNorm;

use super::Config;
use crate::Result;
use crate::checkpoint::Layer;
use crate::checkpoint::Tensors;

#[derive(Clone, Debug)]
pub(super) struct ConditionEmbedder {
    time_in: Layer,
    time_out: Layer,
    time_proj: Layer,
    text_in: Layer,
    text_out: Layer,
    images: Option<ImageEmbedder>,
    freq_dim: usize,
    device: Device,
}

/// The projection of the image encoder's tokens: diffusers' `WanImageEmbedding`.
#[derive(Clone, Debug)]
struct ImageEmbedder {
    /// f32 `[1, tokens of all images, image_dim]`.
    positions: Option<Tensor>,
    /// f32 weights.
    norm_in: LayerNorm,
    layer_in: Layer,
    layer_out: Layer,
    norm_out: LayerNorm,
}

/// Of torch's layer norm.
const NORM_EPS: f64 = 1e-5;

impl ImageEmbedder {
    fn load(tensors: &Tensors, width: usize, config: &Config) -> Result<Self> {
        let (dim, full) = (config.inner_dim(), tensors.to_dtype(DType::F32));
        let norm = |n, name: &str| candle_nn::layer_norm(n, NORM_EPS, (*full.pp(name)).clone());
        let positions = |tokens| full.get((1, tokens, width), "pos_embed");
        Ok(Self {
            positions: config.pos_embed_seq_len.map(positions).transpose()?,
            norm_in: norm(width, "norm1")?,
            layer_in: tensors.linear(width, width, "ff.net.0.proj")?,
            layer_out: tensors.linear(width, dim, "ff.net.2")?,
            norm_out: norm(dim, "norm2")?,
        })
    }

    /// Projects `[1, tokens, image_dim]` to `[1, tokens, inner_dim]`, in the data type of the layers.
    fn forward(&self, images: &Tensor, dtype: DType) -> Result<Tensor> {
        let mut x = images.to_dtype(DType::F32)?;
        if let Some(positions) = &self.positions {
            x = (x + positions)?;
        }
        let hidden = self.layer_in.forward(&self.norm_in.forward(&x)?.to_dtype(dtype)?)?.gelu_erf()?;
        Ok(self.norm_out.forward(&self.layer_out.forward(&hidden)?.to_dtype(DType::F32)?)?.to_dtype(dtype)?)
    }
}

impl ConditionEmbedder {
    pub(super) fn load(tensors: &Tensors, config: &Config) -> Result<Self> {
        let dim = config.inner_dim();
        let full = tensors.to_dtype(DType::F32);
        Ok(Self {
            time_in: full.linear(config.freq_dim, dim, "time_embedder.linear_1")?,
            time_out: full.linear(dim, dim, "time_embedder.linear_2")?,
            time_proj: full.linear(dim, 6 * dim, "time_proj")?,
            text_in: tensors.linear(config.text_dim, dim, "text_embedder.linear_1")?,
            text_out: tensors.linear(dim, dim, "text_embedder.linear_2")?,
            images: config
                .image_dim
                .map(|width| ImageEmbedder::load(&tensors.pp("image_embedder"), width, config))
                .transpose()?,
            freq_dim: config.freq_dim,
            device: tensors.device().clone(),
        })
    }

    /// The embedding of each timestep, f32 `[M, inner_dim]`, and its projection to the six modulation rows of a block, f32
    /// `[M, 6, inner_dim]`.
    pub(super) fn time(&self, timesteps: &[f64]) -> Result<(Tensor, Tensor)> {
        // In f32 like the reference: angles reach 1000, and their rounding changes the result.
        let half = self.freq_dim / 2;
        let frequency = move |i| (-(10_000f32.ln()) * i as f32 / half as f32).exp();
        let angles = |t: f64| (0..half).map(move |i| t as f32 * frequency(i));
        let sinusoids: Vec<f32> =
            timesteps.iter().flat_map(|&t| angles(t).map(f32::cos).chain(angles(t).map(f32::sin))).collect();
        let sinusoids = Tensor::from_vec(sinusoids, (timesteps.len(), self.freq_dim), &self.device)?;
        let embedding = self.time_out.forward(&self.time_in.forward(&sinusoids)?.silu()?)?;
        let projected = self.time_proj.forward(&embedding.silu()?)?;
        Ok((embedding, projected.reshape((timesteps.len(), 6, ()))?))
    }

    /// Projects the image encoder's tokens `[1, tokens, image_dim]` to `[1, tokens, inner_dim]`; `None` from a model that reads no
    /// images.
    pub(super) fn images(&self, images: &Tensor, dtype: DType) -> Result<Option<Tensor>> {
        self.images.as_ref().map(|embedder| embedder.forward(images, dtype)).transpose()
    }

    /// Projects a prompt embedding `[1, length, text_dim]` to `[1, length, inner_dim]`.
    pub(super) fn text(&self, embeds: &Tensor) -> Result<Tensor> {
        Ok(self.text_out.forward(&self.text_in.forward(&embeds.contiguous()?)?.gelu()?)?)
    }
}
