//! Generates a scene as a whole clip: denoises all latents together, and gives them out frame by frame.
//!
//! As diffusers' `WanPipeline`, from an image `WanImageToVideoPipeline`, from a video `WanVideoToVideoPipeline`, and with a control video
//! `WanVACEPipeline`. With `expand_timesteps` the image is the first latent frame, at timestep 0. Without it, the transformer takes the
//! image as channels beside the latents. References of a VACE model are latent frames before the first one.

use std::sync::Arc;

use candle_core::Tensor;

use super::conditioning::{TextConditioner, TextContexts, encode};
use super::conditions::Conditions;
use super::latents::{LatentStore, check_finite, noised, replace_first_frame};
use super::progress::{Phase, Reporter};
use super::restyle::ChunkVideo;
use super::scene::Scene;
use crate::digest::Digest;
use crate::model::{Expert, Experts};
use crate::scheduler::Scheduler;
use crate::testing::Event;
use crate::transformer::{Control, WanTransformer};
use crate::{Cancel, Model, Result, Size};

pub struct ClipSampler {
    model: Arc<Model>,
    experts: Arc<Experts>,
    scheduler: Scheduler,
    text: TextConditioner,
    store: LatentStore,
    size: Size,
    scene: Scene,
    /// The video that goes in.
    video: Option<ChunkVideo>,
    latents: Option<Tensor>,
    /// Whether the latents came from the cache.
    cached: bool,
    /// Latent frames that were given out.
    begun: usize,
}

impl ClipSampler {
    pub fn new(
        experts: Arc<Experts>,
        scheduler: Scheduler,
        text: TextConditioner,
        store: LatentStore,
        size: Size,
        scene: Scene,
    ) -> Self {
        let model = text.model.clone();
        Self {
            model,
            experts,
            scheduler,
            text,
            store,
            size,
            scene,
            video: None,
            latents: None,
            cached: false,
            begun: 0,
        }
    }

    /// The video that goes in, before the first frames: as many frames as the latent frames of the scene stand for.
    pub fn set_video(&mut self, video: ChunkVideo) {
        self.video = Some(video);
    }

    /// The number of the next latent frame, and all latents of the scene.
    pub fn next_frame(&mut self, cancel: &Cancel, reporter: &mut Reporter) -> Result<(usize, Tensor)> {
        let latents = self.latents(cancel, reporter)?;
        let frame = self.begun.max(self.past_latents()?);
        self.begun = frame + 1;
        Ok((frame, latents))
    }

    /// All latents of the scene, f32 `[1, C, T, H, W]`, made by the first call.
    pub fn latents(&mut self, cancel: &Cancel, reporter: &mut Reporter) -> Result<Tensor> {
        let latents = match self.latents.take() {
            Some(latents) => latents,
            None => self.sample(cancel, reporter)?,
        };
        reporter.cached = self.cached;
        Ok(self.latents.insert(latents).clone())
    }

    /// Whether the cache keeps the latents.
    pub fn is_kept(&self) -> bool {
        self.scene.key.is_some()
    }

    /// Latent frames of the video that the clip continues.
    fn past_latents(&self) -> Result<usize> {
        let Some(past) = &self.scene.past else { return Ok(0) };
        Ok(self.store.geometry.latents_of(past.dim(2)? as u64))
    }

    /// Latent frames of the clip, with those of the video that it continues.
    fn latent_frames(&self) -> Result<usize> {
        let past = self.scene.past.as_ref().map_or(Ok(0), |past| past.dim(2))? as u64;
        // The last frame of a loop is its first one again, and is not shown.
        let frames = self.scene.frames.map_or(1, |frames| past + frames + u64::from(self.scene.loops));
        Ok(self.store.geometry.latents_of(frames))
    }

    /// The key of the latents in the cache, if it keeps them.
    pub fn key(&self) -> Result<Option<Digest>> {
        let Scene { prompt, negative_prompt, key, last_image, frames, .. } = &self.scene;
        let Some(key) = key else { return Ok(None) };
        let key = key
            .with("prompt", prompt.as_bytes())
            .with("negative", negative_prompt.as_bytes())
            .with("latents", &(self.latent_frames()? as u64).to_le_bytes());
        // The frame of the last image.
        let end = last_image.as_ref().and(*frames);
        Ok(Some(end.map_or(key, |end| key.with("end", &end.to_le_bytes()))))
    }

