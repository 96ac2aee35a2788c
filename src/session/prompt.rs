//! The prompt of a causal scene as it changes from chunk to chunk.

use candle_core::Tensor;

use super::conditioning::TextContexts;
use super::guidance::Guidance;
use super::restyle::ChunkVideo;
use crate::digest::Digest;
use crate::world::Plan;

/// The input of a chunk, besides the chunks before it.
#[derive(Default)]
pub struct ChunkInput {
    /// A new prompt, and the number of chunks over which it gains weight.
    pub prompt: Option<(String, u32)>,
    pub negative: Option<String>,
    /// A new seed.
    pub seed: Option<u64>,
    pub guidance: Option<Guidance>,
    /// Another number of steps, and another shift.
    pub schedule: Option<(u32, Option<f64>)>,
    pub control_scale: Option<f64>,
    /// Other subjects, or other places of them.
    pub plan: Option<Plan>,
    /// The part of the video that goes in. Chunks with one are not cached.
    pub video: Option<ChunkVideo>,
    /// Whether the chunk is the first after a cut within the scene.
    pub cut: bool,
    /// The latent frames of the chunk are `first..first + count` of the scene.
    pub first: usize,
    pub count: usize,
    /// Identifies this chunk and all chunks before it.
    pub key: Option<Digest>,
}

impl ChunkInput {
    /// The key of this chunk after a chunk with the key `before`.
    pub fn key_after(&self, before: &Digest) -> Digest {
        let mut key = *before;
        if let Some((prompt, chunks)) = &self.prompt {
            key = key.with("prompt", prompt.as_bytes()).with("blend", &chunks.to_le_bytes());
        }
        if let Some(negative) = &self.negative {
            key = key.with("negative", negative.as_bytes());
        }
        if let Some(seed) = self.seed {
            key = key.with("seed", &seed.to_le_bytes());
        }
        if let Some(guidance) = &self.guidance {
            key = key.with("guidance", &guidance.scale.to_le_bytes());
        }
        if let Some((steps, shift)) = &self.schedule {
            key = key.with("steps", &steps.to_le_bytes()).with("shift", &shift.unwrap_or(0.0).to_le_bytes());
        }
        if let Some(scale) = &self.control_scale {
            key = key.with("control scale", &scale.to_le_bytes());
        }
        if let Some(plan) = &self.plan {
            key = key.with("plan", plan.key().as_bytes());
        }
        if self.cut {
            key = key.with("cut", &[]);
        }
        key.with("latents", &(self.count as u64).to_le_bytes())
    }
}

/// The prompt of the next chunk, or a blend of two prompts.
#[derive(Default)]
pub struct PromptState {
    pub prompt: String,
    pub negative: String,
    /// Embedding and contexts of the last chunk.
    pub current: Option<(Tensor, TextContexts)>,
    /// Chunks until the prompt has all the weight; `None` when it has.
    pub chunks_left: Option<u32>,
    /// Whether the prompt changed, not only the negative prompt.
    pub prompt_changed: bool,
}

impl PromptState {
    /// Marks new prompts for encoding.
    pub fn update(&mut self, prompt: Option<(String, u32)>, negative: Option<String>) {
        if let Some(negative) = negative {
            self.negative = negative;
            self.chunks_left.get_or_insert(0);
        }
        if let Some((prompt, chunks)) = prompt {
            // The caller may set the same prompt again.
            self.prompt_changed |= prompt != self.prompt;
            self.prompt = prompt;
            self.chunks_left = Some(chunks);
        }
    }

    /// Makes the contexts of the next chunk anew, from the same prompts.
    pub fn renew_contexts(&mut self) {
        self.chunks_left.get_or_insert(0);
    }

    /// One step of linear interpolation from the current embedding to `prompt`.
    pub fn blend(&self, prompt: Tensor) -> candle_core::Result<Tensor> {
        match (&self.current, self.chunks_left) {
            (Some((current, _)), Some(left)) if left > 0 => {
                current + ((prompt - current)? / f64::from(left + 1))?
            }
            _ => Ok(prompt),
        }
    }

    /// Stores the embedding and contexts of this chunk.
    pub fn advance(&mut self, embeds: Tensor, contexts: TextContexts) {
        self.current = Some((embeds, contexts));
        self.chunks_left = self.chunks_left.and_then(|left| left.checked_sub(1));
        self.prompt_changed &= self.chunks_left.is_some();
    }
}
