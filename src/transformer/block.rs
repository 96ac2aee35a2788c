//! One layer of the transformer: diffusers' `WanTransformerBlock`.

use candle_core::{DType, Tensor};

use super::Config;
use super::attention::{ContextKv, CrossAttention, KeyValue, Qkv, SelfAttention};
use super::ring::{RingPass, Slot};
use super::rope::Rotation;
use super::window::WindowPass;
use crate::checkpoint::{Layer, Tensors};
use crate::{Cancel, Result, cuda};

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
    fn with(self, own: &Qkv, rotation: &Rotation) -> Result<KeyValue> {
        match self {
            Self::None => own.key_value(Some(rotation)),
            Self::Window(pass, block) => pass.write(block, own, rotation),
            Self::Ring(pass, block) => in_ring(&own.key_value(Some(rotation))?, pass, block),
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
    attn1: SelfAttention,
    norm2: Option<AffineNorm>,
    attn2: CrossAttention,
    ffn_in: Layer,
    ffn_out: Layer,
    /// f32 `[1, 6, inner_dim]`.
    scale_shift_table: Tensor,
}

/// f32 `[inner_dim]` each.
#[derive(Clone, Debug)]
struct AffineNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl Block {
    pub(super) fn load(tensors: &Tensors, config: &Config, cancel: &Cancel) -> Result<Self> {
        cancel.check()?;
        let (dim, ffn_dim) = (config.inner_dim(), config.ffn_dim);
        let full = tensors.to_dtype(DType::F32);
        let norm2 = || -> Result<AffineNorm> {
            Ok(AffineNorm {
                weight: full.get(dim, "norm2.weight")?,
                bias: full.get(dim, "norm2.bias")?,
                eps: config.eps,
            })
        };
        Ok(Self {
            norm: Norm::new(config),
            attn1: SelfAttention::load(&tensors.pp("attn1"), config)?,
            norm2: config.cross_attn_norm.then(norm2).transpose()?,
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

    /// Leaves in the window what [`forward`](Self::forward) leaves there, and computes nothing else. Without a window it returns
    /// the self attention keys, not rotated, and values of the tokens `x`.
    pub(super) fn key_value(&self, x: &Tensor, inputs: &BlockInputs) -> Result<Option<KeyValue>> {
        let modulation = inputs.modulation.broadcast_add(&self.scale_shift_table)?;
        let own = self.attn1.project(&self.norm.modulated(x, &modulation, 0)?)?;
        match inputs.past {
            Past::None => own.key_value(None).map(Some),
            past => past.with(&own, inputs.rotation).map(|_| None),
        }
    }

    /// Runs the block on `x`, `[M, tokens, inner_dim]`, one group of tokens per modulation. Returns the new tokens, and with `collect` their
    /// self attention keys, not rotated, and values.
    ///
    /// On a GPU it launches 22 kernels (`docs/gpu.md`).
    pub(super) fn forward(
        &self,
        x: &Tensor,
        inputs: &BlockInputs,
        collect: bool,
    ) -> Result<(Tensor, Option<KeyValue>)> {
        let modulation = inputs.modulation.broadcast_add(&self.scale_shift_table)?;
        let row = |n| modulation.narrow(1, n, 1);

        let own = self.attn1.project(&self.norm.modulated(x, &modulation, 0)?)?;
        let kv = inputs.past.with(&own, inputs.rotation)?;
        let collected = collect.then(|| own.key_value(None)).transpose()?;
        let (change, bias) = self.attn1.forward(&own, &kv, inputs.rotation)?;
        let x = cuda::residual(x, &change, bias, Some(&row(2)?))?;

        let normed = match &self.norm2 {
            None => x.clone(),
            Some(AffineNorm { weight, bias, eps }) => cuda::norm_affine(&x, weight, bias, *eps, x.dtype())?,
        };
        let x = self.attn2.forward(&x, &normed, inputs.context)?;

        let (fed, bias) = self.ffn_in.product(&self.norm.modulated(&x, &modulation, 3)?)?;
        let (change, bias) = self.ffn_out.product(&cuda::gelu(&fed, bias)?)?;
        Ok((cuda::residual(&x, &change, bias, Some(&row(5)?))?, collected))
    }
}

/// A layer norm without weights; the modulation scales and shifts its output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Norm {
    eps: f64,
}

impl Norm {
    pub(super) fn new(config: &Config) -> Self {
        Self { eps: config.eps }
    }

    /// norm(`x`) × (1 + scale) + shift, computed in f32. `x` is `[M, tokens, dim]`; row `shift` of `modulation`
    /// `[M, n, dim]` is the shift, the next row the scale.
    pub(super) fn modulated(&self, x: &Tensor, modulation: &Tensor, shift: usize) -> Result<Tensor> {
        let (shift, scale) = (modulation.narrow(1, shift, 1)?, modulation.narrow(1, shift + 1, 1)?);
        Ok(cuda::norm_modulate(x, &scale, &shift, self.eps, x.dtype())?)
    }
}
