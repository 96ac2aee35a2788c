//! A video chunk by chunk: each attends to the finished ones before it, which the cache remembers.
//!
//! As in Self-Forcing (<https://arxiv.org/abs/2506.08009>, `pipeline/causal_inference.py`): denoise a chunk,
//! emit it, then read the finished latents once more to write their keys and values into the cache.

use candle_core::Tensor;

use super::plan::{Conditions, Plan, check_finite};
use super::{Phase, Report};
use crate::autoencoder::DecoderState;
use crate::model::{self, Prediction};
use crate::transformer::{CausalConfig, KvCache};
use crate::{Cancel, Result};

pub struct Causal {
    /// From noise to video, ending in 0.
    timesteps: Vec<f64>,
    context_noise: f64,
    prediction: Prediction,
    chunk: usize,
    conditions: Option<Conditions>,
    caches: Caches,
    decoder: DecoderState,
    /// Latent frames and chunks made.
    latent_frames: usize,
    chunks: u64,
}

/// What is remembered of finished frames, once for each of the conditions.
struct Caches {
    prompt: KvCache,
    negative: KvCache,
}

impl Causal {
    pub fn new(plan: &Plan, config: &model::Causal) -> Self {
        let model::Causal { chunk, window, sink, .. } = *config;
        let cache = || KvCache::new(CausalConfig { chunk, window, sink });
        let model::Sampler::Euler = config.sampler;
        Self {
            timesteps: timesteps(&config.timesteps, plan.steps as usize, plan.shift),
            context_noise: config.context_noise,
            prediction: config.prediction,
            chunk,
            conditions: None,
            caches: Caches { prompt: cache(), negative: cache() },
            decoder: plan.model.autoencoder.decoder_state(),
            latent_frames: 0,
            chunks: 0,
        }
    }

    /// Has the plan's prompt read again before the next chunk. What is remembered of the finished frames stays.
    pub fn forget_prompt(&mut self) {
        self.conditions = None;
    }

    /// The frames of the next chunk, `[T, 3, H, W]`.
    pub fn next(&mut self, plan: &Plan, cancel: &Cancel, report: &mut Report) -> Result<Tensor> {
        let conditions = match self.conditions.take() {
            Some(conditions) => conditions,
            None => {
                report.at(Phase::Text, self.chunks, 0);
                plan.conditions(cancel)?
            }
        };
        let image = if self.latent_frames == 0 { plan.image_latents(cancel)? } else { None };
        let latents = match image {
            // The image is the first frame: there is nothing to denoise in it.
            Some(image) => image,
            None => self.denoise(plan, &conditions, cancel, report)?,
        };
        check_finite(&latents)?;
        self.remember(plan, &conditions, &latents, cancel)?;

        report.at(Phase::Decode, self.chunks, plan.steps);
        let frames =
            plan.model.autoencoder.decode(&latents.to_dtype(plan.model.dtype)?, &mut self.decoder, cancel)?;
        self.latent_frames += latents.dim(2)?;
        self.chunks += 1;
        self.conditions = Some(conditions);
        Ok(frames)
    }

    fn denoise(
        &mut self,
        plan: &Plan,
        conditions: &Conditions,
        cancel: &Cancel,
        report: &mut Report,
    ) -> Result<Tensor> {
        let transformer = &plan.model.transformer;
        let mut latents = plan.noise(self.latent_frames, self.chunk)?;
        for (step, pair) in self.timesteps.windows(2).enumerate() {
            cancel.check()?;
            report.at(Phase::Denoise, self.chunks, step as u32);
            let (t, next) = (pair[0], pair[1]);
            let input = latents.to_dtype(plan.model.dtype)?;
            let prompt =
                transformer.forward_chunk(&input, &[t], &conditions.prompt, &self.caches.prompt, cancel)?;
            let negative = match &conditions.negative {
                Some(negative) => {
                    Some(transformer.forward_chunk(&input, &[t], negative, &self.caches.negative, cancel)?)
                }
                None => None,
            };
            let predicted = plan.guide(prompt, negative)?;
            let velocity = match self.prediction {
                Prediction::Flow => predicted,
                Prediction::Sample => ((&latents - predicted)? * (1000.0 / t))?,
            };
            // Along the velocity, from one noise level to the next.
            latents = (latents + (velocity * ((next - t) / 1000.0))?)?;
        }
        Ok(latents)
    }

    fn remember(
        &mut self,
        plan: &Plan,
        conditions: &Conditions,
        latents: &Tensor,
        cancel: &Cancel,
    ) -> Result<()> {
        let transformer = &plan.model.transformer;
        let latents = latents.to_dtype(plan.model.dtype)?;
        let t = [self.context_noise];
        transformer.cache_chunk(&latents, &t, &conditions.prompt, &mut self.caches.prompt, cancel)?;
        if let Some(negative) = &conditions.negative {
            transformer.cache_chunk(&latents, &t, negative, &mut self.caches.negative, cancel)?;
        }
        Ok(())
    }
}

/// The timesteps to use, with 0 at the end: the model's `own` if nothing else is asked for; other numbers of
/// steps follow the same curve, unless a shift gives another one.
fn timesteps(own: &[f64], steps: usize, shift: Option<f64>) -> Vec<f64> {
    let part = |i: usize| i as f64 / steps as f64;
    match shift {
        Some(shift) => (0..=steps)
            .map(|i| 1.0 - part(i))
            .map(|s| 1000.0 * shift * s / (1.0 + (shift - 1.0) * s))
            .collect(),
        None => (0..=steps)
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
    use super::timesteps;

    #[test]
    fn the_models_own_timesteps_are_kept() {
        assert_eq!(timesteps(&[1000.0, 750.0, 400.0], 3, None), [1000.0, 750.0, 400.0, 0.0]);
    }

    #[test]
    fn other_numbers_of_steps_follow_the_same_curve() {
        assert_eq!(timesteps(&[1000.0, 600.0], 4, None), [1000.0, 800.0, 600.0, 300.0, 0.0]);
        assert_eq!(timesteps(&[1000.0, 600.0], 1, None), [1000.0, 0.0]);
    }

    #[test]
    fn a_shift_moves_them_towards_noise() {
        // sigma' = 3 sigma / (1 + 2 sigma) at 1/2.
        assert_eq!(timesteps(&[1000.0], 2, Some(3.0)), [1000.0, 750.0, 0.0]);
    }
}
