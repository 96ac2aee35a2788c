//! Families of models: the architecture of the parts.
//!
//! Wan is the only family today. The transformer, the samplers and the checkpoint code use its types directly, so a second family
//! needs a trait or an enum in place of `WanTransformer`: `docs/architecture.md` lists the files.

use serde::Deserialize;

use super::index::{PipelineIndex, VACE_PIPELINE};
use super::info::ModelInfo;
use super::wan;
use crate::checkpoint::Source;
use crate::{Result, autoencoder};

/// The architecture of a model. [`PacingConfig`](super::PacingConfig) is independent of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Wan 2.1 and 2.2 (<https://arxiv.org/abs/2503.20314>), and models of the same form.
    #[default]
    Wan,
}

impl Family {
    /// The supported pipelines of diffusers, by their class names.
    const PIPELINES: &[(&str, Self)] =
        &[("WanPipeline", Self::Wan), ("WanImageToVideoPipeline", Self::Wan), (VACE_PIPELINE, Self::Wan)];

    /// The family of the diffusers pipeline `class_name`; a reason if it is not supported.
    pub fn of_pipeline(class_name: &str) -> Result<Self, String> {
        if let Some((_, family)) = Self::PIPELINES.iter().find(|(name, _)| *name == class_name) {
            return Ok(*family);
        }
        let known: Vec<_> = Self::PIPELINES.iter().map(|(name, _)| *name).collect();
        Err(format!("{class_name} is not supported; supported are {}", known.join(", ")))
    }

    /// The abilities and default values of a diffusers pipeline of this family.
    pub fn pipeline_info(self, source: &Source, index: &PipelineIndex) -> Result<ModelInfo> {
        match self {
            Self::Wan => wan::pipeline_info(source, index),
        }
    }

    /// Temporal positions that the transformer has.
    pub fn max_positions(self, source: &Source) -> Result<usize> {
        match self {
            Self::Wan => wan::max_positions(source),
        }
    }

    /// Width and height must be multiples of this.
    pub fn size_step(self, source: &Source, autoencoder: &autoencoder::Config) -> Result<u32> {
        match self {
            Self::Wan => wan::size_step(source, autoencoder),
        }
    }
}
