//! `model_index.json` of a diffusers pipeline.

use serde::Deserialize;

use crate::scheduler::SchedulerConfig;

/// The class name of a pipeline with a control branch.
pub const VACE_PIPELINE: &str = "WanVACEPipeline";

/// The entries that the engine uses.
#[derive(Clone, Debug, Deserialize)]
pub struct PipelineIndex {
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// Whether each latent frame has its own timestep, so that the first can be an image (Wan 2.2 TI2V).
    #[serde(default)]
    pub expand_timesteps: bool,
    boundary_ratio: Option<f64>,
    /// Library and class, both null if there is none.
    transformer_2: Option<(Option<String>, Option<String>)>,
}

impl PipelineIndex {
    pub(super) fn check(&self) -> Result<(), String> {
        let two = matches!(self.transformer_2, Some((_, Some(_))));
        match self.boundary_ratio {
            Some(ratio) if !(0.0..=1.0).contains(&ratio) => {
                Err(format!("boundary_ratio is {ratio}, not from 0 to 1"))
            }
            Some(_) if !two => Err("there is a boundary_ratio, but no transformer_2".into()),
            None if two => Err("there is a transformer_2, but no boundary_ratio".into()),
            _ => Ok(()),
        }
    }

    /// Whether there are two transformers.
    pub fn has_two_transformers(&self) -> bool {
        self.boundary_ratio.is_some()
    }

    /// The timestep below which the second transformer computes the steps.
    pub fn boundary(&self, scheduler: &SchedulerConfig) -> Option<f64> {
        Some(self.boundary_ratio? * scheduler.train_timesteps() as f64)
    }

    /// Whether the transformer has a control branch.
    pub fn is_vace(&self) -> bool {
        self.class_name == VACE_PIPELINE
    }

    /// Whether the transformer takes the image as further channels beside the latents.
    pub fn has_image_channels(&self) -> bool {
        self.class_name == "WanImageToVideoPipeline" && !self.expand_timesteps
    }
}
