//! A video chunk by chunk: each attends to the finished ones before it, which the cache remembers.
//!
//! As in Self-Forcing (<https://arxiv.org/abs/2506.08009>, `pipeline/causal_inference.py`): denoise a chunk,
//! emit it, then read the finished latents once more to write their keys and values into the cache. In what the
//! models built on it differ is data: [`model::Causal`].

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::plan::{Conditions, Plan, check_finite};
use super::{Phase, Report};
use crate::autoencoder::DecoderState;
use crate::digest::Digest;
use crate::model::{self, Expert, FirstFrame, Prediction, Sampler};
use crate::scheduler::{UniPc, UniPcOptions};
use crate::transformer::{KvCache, KvCacheConfig, WanTransformer};
use crate::{Cancel, Result};

/// One take: it remembers nothing of what was before.
pub struct Causal {
    config: model::Causal,
    transformer: Arc<WanTransformer>,
    /// From noise to video, ending in 0; of the first chunk, and of the others.
    first_timesteps: Vec<f64>,
    timesteps: Vec<f64>,
    /// What changes with the next chunk.
    turn: Turn,
    /// Stands for all chunks so far, if they are kept.
    key: Option<Digest>,
    /// Chunks that had been made before, and that the transformer has not seen. It need not, unless one comes
    /// that had not.
    unseen: VecDeque<Turn>,
    text: Text,
    caches: Caches,
    /// The latents, chunk by chunk, that the prompt's cache remembers besides the sink, if they may be read again.
    past: VecDeque<Tensor>,
    decoder: DecoderState,
    /// Latent frames made.
    latent_frames: usize,
}

/// What is remembered of finished frames, once for each of the conditions.
struct Caches {
    prompt: KvCache,
    negative: KvCache,
}

/// What decides a chunk besides those before it.
#[derive(Default)]
struct Turn {
    /// Another prompt, and in how many chunks it has all the weight.
    prompt: Option<(String, u32)>,
    negative: Option<String>,
    /// Whether it is the first after a cut within the take.
    cut: bool,
    /// Its latent frames, `first..first + count` of the take.
    first: usize,
    count: usize,
    /// Stands for it and all before it.
    key: Option<Digest>,
}

/// The prompt, or what lies between two of them.
#[derive(Default)]
struct Text {
    prompt: String,
    negative: String,
    /// What the last chunk was made with.
    current: Option<(Tensor, Conditions)>,
    /// In how many chunks the prompt has all the weight; `None`: it has.
    chunks_left: Option<u32>,
    /// Whether it is the prompt that changes, and not the negative one alone.
    changes: bool,
}

impl Causal {
    pub fn new(plan: &Plan, config: &model::Causal, transformer: Arc<WanTransformer>) -> Self {
        let model::Causal { chunk, window, sink, ref shots, .. } = *config;
        let shots = shots.as_ref().map(|shots| shots.memory);
        let cache = || KvCache::new(KvCacheConfig { chunk, window, sink, shots });
        let steps = plan.steps as usize;
        let own_steps = steps == config.timesteps.len();
        let first = config.first_timesteps.as_deref().unwrap_or(&config.timesteps);
        let turn = Turn {
            prompt: Some((plan.prompt.clone(), 0)),
            negative: Some(plan.negative_prompt.clone()),
            ..Turn::default()
        };
        Self {
            first_timesteps: timesteps(first, if own_steps { first.len() } else { steps }, plan.shift),
            timesteps: timesteps(&config.timesteps, steps, plan.shift),
            turn,
            key: plan.key(),
            unseen: VecDeque::new(),
            text: Text::default(),
            caches: Caches { prompt: cache(), negative: cache() },
            past: VecDeque::new(),
            decoder: plan.model.autoencoder.decoder_state(),
            latent_frames: 0,
            config: config.clone(),
            transformer,
        }
    }

    /// Takes the plan's prompt from the next chunk on, in another shot if there is a `cut`. What is remembered of
    /// the finished frames stays.
    pub fn set_prompt(&mut self, plan: &Plan, cut: bool) {
        self.turn.cut |= cut && self.latent_frames > 0;
        let chunks = if self.latent_frames > 0 && !self.turn.cut { plan.blend_chunks } else { 0 };
        self.turn.prompt = Some((plan.prompt.clone(), chunks));
    }

    /// The same for the negative prompt.
    pub fn set_negative_prompt(&mut self, plan: &Plan) {
        self.turn.negative = Some(plan.negative_prompt.clone());
    }

    /// Frames that the next chunk will have.
    pub fn next_frames(&self, plan: &Plan) -> u64 {
        plan.frames_of(self.latent_frames, self.next_latents(plan))
    }

    /// Frames that the next chunk can have, of this take or another.
    pub fn most_frames(&self, plan: &Plan) -> u64 {
        plan.frames_of(1, self.config.chunk.max(self.config.first_chunk.unwrap_or(0)))
    }

