//! One layer of the transformer: diffusers' `WanTransformerBlock`.

use candle_core::{DType, Tensor};
use candle_nn::{LayerNorm, Module};

use super::Config;
use super::attention::{Attention, ContextKv, CrossAttention, KeyValue};
use super::ring::{RingPass, Slot};
use super::rope::Rotation;
use super::window::WindowPass;
use crate::checkpoint::{Layer, Tensors};
use crate::kernels::gelu;
use crate::{Cancel, Result};

/// The inputs of a block besides the tokens.
#[derive(Clone, Copy)]
pub(super) struct BlockInputs<'a> {
    /// f32 `[M, 6, inner_dim]`: one modulation for all frames (M = 1) or one per frame.
    pub(super) modulation: &'a Tensor,
    /// Rotary embedding of the tokens.
    pub(super) rotation: &'a Rotation,
    /// Keys and values of the prompt, and of images, in this block.
    pub(super) context: &'a ContextKv,
    /// What the tokens attend to besides themselves.
    pub(super) past: Past<'a>,
}

/// The keys and values of earlier frames, in the block with this number.
#[derive(Clone, Copy)]
pub(super) enum Past<'a> {
    None,
    Window(&'a WindowPass<'a>, usize),
    Ring(RingPass<'a>, usize),
}

impl Past<'_> {
    /// All keys, rotated, and values to attend to, with the `own` ones of the tokens.
    fn with(self, own: &KeyValue, rotation: &Rotation) -> Result<KeyValue> {
        let rotated = KeyValue { key: rotation.apply(&own.key)?, value: own.value.clone() };
        match self {
            Self::None => Ok(rotated),
            Self::Window(pass, block) => pass.write(block, own, &rotated),
            Self::Ring(pass, block) => in_ring(&rotated, pass, block),
        }
    }
}

/// Writes the keys and values of a chunk into the ring, and returns all in it.
fn in_ring(own: &KeyValue, pass: RingPass, block: usize) -> Result<KeyValue> {
    let tokens = own.tokens()? / pass.frames;
    let frame = |i: usize| Slot::plain(own.narrow(i * tokens, tokens)?);
    let slots = pass.write(block, (0..pass.frames).map(frame).collect::<Result<_>>()?);
    let all: Vec<_> = slots.iter().filter_map(|slot| slot.plain()).collect();
    let keys: Vec<_> = all.iter().map(|kv| &kv.key).collect();
    let values: Vec<_> = all.iter().map(|kv| &kv.value).collect();
    Ok(KeyValue { key: Tensor::cat(&keys, 0)?, value: Tensor::cat(&values, 0)? })
}

/// Self attention, cross attention to the prompt, feed forward.
#[derive(Clone, Debug)]
pub(super) struct Block {
    norm: Norm,
    attn1: Attention,
    /// f32 weights.
    norm2: Option<LayerNorm>,
    attn2: CrossAttention,
    ffn_in: Layer,
    ffn_out: Layer,
    /// f32 `[1, 6, inner_dim]`.
    scale_shift_table: Tensor,
}

impl Block {
    pub(super) fn load(tensors: &Tensors, config: &Config, cancel: &Cancel) -> Result<Self> {
        cancel.check()?;
        let (dim, ffn_dim) = (config.inner_dim(), config.ffn_dim);
        let full = tensors.to_dtype(DType::F32);
        let norm2 = config
            .cross_attn_norm
            .then(|| candle_nn::layer_norm(dim, config.eps, (*full.pp("norm2")).clone()));
        Ok(Self {
            norm: Norm::new(config, tensors.device())?,
            attn1: Attention::load(&tensors.pp("attn1"), config)?,
            norm2: norm2.transpose()?,
            attn2: CrossAttention::load(&tensors.pp("attn2"), config)?,
            ffn_in: tensors.linear(dim, ffn_dim, "ffn.net.0.proj")?,
            ffn_out: tensors.linear(ffn_dim, dim, "ffn.net.2")?,
            scale_shift_table: full.get((1, 6, dim), "scale_shift_table")?,
        })
    }

