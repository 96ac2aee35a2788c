//! Few steps for models distilled to them: Self-Forcing (<https://arxiv.org/abs/2506.08009>), as in its
//! `pipeline/causal_inference.py` and `utils/scheduler.py`.

use candle_core::{DType, Tensor};

use super::{rounded, shifted};
use crate::Result;

/// Each step estimates the clean latents and adds fresh noise to them, less at every step.
#[derive(Clone, Debug)]
pub struct FewStep {
    timesteps: Vec<f64>,
    sigmas: Vec<f64>,
}

impl FewStep {
    /// At noise `levels` of 1000, before the shift, downwards; Self-Forcing has 1000, 750, 500, 250.
    pub fn new(levels: &[usize], shift: f64) -> Self {
        let sigmas: Vec<f64> =
            levels.iter().map(|&level| rounded(shifted(rounded(level as f64 / 1000.0), shift))).collect();
        let timesteps = sigmas.iter().map(|sigma| rounded(sigma * 1000.0)).collect();
        Self { timesteps, sigmas }
    }

    /// `steps` levels at equal distances from one another and from 0; `steps` from 1 to 1000.
    pub fn even(steps: usize, shift: f64) -> Self {
        let levels: Vec<usize> = (0..steps).map(|i| (1000 * (steps - i) + steps / 2) / steps).collect();
        Self::new(&levels, shift)
    }

    /// At these `timesteps`, thousandths of sigma, downwards.
    pub fn from_timesteps(timesteps: Vec<f64>) -> Self {
        let sigmas = timesteps.iter().map(|t| t / 1000.0).collect();
        Self { timesteps, sigmas }
    }

    /// As [`from_timesteps`](Self::from_timesteps); the noise level of a step is that of the nearest of the 1000 training timesteps with
    /// this `shift`, as in CausVid and StreamDiffusionV2 (`models/wan/flow_match.py`).
    pub fn from_training_timesteps(timesteps: Vec<f64>, shift: f64) -> Self {
        let trained: Vec<f64> = (0..1000).map(|i| shifted(f64::from(1000 - i) / 1000.0, shift)).collect();
        let nearest = |t: &f64| {
            let off = |sigma: &f64| (1000.0 * sigma - t).abs();
            trained.iter().copied().min_by(|a, b| off(a).total_cmp(&off(b))).unwrap_or(t / 1000.0)
        };
        Self { sigmas: timesteps.iter().map(nearest).collect(), timesteps }
    }

    /// The timestep that the transformer receives at each step.
    pub fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    pub(super) fn sigma(&self, index: usize) -> f64 {
        self.sigmas[index]
    }

    /// See [`Scheduler::step`](super::Scheduler::step); `clean` are the estimated clean latents, f32. The last step returns
    /// them.
    pub(super) fn step(
        &mut self,
        index: usize,
        clean: Tensor,
        noise: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        match self.sigmas.get(index + 1) {
            None => Ok(clean),
            Some(&sigma) => Ok(((clean * (1.0 - sigma))? + (noise()?.to_dtype(DType::F32)? * sigma)?)?),
        }
    }
}
