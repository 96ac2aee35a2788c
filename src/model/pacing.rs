//! Pacing: whether a model generates a whole clip at once, or is causal and generates chunk by chunk.

use std::sync::Arc;

use super::causal::{CausalConfig, CausalModel, SORAGEN};
use super::experts::Experts;
use super::family::Family;
use super::index::PipelineIndex;
use super::info::ModelInfo;
use crate::Result;
use crate::checkpoint::{Parts, Source};
use crate::scheduler::SchedulerConfig;
use crate::transformer::WanTransformer;

const INDEX: &str = "model_index.json";

/// The configuration of a model, by its pacing.
#[derive(Clone, Debug)]
pub enum PacingConfig {
    /// A whole clip at once: a pipeline of diffusers, `model_index.json`.
    Clip(PipelineIndex),
    /// Chunk by chunk: `soragen.json` beside the parts of the model.
    Causal(Box<CausalModel>),
}

impl PacingConfig {
    /// Reads `soragen.json`, or else `model_index.json`.
    pub fn read(source: &Source) -> Result<Self> {
        if source.exists(SORAGEN) {
            let model: Box<CausalModel> = source.json(SORAGEN)?;
            model.check().map_err(|reason| source.invalid(SORAGEN, reason))?;
            return Ok(Self::Causal(model));
        }
        let index: PipelineIndex = source.json(INDEX)?;
        let family = Family::of_pipeline(&index.class_name);
        family.and_then(|_| index.check()).map_err(|reason| source.invalid(INDEX, reason))?;
        Ok(Self::Clip(index))
    }

    /// The abilities and default values of the model.
    pub fn info(&self, source: &Source) -> Result<ModelInfo> {
        match self {
            Self::Clip(index) => Family::of_pipeline(&index.class_name)
                .map_err(|reason| source.invalid(INDEX, reason))?
                .pipeline_info(source, index),
            Self::Causal(model) => model.info(source),
        }
    }

    /// Whether it outputs frames before the whole video is generated.
    pub fn is_streaming(&self) -> bool {
        matches!(self, Self::Causal(_))
    }

    /// Whether there are two transformers.
    pub fn has_two_transformers(&self) -> bool {
        matches!(self, Self::Clip(index) if index.has_two_transformers())
    }
}

/// The opened parts that generate latents, by the pacing of the model.
pub(crate) enum Pacing {
    /// A whole clip at once.
    Clip { scheduler: SchedulerConfig, experts: Arc<Experts> },
    /// Chunk by chunk.
    Causal { config: Arc<CausalConfig>, transformer: Arc<WanTransformer> },
}

impl ModelInfo {
    /// Reads the configuration of `source` with `parts` in place of its own. Quick: no weights are read.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound) and [`Error::Invalid`](crate::Error::Invalid) as for
    /// [`Model::open`](crate::Model::open).
    pub fn read(source: &str, parts: &Parts) -> Result<Self> {
        let source = Source::parse(source, parts)?;
        PacingConfig::read(&source)?.info(&source)
    }
}
