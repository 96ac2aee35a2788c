//! The Wan video transformer (<https://arxiv.org/abs/2503.20314>), with diffusers' tensor names.
//!
//! The same weights run in two ways: over a whole clip with full attention ([`WanTransformer::forward`]), or causally, chunk
//! by chunk, where a chunk attends to itself and to a [`KvCache`] ([`WanTransformer::forward_chunk`],
//! [`WanTransformer::cache_chunk`]).

mod attention;
mod block;
mod block_store;
mod cache;
mod config;
mod control;
mod embedding;
mod overlay;
mod packed;
mod reference;
mod ring;
mod rope;
mod window;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::Linear;

use crate::checkpoint::{Layer, Source, Tensors};

use crate::kernels;
use crate::kernels::linear::WeightFormat;
use crate::ops::linear;
use crate::{Cancel, Error, Precision, Result};
use attention::{ContextKv, KeyValue};
use block::{Block, BlockInputs, Norm, Past};
use block_store::BlockStore;
pub use cache::{KvCache, KvCacheConfig, Positions, ShotMemory};
pub use config::Config;
pub use control::Control;
use control::{ControlBlock, ControlEmbedding, ControlTokens, RunningBranch};
use embedding::ConditionEmbedder;
use overlay::OverlayLayers;
use packed::{PackedBlock, PackedBlocks, PackedConfig, PackedContextKv, PackedControlBlock};
use reference::{ChunkReferences, shifted};
pub use reference::{Placement, ReferenceKv, Shift};
pub use ring::RingConfig;
use ring::RingPass;
use rope::{FramePosition, Rope, Rotation};
use window::{Layout, WindowFrame, WindowInputs};

/// A loaded transformer. Clones share the weights.
#[derive(Clone, Debug)]
pub struct WanTransformer {
    config: Config,
    rope: Rope,
    /// The reference uses a convolution whose kernel equals its stride, which is a linear layer over each patch.
    patch_embedding: Linear,
    /// Of the alpha of a reference picture; its bias marks a token as one of a reference.
    reference_embedding: Option<Layer>,
    overlay: Option<OverlayLayers>,
    /// Of the control branch.
    control: Option<ControlEmbedding>,
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
    /// The blocks, and those of the control branch.
    Plain(BlockStore<Block>, BlockStore<ControlBlock>),
    /// Packed for the CPU kernels.
    Packed(PackedBlocks),
}

/// The cross attention keys and values of a prompt, and of images that the model reads with it, for every block. Computed once for
/// each prompt.
#[derive(Clone, Debug)]
pub struct Context(PromptKv);

/// Those of the blocks, and of the blocks of the control branch.
#[derive(Clone, Debug)]
enum PromptKv {
    Plain([Vec<ContextKv>; 2]),
    Packed([Vec<PackedContextKv>; 2]),
}

/// The embedded latents, the input of the blocks.
struct Tokens {
    /// `[M, tokens / M, inner_dim]`, one group per modulation.
    x: Tensor,
    /// Number of latent frames, rows and columns of tokens.
    grid: [usize; 3],
    /// f32 `[M, inner_dim]` and `[M, 6, inner_dim]`.
    time: Tensor,
    modulation: Tensor,
    /// The control video, for the control branch.
    control: Option<ControlTokens>,
}

/// What the tokens of a pass attend to.
struct Attended<'a> {
    rope: &'a Rope,
    device: &'a Device,
    cache: Option<&'a KvCache>,
    /// The cached frames, and those of the pass.
    cached: Vec<WindowFrame>,
    chunk: Vec<WindowFrame>,
    /// Number of latent frames, rows and columns of tokens.
    grid: [usize; 3],
    /// Rotary embedding of the own tokens.
    rotation: Rotation,
    /// References, and the temporal position of the first frame.
    references: Option<(&'a ChunkReferences, usize)>,
    /// The ring, in place of `cache` and `references`.
    ring: Option<RingPass<'a>>,
}

