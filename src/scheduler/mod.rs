//! From noise to latents: which timesteps, and what a step makes of the velocity.
//!
//! All follow the straight path x_σ = (1 − σ) x_0 + σ noise, along which the transformer tells the velocity
//! noise − x_0. The coefficients are worked out in f64 from sigmas rounded to f32, as the reference has
//! them; near σ = 1 the rounding shows.

mod config;
mod euler;
mod few_step;
mod spacing;
mod unipc;

use candle_core::Tensor;

use crate::Result;
pub use config::SchedulerConfig;
pub use euler::FlowMatchEuler;
pub use few_step::FewStep;
pub use spacing::Spacing;
pub use unipc::{Options as UniPcOptions, SolverType, UniPc};

/// One of the schedulers, set up for a number of steps; spent after the last of them.
#[derive(Clone, Debug)]
pub enum Scheduler {
    /// diffusers' `UniPCMultistepScheduler` on flow sigmas.
    UniPc(UniPc),
    /// diffusers' `FlowMatchEulerDiscreteScheduler`.
    FlowMatchEuler(FlowMatchEuler),
    /// Self-Forcing's.
    FewStep(FewStep),
}

impl Scheduler {
    /// What the transformer is told at each step; from near 1000 downwards.
    pub fn timesteps(&self) -> &[f64] {
        match self {
            Self::UniPc(unipc) => unipc.timesteps(),
            Self::FlowMatchEuler(euler) => euler.timesteps(),
            Self::FewStep(few) => few.timesteps(),
        }
    }

    /// The latents after step `index`, f32, of `velocity` and the latents `sample` before it, which have one
    /// shape. Steps are taken in order, each once. `noise` draws fresh standard normal noise of that shape,
    /// if the scheduler wants it.
    pub fn step(
        &mut self,
        index: usize,
        velocity: &Tensor,
        sample: &Tensor,
        noise: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        match self {
            Self::UniPc(unipc) => unipc.step(index, velocity, sample),
            Self::FlowMatchEuler(euler) => euler.step(index, velocity, sample),
            Self::FewStep(few) => few.step(index, velocity, sample, noise),
        }
    }
}

/// σ moved towards noise.
fn shifted(sigma: f64, shift: f64) -> f64 {
    shift * sigma / (1.0 + (shift - 1.0) * sigma)
}

/// `n` numbers from `first` to `last`, as numpy's `linspace`.
fn linspace(first: f64, last: f64, n: usize) -> Vec<f64> {
    let step = if n > 1 { (last - first) / (n - 1) as f64 } else { 0.0 };
    (0..n).map(|i| if i > 0 && i + 1 == n { last } else { first + i as f64 * step }).collect()
}

/// As the reference keeps its sigmas.
fn rounded(x: f64) -> f64 {
    f64::from(x as f32)
}
