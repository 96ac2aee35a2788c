//! How a model makes its video: a whole clip at once, or causally, chunk by chunk.

use std::sync::Arc;

use super::causal::{CausalConfig, CausalModel};
use super::experts::Experts;
use super::index::PipelineIndex;
use super::info::ModelInfo;
use crate::checkpoint::Source;
use crate::scheduler::SchedulerConfig;
use crate::transformer::WanTransformer;
use crate::{Result, autoencoder};

const INDEX: &str = "model_index.json";
pub(super) const SORAGEN: &str = "soragen.json";

/// The configuration of a model, by its pacing.
#[derive(Clone, Debug)]
pub enum PacingConfig {
    /// A whole clip at once: a pipeline of diffusers, `model_index.json`.
    Clip(PipelineIndex),
    /// Chunk by chunk: `soragen.json` beside the parts of the model.
    Causal(CausalModel),
}

impl PacingConfig {
    /// Reads `soragen.json`, or else `model_index.json`.
    pub fn read(source: &Source) -> Result<Self> {
        if source.exists(SORAGEN) {
            let model: CausalModel = source.json(SORAGEN)?;
            model.check().map_err(|reason| source.invalid(SORAGEN, reason))?;
            return Ok(Self::Causal(model));
        }
        let index: PipelineIndex = source.json(INDEX)?;
        index.check().map_err(|reason| source.invalid(INDEX, reason))?;
        Ok(Self::Clip(index))
    }

    /// What the model can make.
    pub fn info(&self, source: &Source) -> Result<ModelInfo> {
        match self {
            Self::Clip(index) => index.family().pipeline_info(source, index),
            Self::Causal(model) => model.info(source),
        }
    }

    /// Whether frames leave while the rest of the video is not made.
    pub fn is_streaming(&self) -> bool {
        matches!(self, Self::Causal(_))
    }

    /// Whether there are two transformers.
    pub fn has_two_transformers(&self) -> bool {
        matches!(self, Self::Clip(index) if index.has_two_transformers())
    }
}

/// The opened parts that make latents, by the pacing of the model.
pub(crate) enum Pacing {
    /// A whole clip at once.
    Clip { scheduler: SchedulerConfig, experts: Arc<Experts> },
    /// Chunk by chunk.
    Causal { config: Arc<CausalConfig>, transformer: Arc<WanTransformer> },
}

/// Frames of `latents` latent frames: the first is one frame, each other several.
pub(super) fn frames_of(latents: u64, autoencoder: &autoencoder::Config) -> u64 {
    1 + (latents - 1) * autoencoder.temporal_factor() as u64
}