    fn sample(&mut self, cancel: &Cancel, reporter: &mut Reporter) -> Result<Tensor> {
        let Scene { prompt, negative_prompt, noise, references, .. } = &self.scene;
        let (frames, key) = (self.latent_frames()?, self.key()?);
        if let Some(latents) = self.store.get(key, frames) {
            self.cached = true;
            return Ok(latents);
        }
        reporter.report(Phase::Text, 0);
        let embeds = self.text.embed(prompt, cancel)?;
        let model = &self.model;
        let conditions = Conditions::new(model, &self.scene, self.size, frames, cancel)?;
        let Conditions { first_frame, channels, .. } = &conditions;
        let (shown, frames) = (frames, references.len() + frames);
        let timesteps = self.scheduler.timesteps().to_vec();
        let (mut latents, mut first_step) = (noise.initial(0, frames)?, 0);
        if let Some(ChunkVideo { frames, sigma, .. }) = self.video.take() {
            let video = encode(model, &frames, &mut model.autoencoder.encoder_state(), cancel)?;
            first_step = self.scheduler.first_step(sigma);
            latents = match first_step < timesteps.len() {
                true => noised(&video, &latents, self.scheduler.sigma(first_step))?,
                false => video,
            };
        }
        let mut current: Option<Denoiser> = None;
        for (step, t) in timesteps.into_iter().enumerate().skip(first_step) {
            cancel.check()?;
            reporter.report(Phase::Denoise, step as u32);
            self.model.test_event(Event::Step { chunk: 0, step }, cancel)?;
            let expert = self.experts.for_timestep(t);
            // The other expert is dropped first, to free its memory.
            let denoiser = match current.take().filter(|denoiser| denoiser.expert == expert) {
                Some(denoiser) => denoiser,
                None => {
                    let inputs = (&embeds, negative_prompt.as_str(), conditions.images.as_ref());
                    Denoiser::new(&self.text, &self.experts, expert, inputs, cancel)?
                }
            };
            let (mut input, timesteps) = match first_frame {
                Some(image) => {
                    let mut timesteps = vec![t; frames];
                    timesteps[0] = 0.0;
                    (replace_first_frame(Some(image), latents.clone())?, timesteps)
                }
                None => (latents.clone(), vec![t]),
            };
            if let Some(channels) = channels {
                input = Tensor::cat(&[&input, channels], 1)?;
            }
            let predicted =
                denoiser.predict(&self.text, &input, &timesteps, conditions.control.as_ref(), cancel)?;
            reporter.forwards += denoiser.contexts.forwards();
            latents = self.scheduler.step(step, &predicted, &latents, || noise.fresh(step, 0, frames))?;
            check_finite(&latents)?;
            current = Some(denoiser);
        }
        let latents = replace_first_frame(first_frame.as_ref(), latents)?;
        let latents = latents.narrow(2, references.len(), shown)?.contiguous()?;
        self.store.put(key, &latents)?;
        Ok(latents)
    }
}

/// A transformer with its text contexts.
struct Denoiser {
    expert: Expert,
    transformer: Arc<WanTransformer>,
    contexts: TextContexts,
}

impl Denoiser {
    fn new(
        text: &TextConditioner,
        experts: &Experts,
        expert: Expert,
        (prompt_embeds, negative, images): (&Tensor, &str, Option<&Tensor>),
        cancel: &Cancel,
    ) -> Result<Self> {
        let transformer = experts.get(expert, cancel)?;
        let contexts = text.contexts(expert, &transformer, prompt_embeds, negative, images, cancel)?;
        Ok(Self { expert, transformer, contexts })
    }

    fn predict(
        &self,
        text: &TextConditioner,
        latents: &Tensor,
        timesteps: &[f64],
        control: Option<&Control>,
        cancel: &Cancel,
    ) -> Result<Tensor> {
        let latents = latents.to_dtype(text.model.dtype())?;
        let forward = |context| match control {
            Some(control) => {
                self.transformer.forward_controlled(&latents, timesteps, context, control, cancel)
            }
            None => self.transformer.forward(&latents, timesteps, context, cancel),
        };
        let prompt = forward(&self.contexts.prompt)?;
        let negative = self.contexts.negative.as_ref().map(forward).transpose()?;
        text.guidance.combine(self.expert, prompt, negative)
    }
}
