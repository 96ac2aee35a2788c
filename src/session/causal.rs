//! Generates a scene chunk by chunk. Each chunk attends to the chunks before it through a KV cache.
//!
//! As in Self-Forcing (<https://arxiv.org/abs/2506.08009>, `pipeline/causal_inference.py`): denoise a chunk, emit it, then
//! run the finished latents through the transformer once more to write their keys and values into the cache. Models that
//! build on it differ only in their [`CausalConfig`].

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;
use image::RgbImage;

use super::conditioning::{TextConditioner, TextContexts, encode, image_latents};
use super::conditions::{ControlFrame, ControlVideo};
use super::guidance::Guidance;
use super::latents::{LatentStore, SceneNoise, noised, replace_first_frame};
use super::past::PastLatents;
use super::progress::{Phase, Reporter};
use super::prompt::{ChunkInput, PromptState};
use super::restyle::ChunkVideo;
use super::scene::Scene;
use super::subjects::Subjects;
use crate::autoencoder::EncoderState;
use crate::digest::Digest;
use crate::model::{CausalConfig, Expert, FirstFrame};
use crate::picture::Fit;
use crate::scheduler::ChunkSchedule;
use crate::testing::Event;
use crate::transformer::{KvCache, KvCacheConfig, WanTransformer};
use crate::world::Plan;
use crate::{Cancel, Model, Result, Size};

pub struct CausalSampler {
    model: Arc<Model>,
    config: Arc<CausalConfig>,
    transformer: Arc<WanTransformer>,
    schedule: ChunkSchedule,
    text: TextConditioner,
    store: LatentStore,
    noise: SceneNoise,
    /// The image that the scene starts from.
    image: Option<RgbImage>,
    /// The video that the scene continues, until it is in the KV cache: f32 `[1, 3, T, H, W]`.
    video_before: Option<Tensor>,
    size: Size,
    blend_chunks: u32,
    /// Input of the next chunk.
    next_input: ChunkInput,
    /// The seed of the last chunk. `noise` follows only when a chunk is denoised or replayed.
    seed: u64,
    /// Identifies all chunks so far, if they are cached.
    key: Option<Digest>,
    /// Chunks whose latents came from the cache and that are not in the KV cache yet. They are replayed only if a later chunk
    /// must be denoised.
    pending: VecDeque<ChunkInput>,
    prompt: PromptState,
    caches: KvCaches,
    subjects: Subjects,
    /// The latents that a new prompt recomputes the KV cache from, with `recache`.
    past: PastLatents,
    /// Of the video that goes in.
    encoder: EncoderState,
    /// Latents of the video that the scene continues, until they are decoded.
    before: Vec<Tensor>,
    /// Latent frames generated.
    latent_frames: usize,
    /// What steers the scene.
    control: Option<ControlVideo>,
}

/// The video that goes into a chunk.
struct VideoLatents {
    /// f32 `[1, C, t, h, w]`.
    latents: Tensor,
    /// Noise level that the chunk starts from.
    sigma: f64,
}

/// Keys and values of finished frames, for each of the prompts.
struct KvCaches {
    prompt: KvCache,
    negative: KvCache,
}

impl KvCaches {
    /// Adds the keys and values of finished latents, at the timestep `t`.
    fn append(
        &mut self,
        transformer: &WanTransformer,
        latents: &Tensor,
        t: f64,
        contexts: &TextContexts,
        cancel: &Cancel,
    ) -> Result<()> {
        transformer.cache_chunk(latents, &[t], &contexts.prompt, &mut self.prompt, cancel)?;
        if let Some(negative) = &contexts.negative {
            transformer.cache_chunk(latents, &[t], negative, &mut self.negative, cancel)?;
        }
        Ok(())
    }
}

