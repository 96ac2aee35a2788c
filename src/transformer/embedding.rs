//! The timestep and prompt embeddings: diffusers' `WanTimeTextImageEmbedding`.

use candle_core::{DType, Device, Tensor};

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
    freq_dim: usize,
    device: Device,
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

    /// Projects a prompt embedding `[1, length, text_dim]` to `[1, length, inner_dim]`.
    pub(super) fn text(&self, embeds: &Tensor) -> Result<Tensor> {
        Ok(self.text_out.forward(&self.text_in.forward(&embeds.contiguous()?)?.gelu()?)?)
    }
}
