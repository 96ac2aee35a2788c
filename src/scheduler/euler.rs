//! Euler's method on the flow: diffusers' `FlowMatchEulerDiscreteScheduler`.

use candle_core::{DType, Tensor};

use super::{Spacing, linspace, rounded, shifted};
use crate::Result;

/// Straight steps.
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
        // The reference shifts the ends of the range and then once more what lies between them.
        let end = |sigma: f64| rounded(shifted(rounded(sigma), shift)) * train;
        let timesteps = linspace(end(1.0), end(1.0 / train), steps);
        let levels: Vec<f64> = timesteps.into_iter().map(|t| shifted(t / train, shift)).collect();
        let levels = spacing.map_or(levels.clone(), |spacing| spacing.apply(&levels));
        let mut sigmas: Vec<f64> = levels.into_iter().map(rounded).collect();
        let timesteps = sigmas.iter().map(|sigma| rounded(sigma * train)).collect();
        sigmas.push(0.0);
        Self { timesteps, sigmas }
    }

    /// What the transformer is told at each step.
    pub fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    /// See [`Scheduler::step`](super::Scheduler::step).
    pub fn step(&mut self, index: usize, velocity: &Tensor, sample: &Tensor) -> Result<Tensor> {
        let change = self.sigmas[index + 1] - self.sigmas[index];
        Ok((sample.to_dtype(DType::F32)? + (velocity.to_dtype(DType::F32)? * change)?)?)
    }
}
