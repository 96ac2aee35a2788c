//! The Wan video transformer (<https://arxiv.org/abs/2503.20314>), in diffusers' key layout.
//!
//! The same weights run in two ways: over a whole clip at once, every frame seeing every other
//! ([`WanTransformer::forward`]), or causally, chunk by chunk, each seeing itself and what a [`KvCache`]
//! remembers ([`WanTransformer::forward_chunk`], [`WanTransformer::cache_chunk`]).

mod attention;
mod block;
mod block_store;
mod cache;
mod config;
mod embedding;
mod packed;
mod rope;

use candle_core::{DType, Device, Tensor};
use candle_nn::Linear;

use crate::checkpoint::Layer;
use crate::checkpoint::{Source, Tensors};
use crate::kernels::linear::WeightFormat;
use crate::kernels::{self, attention::PackedKv};
use crate::ops::linear;
use crate::{Cancel, Error, Precision, Result};
use attention::KeyValue;
use block::{Block, BlockInputs, Norm};
use block_store::BlockStore;
pub use cache::{CausalConfig, KvCache, ShotMemory};
pub use config::Config;
use embedding::ConditionEmbedder;
use packed::{Form, PackedBlock, PackedBlocks};
use rope::Rope;

/// A loaded transformer. Clones share the weights.
#[derive(Clone, Debug)]
pub struct WanTransformer {
    config: Config,
    rope: Rope,
    /// The reference convolves with a kernel as large as its stride, which is a product with each patch.
    patch_embedding: Linear,
    condition_embedder: ConditionEmbedder,
    blocks: Blocks,
    norm_out: Norm,
    /// f32 `[1, 2, inner_dim]`.
    scale_shift_table: Tensor,
    proj_out: Layer,
    dtype: DType,
    device: Device,
}

#[derive(Clone, Debug)]
enum Blocks {
    Plain(BlockStore<Block>),
    /// Made for this CPU.
    Packed(PackedBlocks),
}

/// A prompt as every block sees it; computed once a prompt.
#[derive(Clone, Debug)]
pub struct Context(Texts);

#[derive(Clone, Debug)]
enum Texts {
    Plain(Vec<KeyValue>),
    Packed(Vec<PackedKv>),
}

/// Latents as the blocks see them.
struct Tokens {
    /// `[M, tokens / M, inner_dim]`, one group a modulation.
    x: Tensor,
    /// Latent frames, rows and columns of tokens.
    grid: [usize; 3],
    /// f32 `[M, inner_dim]` and `[M, 6, inner_dim]`.
    time: Tensor,
    modulation: Tensor,
}

impl WanTransformer {
    /// Opens `folder` of `source`, `transformer` as a rule. With `offload` its blocks stay in their file, and each is
    /// brought to the device when it is its turn.
    ///
    /// # Errors
    /// [`Error::NotFound`] and [`Error::Invalid`] if the files are missing, damaged or of an unsupported kind; the blocks
    /// that stay in the file are looked at when they are brought.
    pub fn open(
        source: &Source,
        folder: &str,
        precision: Precision,
        offload: bool,
        device: &Device,
    ) -> Result<Self> {
        let config = Self::config_of(source, folder)?;
        let (dtype, blocks) = (precision.dtype(device), precision == Precision::Gguf);
        let weights =
            source.tensors(folder, "diffusion_pytorch_model", dtype, device, blocks, &Cancel::new())?;
        let about = {
            let (source, folder) = (source.clone(), folder.to_string());
            move |e| source.mismatch(&folder, e)
        };
        Self::build(weights, &config, precision, offload, about.clone()).map_err(about)
    }

