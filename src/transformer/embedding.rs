//! What tells the transformer the timestep and the prompt: diffusers' `WanTimeTextImageEmbedding`.

use candle_core::{DType, Tensor};
use candle_nn::{Linear, VarBuilder};

use super::Config;
use crate::Result;
use crate::ops::linear;

#[derive(Clone, Debug)]
pub(super) struct ConditionEmbedder {
    time_in: Linear,
    time_out: Linear,
    time_proj: Linear,
    text_in: Linear,
    text_out: Linear,
    freq_dim: usize,
}

impl ConditionEmbedder {
    pub(super) fn load(vb: VarBuilder, config: &Config) -> Result<Self> {
        let dim = config.inner_dim();
        let full = vb.to_dtype(DType::F32);
        Ok(Self {
            time_in: candle_nn::linear(config.freq_dim, dim, full.pp("time_embedder.linear_1"))?,
            time_out: candle_nn::linear(dim, dim, full.pp("time_embedder.linear_2"))?,
            time_proj: candle_nn::linear(dim, 6 * dim, full.pp("time_proj"))?,
            text_in: candle_nn::linear(config.text_dim, dim, vb.pp("text_embedder.linear_1"))?,
            text_out: candle_nn::linear(dim, dim, vb.pp("text_embedder.linear_2"))?,
            freq_dim: config.freq_dim,
        })
    }

    /// The embedding of each timestep, f32 `[M, inner_dim]`, and what of it every block gets, f32
    /// `[M, 6, inner_dim]`.
    pub(super) fn time(&self, timesteps: &[f64]) -> Result<(Tensor, Tensor)> {
        // In f32 as in the reference: of angles up to 1000 the rounding shows in the result.
        let half = self.freq_dim / 2;
        let frequency = move |i| (-(10_000f32.ln()) * i as f32 / half as f32).exp();
        let angles = |t: f64| (0..half).map(move |i| t as f32 * frequency(i));
        let sinusoids: Vec<f32> =
            timesteps.iter().flat_map(|&t| angles(t).map(f32::cos).chain(angles(t).map(f32::sin))).collect();
        let device = self.time_in.weight().device();
        let sinusoids = Tensor::from_vec(sinusoids, (timesteps.len(), self.freq_dim), device)?;
        let embedding = linear(&self.time_out, &linear(&self.time_in, &sinusoids)?.silu()?)?;
        let projected = linear(&self.time_proj, &embedding.silu()?)?;
        Ok((embedding, projected.reshape((timesteps.len(), 6, ()))?))
    }

    /// `[1, length, text_dim]` to `[1, length, inner_dim]`.
    pub(super) fn text(&self, embeds: &Tensor) -> Result<Tensor> {
        Ok(linear(&self.text_out, &linear(&self.text_in, &embeds.contiguous()?)?.gelu()?)?)
    }
}
