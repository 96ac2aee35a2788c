//! One running generation.

mod causal;
mod plan;
mod whole;

use std::sync::Arc;

use candle_core::{DType, Tensor};

use crate::model::Sampling;
use crate::watermark::GenerationId;
use crate::{Cancel, Error, Frames, Model, Request, Result, Size};
use plan::Plan;

/// What a session is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reading the prompt.
    Text,
    /// Making latents.
    Denoise,
    /// Making frames of them.
    Decode,
}

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Which chunk, from 0.
    pub chunk: u64,
    /// Steps done in this chunk.
    pub step: u32,
    /// Steps in a chunk.
    pub steps: u32,
    /// Frames finished so far.
    pub frame: u64,
}

/// One running generation: the next chunk, a new prompt. The same request gives the same frames.
pub struct Session {
    plan: Plan,
    sampler: Sampler,
    made: u64,
    spent: bool,
}

/// Makes frames of a plan, some at a time.
enum Sampler {
    Whole(whole::Whole),
    Causal(causal::Causal),
}

/// Whom to tell of progress.
struct Report<'a> {
    to: &'a mut dyn FnMut(Progress),
    steps: u32,
    frame: u64,
}

impl Report<'_> {
    fn at(&mut self, phase: Phase, chunk: u64, step: u32) {
        (self.to)(Progress { phase, chunk, step, steps: self.steps, frame: self.frame });
    }
}

impl Session {
    /// Checks `request` against what `model` can make. Computes nothing.
    ///
    /// # Errors
    /// [`Error::Request`] says what the model cannot do and what it can.
    pub fn new(model: Arc<Model>, request: Request) -> Result<Self> {
        let plan = Plan::new(model, request)?;
        let sampler = match &plan.model.sampling {
            Sampling::Whole(config) => Sampler::Whole(whole::Whole::new(&plan, config)?),
            Sampling::Causal(config) => Sampler::Causal(causal::Causal::new(&plan, config)),
        };
        Ok(Self { plan, sampler, made: 0, spent: false })
    }

    /// Size of the frames.
    pub fn size(&self) -> Size {
        self.plan.size
    }

    /// A name for the request: the same one, however long, has the same. It is the first 40 bits of a digest, so
    /// whoever has a guess at the whole request can confirm it.
    pub fn generation_id(&self) -> GenerationId {
        self.plan.generation_id
    }

    /// How many frames there will be in all; `None` if it goes on for ever.
    pub fn total_frames(&self) -> Option<u64> {
        self.plan.total_frames
    }

    /// Uses another prompt from the next chunk on.
    ///
    /// # Errors
    /// [`Error::Request`] for an empty prompt, and from a model that makes its video in one piece.
    pub fn set_prompt(&mut self, prompt: &str) -> Result<()> {
        match &mut self.sampler {
            Sampler::Whole(_) => Err(Error::Request(
                "this model makes its video in one piece; its prompt cannot change meanwhile".into(),
            )),
            Sampler::Causal(sampler) => {
                self.plan.set_prompt(prompt)?;
                sampler.forget_prompt();
                Ok(())
            }
        }
    }

    /// Makes the next frames; `None` after the last.
    ///
    /// Returns within one transformer block or decoder layer of a cancel, with [`Error::Cancelled`]; the
    /// session is spent then: make another from the same request.
    pub fn next_chunk(
        &mut self,
        cancel: &Cancel,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Option<Frames>> {
        if self.spent {
            return Err(Error::Generation("this generation has failed before; start another".into()));
        }
        if self.plan.total_frames == Some(self.made) {
            return Ok(None);
        }
        // Half of a chunk may be in the caches if this fails.
        self.spent = true;
        let mut report = Report { to: progress, steps: self.plan.steps, frame: self.made };
        let frames = match &mut self.sampler {
            Sampler::Whole(sampler) => sampler.next(&self.plan, cancel, &mut report)?,
            Sampler::Causal(sampler) => sampler.next(&self.plan, cancel, &mut report)?,
        };
        let frames = self.finish(&frames)?;
        self.made += frames.len() as u64;
        self.spent = false;
        Ok(Some(frames))
    }

    /// `[T, 3, H, W]` as frames, without those that the model made beyond what was asked for.
    fn finish(&self, frames: &Tensor) -> Result<Frames> {
        let mut count = frames.dim(0)?;
        if let Some(total) = self.plan.total_frames {
            count = count.min((total - self.made) as usize);
        }
        let frames = frames.narrow(0, 0, count)?.permute((0, 2, 3, 1))?.to_dtype(DType::F32)?;
        let data = frames.flatten_all()?.to_vec1()?;
        Ok(Frames { first: self.made, size: self.plan.size, data })
    }
}