    /// The sizes of the one in `folder` of `source`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn config_of(source: &Source, folder: &str) -> Result<Config> {
        let path = format!("{folder}/config.json");
        let config: Config = source.json(&path)?;
        config.check().map_err(|e| source.invalid(&path, e))?;
        Ok(config)
    }

    /// Takes the weights that `config` calls for, in their number format; norms, tables and the embedding of time are f32
    /// always. With [`Precision::Int8`] the blocks' linear layers are rounded.
    pub fn load(weights: impl Into<Tensors>, config: &Config, precision: Precision) -> Result<Self> {
        Self::build(weights.into(), config, precision, false, |e| e)
    }

    /// `about` tells of errors in blocks that stay in their file.
    fn build(
        weights: Tensors,
        config: &Config,
        precision: Precision,
        offload: bool,
        about: impl Fn(Error) -> Error + Send + Sync + 'static,
    ) -> Result<Self> {
        config.check()?;
        let dim = config.inner_dim();
        let [frames, rows, columns] = config.patch_size;
        let patch = weights.pp("patch_embedding");
        let weight = patch.get((dim, config.in_channels, frames, rows, columns), "weight")?;
        let device = weights.device();
        Ok(Self {
            rope: Rope::new(config),
            patch_embedding: Linear::new(weight.reshape((dim, ()))?, Some(patch.get(dim, "bias")?)),
            condition_embedder: ConditionEmbedder::load(&weights.pp("condition_embedder"), config)?,
            blocks: Blocks::load(weights.pp("blocks"), config, precision, offload, about)?,
            norm_out: Norm::new(config, device)?,
            scale_shift_table: weights.to_dtype(DType::F32).get((1, 2, dim), "scale_shift_table")?,
            proj_out: weights.linear(dim, config.out_channels() * config.patch_area(), "proj_out")?,
            dtype: weights.dtype(),
            device: device.clone(),
            config: config.clone(),
        })
    }

    /// Its sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Makes the prompt's embedding `[1, length, text_dim]` ready for every block.
    pub fn context(&self, text_embeds: &Tensor) -> Result<Context> {
        let (batch, length, dim) = text_embeds.dims3()?;
        if batch != 1 || length == 0 || dim != self.config.text_dim {
            return Err(Error::Request(
                crate::Setting::Shape,
                format!(
                    "the transformer takes text embeddings of [1, length, {}], not {:?}; \
                 text encoder and transformer are not of one model",
                    self.config.text_dim,
                    text_embeds.dims()
                ),
            ));
        }
        let prompt =
            self.condition_embedder.text(&text_embeds.to_device(&self.device)?.to_dtype(self.dtype)?)?;
        Ok(Context(match &self.blocks {
            Blocks::Plain(blocks) => Texts::Plain(blocks.map(|block| block.text(&prompt))?),
            Blocks::Packed(blocks) => Texts::Packed(blocks.text(&prompt)?),
        }))
    }

    /// The velocity of a whole clip, every frame seeing every other.
    ///
    /// `latents` are `[1, in_channels, T, H, W]`; `timesteps`, from 1000 (noise) to 0 (clean), one for all
    /// frames or one each. Returns f32 `[1, out_channels, T, H, W]`.
    ///
    /// # Errors
    /// [`Error::Cancelled`] within a block of a cancel; [`Error::Request`] for sizes the model does not take.
    pub fn forward(
        &self,
        latents: &Tensor,
        timesteps: &[f64],
        context: &Context,
        cancel: &Cancel,
    ) -> Result<Tensor> {
        self.velocity(latents, timesteps, context, None, cancel)
    }

    /// The velocity of the next chunk, which sees itself and what `cache` remembers; otherwise as
    /// [`forward`](Self::forward).
    pub fn forward_chunk(
        &self,
        latents: &Tensor,
        timesteps: &[f64],
        context: &Context,
        cache: &KvCache,
        cancel: &Cancel,
    ) -> Result<Tensor> {
        self.velocity(latents, timesteps, context, Some(cache), cancel)
    }

    /// Adds a finished chunk to what `cache` remembers. An error, a cancel too, leaves `cache` as it was.
    ///
    /// A chunk is made in several steps with [`forward_chunk`](Self::forward_chunk) and then, clean, told to
    /// the cache with timestep 0 (<https://arxiv.org/abs/2506.08009>).
    pub fn cache_chunk(
        &self,
        latents: &Tensor,
        timesteps: &[f64],
        context: &Context,
        cache: &mut KvCache,
        cancel: &Cancel,
    ) -> Result<()> {
        let tokens = self.tokens(latents, timesteps)?;
        let frames = tokens.grid[0];
        let (_, new) = self.run(tokens, context, Some(cache), Purpose::Cache, cancel)?;
        cache.append(frames, new)
    }

    fn velocity(
        &self,
        latents: &Tensor,
        timesteps: &[f64],
        context: &Context,
        cache: Option<&KvCache>,
        cancel: &Cancel,
    ) -> Result<Tensor> {
        let tokens = self.tokens(latents, timesteps)?;
        let (grid, time) = (tokens.grid, tokens.time.clone());
        let (x, _) = self.run(tokens, context, cache, Purpose::Velocity, cancel)?;
        let modulation = time.unsqueeze(1)?.broadcast_add(&self.scale_shift_table)?;
        let patches = self.proj_out.forward(&self.norm_out.modulated(&x, &modulation, 0)?)?;
        self.unpatchify(&patches.to_dtype(DType::F32)?, grid)
    }

    /// Goes through the blocks. Keys and values of the tokens are collected only to be cached, and then the
    /// last block computes nothing else.
    fn run(
        &self,
        tokens: Tokens,
        context: &Context,
        cache: Option<&KvCache>,
        purpose: Purpose,
        cancel: &Cancel,
    ) -> Result<(Tensor, Vec<KeyValue>)> {
        let [frames, rows, columns] = tokens.grid;
        let times = match cache {
            None => (0..frames).collect(),
            Some(cache) => {
                cache.check(rows * columns)?;
                cache.positions(frames)
            }
        };
        let keys = self.rope.rotation(&times, rows, columns, &self.device)?;
        let (blocks, texts) = match (&self.blocks, &context.0) {
            (Blocks::Packed(blocks), Texts::Packed(texts)) => {
                return blocks.run(tokens, texts, cache, &keys, purpose, cancel);
            }
            (Blocks::Plain(blocks), Texts::Plain(texts)) => (blocks, texts),
            _ => {
                return Err(Error::Request(
                    crate::Setting::Shape,
                    "the prompt was made ready for another transformer; make it ready for this one".into(),
                ));
            }
        };
        let queries = keys.last(frames * rows * columns)?;

        let mut x = tokens.x;
        let mut collected = Vec::new();
        for (i, text) in texts.iter().enumerate() {
            cancel.check()?;
            let block = blocks.get(i)?;
            if purpose == Purpose::Cache && i + 1 == blocks.len() {
                collected.push(block.key_value(&x, &tokens.modulation)?);
                break;
            }
            let past = cache.and_then(|cache| cache.block(i));
            let modulation = &tokens.modulation;
            let (next, own) =
                block.forward(&x, &BlockInputs { modulation, queries: &queries, keys: &keys, text, past })?;
            x = next;
            if purpose == Purpose::Cache {
                collected.push(own);
            }
        }
        cancel.check()?;
        Ok((x, collected))
    }

    /// Cuts latents into tokens, row by row, and embeds them and the time.
    fn tokens(&self, latents: &Tensor, timesteps: &[f64]) -> Result<Tokens> {
        let (batch, channels, frames, height, width) = latents.dims5()?;
        let [_, patch_rows, patch_columns] = self.config.patch_size;
        let fits = height.is_multiple_of(patch_rows) && width.is_multiple_of(patch_columns);
        if batch != 1 || channels != self.config.in_channels || !fits || latents.elem_count() == 0 {
            return Err(Error::Request(
                crate::Setting::Shape,
                format!(
                    "the transformer takes latents of [1, {}, T, H, W] with H and W multiples of {patch_rows} and \
                 {patch_columns}, not {:?}",
                    self.config.in_channels,
                    latents.dims()
                ),
            ));
        }
        // Frames that share a timestep share a modulation.
        let timesteps = match timesteps {
            [first, rest @ ..] if rest.iter().all(|t| t == first) => &timesteps[..1],
            _ if timesteps.len() == frames => timesteps,
            _ => {
                return Err(Error::Request(
                    crate::Setting::Shape,
                    format!(
                        "{} timesteps for {frames} latent frames; give one, or one a frame",
                        timesteps.len()
                    ),
                ));
            }
        };

        let grid = [frames, height / patch_rows, width / patch_columns];
        let patches = latents
            .to_dtype(self.dtype)?
            .reshape((channels, frames, grid[1], patch_rows, grid[2], patch_columns))?
            .permute((1, 2, 4, 0, 3, 5))?
            .contiguous()?
            .reshape((timesteps.len(), (), channels * self.config.patch_area()))?;
        let (time, modulation) = self.condition_embedder.time(timesteps)?;
        Ok(Tokens { x: linear(&self.patch_embedding, &patches)?, grid, time, modulation })
    }

    /// Puts tokens `[M, tokens / M, patch × channels]` back in their places, `[1, channels, T, H, W]`.
    fn unpatchify(&self, patches: &Tensor, [frames, rows, columns]: [usize; 3]) -> Result<Tensor> {
        let [_, patch_rows, patch_columns] = self.config.patch_size;
        let channels = self.config.out_channels();
        Ok(patches
            .reshape((frames, rows, columns, patch_rows, patch_columns, channels))?
            .permute((5, 0, 1, 3, 2, 4))?
            .contiguous()?
            .reshape((1, channels, frames, rows * patch_rows, columns * patch_columns))?)
    }
}

impl Blocks {
    fn load(
        weights: Tensors,
        config: &Config,
        precision: Precision,
        offload: bool,
        about: impl Fn(Error) -> Error + Send + Sync + 'static,
    ) -> Result<Self> {
        let (count, own) = (config.num_layers, config.clone());
        // What stays in blocks of a file is for candle's operations.
        let packed =
            kernels::arch(weights.dtype(), weights.device()).filter(|_| precision != Precision::Gguf);
        Ok(match packed {
            None => Self::Plain(BlockStore::new(count, offload, move |i| {
                Block::load(&weights.pp(i), &own).map_err(&about)
            })?),
            Some(arch) => {
                let numbers =
                    if precision == Precision::Int8 { WeightFormat::Int8 } else { WeightFormat::F32 };
                let form = Form::new(arch, numbers, config);
                let load = move |i| PackedBlock::load(form, &weights.pp(i), &own).map_err(&about);
                Self::Packed(PackedBlocks::new(form, count, offload, load)?)
            }
        })
    }
}

/// What the blocks are run for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Velocity,
    Cache,
}