impl CausalSampler {
    #[expect(clippy::too_many_arguments, reason = "the parts of a generation, each used")]
    pub fn new(
        config: Arc<CausalConfig>,
        transformer: Arc<WanTransformer>,
        schedule: ChunkSchedule,
        text: TextConditioner,
        store: LatentStore,
        size: Size,
        blend_chunks: u32,
        scene: Scene,
    ) -> Self {
        let CausalConfig { chunk, window, sink, positions, ring, ref shots, .. } = *config;
        let shots = shots.as_ref().map(|shots| shots.memory);
        let cache = || KvCache::new(KvCacheConfig { chunk, window, sink, shots, positions, ring });
        let next_input = ChunkInput {
            prompt: Some((scene.prompt, 0)),
            negative: Some(scene.negative_prompt),
            ..ChunkInput::default()
        };
        let model = text.model.clone();
        let control = scene.control.map(|control| ControlVideo::new(&model, control, scene.control_scale));
        let latents_before = match &scene.past {
            Some(video) => store.geometry.latents_of(video.dim(2).unwrap_or(0) as u64),
            None => 0,
        };
        Self {
            encoder: model.autoencoder.encoder_state(),
            before: Vec::new(),
            model,
            transformer,
            schedule,
            text,
            store,
            seed: scene.noise.seed,
            noise: scene.noise,
            image: scene.image,
            video_before: scene.past,
            size,
            blend_chunks,
            next_input,
            key: scene.key,
            pending: VecDeque::new(),
            prompt: PromptState::default(),
            caches: KvCaches { prompt: cache(), negative: cache() },
            subjects: Subjects::default(),
            past: PastLatents::new(config.attended_frames()),
            latent_frames: latents_before,
            control,
            config,
        }
    }

    /// Uses `prompt` from the next chunk on. `seed`, if any, replaces the seed of the noise. `cut` starts a new shot within the
    /// scene, and the KV cache stays.
    pub fn set_prompt(&mut self, prompt: String, seed: Option<u64>, cut: bool) {
        let next = &mut self.next_input;
        next.cut |= cut && self.latent_frames > 0;
        let chunks = if self.latent_frames > 0 && !next.cut { self.blend_chunks } else { 0 };
        next.prompt = Some((prompt, chunks));
        next.seed = seed.filter(|seed| *seed != self.seed);
    }

    /// Uses the negative prompt `prompt` from the next chunk on.
    pub fn set_negative_prompt(&mut self, prompt: String) {
        self.next_input.negative = Some(prompt);
    }

    /// Uses this guidance from the next chunk on.
    pub fn set_guidance(&mut self, guidance: Guidance) {
        self.next_input.guidance = Some(guidance);
    }

    /// Takes so many steps for each chunk from the next one on, with this shift; `None` is the model's own schedule.
    pub fn set_schedule(&mut self, steps: u32, shift: Option<f64>) {
        self.next_input.schedule = Some((steps, shift));
    }

    /// Draws the noise of the next chunks from this seed.
    pub fn set_seed(&mut self, seed: u64) {
        self.next_input.seed = Some(seed).filter(|seed| *seed != self.seed);
    }

    /// Blends later prompts in over so many chunks.
    pub fn set_blend_chunks(&mut self, chunks: u32) {
        self.blend_chunks = chunks;
    }

    /// How much the next chunks are steered.
    pub fn set_control_scale(&mut self, scale: f64) {
        self.next_input.control_scale = Some(scale);
    }

    /// Shows these subjects from the next chunk on.
    pub fn set_plan(&mut self, plan: Plan) {
        self.next_input.plan = Some(plan);
    }

    /// The part of the video that goes into the next chunk, of [`next_frames`](Self::next_frames) frames.
    pub fn set_video(&mut self, video: ChunkVideo) {
        self.next_input.video = Some(video);
    }

    /// Frames that steer the next chunks, after those of the request.
    pub fn push_control(&mut self, frames: impl IntoIterator<Item = ControlFrame>, scale: f64) {
        let model = &self.model;
        self.control.get_or_insert_with(|| ControlVideo::new(model, Arc::default(), scale)).push(frames);
    }

    /// Latent frames generated.
    pub fn latent_frames(&self) -> usize {
        self.latent_frames
    }

    /// Frames of the next chunk.
    pub fn next_frames(&self) -> u64 {
        self.store.geometry.frames_of(self.latent_frames, self.next_count())
    }

    /// Latent frames of the next chunk.
    fn next_count(&self) -> usize {
        match self.latent_frames {
            0 if self.image_chunk() > 0 => 1,
            latent => self.config.chunk_at(latent),
        }
    }

    /// Latent frames of the image, if it is a separate chunk.
    fn image_chunk(&self) -> usize {
        usize::from(self.image.is_some() && self.config.image == FirstFrame::Apart)
    }

    /// Whether the cache keeps the latents.
    pub fn is_kept(&self) -> bool {
        self.key.is_some()
    }

