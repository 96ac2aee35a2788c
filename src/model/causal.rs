//! `soragen.json`: the configuration of a causal model.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::experts::FIRST;
use super::family::Family;
use super::info::ModelInfo;
use super::sizes::{MAX_SIDE, Sizes};
use crate::checkpoint::Source;
use crate::scheduler::ChunkScheduleConfig;
use crate::transformer::{Positions, RingConfig, ShotMemory, WanTransformer};
use crate::world::{WORLD, World};
use crate::{Result, Size, autoencoder};

pub(super) const SORAGEN: &str = "soragen.json";
const TRANSFORMER: &str = "transformer/config.json";
/// Limit of latent frames in a chunk, a window or a sink: hundreds of times as many as any model has.
const MAX_LATENTS: usize = 4096;
/// Limit of the default length, in latent frames: months of video.
const MAX_NATURAL_LATENTS: u64 = 1 << 24;

/// `soragen.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct CausalModel {
    format: u32,
    #[serde(default)]
    family: Family,
    name: String,
    /// Frames per second, as a fraction.
    frame_rate: (u32, u32),
    /// Width and height; the first size is the default.
    sizes: Vec<(u32, u32)>,
    /// Default length, in latent frames.
    natural_latents: u64,
    pub causal: CausalConfig,
    guidance_scale: f64,
    pub max_text_tokens: usize,
}

/// How a causal model generates chunk after chunk. Counts are latent frames.
#[derive(Clone, Debug, Deserialize)]
pub struct CausalConfig {
    /// Frames of a chunk.
    pub chunk: usize,
    /// Frames of the first chunk of a scene, if they differ.
    pub first_chunk: Option<usize>,
    /// Past frames that a chunk attends to, besides the sink.
    pub window: usize,
    /// First frames of the scene that every chunk attends to.
    pub sink: usize,
    /// After a prompt change, rebuild the attention sink from the window after this many frames: the old sink would keep the
    /// video close to its first frames. `None` keeps the sink.
    pub renew_sink: Option<usize>,
    /// Where temporal positions are counted from.
    #[serde(default)]
    pub positions: Positions,
    /// Timestep at which finished latents are written to the KV cache.
    pub context_noise: f64,
    /// Keeps the latents of each chunk's last step in a ring in place of finished latents, as StreamDiffusionV2.
    pub ring: Option<RingConfig>,
    /// Whether a new prompt within a scene recomputes the KV cache, as in LongLive 1.
    #[serde(default)]
    pub recache: bool,
    /// Timesteps, solver and prediction.
    #[serde(flatten)]
    pub schedule: ChunkScheduleConfig,
    #[serde(default)]
    pub image: FirstFrame,
    /// How it remembers the shot before a cut; `None` starts a new scene at each cut.
    pub shots: Option<ShotsConfig>,
}

/// Settings of a model that was trained on videos of several shots, as LongLive 2.
#[derive(Clone, Debug, Deserialize)]
pub struct ShotsConfig {
    #[serde(flatten)]
    pub memory: ShotMemory,
    /// Prefix of the prompt in the first chunk after a cut.
    #[serde(default)]
    pub prompt_prefix: String,
}

/// How the image that a scene starts from becomes its first latent frame. It is scaled to cover the frame, and cropped; the
/// original code of Causal-Forcing stretches it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirstFrame {
    /// It is a separate chunk, in the KV cache before the next chunk begins (Causal-Forcing, frame-wise).
    #[default]
    Apart,
    /// It is the first frame of its chunk, at timestep 0 while the others are denoised (LongLive 2).
    Within,
}

impl CausalConfig {
    /// Latent frames of the chunk that begins at this latent frame of a scene.
    pub fn chunk_at(&self, latent: usize) -> usize {
        if latent == 0 { self.first_chunk.unwrap_or(self.chunk) } else { self.chunk }
    }

    /// Latent frames of the largest chunk.
    pub fn max_chunk(&self) -> usize {
        self.chunk.max(self.first_chunk.unwrap_or(0))
    }

    /// Latent frames of a video before a scene that fill whole chunks and the KV cache, of `available` ones; `None` if not even the
    /// first chunk is available.
    pub fn past_latents(&self, available: usize) -> Option<usize> {
        let first = self.chunk_at(0);
        let room = available.min((self.sink + self.window).max(first)).checked_sub(first)?;
        Some(first + room / self.chunk * self.chunk)
    }

