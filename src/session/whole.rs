//! A video in one piece: all latents are made together, then decoded as a stream.
//!
//! As diffusers' `WanPipeline` does it and, from an image, `WanImageToVideoPipeline` with
//! `expand_timesteps`: the first latent frame is the image's, at timestep 0.

use candle_core::Tensor;

use super::causal::start_with;
use super::plan::{Conditions, Plan, check_finite};
use super::{Phase, Report};
use crate::autoencoder::DecoderState;
use crate::scheduler::{Scheduler, SchedulerConfig};
use crate::{Cancel, Result};

pub struct Whole {
    scheduler: Scheduler,
    latents: Option<Tensor>,
    /// Whether they were made before.
    recalled: bool,
    decoder: DecoderState,
    decoded: usize,
}

impl Whole {
    pub fn new(plan: &Plan, config: &SchedulerConfig) -> Result<Self> {
        Ok(Self {
            scheduler: config.start(plan.steps, plan.shift)?,
            latents: None,
            recalled: false,
            decoder: plan.model.autoencoder.decoder_state(),
            decoded: 0,
        })
    }

    /// The frames of the next latent frame, `[T, 3, H, W]`.
    pub fn next(&mut self, plan: &Plan, cancel: &Cancel, report: &mut Report) -> Result<Tensor> {
        let latents = match &self.latents {
            Some(latents) => latents,
            None => {
                let latents = self.sample(plan, cancel, report)?;
                self.latents.insert(latents)
            }
        };
        report.recalled = self.recalled;
        report.at(Phase::Decode, plan.steps);
        let next = latents.narrow(2, self.decoded, 1)?.to_dtype(plan.model.dtype())?;
        self.decoded += 1;
        plan.model.autoencoder.decode(&next, &mut self.decoder, cancel)
    }

    fn sample(&mut self, plan: &Plan, cancel: &Cancel, report: &mut Report) -> Result<Tensor> {
        let frames = plan.latent_frames().unwrap_or(1);
        let key = plan.key().map(|key| {
            let key =
                key.with("prompt", plan.prompt.as_bytes()).with("negative", plan.negative_prompt.as_bytes());
            key.with("latents", &(frames as u64).to_le_bytes())
        });
        if let Some(latents) = plan.recall(key, frames) {
            self.recalled = true;
            return Ok(latents);
        }
        report.at(Phase::Text, 0);
        let conditions =
            plan.conditions(&plan.embeds(&plan.prompt, cancel)?, &plan.negative_prompt, cancel)?;
        let image = plan.image_latents(cancel)?;
        let mut latents = plan.noise(0, frames)?;
        for (step, t) in self.scheduler.timesteps().to_vec().into_iter().enumerate() {
            cancel.check()?;
            report.at(Phase::Denoise, step as u32);
            let (input, timesteps) = match &image {
                Some(image) => {
                    let mut timesteps = vec![t; frames];
                    timesteps[0] = 0.0;
                    (start_with(Some(image), latents.clone())?, timesteps)
                }
                None => (latents.clone(), vec![t]),
            };
            let velocity = velocity(plan, &conditions, &input, &timesteps, cancel)?;
            report.forwards += conditions.count();
            latents = self.scheduler.step(step, &velocity, &latents, || plan.fresh_noise(step, 0, frames))?;
            check_finite(&latents)?;
        }
        let latents = start_with(image.as_ref(), latents)?;
        plan.store(key, &latents);
        Ok(latents)
    }
}

fn velocity(
    plan: &Plan,
    conditions: &Conditions,
    latents: &Tensor,
    timesteps: &[f64],
    cancel: &Cancel,
) -> Result<Tensor> {
    let transformer = &plan.model.transformer;
    let latents = latents.to_dtype(plan.model.dtype())?;
    let prompt = transformer.forward(&latents, timesteps, &conditions.prompt, cancel)?;
    let negative = conditions.negative.as_ref();
    let negative = negative.map(|c| transformer.forward(&latents, timesteps, c, cancel)).transpose()?;
    plan.guide(prompt, negative)
}