    /// The latents of the next chunk, f32 `[1, C, T, H, W]`. Unless the cache keeps them, nothing checks that they are finite.
    pub fn next_latents(&mut self, cancel: &Cancel, reporter: &mut Reporter) -> Result<Tensor> {
        let input = self.take_input();
        let count = input.count;
        let latents = match self.store.get(input.key, count) {
            Some(latents) => {
                reporter.cached = true;
                self.pending.push_back(input);
                latents
            }
            None => {
                while let Some(input) = self.pending.pop_front() {
                    let latents = self.store.get(input.key, input.count);
                    self.process(input, latents, cancel, reporter)?;
                }
                self.process(input, None, cancel, reporter)?
            }
        };
        self.latent_frames += count;
        Ok(latents)
    }

    /// Latents that a decoder reads before those of the last chunk, and whose frames are not shown.
    pub fn take_before(&mut self) -> Vec<Tensor> {
        std::mem::take(&mut self.before)
    }

    /// Leaves out the next chunk, and returns the key of its latents.
    pub fn skip_chunk(&mut self) -> Option<Digest> {
        let input = self.take_input();
        self.latent_frames += input.count;
        input.key
    }

    /// The input of the next chunk, with its key.
    fn take_input(&mut self) -> ChunkInput {
        let count = self.next_count();
        let mut input =
            ChunkInput { first: self.latent_frames, count, ..std::mem::take(&mut self.next_input) };
        if let (true, Some(shots), Some((prompt, _))) = (input.cut, &self.config.shots, &mut input.prompt) {
            // Only the first chunk after the cut has the prefix.
            self.next_input.prompt = Some((prompt.clone(), 0));
            prompt.insert_str(0, &shots.prompt_prefix);
        }
        self.seed = input.seed.unwrap_or(self.seed);
        self.key = self.key.map(|key| input.key_after(&key));
        input.key = self.key;
        input
    }

    /// Adds the chunk `input` to the KV cache: with `latents` from the cache it is replayed, without them it is denoised.
    fn process(
        &mut self,
        input: ChunkInput,
        latents: Option<Tensor>,
        cancel: &Cancel,
        reporter: &mut Reporter,
    ) -> Result<Tensor> {
        let ChunkInput { first, count, key, cut, .. } = input;
        if cut {
            self.caches.prompt.begin_shot();
            self.caches.negative.begin_shot();
        }
        self.noise.seed = input.seed.unwrap_or(self.noise.seed);
        self.prompt.update(input.prompt, input.negative);
        if let Some((steps, shift)) = input.schedule {
            self.schedule = self.config.schedule.resolve(steps as usize, shift);
        }
        if let (Some(scale), Some(control)) = (input.control_scale, &mut self.control) {
            control.set_scale(scale);
        }
        if let Some(guidance) = input.guidance {
            self.change_guidance(guidance)?;
        }
        let continues = self.prompt.current.is_some();
        if let Some(mut plan) = input.plan {
            // The subject of a video that goes in is where it is.
            if input.video.is_some() {
                plan.free_places();
            }
            if self.subjects.set_plan(plan) && continues {
                self.renew_sink(first);
            }
        }
        if first > 0 && input.video.as_ref().is_some_and(|video| video.has_cut) {
            self.replace_sink(count);
        }
        let new_contexts = self.prompt.chunks_left.is_some();
        if new_contexts {
            reporter.report(Phase::Text, 0);
            self.update_contexts(first, cancel, reporter)?;
        }
        let Some((_, contexts)) = &self.prompt.current else {
            unreachable!("the first chunk of a scene has a prompt")
        };
        if new_contexts || self.subjects.need_update() {
            self.subjects.update(&self.model, cancel)?;
        }
        let KvCaches { prompt, negative } = &mut self.caches;
        // A video that goes in moves its own camera.
        if input.video.is_none() {
            self.subjects.move_camera(&self.model, &self.transformer, first, [prompt, negative]);
        }
        let caches = [&mut *prompt, &mut *negative];
        self.subjects.place(&self.model, &self.transformer, contexts, first, caches, cancel)?;
        let [.., height, width] = self.store.geometry.shape(1);
        let caches = [prompt, negative];
        self.subjects.cover(&self.model, &self.transformer, first, [height, width], caches, cancel)?;
        if let Some(control) = &mut self.control {
            let frames = self.store.geometry.frames_of(first, count) as usize;
            let control = control.next(&self.model, self.size, (count, frames), cancel)?;
            self.caches.prompt.set_control(Some(control.clone()));
            self.caches.negative.set_control(Some(control));
        }
        let start = match input.video {
            None => None,
            Some(ChunkVideo { frames, sigma, .. }) => {
                let latents = encode(&self.model, &frames, &mut self.encoder, cancel)?;
                Some(VideoLatents { latents, sigma })
            }
        };
        let (latents, is_cached) = match latents {
            Some(latents) => (latents, false),
            None => {
                let frames = first..first + count;
                let made = self.chunk_latents(contexts, frames, start.as_ref(), cancel, reporter)?;
                self.store.put(key, &made.0)?;
                made
            }
        };
        let chunk = latents.to_dtype(self.model.dtype())?;
        if !is_cached {
            self.caches.append(&self.transformer, &chunk, self.config.context_noise, contexts, cancel)?;
            reporter.forwards += contexts.forwards();
        }
        if self.config.recache {
            self.past.push(&chunk)?;
        }
        Ok(latents)
    }

