//! The schedule of a causal model, which takes a few steps per chunk: `soragen.json`.

use serde::Deserialize;

use super::{FewStep, FlowMatchEuler, Kind, Prediction, Scheduler, UniPc, UniPcOptions};

/// How a causal model gets from one timestep to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Solver {
    /// Along the velocity ([`FlowMatchEuler`]).
    Euler,
    /// With fresh noise after each step, as in Self-Forcing ([`FewStep`]).
    FewStep,
    /// UniPC within each chunk, as in LongLive 2 (`pipeline/causal_diffusion_inference.py`); the transformer receives whole
    /// timesteps.
    UniPc,
}

/// The schedule as `soragen.json` has it.
#[derive(Clone, Debug, Deserialize)]
pub struct ChunkScheduleConfig {
    /// Denoising timesteps from noise to video, in thousandths of sigma.
    pub timesteps: Vec<f64>,
    /// Timesteps of the first chunk of a scene that is denoised, if they differ. An image may be the chunk before it.
    pub first_timesteps: Option<Vec<f64>>,
    /// The shift of the schedule that `timesteps` are from. Nothing is computed from it: it is the model's default value.
    pub shift: Option<f64>,
    /// The shift of the training timesteps, if the noise level of a step is that of the nearest of them; for [`Solver::FewStep`].
    pub training_shift: Option<f64>,
    /// How far below its noise level, in thousandths, the first timestep of a video that goes in is; `None` starts within the schedule.
    pub video_offset: Option<f64>,
    /// The solver; its key in `soragen.json` is `sampler`.
    #[serde(rename = "sampler")]
    pub solver: Solver,
    /// What the transformer predicts.
    #[serde(default)]
    pub prediction: Prediction,
}

/// The schedule of one generation; [`start`](Self::start) sets up a scheduler for each chunk.
#[derive(Clone, Debug)]
pub struct ChunkSchedule {
    solver: Solver,
    prediction: Prediction,
    first_timesteps: Vec<f64>,
    timesteps: Vec<f64>,
    training_shift: Option<f64>,
    video_offset: Option<f64>,
}

impl ChunkScheduleConfig {
    /// The schedule for `steps` steps per chunk. Another number of steps than the model's follows the same curve, unless a
    /// `shift` defines the curve.
    pub fn resolve(&self, steps: usize, shift: Option<f64>) -> ChunkSchedule {
        let own_steps = steps == self.timesteps.len();
        let first = self.first_timesteps.as_deref().unwrap_or(&self.timesteps);
        ChunkSchedule {
            solver: self.solver,
            prediction: self.prediction,
            first_timesteps: resample(first, if own_steps { first.len() } else { steps }, shift),
            timesteps: resample(&self.timesteps, steps, shift),
            training_shift: self.training_shift,
            video_offset: self.video_offset,
        }
    }
}

impl ChunkSchedule {
    /// A scheduler for a chunk that starts from the noise level `sigma`, above 0: 1 for noise, less for a video. The first timestep is that of
    /// the level, and the model's own below it follow, as in StreamDiffusionV2 (`models/wan/causal_stream_inference.py`). `first` is
    /// whether the chunk is the first of its scene that is denoised.
    pub fn start(&self, first: bool, sigma: f64) -> Scheduler {
        // A sum of fractions of a level may be slightly below it.
        const EPSILON: f64 = 1e-3;
        let all = if first { &self.first_timesteps } else { &self.timesteps };
        let level = 1000.0 * sigma;
        let timesteps = match self.video_offset.filter(|_| sigma < 1.0) {
            Some(offset) => {
                // In place of the first timestep, as in StreamDiffusionV2 (`compute_noise_scale_and_step`).
                let start = ((level + EPSILON).floor() - offset).max(1.0);
                let rest = all.iter().skip(1).copied().filter(|&t| t < start);
                [start].into_iter().chain(rest).collect()
            }
            None => {
                let mut timesteps: Vec<f64> = all.iter().copied().filter(|&t| t <= level + EPSILON).collect();
                if sigma < 1.0 && timesteps.first().is_none_or(|&t| t < level - EPSILON) {
                    timesteps.insert(0, level);
                }
                timesteps
            }
        };
        let kind = match self.solver {
            Solver::Euler => Kind::FlowMatchEuler(FlowMatchEuler::from_timesteps(timesteps)),
            Solver::FewStep => Kind::FewStep(match self.training_shift {
                Some(shift) => FewStep::from_training_timesteps(timesteps, shift),
                None => FewStep::from_timesteps(timesteps),
            }),
            Solver::UniPc => {
                let sigmas = timesteps.iter().map(|t| t / 1000.0).collect();
                Kind::UniPc(UniPc::at(sigmas, 1000.0, UniPcOptions::default()))
            }
        };
        Scheduler { kind, prediction: self.prediction }
    }
}

/// `steps` timesteps: `own` if there are as many; otherwise on the same curve, or on that of a `shift`.
fn resample(own: &[f64], steps: usize, shift: Option<f64>) -> Vec<f64> {
    let part = |i: usize| i as f64 / steps as f64;
    match shift {
        Some(shift) => (0..steps)
            .map(|i| 1.0 - part(i))
            .map(|s| 1000.0 * shift * s / (1.0 + (shift - 1.0) * s))
            .collect(),
        None => (0..steps)
            .map(|i| {
                let place = part(i) * own.len() as f64;
                let at = |i: usize| own.get(i).copied().unwrap_or(0.0);
                let (before, rest) = (place.floor() as usize, place.fract());
                at(before) * (1.0 - rest) + at(before + 1) * rest
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_s_own_timesteps_are_kept() {
        assert_eq!(resample(&[1000.0, 750.0, 400.0], 3, None), [1000.0, 750.0, 400.0]);
    }

    #[test]
    fn another_number_of_steps_follows_the_same_curve() {
        assert_eq!(resample(&[1000.0, 600.0], 4, None), [1000.0, 800.0, 600.0, 300.0]);
        assert_eq!(resample(&[1000.0, 600.0], 1, None), [1000.0]);
    }

    #[test]
    fn a_video_starts_within_the_schedule() {
        let schedule = ChunkSchedule {
            solver: Solver::FewStep,
            prediction: Prediction::Flow,
            first_timesteps: vec![1000.0, 500.0],
            timesteps: vec![1000.0, 750.0, 500.0],
            training_shift: None,
            video_offset: None,
        };
        let steps = |first, sigma| schedule.start(first, sigma).timesteps().to_vec();
        assert_eq!(steps(false, 1.0), [1000.0, 750.0, 500.0]);
        assert_eq!(steps(false, 0.9 * 0.75 + 0.1 * 0.75), [750.0, 500.0]);
        assert_eq!(steps(false, 0.625), [625.0, 500.0]);
        assert_eq!(steps(false, 0.125), [125.0]);
        assert_eq!(steps(true, 0.75), [750.0, 500.0]);
        let below = ChunkSchedule { video_offset: Some(100.0), ..schedule.clone() };
        let steps = |sigma| below.start(false, sigma).timesteps().to_vec();
        assert_eq!(steps(1.0), [1000.0, 750.0, 500.0]);
        assert_eq!(steps(0.9), [800.0, 750.0, 500.0]);
        assert_eq!(steps(0.3), [200.0]);
        assert_eq!(steps(0.05), [1.0]);
    }

    #[test]
    fn a_shift_moves_timesteps_towards_noise() {
        // sigma' = 3 sigma / (1 + 2 sigma) at 1/2.
        assert_eq!(resample(&[1000.0], 2, Some(3.0)), [1000.0, 750.0]);
    }
}