    /// Latent frames that the next chunk will have.
    fn next_latents(&self, plan: &Plan) -> usize {
        match self.latent_frames {
            0 if plan.has_image() && self.config.image == FirstFrame::Apart => 1,
            0 => self.config.first_chunk.unwrap_or(self.config.chunk),
            _ => self.config.chunk,
        }
    }

    /// The frames of the next chunk, `[T, 3, H, W]`.
    pub fn next(&mut self, plan: &Plan, cancel: &Cancel, report: &mut Report) -> Result<Tensor> {
        let count = self.next_latents(plan);
        let mut turn = Turn { first: self.latent_frames, count, ..std::mem::take(&mut self.turn) };
        if let (true, Some(shots), Some((prompt, _))) = (turn.cut, &self.config.shots, &mut turn.prompt) {
            // The chunk after this one is told no more of the cut.
            self.turn.prompt = Some((prompt.clone(), 0));
            prompt.insert_str(0, &shots.prompt_prefix);
        }
        self.key = self.key.map(|key| turn.follow(&key));
        turn.key = self.key;
        let latents = match plan.recall(turn.key, count) {
            Some(latents) => {
                report.recalled = true;
                self.unseen.push_back(turn);
                latents
            }
            None => {
                while let Some(turn) = self.unseen.pop_front() {
                    let latents = plan.recall(turn.key, turn.count);
                    self.see(plan, turn, latents, cancel, report)?;
                }
                self.see(plan, turn, None, cancel, report)?
            }
        };
        self.latent_frames += count;

        report.at(Phase::Decode, report.steps);
        plan.model.autoencoder.decode(&latents.to_dtype(plan.model.dtype())?, &mut self.decoder, cancel)
    }

    /// Shows the transformer the chunk after those that it has seen: its `latents`, which are made if they are not
    /// there.
    fn see(
        &mut self,
        plan: &Plan,
        turn: Turn,
        latents: Option<Tensor>,
        cancel: &Cancel,
        report: &mut Report,
    ) -> Result<Tensor> {
        let Turn { first, count, key, cut, .. } = turn;
        if cut {
            self.caches.prompt.begin_shot();
            self.caches.negative.begin_shot();
        }
        self.text.turn(turn.prompt, turn.negative);
        if self.text.chunks_left.is_some() {
            report.at(Phase::Text, 0);
            self.read_prompt(plan, first, cancel, report)?;
        }
        let Some((_, conditions)) = &self.text.current else {
            unreachable!("a prompt is read before the first chunk")
        };
        let latents = match latents {
            Some(latents) => latents,
            None => {
                let image = if first == 0 { plan.image_latents(cancel)? } else { None };
                let latents = match image {
                    // There is nothing to denoise in it.
                    Some(image) if self.config.image == FirstFrame::Apart => image,
                    image => {
                        self.denoise(plan, conditions, first..first + count, image.as_ref(), cancel, report)?
                    }
                };
                check_finite(&latents)?;
                plan.store(key, &latents);
                latents
            }
        };
        let t = self.config.context_noise;
        let input = latents.to_dtype(plan.model.dtype())?;
        let transformer = &self.transformer;
        transformer.cache_chunk(&input, &[t], &conditions.prompt, &mut self.caches.prompt, cancel)?;
        if let Some(negative) = &conditions.negative {
            transformer.cache_chunk(&input, &[t], negative, &mut self.caches.negative, cancel)?;
        }
        report.forwards += conditions.count();
        if self.config.recache {
            self.keep(input, first + count)?;
        }
        Ok(latents)
    }

    /// Makes a step towards the prompt, the last unless it is to gain weight slowly.
    fn read_prompt(&mut self, plan: &Plan, first: usize, cancel: &Cancel, report: &mut Report) -> Result<()> {
        let left = self.text.chunks_left.unwrap_or(0);
        let prompt = plan.embeds(&self.text.prompt, cancel)?;
        let embeds = match &self.text.current {
            // From wherever it is now, an equal part of the way with every chunk.
            Some((current, _)) if left > 0 => (current + ((prompt - current)? / f64::from(left + 1))?)?,
            _ => prompt,
        };
        let conditions =
            plan.conditions(Expert::High, &self.transformer, &embeds, &self.text.negative, cancel)?;
        let another = self.text.changes && first > 0;
        if self.config.recache && another {
            let (cache, t) = (&mut self.caches.prompt, [self.config.context_noise]);
            cache.keep_sink()?;
            for latents in &self.past {
                self.transformer.cache_chunk(latents, &t, &conditions.prompt, cache, cancel)?;
                report.forwards += 1;
            }
        }
        if let Some(after) = self.config.renew_sink
            && another
        {
            self.caches.prompt.renew_sink(after);
            self.caches.negative.renew_sink(after);
        }
        self.text.current = Some((embeds, conditions));
        self.text.chunks_left = left.checked_sub(1);
        self.text.changes &= self.text.chunks_left.is_some();
        Ok(())
    }