impl Attended<'_> {
    /// Rotary embedding of the cached tokens.
    fn past_rotation(&self) -> Result<Rotation> {
        let [_, rows, columns] = self.grid;
        let positions: Vec<_> = self.cached.iter().map(|frame| frame.position).collect();
        self.rope.rotation(&positions, rows, columns, self.device)
    }
}

impl WanTransformer {
    /// Loads the transformer in `folder` of `source`, usually `transformer`. With `offload` the blocks stay in their file,
    /// and each is loaded onto the device when it runs.
    ///
    /// # Errors
    /// [`Error::NotFound`] and [`Error::Invalid`] if the files are missing, damaged or of an unsupported kind, and
    /// [`Error::Cancelled`]. An offloaded block is checked only when it is loaded.
    pub fn open(
        source: &Source,
        folder: &str,
        precision: Precision,
        offload: bool,
        device: &Device,
        cancel: &Cancel,
    ) -> Result<Self> {
        cancel.check()?;
        let config = Self::config_of(source, folder)?;
        let (dtype, quantized) = (precision.dtype(device), precision == Precision::Gguf);
        let weights = source.tensors(folder, "diffusion_pytorch_model", dtype, device, quantized, cancel)?;
        let locate = {
            let (source, folder) = (source.clone(), folder.to_string());
            move |e| source.mismatch(&folder, e)
        };
        Self::build(weights, &config, precision, offload, locate.clone(), cancel).map_err(locate)
    }

