//! Noise schedules, and the step from one noise level to the next. Only this module computes a step.
//!
//! All schedulers follow the straight path x_σ = (1 − σ) x_0 + σ noise. A transformer predicts the velocity noise − x_0, or
//! x_0 itself ([`Prediction`]). Coefficients are computed in f64 from sigmas rounded to f32, as in the reference; near
//! σ = 1 the rounding is visible.

mod chunk;
mod config;
mod euler;
mod few_step;
mod prediction;
mod spacing;
mod unipc;

use candle_core::Tensor;

use crate::Result;
pub use chunk::{ChunkSchedule, ChunkScheduleConfig, Solver};
pub(crate) use config::MAX_STEPS;
pub use config::SchedulerConfig;
pub use euler::FlowMatchEuler;
pub use few_step::FewStep;
pub use prediction::Prediction;
pub use spacing::Spacing;
pub use unipc::{Options as UniPcOptions, SolverType, UniPc};

/// A scheduler that is set up for a number of steps. It cannot be reused after the last step.
#[derive(Clone, Debug)]
pub struct Scheduler {
    kind: Kind,
    prediction: Prediction,
}

#[derive(Clone, Debug)]
enum Kind {
    /// diffusers' `UniPCMultistepScheduler` on flow sigmas.
    UniPc(UniPc),
    /// diffusers' `FlowMatchEulerDiscreteScheduler`.
    FlowMatchEuler(FlowMatchEuler),
    /// Self-Forcing's scheduler.
    FewStep(FewStep),
}

impl Scheduler {
    /// The class of diffusers that it equals; `FewStepScheduler` is Self-Forcing's.
    pub fn class_name(&self) -> &'static str {
        match &self.kind {
            Kind::UniPc(_) => "UniPCMultistepScheduler",
            Kind::FlowMatchEuler(_) => "FlowMatchEulerDiscreteScheduler",
            Kind::FewStep(_) => "FewStepScheduler",
        }
    }

    /// The timestep that the transformer receives at each step, from near 1000 downwards.
    pub fn timesteps(&self) -> &[f64] {
        match &self.kind {
            Kind::UniPc(unipc) => unipc.timesteps(),
            Kind::FlowMatchEuler(euler) => euler.timesteps(),
            Kind::FewStep(few) => few.timesteps(),
        }
    }

    /// The noise level before step `index`.
    pub fn sigma(&self, index: usize) -> f64 {
        match &self.kind {
            Kind::UniPc(unipc) => unipc.sigma(index),
            Kind::FlowMatchEuler(euler) => euler.sigma(index),
            Kind::FewStep(few) => few.sigma(index),
        }
    }

    /// The first step for a video that is changed with this `strength`, as diffusers' `WanVideoToVideoPipeline.get_timesteps`; the number
    /// of steps if it stays as it is.
    pub fn first_step(&self, strength: f64) -> usize {
        let steps = self.timesteps().len();
        steps - ((steps as f64 * strength) as usize).min(steps)
    }

    /// Computes step `index`: the latents after it, f32, from the latents `sample` before it and the transformer's output
    /// `predicted`, which has the same shape. Call it once for each step, in order. `noise` draws fresh standard normal noise of
    /// that shape; only some schedulers call it.
    ///
    /// # Errors
    /// [`Error::Compute`](crate::Error::Compute), and what `noise` returns.
    pub fn step(
        &mut self,
        index: usize,
        predicted: &Tensor,
        sample: &Tensor,
        noise: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (prediction, sigma) = (self.prediction, self.sigma(index));
        match &mut self.kind {
            Kind::UniPc(unipc) => unipc.step(index, prediction.clean(predicted, sample, sigma)?, sample),
            Kind::FlowMatchEuler(euler) => {
                euler.step(index, prediction.velocity(predicted, sample, sigma)?, sample)
            }
            Kind::FewStep(few) => few.step(index, prediction.clean(predicted, sample, sigma)?, noise),
        }
    }
}

impl From<UniPc> for Scheduler {
    fn from(unipc: UniPc) -> Self {
        Self { kind: Kind::UniPc(unipc), prediction: Prediction::Flow }
    }
}

impl From<FlowMatchEuler> for Scheduler {
    fn from(euler: FlowMatchEuler) -> Self {
        Self { kind: Kind::FlowMatchEuler(euler), prediction: Prediction::Flow }
    }
}

impl From<FewStep> for Scheduler {
    fn from(few: FewStep) -> Self {
        Self { kind: Kind::FewStep(few), prediction: Prediction::Flow }
    }
}

/// The sigma that a schedule with `shift` has in place of `sigma`: nearer to noise for a shift above 1.
fn shifted(sigma: f64, shift: f64) -> f64 {
    shift * sigma / (1.0 + (shift - 1.0) * sigma)
}

/// `n` numbers from `first` to `last`, as numpy's `linspace`.
fn linspace(first: f64, last: f64, n: usize) -> Vec<f64> {
    let step = if n > 1 { (last - first) / (n - 1) as f64 } else { 0.0 };
    (0..n).map(|i| if i > 0 && i + 1 == n { last } else { first + i as f64 * step }).collect()
}

/// Rounds to f32, as the reference keeps its sigmas.
fn rounded(x: f64) -> f64 {
    f64::from(x as f32)
}
