//! What a model folder says of itself, in its configuration files.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::info::MAX_SIDE;
use crate::checkpoint::Source;
use crate::scheduler::SchedulerConfig;
use crate::transformer::ShotMemory;
use crate::{Result, Size};

/// Latent frames that are made or remembered at once: hundreds of times as many as of any model that there is.
const MAX_LATENTS: usize = 4096;
/// Latent frames of a video where nobody says how many: months.
const MAX_NATURAL_LATENTS: u64 = 1 << 24;

const INDEX: &str = "model_index.json";
const SORAGEN: &str = "soragen.json";

/// How a model makes its video.
#[derive(Clone, Debug)]
pub enum Layout {
    /// In one piece: a Wan pipeline of diffusers.
    Wan(WanIndex),
    /// Chunk by chunk: a causal model with `soragen.json` beside its parts.
    Causal(CausalModel),
}

/// The part that matters of diffusers' `model_index.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct WanIndex {
    #[serde(rename = "_class_name")]
    class_name: String,
    /// Each latent frame has its own timestep, so that the first can be an image (Wan 2.2 TI2V).
    #[serde(default)]
    pub expand_timesteps: bool,
    boundary_ratio: Option<f64>,
    /// Library and class, both null where there is none.
    transformer_2: Option<(Option<String>, Option<String>)>,
}

/// `soragen.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct CausalModel {
    format: u32,
    pub name: String,
    /// Frames a second, as a fraction.
    pub frame_rate: (u32, u32),
    /// Width and height; the first is the default.
    sizes: Vec<(u32, u32)>,
    /// Latent frames in a video when nothing is asked for.
    pub natural_latents: u64,
    pub causal: Causal,
    pub guidance_scale: f64,
    pub max_text_tokens: usize,
    /// What it was trained to show, by kind, for people.
    #[serde(default)]
    pub knows: BTreeMap<String, Vec<String>>,
}

/// How a causal model goes from chunk to chunk.
#[derive(Clone, Debug, Deserialize)]
pub struct Causal {
    /// Latent frames made together.
    pub chunk: usize,
    /// Those of the first chunk of a shot, where they are not as many.
    pub first_chunk: Option<usize>,
    /// Past latent frames that are attended to, besides the sink.
    pub window: usize,
    /// First latent frames of the video that are always attended to.
    pub sink: usize,
    /// With another prompt of the same shot the sink is forgotten, and is taken anew after so many latent frames, from the
    /// window: what keeps a video to its beginning would keep it from what it is now to show. `None`: it stays.
    pub renew_sink: Option<usize>,
    /// Timestep at which finished latents are read back into the cache.
    pub context_noise: f64,
    /// Whether the past is read again with the new prompt when the prompt changes within a shot, as in LongLive 1
    /// (`pipeline/interactive_causal_inference.py` with `global_sink`): the window, not the sink.
    #[serde(default)]
    pub recache: bool,
    /// Denoising timesteps from noise to video, in thousandths.
    pub timesteps: Vec<f64>,
    /// Those of the first chunk of a shot, where they are others: nothing is remembered yet to start from.
    pub first_timesteps: Option<Vec<f64>>,
    pub sampler: Sampler,
    #[serde(default)]
    pub image: FirstFrame,
    #[serde(default)]
    pub prediction: Prediction,
    /// How it goes on over a cut, with what was before in view; `None`: it starts anew.
    pub shots: Option<Shots>,
}

/// Of a model that was trained on videos of several shots, as LongLive 2.
#[derive(Clone, Debug, Deserialize)]
pub struct Shots {
    #[serde(flatten)]
    pub memory: ShotMemory,
    /// What its prompts begin with in the first chunk after a cut.
    #[serde(default)]
    pub prompt_prefix: String,
}

/// What the transformer's output is, given x = (1 − σ) video + σ noise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// noise − video: diffusers' `flow_prediction`.
    #[default]
    Flow,
    /// The video itself: diffusers' `sample`. It spares a narrow transformer to carry the noise through.
    Sample,
}

/// How a causal model gets from one timestep to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampler {
    /// Along the velocity.
    Euler,
    /// Every step guesses the video and adds fresh noise to it, less each time, as in Self-Forcing
    /// (<https://arxiv.org/abs/2506.08009>, `pipeline/causal_inference.py`).
    FewStep,
    /// UniPC within each chunk, as LongLive 2 (`pipeline/causal_diffusion_inference.py`); the transformer is told whole timesteps.
    UniPc,
}

/// How the image that a shot starts from becomes its first latent frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirstFrame {
    /// A chunk by itself, which is remembered before the next is begun (Causal-Forcing frame by frame).
    #[default]
    Apart,
    /// The first of its chunk, held at timestep 0 while the others are denoised (LongLive 2).
    Within,
}

