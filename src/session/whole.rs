//! A video in one piece: all latents are made together, then decoded as a stream.
//!
//! As diffusers' `WanPipeline` does it and, from an image, `WanImageToVideoPipeline`: with `expand_timesteps` the first
//! latent frame is the image's, at timestep 0; without, the transformer sees the image as channels beside the latents.

use std::sync::Arc;

use candle_core::Tensor;

use super::causal::start_with;
use super::plan::{Conditions, Plan, check_finite};
use super::{Phase, Report};
use crate::autoencoder::{DecoderState, Tiling};
use crate::model::{Expert, Experts};
use crate::scheduler::{Scheduler, SchedulerConfig};
use crate::transformer::WanTransformer;
use crate::{Cancel, Model, Result};

pub struct Whole {
    experts: Arc<Experts>,
    scheduler: Scheduler,
    latents: Option<Tensor>,
    /// Whether they were made before.
    recalled: bool,
    decoder: DecoderState,
    /// Where they are decoded in tiles, `[T, 3, H, W]` of them all.
    frames: Option<Tensor>,
    decoded: usize,
}

impl Whole {
    pub fn new(plan: &Plan, config: &SchedulerConfig, experts: Arc<Experts>) -> Result<Self> {
        Ok(Self {
            experts,
            scheduler: config.start(plan.steps, plan.shift)?,
            latents: None,
            recalled: false,
            decoder: plan.model.autoencoder.decoder_state(),
            frames: None,
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
        let Model { autoencoder, room, .. } = &*plan.model;
        let first = self.decoded;
        self.decoded += 1;
        if !autoencoder.in_tiles(plan.size, *room) {
            let next = latents.narrow(2, first, 1)?.to_dtype(plan.model.dtype())?;
            return autoencoder.decode(&next, &mut self.decoder, cancel);
        }
        let frames = match &self.frames {
            Some(frames) => frames,
            None => {
                let latents = latents.to_dtype(plan.model.dtype())?;
                self.frames.insert(autoencoder.decode_tiled(&latents, &Tiling::default(), cancel)?)
            }
        };
        let before = if first > 0 { plan.frames_of(0, first) } else { 0 };
        Ok(frames.narrow(0, before as usize, plan.frames_of(first, 1) as usize)?)
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
        let embeds = plan.embeds(&plan.prompt, cancel)?;
        let (image, beside) = match plan.model.info.needs_image {
            true => (None, plan.image_channels(frames, cancel)?),
            false => (plan.image_latents(cancel)?, None),
        };
        let mut latents = plan.noise(0, frames)?;
        let mut current: Option<Denoiser> = None;
        for (step, t) in self.scheduler.timesteps().to_vec().into_iter().enumerate() {
            cancel.check()?;
            report.at(Phase::Denoise, step as u32);
            let expert = self.experts.at(t);
            // The one before is let go of first.
            let denoiser = match current.take().filter(|denoiser| denoiser.expert == expert) {
                Some(denoiser) => denoiser,
                None => Denoiser::new(plan, &self.experts, expert, &embeds, cancel)?,
            };
            let (mut input, timesteps) = match &image {
                Some(image) => {
                    let mut timesteps = vec![t; frames];
                    timesteps[0] = 0.0;
                    (start_with(Some(image), latents.clone())?, timesteps)
                }
                None => (latents.clone(), vec![t]),
            };
            if let Some(beside) = &beside {
                input = Tensor::cat(&[&input, beside], 1)?;
            }
            let velocity = denoiser.velocity(plan, &input, &timesteps, cancel)?;
            report.forwards += denoiser.conditions.count();
            latents = self.scheduler.step(step, &velocity, &latents, || plan.fresh_noise(step, 0, frames))?;
            check_finite(&latents)?;
            current = Some(denoiser);
        }
        let latents = start_with(image.as_ref(), latents)?;
        plan.store(key, &latents);
        Ok(latents)
    }
}

/// A transformer with what it is to show.
struct Denoiser {
    expert: Expert,
    transformer: Arc<WanTransformer>,
    conditions: Conditions,
}

impl Denoiser {
    fn new(plan: &Plan, experts: &Experts, expert: Expert, prompt: &Tensor, cancel: &Cancel) -> Result<Self> {
        let transformer = experts.get(expert)?;
        let conditions = plan.conditions(expert, &transformer, prompt, &plan.negative_prompt, cancel)?;
        Ok(Self { expert, transformer, conditions })
    }

    fn velocity(&self, plan: &Plan, latents: &Tensor, timesteps: &[f64], cancel: &Cancel) -> Result<Tensor> {
        let latents = latents.to_dtype(plan.model.dtype())?;
        let forward = |context| self.transformer.forward(&latents, timesteps, context, cancel);
        let prompt = forward(&self.conditions.prompt)?;
        let negative = self.conditions.negative.as_ref().map(forward).transpose()?;
        plan.guide(self.expert, prompt, negative)
    }
}
