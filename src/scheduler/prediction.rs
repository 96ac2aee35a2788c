//! What a transformer predicts, given x_σ = (1 − σ) x_0 + σ noise.

use candle_core::{DType, Tensor};
use serde::Deserialize;

use crate::Result;

/// The kind of a transformer's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The velocity, noise − x_0: diffusers' `flow_prediction`.
    #[default]
    Flow,
    /// The clean latents x_0: diffusers' `sample`. A narrow transformer then need not carry the noise through.
    Sample,
}

impl Prediction {
    /// The velocity, f32, from the output `predicted` for the latents `sample` at noise level `sigma`.
    pub(super) fn velocity(self, predicted: &Tensor, sample: &Tensor, sigma: f64) -> Result<Tensor> {
        let predicted = predicted.to_dtype(DType::F32)?;
        Ok(match self {
            Self::Flow => predicted,
            Self::Sample => ((sample.to_dtype(DType::F32)? - predicted)? / sigma)?,
        })
    }

    /// The clean latents x_0, f32, from the output `predicted` for the latents `sample` at noise level `sigma`.
    pub(super) fn clean(self, predicted: &Tensor, sample: &Tensor, sigma: f64) -> Result<Tensor> {
        let predicted = predicted.to_dtype(DType::F32)?;
        Ok(match self {
            Self::Flow => (sample.to_dtype(DType::F32)? - (predicted * sigma)?)?,
            Self::Sample => predicted,
        })
    }
}