    /// Uses another guidance. If that turns guidance on, the negative prompt has seen the chunks so far as the prompt has.
    fn change_guidance(&mut self, guidance: Guidance) -> Result<()> {
        let before = std::mem::replace(&mut self.text.guidance, guidance);
        let (was_on, is_on) = (before.is_on(Expert::High), guidance.is_on(Expert::High));
        if was_on != is_on {
            self.prompt.renew_contexts();
        }
        if is_on && !was_on {
            self.caches.negative = self.caches.prompt.copy()?;
        }
        Ok(())
    }

    /// Encodes the prompts for the next chunk, and blends towards a new prompt while it gains weight.
    fn update_contexts(&mut self, first: usize, cancel: &Cancel, reporter: &mut Reporter) -> Result<()> {
        let prompt = self.text.embed(&self.prompt.prompt, cancel)?;
        let embeds = self.prompt.blend(prompt)?;
        let negative = &self.prompt.negative;
        let contexts =
            self.text.contexts(Expert::High, &self.transformer, &embeds, negative, None, cancel)?;
        if let Some(video) = self.video_before.take() {
            self.remember(&video, &contexts, cancel, reporter)?;
        }
        let changed = self.prompt.prompt_changed && self.prompt.current.is_some() && first > 0;
        if self.config.recache && changed {
            self.recache(first, &contexts, cancel, reporter)?;
        }
        if changed {
            self.renew_sink(first);
        }
        self.prompt.advance(embeds, contexts);
        Ok(())
    }

    /// Adds the video that the scene continues to the KV cache, chunk by chunk, and to the state of the encoder.
    fn remember(
        &mut self,
        video: &Tensor,
        contexts: &TextContexts,
        cancel: &Cancel,
        reporter: &mut Reporter,
    ) -> Result<()> {
        let (total, mut frame, mut latent) = (video.dim(2)?, 0, 0);
        while frame < total {
            let count = self.config.chunk_at(latent);
            let frames = self.store.geometry.frames_of(latent, count) as usize;
            let part = video.narrow(2, frame, frames)?;
            let latents =
                encode(&self.model, &part, &mut self.encoder, cancel)?.to_dtype(self.model.dtype())?;
            let KvCaches { prompt, negative } = &mut self.caches;
            self.subjects.move_camera(&self.model, &self.transformer, latent, [prompt, negative]);
            self.caches.append(&self.transformer, &latents, self.config.context_noise, contexts, cancel)?;
            reporter.forwards += contexts.forwards();
            if self.config.recache {
                self.past.push(&latents)?;
            }
            self.before.push(latents);
            (frame, latent) = (frame + frames, latent + count);
        }
        Ok(())
    }

    /// After a change of what the video shows, before the latent frame `first`: the old sink would keep it close to its first
    /// frames.
    fn renew_sink(&mut self, first: usize) {
        if let Some(after) = self.config.renew_sink.filter(|_| first > 0) {
            self.caches.prompt.renew_sink(after);
            self.caches.negative.renew_sink(after);
        }
    }

    /// After a cut in the video that goes in, within a chunk of `count` latent frames: the first frames after that chunk become the
    /// sink, once no frame from before the cut is in the window.
    fn replace_sink(&mut self, count: usize) {
        let after = self.config.window + count;
        self.caches.prompt.renew_sink(after);
        self.caches.negative.renew_sink(after);
    }