    /// Latent frames that a chunk attends to, with itself: `local_attn_size` in LongLive.
    pub fn attended_frames(&self) -> usize {
        self.sink + self.window + self.chunk
    }
}

impl CausalModel {
    /// The abilities and default values of the model.
    pub(super) fn info(&self, source: &Source) -> Result<ModelInfo> {
        let autoencoder = autoencoder::Config::read(source)?;
        let sizes: Vec<_> = self.sizes().collect();
        let step = self.family.size_step(source, &autoencoder)?;
        if let Some(size) = sizes.iter().find(|size| size.width % step != 0 || size.height % step != 0) {
            return Err(source.invalid(SORAGEN, format!("the size {size} is not a multiple of {step}")));
        }
        let world = self.world(source)?;
        let transformer = WanTransformer::config_of(source, FIRST)?;
        if self.causal.ring.is_some_and(|ring| ring.last_position > transformer.rope_max_seq_len) {
            return Err(source.invalid(SORAGEN, "`last_position` exceeds the positions of the transformer"));
        }
        transformer.check_control(&autoencoder).map_err(|reason| source.invalid(TRANSFORMER, reason))?;
        Ok(ModelInfo {
            name: self.name.clone(),
            sizes: Sizes::Exact(sizes),
            frame_rate: self.frame_rate,
            natural_frames: autoencoder.frames_of(self.natural_latents),
            past_frames: self
                .causal
                .past_latents(usize::MAX)
                .map_or(0, |latents| autoencoder.frames_of(latents as u64)),
            latent_frames: autoencoder.temporal_factor() as u64,
            chunk_frames: autoencoder.temporal_factor() as u64 * self.causal.max_chunk() as u64,
            max_frames: self.max_latents(source)?.map(|latents| autoencoder.frames_of(latents)),
            causal: true,
            remembers_shots: self.causal.shots.is_some(),
            image_to_video: true,
            needs_image: false,
            last_image: false,
            needs_last_image: false,
            control: transformer.vace_layers.is_some(),
            steps: self.causal.schedule.timesteps.len() as u32,
            guidance_scale: self.guidance_scale,
            guidance_scale_2: None,
            shift: self.causal.schedule.shift.unwrap_or(1.0),
            negative_prompt: String::new(),
            max_references: world.as_ref().map_or(0, |world| world.max_references),
            knows: world.map_or_else(|| Ok(BTreeMap::new()), |world| world.vocabulary(source))?,
        })
    }

