//! One layer of the transformer: diffusers' `WanTransformerBlock`.

use candle_core::{DType, Tensor};
use candle_nn::{LayerNorm, Module};

use super::Config;
use super::attention::{Attention, KeyValue};
use super::rope::Rotation;
use crate::Result;
use crate::checkpoint::Layer;
use crate::checkpoint::Tensors;
use crate::kernels::gelu;

/// What a block needs besides the tokens.
pub(super) struct BlockInputs<'a> {
    /// f32 `[M, 6, inner_dim]`, one for all frames (M = 1) or one a frame.
    pub(super) modulation: &'a Tensor,
    /// Positions of the tokens, and of these and the `past` before them.
    pub(super) queries: &'a Rotation,
    pub(super) keys: &'a Rotation,
    /// The prompt, as this block sees it.
    pub(super) text: &'a KeyValue,
    /// Earlier frames, as this block sees them.
    pub(super) past: Option<&'a KeyValue>,
}

/// Self attention, cross attention to the prompt, feed forward.
#[derive(Clone, Debug)]
pub(super) struct Block {
    norm: Norm,
    attn1: Attention,
    /// Its weights are f32.
    norm2: Option<LayerNorm>,
    attn2: Attention,
    ffn_in: Layer,
    ffn_out: Layer,
    /// f32 `[1, 6, inner_dim]`.
    scale_shift_table: Tensor,
}

impl Block {
    pub(super) fn load(tensors: &Tensors, config: &Config) -> Result<Self> {
        let (dim, ffn_dim) = (config.inner_dim(), config.ffn_dim);
        let full = tensors.to_dtype(DType::F32);
        let norm2 = config
            .cross_attn_norm
            .then(|| candle_nn::layer_norm(dim, config.eps, (*full.pp("norm2")).clone()));
        Ok(Self {
            norm: Norm::new(config, tensors.device())?,
            attn1: Attention::load(&tensors.pp("attn1"), config)?,
            norm2: norm2.transpose()?,
            attn2: Attention::load(&tensors.pp("attn2"), config)?,
            ffn_in: tensors.linear(dim, ffn_dim, "ffn.net.0.proj")?,
            ffn_out: tensors.linear(ffn_dim, dim, "ffn.net.2")?,
            scale_shift_table: full.get((1, 6, dim), "scale_shift_table")?,
        })
    }

    /// The prompt `[1, length, inner_dim]` as this block sees it.
    pub(super) fn text(&self, prompt: &Tensor) -> Result<KeyValue> {
        self.attn2.key_value(prompt)
    }

    /// Keys and values of the tokens `x`, for frames to come: what [`Block::forward`] returns second.
    pub(super) fn key_value(&self, x: &Tensor, modulation: &Tensor) -> Result<KeyValue> {
        let modulation = modulation.broadcast_add(&self.scale_shift_table)?;
        self.attn1.key_value(&self.norm.modulated(x, &modulation, 0)?)
    }

    /// `x` is `[M, tokens, inner_dim]`: as many groups of tokens as there are modulations.
    pub(super) fn forward(&self, x: &Tensor, around: &BlockInputs) -> Result<(Tensor, KeyValue)> {
        let modulation = around.modulation.broadcast_add(&self.scale_shift_table)?;

        let normed = self.norm.modulated(x, &modulation, 0)?;
        let own = self.attn1.key_value(&normed)?;
        let rotations = Some((around.queries, around.keys));
        let attended = match around.past {
            None => self.attn1.forward(&normed, &own, rotations)?,
            Some(past) => self.attn1.forward(&normed, &past.then(&own)?, rotations)?,
        };
        let x = gated(x, &attended, &modulation, 2)?;

        let normed = match &self.norm2 {
            None => x.clone(),
            Some(norm) => norm.forward(&x.to_dtype(DType::F32)?)?.to_dtype(x.dtype())?,
        };
        let x = (&x + self.attn2.forward(&normed, around.text, None)?)?;

        let normed = self.norm.modulated(&x, &modulation, 3)?;
        let fed = self.ffn_out.forward(&gelu(&self.ffn_in.forward(&normed)?)?)?;
        Ok((gated(&x, &fed, &modulation, 5)?, own))
    }
}

/// `x` + `change` × gate, in f32.
fn gated(x: &Tensor, change: &Tensor, modulation: &Tensor, gate: usize) -> Result<Tensor> {
    let change = change.to_dtype(DType::F32)?.broadcast_mul(&modulation.narrow(1, gate, 1)?)?;
    Ok((x.to_dtype(DType::F32)? + change)?.to_dtype(x.dtype())?)
}

/// A layer norm without weights, scaled and shifted by the timestep.
#[derive(Clone, Debug)]
pub(super) struct Norm(LayerNorm);

impl Norm {
    pub(super) fn new(config: &Config, device: &candle_core::Device) -> Result<Self> {
        let dim = config.inner_dim();
        let (one, zero) = (Tensor::ones(dim, DType::F32, device)?, Tensor::zeros(dim, DType::F32, device)?);
        Ok(Self(LayerNorm::new(one, zero, config.eps)))
    }

    /// Norm of `x` `[M, tokens, dim]` in f32, × (1 + scale) + shift, which are numbers `shift` and
    /// `shift + 1` of `modulation` `[M, n, dim]`.
    pub(super) fn modulated(&self, x: &Tensor, modulation: &Tensor, shift: usize) -> Result<Tensor> {
        let scale = (modulation.narrow(1, shift + 1, 1)? + 1.0)?;
        let normed = self.0.forward(&x.to_dtype(DType::F32)?)?;
        let modulated = normed.broadcast_mul(&scale)?.broadcast_add(&modulation.narrow(1, shift, 1)?)?;
        Ok(modulated.to_dtype(x.dtype())?)
    }
}
