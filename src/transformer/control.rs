//! The control branch of VACE (<https://arxiv.org/abs/2503.07598>): diffusers' `WanVACETransformer3DModel`.
//!
//! Its blocks run beside those of the transformer, on the tokens of a control video. After some blocks of the transformer the output
//! of one block of the branch is added to the tokens. In a causal model the branch sees the tokens of the chunk alone.

use candle_core::Tensor;
use candle_nn::Linear;

use super::attention::ContextKv;
use super::block::{Block, BlockInputs, Past};
use super::{BlockStore, Config, Tokens};
use crate::checkpoint::{Layer, Tensors};
use crate::{Cancel, Error, Result, Setting};

/// A video that steers the transformer.
#[derive(Clone, Debug)]
pub struct Control {
    /// `[1, vace_in_channels, T, H, W]`, with the frames, rows and columns of the latents: see
    /// `prepare_video_latents` and `prepare_masks` of diffusers' `WanVACEPipeline`.
    pub latents: Tensor,
    /// The weight of the branch; 1 as it was trained.
    pub scale: f64,
}

/// The part of the branch outside its blocks.
#[derive(Clone, Debug)]
pub(super) struct ControlEmbedding {
    patch_embedding: Linear,
    /// The blocks of the transformer that are followed by one of the branch.
    layers: Vec<usize>,
}

/// The embedded control video of a pass.
pub(super) struct ControlTokens {
    /// Of the shape of the transformer's tokens.
    pub(super) x: Tensor,
    pub(super) scale: f64,
}

impl ControlEmbedding {
    /// `None` for a model without the branch.
    pub(super) fn load(weights: &Tensors, config: &Config) -> Result<Option<Self>> {
        let (Some(layers), Some(channels)) = (&config.vace_layers, config.vace_in_channels) else {
            return Ok(None);
        };
        let (dim, [frames, rows, columns]) = (config.inner_dim(), config.patch_size);
        let patch = weights.pp("vace_patch_embedding");
        let weight = patch.get((dim, channels, frames, rows, columns), "weight")?;
        let patch_embedding = Linear::new(weight.reshape((dim, ()))?, Some(patch.get(dim, "bias")?));
        Ok(Some(Self { patch_embedding, layers: layers.clone() }))
    }

    /// The index in the branch of the block that runs with block `i` of the transformer.
    pub(super) fn beside(&self, i: usize) -> Option<usize> {
        self.layers.binary_search(&i).ok()
    }

    /// Embeds the patches of a control video.
    pub(super) fn embed(&self, patches: &Tensor) -> Result<Tensor> {
        Ok(crate::ops::linear(&self.patch_embedding, patches)?)
    }
}

impl Control {
    /// Refuses a control video of other channels, frames, rows or columns than `latents` need.
    pub(super) fn check(&self, config: &Config, latents: &Tensor) -> Result<()> {
        let Some(channels) = config.vace_in_channels else {
            let reason = "this model has no control branch; use a VACE model, such as Wan2.1-VACE-1.3B";
            return Err(Error::Request(Setting::Control, reason.into()));
        };
        let (_, _, frames, height, width) = latents.dims5()?;
        let expected = [1, channels, frames, height, width];
        if self.latents.dims() != expected {
            return Err(Error::Request(
                Setting::Shape,
                format!(
                    "the control latents are {:?}; the transformer takes {expected:?}",
                    self.latents.dims()
                ),
            ));
        }
        Ok(())
    }
}

/// One block of the branch: diffusers' `WanVACETransformerBlock`.
#[derive(Clone, Debug)]
pub(super) struct ControlBlock {
    /// Of the first block.
    proj_in: Option<Layer>,
    pub(super) block: Block,
    proj_out: Layer,
}

impl ControlBlock {
    pub(super) fn load(weights: &Tensors, config: &Config, first: bool, cancel: &Cancel) -> Result<Self> {
        let dim = config.inner_dim();
        Ok(Self {
            proj_in: first.then(|| weights.linear(dim, dim, "proj_in")).transpose()?,
            block: Block::load(weights, config, cancel)?,
            proj_out: weights.linear(dim, dim, "proj_out")?,
        })
    }

    /// Runs the block on the tokens of the branch; `x` are those of the transformer. Returns the new tokens of the branch, and what is
    /// added to those of the transformer.
    fn forward(&self, tokens: &Tensor, x: &Tensor, inputs: &BlockInputs) -> Result<(Tensor, Tensor)> {
        let tokens = match &self.proj_in {
            Some(layer) => (layer.forward(tokens)? + x)?,
            None => tokens.clone(),
        };
        let (tokens, _) = self.block.forward(&tokens, inputs, false)?;
        let added = self.proj_out.forward(&tokens)?;
        Ok((tokens, added))
    }
}

/// The branch during a pass.
pub(super) struct RunningBranch<'a> {
    embedding: &'a ControlEmbedding,
    blocks: &'a BlockStore<ControlBlock>,
    contexts: &'a [ContextKv],
    tokens: Tensor,
    scale: f64,
}

impl<'a> RunningBranch<'a> {
    /// `None` for a pass without a control video.
    pub(super) fn new(
        tokens: &mut Tokens,
        embedding: Option<&'a ControlEmbedding>,
        blocks: &'a BlockStore<ControlBlock>,
        contexts: &'a [ContextKv],
    ) -> Option<Self> {
        let ControlTokens { x, scale } = tokens.control.take()?;
        Some(Self { embedding: embedding?, blocks, contexts, tokens: x, scale })
    }

    /// What is added to the tokens after block `i` of the transformer; `x` are the tokens before it.
    pub(super) fn added(
        &mut self,
        i: usize,
        x: &Tensor,
        inputs: &BlockInputs,
        cancel: &Cancel,
    ) -> Result<Option<Tensor>> {
        let Some(index) = self.embedding.beside(i) else { return Ok(None) };
        // It sees the chunk alone.
        let context = &self.contexts[index];
        let inputs = BlockInputs { context, past: Past::None, ..*inputs };
        let (tokens, added) = self.blocks.get(index, cancel)?.forward(&self.tokens, x, &inputs)?;
        self.tokens = tokens;
        Ok(Some((added * self.scale)?))
    }
}