    /// Recomputes the KV cache with another prompt, as LongLive 1 (`_recache_after_switch` in
    /// `pipeline/interactive_causal_inference.py` with `global_sink`): in one pass the last latents attend to each other in both
    /// directions. If all `made` latent frames are among them, the sink is recomputed too; otherwise it stays.
    fn recache(
        &mut self,
        made: usize,
        contexts: &TextContexts,
        cancel: &Cancel,
        reporter: &mut Reporter,
    ) -> Result<()> {
        let attended = self.config.attended_frames();
        let count = if made <= attended { made } else { attended - self.config.sink };
        let Some(latents) = self.past.last(count)? else { return Ok(()) };
        let (cache, t) = (&mut self.caches.prompt, [self.config.context_noise]);
        cache.rewind(count)?;
        self.transformer.cache_chunk(&latents, &t, &contexts.prompt, cache, cancel)?;
        reporter.forwards += 1;
        Ok(())
    }

    /// The latent frames `frames`, f32: denoised, or encoded from the image that the scene starts from, or of the `video` that goes in; and
    /// whether they are in the KV cache already.
    fn chunk_latents(
        &self,
        contexts: &TextContexts,
        frames: Range<usize>,
        video: Option<&VideoLatents>,
        cancel: &Cancel,
        reporter: &mut Reporter,
    ) -> Result<(Tensor, bool)> {
        if let Some(VideoLatents { latents, .. }) = video.filter(|video| video.sigma == 0.0) {
            return Ok((latents.clone(), false));
        }
        let image = match &self.image {
            Some(image) if frames.start == 0 => {
                Some(image_latents(&self.model, image, self.size, Fit::Cover, cancel)?)
            }
            _ => None,
        };
        match image {
            // The image is the whole chunk.
            Some(image) if self.config.image == FirstFrame::Apart => Ok((image, false)),
            image => {
                let latents = self.denoise(contexts, frames, image.as_ref(), video, cancel, reporter)?;
                Ok((latents, self.config.ring.is_some()))
            }
        }
    }

    /// Denoises the latent frames `frames`, the first of which is `image` if there is one, from the `video` with noise or from noise.
    fn denoise(
        &self,
        contexts: &TextContexts,
        frames: Range<usize>,
        image: Option<&Tensor>,
        video: Option<&VideoLatents>,
        cancel: &Cancel,
        reporter: &mut Reporter,
    ) -> Result<Tensor> {
        let transformer = &self.transformer;
        let (first, count) = (frames.start, frames.len());
        let sigma = video.map_or(1.0, |video| video.sigma);
        let mut scheduler = self.schedule.start(first == self.image_chunk(), sigma);
        let timesteps = scheduler.timesteps().to_vec();
        let steps = timesteps.len();
        reporter.steps = steps as u32;
        self.caches.prompt.set_passes(steps);
        self.caches.negative.set_passes(steps);
        let noise = self.noise.initial(first, count)?;
        let start = match video {
            Some(video) => noised(&video.latents, &noise, sigma)?,
            None => noise,
        };
        let mut latents = replace_first_frame(image, start)?;
        // Drawn for all steps when the first one needs it: an upload may wait for the GPU.
        let mut noise: Option<Tensor> = None;
        let mut fresh = |step: usize| -> Result<Tensor> {
            let all = match noise.take() {
                Some(all) => all,
                None => self.noise.fresh_of_steps(steps, first, count)?,
            };
            Ok(noise.insert(all).narrow(0, step, 1)?)
        };
        for (step, t) in timesteps.into_iter().enumerate() {
            cancel.check()?;
            reporter.report(Phase::Denoise, step as u32);
            self.model.test_event(Event::Step { chunk: first / self.config.chunk, step }, cancel)?;
            let mut frame_timesteps = vec![t; count];
            if image.is_some() {
                frame_timesteps[0] = 0.0;
            }
            let input = latents.to_dtype(self.model.dtype())?;
            let last = self.config.ring.is_some() && step + 1 == steps;
            let forward = |context, cache| match last {
                true => transformer.finish_chunk(&input, &frame_timesteps, context, cache, cancel),
                false => transformer.forward_chunk(&input, &frame_timesteps, context, cache, cancel),
            };
            let prompt = forward(&contexts.prompt, &self.caches.prompt)?;
            let negative = contexts.negative.as_ref();
            let negative = negative.map(|negative| forward(negative, &self.caches.negative)).transpose()?;
            reporter.forwards += contexts.forwards();
            let predicted = self.text.guidance.combine(Expert::High, prompt, negative)?;
            let stepped = scheduler.step(step, &predicted, &latents, || fresh(step))?;
            latents = replace_first_frame(image, stepped)?;
        }
        Ok(latents)
    }
}