    /// The config of the transformer in `folder` of `source`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn config_of(source: &Source, folder: &str) -> Result<Config> {
        let path = format!("{folder}/config.json");
        let config: Config = source.json(&path)?;
        config.check().map_err(|e| source.invalid(&path, e))?;
        Ok(config)
    }

    /// Loads the tensors that `config` requires, in the data type of `weights`. Norms, modulation tables and the time
    /// embedding are always f32. With [`Precision::Int8`] the linear layers of the blocks are quantized.
    pub fn load(weights: impl Into<Tensors>, config: &Config, precision: Precision) -> Result<Self> {
        Self::build(weights.into(), config, precision, false, |e| e, &Cancel::new())
    }

    /// `locate` adds the file to an error in an offloaded block.
    fn build(
        weights: Tensors,
        config: &Config,
        precision: Precision,
        offload: bool,
        locate: impl Fn(Error) -> Error + Send + Sync + 'static,
        cancel: &Cancel,
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
            reference_embedding: config
                .alpha_channels()
                .map(|channels| weights.linear(channels * config.patch_area(), dim, "reference_embedding"))
                .transpose()?,
            overlay: OverlayLayers::load(&weights, config)?,
            control: ControlEmbedding::load(&weights, config)?,
            condition_embedder: ConditionEmbedder::load(&weights.pp("condition_embedder"), config)?,
            blocks: Blocks::load(&weights, config, precision, offload, locate, cancel)?,
            norm_out: Norm::new(config),
            scale_shift_table: weights.to_dtype(DType::F32).get((1, 2, dim), "scale_shift_table")?,
            proj_out: weights.linear(dim, config.out_channels() * config.patch_area(), "proj_out")?,
            dtype: weights.dtype(),
            device: device.clone(),
            config: config.clone(),
        })
    }

    /// The config it was loaded with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Projects the prompt embedding `[1, length, text_dim]` to the cross attention keys and values of every block.
    ///
    /// # Errors
    /// [`Error::Request`] for another shape; [`Error::Cancelled`], checked before each block.
    pub fn context(&self, text_embeds: &Tensor, cancel: &Cancel) -> Result<Context> {
        self.context_with_images(text_embeds, None, cancel)
    }

    /// As [`context`](Self::context), with the image encoder's tokens of all images, `[1, tokens, image_dim]`, for a model that reads
    /// images.
    ///
    /// # Errors
    /// As [`context`](Self::context), and [`Error::Request`] if the model needs images and there are none, or the other way round.
    pub fn context_with_images(
        &self,
        text_embeds: &Tensor,
        images: Option<&Tensor>,
        cancel: &Cancel,
    ) -> Result<Context> {
        self.check_images(images)?;
        let (batch, length, dim) = text_embeds.dims3()?;
        if batch != 1 || length == 0 || dim != self.config.text_dim {
            return Err(Error::Request(
                crate::Setting::Shape,
                format!(
                    "the transformer takes text embeddings of [1, length, {}], not {:?}; \
                     the text encoder and the transformer belong to different models",
                    self.config.text_dim,
                    text_embeds.dims()
                ),
            ));
        }
        let prompt =
            self.condition_embedder.text(&text_embeds.to_device(&self.device)?.to_dtype(self.dtype)?)?;
        let images = match images {
            Some(images) => self.condition_embedder.images(&images.to_device(&self.device)?, self.dtype)?,
            None => None,
        };
        let images = images.as_ref();
        Ok(Context(match &self.blocks {
            Blocks::Plain(blocks, branch) => PromptKv::Plain([
                blocks.map(cancel, |block| block.context(&prompt, images))?,
                branch.map(cancel, |beside| beside.block.context(&prompt, images))?,
            ]),
            Blocks::Packed(blocks) => PromptKv::Packed(blocks.context(&prompt, images, cancel)?),
        }))
    }

    fn check_images(&self, images: Option<&Tensor>) -> Result<()> {
        let tokens = self.config.pos_embed_seq_len;
        let fits = match (images.map(Tensor::dims), self.config.image_dim) {
            (None, None) => true,
            (Some([1, count, width]), Some(dim)) => {
                *count > 0 && *width == dim && tokens.is_none_or(|tokens| tokens == *count)
            }
            _ => false,
        };
        if fits {
            return Ok(());
        }
        let reason = match self.config.image_dim {
            None => "this transformer reads no images".into(),
            Some(dim) => format!(
                "the transformer takes image embeddings of [1, {}, {dim}], not {:?}",
                tokens.map_or("tokens".into(), |tokens| tokens.to_string()),
                images.map(Tensor::dims)
            ),
        };
        Err(Error::Request(crate::Setting::Shape, reason))
    }

    /// Where a chunk shows a reference whose upper left corner is at this row and column of latents: the shift for
    /// [`reference`](Self::reference), and the place of the shifted picture.
    pub fn placement(&self, row: f64, column: f64) -> (Shift, Placement) {
        let [_, patch @ ..] = self.config.patch_size;
        Placement::of_corner([row, column], patch)
    }

    /// Computes the keys and values of a reference picture: its `latents` on grey `[1, in_channels, 1, H, W]`, and its `alpha`
    /// `[1, alpha values per latent, 1, H, W]`. `shift` is zero for [`Placement::Free`].
    ///
    /// # Errors
    /// [`Error::Request`] from a model without references, for other shapes, and for a shift of a token or more;
    /// [`Error::Cancelled`].
    pub fn reference(
        &self,
        latents: &Tensor,
        alpha: &Tensor,
        shift: Shift,
        context: &Context,
        cancel: &Cancel,
    ) -> Result<ReferenceKv> {
        let Some(embedding) = &self.reference_embedding else {
            return Err(Error::Request(crate::Setting::Reference, "this model has no references".into()));
        };
        let ([_, patch @ ..], channels) = (self.config.patch_size, self.config.alpha_channels().unwrap_or(1));
        let (_, _, frames, height, width) = latents.dims5()?;
        let fits = frames == 1 && alpha.dims() == [1, channels, 1, height, width];
        if !fits || shift[0] >= patch[0] || shift[1] >= patch[1] {
            return Err(Error::Request(
                crate::Setting::Shape,
                format!(
                    "a reference has one latent frame, {channels} alpha values per latent and a shift below {patch:?}, not {:?}, {:?} and \
                     {shift:?}",
                    latents.dims(),
                    alpha.dims()
                ),
            ));
        }
        let mut tokens = self.tokens(&shifted(latents, shift, patch)?, &[0.0])?;
        let [_, rows, columns] = tokens.grid;
        tokens.x = (tokens.x + embedding.forward(&self.patches(&shifted(alpha, shift, patch)?, 1)?)?)?;
        let (_, blocks) = self.run(tokens, context, None, Pass::CacheUpdate, cancel)?;
        Ok(ReferenceKv { blocks, grid: [rows, columns] })
    }

    /// Predicts the velocity of a whole clip with full attention.
    ///
    /// `latents` are `[1, in_channels, T, H, W]`. `timesteps` go from 1000 (noise) to 0 (clean): one for all frames, or one
    /// per frame. Returns f32 `[1, out_channels, T, H, W]`.
    ///
    /// # Errors
    /// [`Error::Cancelled`], checked before each block; [`Error::Request`] for shapes that the model does not accept.
    pub fn forward(
        &self,
        latents: &Tensor,
        timesteps: &[f64],
        context: &Context,
        cancel: &Cancel,
    ) -> Result<Tensor> {
        self.velocity(latents, timesteps, context, None, None, cancel)
    }

    /// As [`forward`](Self::forward), steered by a control video, for a VACE model. Without one the control branch does not run.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and [`Error::Request`] from another model.
    pub fn forward_controlled(
        &self,
        latents: &Tensor,
        timesteps: &[f64],
        context: &Context,
        control: &Control,
        cancel: &Cancel,
    ) -> Result<Tensor> {
        self.velocity(latents, timesteps, context, None, Some(control), cancel)
    }

    /// Predicts the velocity of the next chunk, which attends to itself and to `cache`; otherwise like
    /// [`forward`](Self::forward).
    pub fn forward_chunk(
        &self,
        latents: &Tensor,
        timesteps: &[f64],
        context: &Context,
        cache: &KvCache,
        cancel: &Cancel,
    ) -> Result<Tensor> {
        self.velocity(latents, timesteps, context, Some(cache), None, cancel)
    }

    /// As [`forward_chunk`](Self::forward_chunk), for the last step of a chunk with a ring in its `cache`, which every step writes to. After
    /// an error, including a cancel, the ring may have a part of the chunk.
    pub fn finish_chunk(
        &self,
        latents: &Tensor,
        timesteps: &[f64],
        context: &Context,
        cache: &KvCache,
        cancel: &Cancel,
    ) -> Result<Tensor> {
        let velocity = self.forward_chunk(latents, timesteps, context, cache, cancel)?;
        if let Some(ring) = &cache.ring {
            let (_, _, frames, height, width) = latents.dims5()?;
            ring.advance(frames, height * width / self.config.patch_area());
        }
        Ok(velocity)
    }

    /// Appends a finished chunk to `cache`. An error, including a cancel, leaves `cache` unchanged, unless it has a ring.
    ///
    /// A chunk is denoised in several steps with [`forward_chunk`](Self::forward_chunk); the clean chunk is then cached at
    /// timestep 0 (<https://arxiv.org/abs/2506.08009>).
    pub fn cache_chunk(
        &self,
        latents: &Tensor,
        timesteps: &[f64],
        context: &Context,
        cache: &mut KvCache,
        cancel: &Cancel,
    ) -> Result<()> {
        if cache.ring.is_some() {
            return self.finish_chunk(latents, timesteps, context, cache, cancel).map(drop);
        }
        let _uploads = self.keep_small_uploads();
        let tokens =
            self.conditioned_tokens(latents, timesteps, cache.control.as_ref(), cache.overlay.as_ref())?;
        let [frames, rows, columns] = tokens.grid;
        let (_, new) = self.run(tokens, context, Some(cache), Pass::CacheUpdate, cancel)?;
        cache.append(frames, rows * columns, new)
    }

    fn velocity(
        &self,
        latents: &Tensor,
        timesteps: &[f64],
        context: &Context,
        cache: Option<&KvCache>,
        control: Option<&Control>,
        cancel: &Cancel,
    ) -> Result<Tensor> {
        let _uploads = self.keep_small_uploads();
        let control = control.or_else(|| cache?.control.as_ref());
        let overlay = cache.and_then(|cache| cache.overlay.as_ref());
        let tokens = self.conditioned_tokens(latents, timesteps, control, overlay)?;
        let (grid, time) = (tokens.grid, tokens.time.clone());
        let (x, _) = self.run(tokens, context, cache, Pass::Velocity, cancel)?;
        let modulation = time.unsqueeze(1)?.broadcast_add(&self.scale_shift_table)?;
        let patches = self.proj_out.forward(&self.norm_out.modulated(&x, &modulation, 0)?)?;
        let predicted = self.unpatchify(&patches.to_dtype(DType::F32)?, grid)?;
        match (&self.overlay, overlay) {
            (Some(layers), Some(overlay)) => layers.cover(&predicted, overlay),
            _ => Ok(predicted),
        }
    }

    /// Runs the blocks. [`Pass::CacheUpdate`] collects the keys and values of the tokens; the last block then computes nothing
    /// else.
    fn run(
        &self,
        mut tokens: Tokens,
        context: &Context,
        cache: Option<&KvCache>,
        pass: Pass,
        cancel: &Cancel,
    ) -> Result<(Tensor, Vec<KeyValue>)> {
        let attended = self.attended(tokens.grid, cache)?;
        let embedding = self.control.as_ref();
        let (blocks, branch, [contexts, branch_contexts]) = match (&self.blocks, &context.0) {
            (Blocks::Packed(blocks), PromptKv::Packed(contexts)) => {
                return blocks.run(tokens, contexts, embedding, &attended, pass, cancel);
            }
            (Blocks::Plain(blocks, branch), PromptKv::Plain(contexts)) => (blocks, branch, contexts),
            _ => {
                return Err(Error::Request(
                    crate::Setting::Shape,
                    "the context was computed by another transformer; compute it with this one".into(),
                ));
            }
        };
        let window = match attended.cache {
            None => None,
            Some(cache) => {
                let inputs = self.window_inputs(&attended, cache);
                Some(cache.window.begin(&inputs, pass == Pass::CacheUpdate)?)
            }
        };
        let past = |block| match (&window, attended.ring) {
            (_, Some(ring)) => Past::Ring(ring, block),
            (Some(window), None) => Past::Window(window, block),
            (None, None) => Past::None,
        };
        let mut branch = RunningBranch::new(&mut tokens, embedding, branch, branch_contexts);
        let mut x = tokens.x;
        // Those of a chunk are in the window.
        let collect = pass == Pass::CacheUpdate && window.is_none();
        let mut collected = Vec::new();
        for (i, context) in contexts.iter().enumerate() {
            let (modulation, rotation) = (&tokens.modulation, &attended.rotation);
            let inputs = BlockInputs { modulation, rotation, context, past: past(i) };
            let is_last = pass == Pass::CacheUpdate && i + 1 == blocks.len();
            // Before the block is loaded: with `offload` one block at a time is in memory.
            let added = match &mut branch {
                Some(branch) if !is_last => branch.added(i, &x, &inputs, cancel)?,
                _ => None,
            };
            let block = blocks.get(i, cancel)?;
            if is_last {
                collected.extend(block.key_value(&x, &inputs)?);
                break;
            }
            let (next, own) = block.forward(&x, &inputs, collect)?;
            collected.extend(own);
            x = match added {
                Some(added) => (next + added)?,
                None => next,
            };
        }
        cancel.check()?;
        Ok((x, collected))
    }

    /// While the result lives, candle keeps what it uploads to a GPU in up to 4 KiB, such as the strides of views: it is the same in every
    /// pass.
    #[cfg(feature = "cuda")]
    fn keep_small_uploads(&self) -> Option<impl Sized> {
        self.device.as_cuda_device().ok().map(candle_core::CudaDevice::enable_cuda_graph_htod_cache)
    }

    #[cfg(not(feature = "cuda"))]
    fn keep_small_uploads(&self) -> Option<()> {
        None
    }

    fn window_inputs<'a>(&'a self, attended: &'a Attended, cache: &KvCache) -> WindowInputs<'a> {
        let [_, rows, columns] = attended.grid;
        let Config { num_layers: blocks, num_attention_heads: heads, attention_head_dim: head_dim, .. } =
            self.config;
        let moves = cache.positions_change() || self.rope.follows_camera();
        WindowInputs {
            layout: Layout { blocks, rows, columns, heads, head_dim, dtype: Some(self.dtype), moves },
            rope: &self.rope,
            device: &self.device,
            cached: attended.cached.clone(),
            chunk: attended.chunk.clone(),
            references: attended.references,
            slots: cache.capacity(),
        }
    }

    /// What tokens of this grid attend to after the frames in `cache`.
    fn attended<'a>(&'a self, grid: [usize; 3], cache: Option<&'a KvCache>) -> Result<Attended<'a>> {
        let [frames, rows, columns] = grid;
        if let Some(cache) = cache {
            cache.check(rows * columns)?;
        }
        let ring = cache.and_then(|cache| cache.ring.as_ref());
        let ring_pass = ring.map(|ring| RingPass { ring, frames });
        let cache = cache.filter(|_| ring.is_none());
        let mut cached = match (ring, cache) {
            (Some(ring), _) => numbered(ring.times(frames)),
            (None, Some(cache)) => cache.placed(frames),
            (None, None) => numbered((0..frames).collect()),
        };
        let chunk = cached.split_off(cached.len() - frames);
        let positions: Vec<_> = chunk.iter().map(|frame| frame.position).collect();
        let references = cache.map(|cache| &cache.references).filter(|placed| !placed.blocks().is_empty());
        Ok(Attended {
            rope: &self.rope,
            device: &self.device,
            cache,
            rotation: self.rope.rotation(&positions, rows, columns, &self.device)?,
            references: references.map(|placed| (placed, positions[0].time)),
            cached,
            chunk,
            grid,
            ring: ring_pass,
        })
    }

    /// Splits the latents into patches in row-major order, and embeds the patches and the timesteps.
    fn tokens(&self, latents: &Tensor, timesteps: &[f64]) -> Result<Tokens> {
        let (batch, channels, frames, height, width) = latents.dims5()?;
        let [_, patch_rows, patch_columns] = self.config.patch_size;
        let fits = height.is_multiple_of(patch_rows) && width.is_multiple_of(patch_columns);
        if batch != 1 || channels != self.config.in_channels || !fits || latents.elem_count() == 0 {
            return Err(Error::Request(
                crate::Setting::Shape,
                format!(
                    "the transformer takes latents of [1, {}, T, H, W] with H a multiple of {patch_rows} and W of \
                     {patch_columns}, not {:?}",
                    self.config.in_channels,
                    latents.dims()
                ),
            ));
        }
        // Frames with the same timestep share a modulation.
        let timesteps = match timesteps {
            [first, rest @ ..] if rest.iter().all(|t| t == first) => &timesteps[..1],
            _ if timesteps.len() == frames => timesteps,
            _ => {
                return Err(Error::Request(
                    crate::Setting::Shape,
                    format!(
                        "{} timesteps for {frames} latent frames; pass one, or one per frame",
                        timesteps.len()
                    ),
                ));
            }
        };

        let grid = [frames, height / patch_rows, width / patch_columns];
        let patches = self.patches(latents, timesteps.len())?;
        let (time, modulation) = self.condition_embedder.time(timesteps)?;
        Ok(Tokens { x: linear(&self.patch_embedding, &patches)?, grid, time, modulation, control: None })
    }

    /// As [`tokens`](Self::tokens), with the overlay, and with the tokens of the control video.
    fn conditioned_tokens(
        &self,
        latents: &Tensor,
        timesteps: &[f64],
        control: Option<&Control>,
        overlay: Option<&Tensor>,
    ) -> Result<Tokens> {
        let mut tokens = self.tokens(latents, timesteps)?;
        if let (Some(layers), Some(overlay)) = (&self.overlay, overlay) {
            layers.check(overlay, latents)?;
            tokens.x = (&tokens.x + layers.embed(&self.patches(overlay, tokens.x.dim(0)?)?)?)?;
        }
        if let Some(control) = control {
            control.check(&self.config, latents)?;
            let groups = tokens.x.dim(0)?;
            let embed = |embedding: &ControlEmbedding| -> Result<ControlTokens> {
                let patches = self.patches(&control.latents, groups)?;
                Ok(ControlTokens { x: embedding.embed(&patches)?, scale: control.scale })
            };
            tokens.control = self.control.as_ref().map(embed).transpose()?;
        }
        Ok(tokens)
    }

    /// The patches of `x` `[1, C, T, H, W]` in `groups` groups, `[groups, tokens / groups, C × patch]`.
    fn patches(&self, x: &Tensor, groups: usize) -> Result<Tensor> {
        let (_, channels, frames, height, width) = x.dims5()?;
        let [_, patch_rows, patch_columns] = self.config.patch_size;
        let (rows, columns) = (height / patch_rows, width / patch_columns);
        Ok(x.to_dtype(self.dtype)?
            .reshape((channels, frames, rows, patch_rows, columns, patch_columns))?
            .permute((1, 2, 4, 0, 3, 5))?
            .contiguous()?
            .reshape((groups, (), channels * self.config.patch_area()))?)
    }

    /// Rearranges tokens `[M, tokens / M, patch × channels]` into latents `[1, channels, T, H, W]`.
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

