//! Few steps for models distilled to them: Self-Forcing (<https://arxiv.org/abs/2506.08009>), as in its
//! `pipeline/causal_inference.py` and `utils/scheduler.py`.

use candle_core::{DType, Tensor};

use super::{rounded, shifted};
use crate::Result;

/// Every step guesses the clean latents and adds fresh noise to them, less each time.
#[derive(Clone, Debug)]
pub struct FewStep {
    timesteps: Vec<f64>,
    sigmas: Vec<f64>,
}

impl FewStep {
    /// At `levels` of noise, of 1000 and before the shift, downwards; Self-Forcing has 1000, 750, 500, 250.
    pub fn new(levels: &[usize], shift: f64) -> Self {
        let sigmas: Vec<f64> =
            levels.iter().map(|&level| rounded(shifted(rounded(level as f64 / 1000.0), shift))).collect();
        let timesteps = sigmas.iter().map(|sigma| rounded(sigma * 1000.0)).collect();
        Self { timesteps, sigmas }
    }

    /// `steps` levels, equally far from one another and from 0; `steps` from 1 to 1000.
    pub fn even(steps: usize, shift: f64) -> Self {
        let levels: Vec<usize> = (0..steps).map(|i| (1000 * (steps - i) + steps / 2) / steps).collect();
        Self::new(&levels, shift)
    }

    /// What the transformer is told at each step.
    pub fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    /// See [`Scheduler::step`](super::Scheduler::step). The last step returns the guess itself.
    pub fn step(
        &mut self,
        index: usize,
        velocity: &Tensor,
        sample: &Tensor,
        noise: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        let clean = (sample.to_dtype(DType::F32)? - (velocity.to_dtype(DType::F32)? * self.sigmas[index])?)?;
        match self.sigmas.get(index + 1) {
            None => Ok(clean),
            Some(&sigma) => Ok(((clean * (1.0 - sigma))? + (noise()?.to_dtype(DType::F32)? * sigma)?)?),
        }
    }
}
