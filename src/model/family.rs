//! The families of models: which architecture the parts of a model have.
//!
//! A second family adds a variant here, a folder in `transformer/` and a folder in `autoencoder/`.

use serde::Deserialize;

use super::info::ModelInfo;
use super::sizes::MAX_SIDE;
use super::{index::PipelineIndex, wan};
use crate::checkpoint::Source;
use crate::{Result, autoencoder, transformer};

const TRANSFORMER: &str = "transformer/config.json";

/// The architecture of a model. How it makes its video is another question: see [`PacingConfig`](super::PacingConfig).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Wan 2.1 and 2.2 (<https://arxiv.org/abs/2503.20314>), and models of the same form.
    #[default]
    Wan,
}

impl Family {
    /// The pipelines of diffusers that are supported, by their class names.
    pub const PIPELINES: &[(&str, Self)] =
        &[("WanPipeline", Self::Wan), ("WanImageToVideoPipeline", Self::Wan)];

    /// What a pipeline of diffusers of this family can make.
    pub fn pipeline_info(self, source: &Source, index: &PipelineIndex) -> Result<ModelInfo> {
        match self {
            Self::Wan => wan::pipeline_info(source, index),
        }
    }

    /// Pixels that both sides of a frame are a multiple of: those of one token.
    pub fn size_step(self, source: &Source, autoencoder: &autoencoder::Config) -> Result<u32> {
        let [_, rows, columns] = match self {
            Self::Wan => transformer_config(source)?.patch_size,
        };
        let (more, less) = (rows.max(columns), rows.min(columns));
        // The least common multiple, if it is small.
        let side = (1..=less).map(|n| n.saturating_mul(more)).find(|side| side.is_multiple_of(less));
        let step = side.unwrap_or(more).saturating_mul(autoencoder.spatial_factor());
        match u32::try_from(step) {
            Ok(step) if step <= MAX_SIDE => Ok(step),
            _ => Err(source.invalid(TRANSFORMER, format!("patch_size makes a token of {step} pixels"))),
        }
    }
}

pub(super) fn transformer_config(source: &Source) -> Result<transformer::Config> {
    let config: transformer::Config = source.json(TRANSFORMER)?;
    config.check().map_err(|e| source.invalid(TRANSFORMER, e))?;
    Ok(config)
}
