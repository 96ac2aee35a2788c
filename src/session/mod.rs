//! One running generation.

mod causal;
mod plan;
mod schedule;
mod whole;

use std::sync::Arc;

use candle_core::{DType, Tensor};

use crate::model::Sampling;
use crate::request::{Shot, Transition};
use crate::watermark::GenerationId;
use crate::{Cache, Cancel, Error, Frames, Model, Request, Result, Size};
use plan::{Plan, admit};
use schedule::{Placed, Schedule};

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

/// What the video shows from a frame on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShotInfo {
    /// How many shots and new prompts were before it, with those that no chunk was left for.
    pub index: u64,
    /// Its first frame.
    pub frame: u64,
    /// What it shows.
    pub prompt: String,
    /// Which of the possible videos.
    pub seed: u64,
    /// Whether there is a cut before it.
    pub cut: bool,
}

/// What a session has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionStats {
    /// Times that the transformer ran.
    pub forwards: u64,
    /// Frames whose latents had been made before, and were only decoded.
    pub recalled: u64,
}

/// One running generation: the next chunk, a new prompt. The same request gives the same frames.
pub struct Session {
    plan: Plan,
    effort: SessionStats,
    schedule: Schedule,
    /// Of the take that is being made.
    sampler: Sampler,
    /// Where that ends.
    take_end: Option<u64>,
    /// A prompt from outside that no chunk was made with yet.
    prompt: Option<String>,
    /// Of the last chunk.
    shown: ShotInfo,
    begun: u64,
    chunks: u64,
    made: u64,
    spent: bool,
}

/// Makes frames of a plan, some at a time.
enum Sampler {
    Whole(whole::Whole),
    Causal(Box<causal::Causal>),
}

/// Whom to tell of progress.
struct Report<'a> {
    to: &'a mut dyn FnMut(Progress),
    chunk: u64,
    steps: u32,
    frame: u64,
    /// Times that the transformer ran for this chunk.
    forwards: u64,
    /// Whether its latents had been made before.
    recalled: bool,
}

impl Report<'_> {
    fn at(&mut self, phase: Phase, step: u32) {
        let Self { chunk, steps, frame, .. } = *self;
        (self.to)(Progress { phase, chunk, step, steps, frame });
    }
}

impl Session {
    /// Checks `request` against what `model` can make. Computes nothing.
    ///
    /// # Errors
    /// [`Error::Request`] says what the model cannot do and what it can.
    pub fn new(model: Arc<Model>, request: Request) -> Result<Self> {
        let (plan, schedule) = Plan::new(model, request)?;
        Self::start(plan, schedule)
    }