/// Frames at these times, for a camera at rest.
fn numbered(times: Vec<usize>) -> Vec<WindowFrame> {
    let frame = |(number, time)| WindowFrame { number, position: FramePosition { time, moved: 0.0 } };
    times.into_iter().enumerate().map(frame).collect()
}

impl Blocks {
    fn load(
        weights: &Tensors,
        config: &Config,
        precision: Precision,
        offload: bool,
        locate: impl Fn(Error) -> Error + Send + Sync + 'static,
        cancel: &Cancel,
    ) -> Result<Self> {
        let (count, config) = (config.num_layers, config.clone());
        let branch_count = config.vace_layers.as_ref().map_or(0, Vec::len);
        let (branch, weights) = (weights.pp("vace_blocks"), weights.pp("blocks"));
        let locate = Arc::new(locate);
        let (branch_config, branch_locate) = (config.clone(), locate.clone());
        // Quantized GGUF tensors need candle's operations; the kernels read f32 and int8 only.
        let packed =
            kernels::arch(weights.dtype(), weights.device()).filter(|_| precision != Precision::Gguf);
        Ok(match packed {
            None => {
                let load = move |i, cancel: &Cancel| {
                    Block::load(&weights.pp(i).with_cancel(cancel), &config, cancel).map_err(&*locate)
                };
                let load_beside = move |i, cancel: &Cancel| {
                    let weights = branch.pp(i).with_cancel(cancel);
                    ControlBlock::load(&weights, &branch_config, i == 0, cancel).map_err(&*branch_locate)
                };
                Self::Plain(
                    BlockStore::new(count, offload, cancel, load)?,
                    BlockStore::new(branch_count, offload, cancel, load_beside)?,
                )
            }
            Some(arch) => {
                let format =
                    if precision == Precision::Int8 { WeightFormat::Int8 } else { WeightFormat::F32 };
                let packing = PackedConfig::new(arch, format, &config);
                let load = move |i, cancel: &Cancel| {
                    PackedBlock::load(packing, &weights.pp(i).with_cancel(cancel), &config, cancel)
                        .map_err(&*locate)
                };
                let load_beside = move |i, cancel: &Cancel| {
                    let weights = branch.pp(i).with_cancel(cancel);
                    PackedControlBlock::load(packing, &weights, &branch_config, i == 0, cancel)
                        .map_err(&*branch_locate)
                };
                Self::Packed(PackedBlocks::new(
                    packing,
                    BlockStore::new(count, offload, cancel, load)?,
                    BlockStore::new(branch_count, offload, cancel, load_beside)?,
                ))
            }
        })
    }
}

/// What a pass through the blocks computes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// The velocity of the tokens.
    Velocity,
    /// The keys and values of the tokens, for a [`KvCache`].
    CacheUpdate,
}