    /// Keeps `latents`, up to latent frame `seen`, to be read again, and lets go of those that are out of the window.
    fn keep(&mut self, latents: Tensor, seen: usize) -> Result<()> {
        let (window, sink) = (self.config.window, self.config.sink);
        self.past.push_back(latents);
        let mut spare = self.past.iter().map(|chunk| chunk.dim(2)).sum::<candle_core::Result<usize>>()?;
        spare -= window.min(seen.saturating_sub(sink)).min(spare);
        while spare > 0
            && let Some(first) = self.past.pop_front()
        {
            let frames = first.dim(2)?;
            if frames > spare {
                self.past.push_front(first.narrow(2, spare, frames - spare)?.contiguous()?);
            }
            spare -= spare.min(frames);
        }
        Ok(())
    }

    /// These latent frames, the first of them `image` if there is one.
    fn denoise(
        &self,
        plan: &Plan,
        conditions: &Conditions,
        frames: Range<usize>,
        image: Option<&Tensor>,
        cancel: &Cancel,
        report: &mut Report,
    ) -> Result<Tensor> {
        let transformer = &self.transformer;
        let (first, count) = (frames.start, frames.len());
        let timesteps = if first == 0 { &self.first_timesteps } else { &self.timesteps };
        report.steps = timesteps.len() as u32 - 1;
        let mut latents = start_with(image, plan.noise(first, count)?)?;
        let sigmas = timesteps[..timesteps.len() - 1].iter().map(|t| t / 1000.0).collect();
        let mut unipc = UniPc::at(sigmas, 1000.0, UniPcOptions::default());
        for (step, pair) in timesteps.windows(2).enumerate() {
            cancel.check()?;
            report.at(Phase::Denoise, step as u32);
            let (t, next) = (pair[0], pair[1]);
            let told = if self.config.sampler == Sampler::UniPc { unipc.timesteps()[step] } else { t };
            let mut each = vec![told; count];
            if image.is_some() {
                each[0] = 0.0;
            }
            let input = latents.to_dtype(plan.model.dtype())?;
            let prompt =
                transformer.forward_chunk(&input, &each, &conditions.prompt, &self.caches.prompt, cancel)?;
            let negative = match &conditions.negative {
                Some(negative) => {
                    Some(transformer.forward_chunk(&input, &each, negative, &self.caches.negative, cancel)?)
                }
                None => None,
            };
            report.forwards += conditions.count();
            let predicted = plan.guide(Expert::High, prompt, negative)?;
            let (sigma, next) = (t / 1000.0, next / 1000.0);
            let velocity = |predicted| match self.config.prediction {
                Prediction::Flow => Ok(predicted),
                Prediction::Sample => (&latents - predicted)? / sigma,
            };
            let moved = match self.config.sampler {
                // Along the velocity, from one noise level to the next.
                Sampler::Euler => (&latents + (velocity(predicted)? * (next - sigma))?)?,
                Sampler::UniPc => unipc.step(step, &velocity(predicted)?, &latents)?,
                Sampler::FewStep => {
                    let clean = match self.config.prediction {
                        Prediction::Flow => (&latents - (predicted * sigma)?)?,
                        Prediction::Sample => predicted,
                    };
                    match next > 0.0 {
                        true => {
                            let noise = plan.fresh_noise(step, first, count)?;
                            ((clean * (1.0 - next))? + (noise * next)?)?
                        }
                        false => clean,
                    }
                }
            };
            latents = start_with(image, moved)?;
        }
        Ok(latents)
    }
}

impl Turn {
    /// The key of this chunk after one of that key.
    fn follow(&self, key: &Digest) -> Digest {
        let mut key = *key;
        if let Some((prompt, chunks)) = &self.prompt {
            key = key.with("prompt", prompt.as_bytes()).with("blend", &chunks.to_le_bytes());
        }
        if let Some(negative) = &self.negative {
            key = key.with("negative", negative.as_bytes());
        }
        if self.cut {
            key = key.with("cut", &[]);
        }
        key.with("latents", &(self.count as u64).to_le_bytes())
    }
}

impl Text {
    /// Has what is new read before the next chunk.
    fn turn(&mut self, prompt: Option<(String, u32)>, negative: Option<String>) {
        if let Some(negative) = negative {
            self.negative = negative;
            self.chunks_left.get_or_insert(0);
        }
        if let Some((prompt, chunks)) = prompt {
            // What is shown already may be asked for again.
            self.changes |= prompt != self.prompt;
            self.prompt = prompt;
            self.chunks_left = Some(chunks);
        }
    }
}

/// `latents` with `image`, if there is one, in place of their first frame.
pub fn start_with(image: Option<&Tensor>, latents: Tensor) -> Result<Tensor> {
    let Some(image) = image else { return Ok(latents) };
    let rest = latents.dim(2)? - 1;
    if rest == 0 {
        return Ok(image.to_dtype(DType::F32)?);
    }
    Ok(Tensor::cat(&[image, &latents.narrow(2, 1, rest)?], 2)?)
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