    /// The same, with latents kept in `cache`: what is in there is not made again.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_cache(model: Arc<Model>, request: Request, cache: Cache) -> Result<Self> {
        let (mut plan, schedule) = Plan::new(model, request)?;
        plan.cache = Some(cache);
        Self::start(plan, schedule)
    }

    fn start(plan: Plan, schedule: Schedule) -> Result<Self> {
        let sampler = Sampler::new(&plan)?;
        Ok(Self {
            plan,
            effort: SessionStats::default(),
            schedule,
            sampler,
            take_end: None,
            prompt: None,
            shown: ShotInfo::default(),
            begun: 0,
            chunks: 0,
            made: 0,
            spent: false,
        })
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
        self.schedule.total()
    }

    /// What was done so far.
    pub fn effort(&self) -> SessionStats {
        self.effort
    }

    /// What the chunk made last shows; before the first nothing.
    pub fn shown(&self) -> &ShotInfo {
        &self.shown
    }

    /// Adds a shot after those of the request. What is made stays: one whose time has passed starts with the next
    /// chunk.
    ///
    /// # Errors
    /// [`Error::Request`] if it does not start later than the one before it, or is none that the model can make.
    pub fn add_shot(&mut self, shot: Shot) -> Result<()> {
        self.schedule.add(shot, &self.plan.model.info, &self.plan.policy)
    }

    /// Ends a video that would go on for ever after `frames` frames.
    pub fn end_at(&mut self, frames: u64) {
        self.schedule.end_at(frames);
    }

    /// The frame that the next chunk reaches up to at most. If all shots up to there are added before it is made,
    /// the video is that of a request that had them from the beginning.
    pub fn next_end(&self) -> u64 {
        match &self.sampler {
            Sampler::Whole(_) => self.schedule.total().unwrap_or(u64::MAX),
            Sampler::Causal(sampler) => self.made + sampler.most_frames(&self.plan),
        }
    }

    /// Uses another prompt from the next chunk on, until the next shot of the request.
    ///
    /// # Errors
    /// [`Error::Request`] for an empty prompt, and from a model that makes its video in one piece.
    pub fn set_prompt(&mut self, prompt: &str) -> Result<()> {
        self.check_changeable()?;
        admit(prompt, &self.plan.policy)?;
        self.prompt = Some(prompt.into());
        Ok(())
    }

    /// Uses another negative prompt from the next chunk on; `None` is the model's own.
    ///
    /// # Errors
    /// [`Error::Request`] for one that is too long, and from a model that makes its video in one piece;
    /// [`Error::Refused`] by the policy.
    pub fn set_negative_prompt(&mut self, prompt: Option<&str>) -> Result<()> {
        self.check_changeable()?;
        self.plan.set_negative_prompt(prompt)?;
        if let Sampler::Causal(sampler) = &mut self.sampler {
            sampler.set_negative_prompt(&self.plan);
        }
        Ok(())
    }

    fn check_changeable(&self) -> Result<()> {
        match self.sampler {
            Sampler::Whole(_) => Err(Error::Request(
                crate::Setting::Prompt,
                "this model makes its video in one piece; its prompt cannot change meanwhile".into(),
            )),
            Sampler::Causal(_) => Ok(()),
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
        if self.schedule.total().is_some_and(|total| self.made >= total) {
            return Ok(None);
        }
        // Half of a chunk may be in the caches if this fails.
        self.spent = true;
        self.begin_shots()?;
        let mut report = Report {
            to: progress,
            chunk: self.chunks,
            steps: self.plan.steps,
            frame: self.made,
            forwards: 0,
            recalled: false,
        };
        let frames = match &mut self.sampler {
            Sampler::Whole(sampler) => sampler.next(&self.plan, cancel, &mut report)?,
            Sampler::Causal(sampler) => {
                self.chunks += 1;
                sampler.next(&self.plan, cancel, &mut report)?
            }
        };
        let (forwards, recalled) = (report.forwards, report.recalled);
        let frames = self.finish(&frames)?;
        self.effort.forwards += forwards;
        self.effort.recalled += if recalled { frames.len() as u64 } else { 0 };
        self.made += frames.len() as u64;
        self.spent = false;
        Ok(Some(frames))
    }

    /// Begins what is due: shots of the request, then a prompt from outside.
    fn begin_shots(&mut self) -> Result<()> {
        let mut begun = None;
        while let Some(Placed { shot, take, .. }) =
            self.schedule.due(self.made, self.sampler.next_frames(&self.plan))
        {
            let cut = shot.transition == Transition::Cut;
            self.plan.begin(shot, take);
            if take {
                let end = self.schedule.next_take();
                self.plan.begin_take(end.map(|end| end.saturating_sub(self.made)));
                self.sampler = Sampler::new(&self.plan)?;
            } else {
                self.sampler.set_prompt(&self.plan, cut);
            }
            begun = Some(cut || begun.unwrap_or(false));
            self.begun += 1;
        }
        // One may have been added since.
        self.take_end = self.schedule.next_take();
        if let Some(prompt) = self.prompt.take() {
            self.plan.prompt = prompt;
            self.sampler.set_prompt(&self.plan, false);
            begun = begun.or(Some(false));
            self.begun += 1;
        }
        if let Some(cut) = begun {
            self.shown = ShotInfo {
                index: self.begun - 1,
                frame: self.made,
                prompt: self.plan.prompt.clone(),
                seed: self.plan.seed,
                cut: cut && self.made > 0,
            };
        }
        Ok(())
    }

    /// `[T, 3, H, W]` as frames, without those that the model made beyond a cut or what was asked for.
    fn finish(&self, frames: &Tensor) -> Result<Frames> {
        let mut count = frames.dim(0)?;
        if let Some(end) = self.take_end {
            count = count.min(end.saturating_sub(self.made) as usize);
        }
        let frames = frames.narrow(0, 0, count)?.permute((0, 2, 3, 1))?.to_dtype(DType::F32)?;
        let data = frames.flatten_all()?.to_vec1()?;
        Ok(Frames { first: self.made, size: self.plan.size, data })
    }
}

impl Sampler {
    fn new(plan: &Plan) -> Result<Self> {
        Ok(match &plan.model.sampling {
            Sampling::Whole(config, experts) => {
                Self::Whole(whole::Whole::new(plan, config, experts.clone())?)
            }
            Sampling::Causal(config, transformer) => {
                Self::Causal(Box::new(causal::Causal::new(plan, config, transformer.clone())))
            }
        })
    }

    /// Frames that come next together.
    fn next_frames(&self, plan: &Plan) -> u64 {
        match self {
            // Its prompt changes at a cut, and a cut may be at any frame.
            Self::Whole(_) => 1,
            Self::Causal(sampler) => sampler.next_frames(plan),
        }
    }

    fn set_prompt(&mut self, plan: &Plan, cut: bool) {
        match self {
            Self::Whole(_) => {}
            Self::Causal(sampler) => sampler.set_prompt(plan, cut),
        }
    }
}