impl Layout {
    pub fn read(source: &Source) -> Result<Self> {
        if source.exists(SORAGEN) {
            let model: CausalModel = source.json(SORAGEN)?;
            model.check().map_err(|reason| source.invalid(SORAGEN, reason))?;
            return Ok(Self::Causal(model));
        }
        let index: WanIndex = source.json(INDEX)?;
        index.check().map_err(|reason| source.invalid(INDEX, reason))?;
        Ok(Self::Wan(index))
    }
}

impl WanIndex {
    fn check(&self) -> Result<(), String> {
        match self.class_name.as_str() {
            "WanPipeline" => {}
            // Wan 2.1's have an image encoder besides, by which their transformers are told.
            "WanImageToVideoPipeline" => {}
            other => {
                return Err(format!("{other} is not supported; WanPipeline and WanImageToVideoPipeline are"));
            }
        }
        let two = matches!(self.transformer_2, Some((_, Some(_))));
        match self.boundary_ratio {
            Some(ratio) if !(0.0..=1.0).contains(&ratio) => {
                Err(format!("boundary_ratio is {ratio}, not from 0 to 1"))
            }
            Some(_) if !two => Err("there is a boundary_ratio, and no transformer_2".into()),
            None if two => {
                Err("there is a transformer_2, and no boundary_ratio that says when it is used".into())
            }
            _ => Ok(()),
        }
    }

    /// Whether there are two transformers.
    pub fn two(&self) -> bool {
        self.boundary_ratio.is_some()
    }

    /// The timestep at which the second takes over.
    pub fn boundary(&self, scheduler: &SchedulerConfig) -> Option<f64> {
        Some(self.boundary_ratio? * scheduler.train_timesteps() as f64)
    }

    /// Whether the transformer is shown the image as further channels, beside the latents.
    pub fn image_channels(&self) -> bool {
        self.class_name == "WanImageToVideoPipeline" && !self.expand_timesteps
    }
}

impl CausalModel {
    /// The sizes it can make.
    pub fn sizes(&self) -> impl Iterator<Item = Size> {
        self.sizes.iter().map(|&(width, height)| Size { width, height })
    }

    fn check(&self) -> Result<(), String> {
        let Causal {
            chunk,
            window,
            timesteps,
            context_noise,
            first_chunk,
            first_timesteps,
            shots,
            renew_sink,
            ..
        } = &self.causal;
        let timestep = |t: &f64| (0.0..=1000.0).contains(t);
        let falling =
            |all: &[f64]| all.iter().all(|t| timestep(t) && *t > 0.0) && all.is_sorted_by(|a, b| a > b);
        let first_timesteps = first_timesteps.as_deref().unwrap_or(timesteps);
        let fine = [
            (self.format == 1, "`format` is not 1; get a newer soragen"),
            (self.frame_rate.0 > 0 && self.frame_rate.1 > 0, "`frame_rate` has a zero"),
            (
                !self.sizes.is_empty() && self.sizes().all(|s| s.width > 0 && s.height > 0),
                "`sizes` names none",
            ),
            (self.sizes().all(|s| s.width.max(s.height) <= MAX_SIDE), "`sizes` names one that is too large"),
            (
                (1..=MAX_NATURAL_LATENTS).contains(&self.natural_latents),
                "`natural_latents` is 0 or too large",
            ),
            (
                [*chunk, *window, first_chunk.unwrap_or(1)].iter().all(|n| (1..=MAX_LATENTS).contains(n)),
                "`chunk`, `first_chunk` or `window` is 0 or too large",
            ),
            (self.causal.sink <= MAX_LATENTS, "`sink` is too large"),
            (
                !timesteps.is_empty() && !first_timesteps.is_empty(),
                "`timesteps` or `first_timesteps` is empty",
            ),
            (
                falling(timesteps) && falling(first_timesteps),
                "`timesteps` or `first_timesteps` do not fall from at most 1000 to above 0",
            ),
            (timestep(context_noise), "`context_noise` is not a timestep"),
            (
                shots.as_ref().is_none_or(|shots| shots.memory.sink.saturating_add(*chunk) <= *window),
                "`shots` has a `sink` that leaves no room for a chunk in the window",
            ),
            (
                shots.is_none() || !self.causal.recache,
                "`shots` and `recache` are two ways to go on; a model has one",
            ),
            (
                renew_sink.is_none() || shots.is_none() && !self.causal.recache,
                "`renew_sink` goes with neither `shots` nor `recache`",
            ),
            (
                renew_sink.is_none_or(|after| after >= *window && self.causal.sink > 0),
                "`renew_sink` is within the `window`, or there is no `sink`",
            ),
            (self.guidance_scale >= 1.0, "`guidance_scale` is below 1"),
            (self.max_text_tokens > 2, "`max_text_tokens` leaves no room for a prompt"),
        ];
        match fine.iter().find(|(holds, _)| !holds) {
            Some((_, reason)) => Err((*reason).into()),
            None => Ok(()),
        }
    }
}