    /// Cross attention keys and values of the prompt `[1, length, inner_dim]`, and of images of the same form.
    pub(super) fn context(&self, prompt: &Tensor, images: Option<&Tensor>) -> Result<ContextKv> {
        self.attn2.key_value(prompt, images)
    }

    /// Self attention keys and values of the tokens `x`, the second result of [`Block::forward`], and all else that it leaves in the
    /// window.
    pub(super) fn key_value(&self, x: &Tensor, inputs: &BlockInputs) -> Result<KeyValue> {
        let modulation = inputs.modulation.broadcast_add(&self.scale_shift_table)?;
        let own = self.attn1.key_value(&self.norm.modulated(x, &modulation, 0)?)?;
        if !matches!(inputs.past, Past::None) {
            inputs.past.with(&own, inputs.rotation)?;
        }
        Ok(own)
    }

    /// Runs the block on `x`, `[M, tokens, inner_dim]`, one group of tokens per modulation. Returns the new tokens and their
    /// self attention keys, not rotated, and values.
    pub(super) fn forward(&self, x: &Tensor, inputs: &BlockInputs) -> Result<(Tensor, KeyValue)> {
        let modulation = inputs.modulation.broadcast_add(&self.scale_shift_table)?;

        let normed = self.norm.modulated(x, &modulation, 0)?;
        let own = self.attn1.key_value(&normed)?;
        let kv = inputs.past.with(&own, inputs.rotation)?;
        let attended = self.attn1.forward(&normed, &kv, inputs.rotation)?;
        let x = gated(x, &attended, &modulation, 2)?;

        let normed = match &self.norm2 {
            None => x.clone(),
            Some(norm) => norm.forward(&x.to_dtype(DType::F32)?)?.to_dtype(x.dtype())?,
        };
        let x = (&x + self.attn2.forward(&normed, inputs.context)?)?;

        let normed = self.norm.modulated(&x, &modulation, 3)?;
        let fed = self.ffn_out.forward(&gelu(&self.ffn_in.forward(&normed)?)?)?;
        Ok((gated(&x, &fed, &modulation, 5)?, own))
    }
}

/// `x` + `change` × row `gate` of `modulation`, computed in f32.
fn gated(x: &Tensor, change: &Tensor, modulation: &Tensor, gate: usize) -> Result<Tensor> {
    let change = change.to_dtype(DType::F32)?.broadcast_mul(&modulation.narrow(1, gate, 1)?)?;
    Ok((x.to_dtype(DType::F32)? + change)?.to_dtype(x.dtype())?)
}

/// A layer norm without weights; the modulation scales and shifts its output.
#[derive(Clone, Debug)]
pub(super) struct Norm(LayerNorm);

impl Norm {
    pub(super) fn new(config: &Config, device: &candle_core::Device) -> Result<Self> {
        let dim = config.inner_dim();
        let (one, zero) = (Tensor::ones(dim, DType::F32, device)?, Tensor::zeros(dim, DType::F32, device)?);
        Ok(Self(LayerNorm::new(one, zero, config.eps)))
    }

    /// norm(`x`) × (1 + scale) + shift, computed in f32. `x` is `[M, tokens, dim]`; row `shift` of `modulation`
    /// `[M, n, dim]` is the shift, the next row the scale.
    pub(super) fn modulated(&self, x: &Tensor, modulation: &Tensor, shift: usize) -> Result<Tensor> {
        let scale = (modulation.narrow(1, shift + 1, 1)? + 1.0)?;
        let normed = self.0.forward(&x.to_dtype(DType::F32)?)?;
        let modulated = normed.broadcast_mul(&scale)?.broadcast_add(&modulation.narrow(1, shift, 1)?)?;
        Ok(modulated.to_dtype(x.dtype())?)
    }
}