    /// The world of a model with references.
    pub(super) fn world(&self, source: &Source) -> Result<Option<World>> {
        let Some(world) = World::read(source)? else { return Ok(None) };
        let transformer = WanTransformer::config_of(source, FIRST)?;
        let factor = autoencoder::Config::read(source)?.spatial_factor();
        let [_, rows, columns] = transformer.patch_size;
        let [alpha_rows, alpha_columns] = transformer.reference_alpha.unwrap_or([1, 1]);
        let (side, causal) = (world.side as usize, &self.causal);
        let rules = [
            (transformer.reference_alpha.is_some(), "the transformer has no `reference_alpha`"),
            (
                side.is_multiple_of(factor * rows) && side.is_multiple_of(factor * columns),
                "`side` is not a multiple of the pixels of a token",
            ),
            (
                factor.is_multiple_of(alpha_rows) && factor.is_multiple_of(alpha_columns),
                "`reference_alpha` does not divide the pixels of a latent",
            ),
            (
                causal.max_chunk() == 1 && !causal.recache && causal.ring.is_none(),
                "a model with references has chunks of 1, without `recache` and `ring`",
            ),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, reason)) => Err(source.invalid(WORLD, reason)),
            None => Ok(Some(world)),
        }
    }

    /// Latent frames that a scene has at most. The last chunk may reach beyond the end of the scene.
    fn max_latents(&self, source: &Source) -> Result<Option<u64>> {
        match self.causal.positions {
            Positions::Relative => Ok(None),
            Positions::Absolute => {
                let positions = self.family.max_positions(source)?;
                let latents = positions.saturating_sub(self.causal.max_chunk() - 1).max(1);
                Ok(Some(latents as u64))
            }
        }
    }

    fn sizes(&self) -> impl Iterator<Item = Size> {
        self.sizes.iter().map(|&(width, height)| Size { width, height })
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let CausalConfig {
            chunk,
            window,
            sink,
            context_noise,
            first_chunk,
            shots,
            renew_sink,
            positions,
            ring,
            ..
        } = &self.causal;
        let slots = sink.saturating_add(*window).saturating_add(*chunk);
        let (of_training, offset) = (self.causal.schedule.training_shift, self.causal.schedule.video_offset);
        let timesteps = &self.causal.schedule.timesteps;
        let first_timesteps = self.causal.schedule.first_timesteps.as_deref().unwrap_or(timesteps);
        let is_timestep = |t: &f64| (0.0..=1000.0).contains(t);
        let decreases =
            |all: &[f64]| all.iter().all(|t| is_timestep(t) && *t > 0.0) && all.is_sorted_by(|a, b| a > b);
        let rules = [
            (self.format == 1, "`format` is not 1; install a newer soragen"),
            (self.frame_rate.0 > 0 && self.frame_rate.1 > 0, "`frame_rate` contains 0"),
            (
                !self.sizes.is_empty() && self.sizes().all(|s| s.width > 0 && s.height > 0),
                "`sizes` is empty or contains 0",
            ),
            (self.sizes().all(|s| s.width.max(s.height) <= MAX_SIDE), "a size in `sizes` is too large"),
            (
                (1..=MAX_NATURAL_LATENTS).contains(&self.natural_latents),
                "`natural_latents` is 0 or too large",
            ),
            (
                [*chunk, *window, first_chunk.unwrap_or(1)].iter().all(|n| (1..=MAX_LATENTS).contains(n)),
                "`chunk`, `first_chunk` or `window` is 0 or too large",
            ),
            (*sink <= MAX_LATENTS, "`sink` is too large"),
            (
                !timesteps.is_empty() && !first_timesteps.is_empty(),
                "`timesteps` or `first_timesteps` is empty",
            ),
            (
                decreases(timesteps) && decreases(first_timesteps),
                "`timesteps` or `first_timesteps` are not strictly decreasing, from at most 1000 to above 0",
            ),
            (
                self.causal.schedule.shift.is_none_or(|shift| shift.is_finite() && shift > 0.0),
                "`shift` is not above 0",
            ),
            (is_timestep(context_noise), "`context_noise` is not a timestep"),
            (
                shots.as_ref().is_none_or(|shots| shots.memory.sink.saturating_add(*chunk) <= *window),
                "`sink` of `shots` leaves no room for a chunk in the window",
            ),
            (shots.is_none() || !self.causal.recache, "`shots` and `recache` exclude each other"),
            (
                shots.is_none() || *positions == Positions::Relative,
                "`shots` and absolute `positions` exclude each other",
            ),
            (
                renew_sink.is_none() || shots.is_none() && !self.causal.recache,
                "`renew_sink` excludes `shots` and `recache`",
            ),
            (
                renew_sink.is_none_or(|after| after >= *window && *sink > 0),
                "`renew_sink` is less than `window`, or there is no `sink`",
            ),
            (
                ring.is_none_or(|ring| ring.adaptive_sink.is_finite() && slots < ring.last_position),
                "`adaptive_sink` is no number, or `last_position` is within the ring",
            ),
            (
                ring.is_none() || *chunk == 1 && *positions == Positions::Relative && shots.is_none(),
                "a `ring` has chunks of 1, and neither absolute `positions` nor `shots`",
            ),
            (
                ring.is_none() || !self.causal.recache && renew_sink.is_none(),
                "a `ring` excludes `recache` and `renew_sink`",
            ),
            (ring.is_none() || first_chunk.unwrap_or(1) <= slots, "`first_chunk` does not fit into the ring"),
            (
                of_training.is_none_or(|shift| shift.is_finite() && shift > 0.0)
                    && offset.is_none_or(|offset| (0.0..1000.0).contains(&offset)),
                "`training_shift` is not above 0, or `video_offset` no timestep",
            ),
            (self.guidance_scale >= 1.0, "`guidance_scale` is below 1"),
            (self.max_text_tokens > 2, "`max_text_tokens` leaves no room for a prompt"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, reason)) => Err((*reason).into()),
            None => Ok(()),
        }
    }
}
