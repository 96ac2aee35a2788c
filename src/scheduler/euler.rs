//! Euler's method on the flow: diffusers' `FlowMatchEulerDiscreteScheduler`.

use candle_core::{DType, Tensor};

use super::{Spacing, linspace, rounded, shifted};
use crate::Result;

/// A step along the velocity from each sigma to the next.
#[derive(Clone, Debug)]
pub struct FlowMatchEuler {
    timesteps: Vec<f64>,
    /// One more than steps; the last is 0.
    sigmas: Vec<f64>,
}

impl FlowMatchEuler {
    /// `steps` from 1 up.
    pub fn new(steps: usize, shift: f64, train_timesteps: usize, spacing: Option<Spacing>) -> Self {
        let train = train_timesteps as f64;
        // The reference shifts the ends of the range, and then once more all values between them.
        let end = |sigma: f64| rounded(shifted(rounded(sigma), shift)) * train;
        let timesteps = linspace(end(1.0), end(1.0 / train), steps);
        let levels: Vec<f64> = timesteps.into_iter().map(|t| shifted(t / train, shift)).collect();
        let levels = spacing.map_or(levels.clone(), |spacing| spacing.apply(&levels));
        let mut sigmas: Vec<f64> = levels.into_iter().map(rounded).collect();
        let timesteps = sigmas.iter().map(|sigma| rounded(sigma * train)).collect();
        sigmas.push(0.0);
        Self { timesteps, sigmas }
    }

    /// At these `timesteps`, thousandths of sigma, downwards; after the last the latents are clean.
    pub fn from_timesteps(timesteps: Vec<f64>) -> Self {
        let sigmas = timesteps.iter().map(|t| t / 1000.0).chain([0.0]).collect();
        Self { timesteps, sigmas }
    }

    /// The timestep that the transformer receives at each step.
    pub fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    pub(super) fn sigma(&self, index: usize) -> f64 {
        self.sigmas[index]
    }

    /// See [`Scheduler::step`](super::Scheduler::step); `velocity` is f32.
    pub(super) fn step(&mut self, index: usize, velocity: Tensor, sample: &Tensor) -> Result<Tensor> {
        let change = self.sigmas[index + 1] - self.sigmas[index];
        Ok((sample.to_dtype(DType::F32)? + (velocity * change)?)?)
    }
}
