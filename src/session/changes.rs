//! Changes while a session runs. Each takes effect with the next chunk.

use super::causal::CausalSampler;
use super::guidance::Guidance;
use super::validate::{
    check_control_scale, check_references, check_restyle, check_shift, check_steps, negative_prompt,
};
use super::{Sampler, Session, planner};
use crate::error::refuse;
use crate::label::Label;
use crate::{MotionPath, Reference, Restyle, Result, Setting, Transition};

impl Session {
    /// Shows another prompt from the next chunk on, until the next shot of the request.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) for an empty prompt, and from a model that makes its video in one piece;
    /// [`Error::Refused`](crate::Error::Refused) by the policy.
    pub fn set_prompt(&mut self, prompt: &str) -> Result<()> {
        self.show(prompt, Transition::Continue)
    }

    /// As [`set_prompt`](Self::set_prompt), after a cut: nothing is kept of the frames before.
    ///
    /// # Errors
    /// As [`set_prompt`](Self::set_prompt), and [`Error::Request`](crate::Error::Request) if a video goes in, which has its own cuts.
    pub fn cut_to(&mut self, prompt: &str) -> Result<()> {
        if self.video.is_some() {
            let reason = "a video goes in, and only it can have cuts; let the prompt continue";
            return refuse(Setting::Prompt, reason.into());
        }
        self.show(prompt, Transition::Cut)
    }

    fn show(&mut self, prompt: &str, transition: Transition) -> Result<()> {
        self.check_changeable(Setting::Prompt)?;
        self.timeline.set_prompt(prompt, transition, &self.planner.digests(), &self.request.policy)
    }

    /// Uses another negative prompt from the next chunk on; `None` is the model's own.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) for a prompt that is too long, and from a model that makes its video in one piece;
    /// [`Error::Refused`](crate::Error::Refused) by the policy.
    pub fn set_negative_prompt(&mut self, prompt: Option<&str>) -> Result<()> {
        self.check_changeable(Setting::Prompt)?;
        let prompt = negative_prompt(prompt, &self.model.info, &self.request.policy)?;
        if let Some(sampler) = self.causal_sampler() {
            sampler.set_negative_prompt(prompt.clone());
        }
        self.request.negative_prompt = prompt;
        Ok(())
    }

    /// Shows other references from the next chunk on.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) from a model that takes fewer or none; [`Error::Refused`](crate::Error::Refused) by
    /// the policy.
    pub fn set_references(&mut self, references: Vec<Reference>) -> Result<()> {
        check_references(&references, None, &self.model.info)?;
        planner::check_names(&self.model, &references)?;
        if self.model.info.control {
            return self.refuse_change(Setting::Reference);
        }
        let digests: Vec<_> = references.iter().map(Reference::digest).collect();
        // They are shown with the prompt of the next chunk.
        let prompt = self.timeline.next_prompt().unwrap_or(&self.shot.prompt);
        self.request.policy.admit_with(prompt, &digests)?;
        self.planner.set_references(references);
        Ok(())
    }

    /// Moves the references along another path, which begins with the next chunk.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) from a model without references.
    pub fn set_motion_path(&mut self, path: Option<MotionPath>) -> Result<()> {
        check_references(&[], path.as_ref(), &self.model.info)?;
        self.planner.set_motion_path(path, self.seconds());
        Ok(())
    }

    /// Changes the video that goes in as these settings say, from the next chunk on.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) for values outside 0 to 1, from a session without
    /// [`Request::restyle`](crate::Request::restyle), and from a model that makes its video in one piece.
    pub fn set_restyle(&mut self, restyle: Restyle) -> Result<()> {
        check_restyle(&restyle, &self.model.info)?;
        self.input_video()?;
        self.check_changeable(Setting::Strength)?;
        self.input_video()?.settings = restyle;
        Ok(())
    }

    /// Uses another guidance scale from the next chunk on; `None` is the model's own. If it turns guidance on, the negative prompt sees
    /// the chunks so far as the prompt has seen them.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) for a negative scale, and from a model that makes its video in one piece.
    pub fn set_guidance_scale(&mut self, scale: Option<f64>) -> Result<()> {
        self.check_changeable(Setting::GuidanceScale)?;
        let guidance = Guidance::new(scale, None, &self.model.info)?;
        if guidance == self.request.guidance {
            return Ok(());
        }
        if let Some(sampler) = self.causal_sampler() {
            sampler.set_guidance(guidance);
        }
        self.request.guidance = guidance;
        self.text.guidance = guidance;
        Ok(())
    }

    /// Takes another number of steps for each chunk from the next one on; `None` is the model's own.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) for a number that is not possible, and from a model that makes its video in one piece.
    pub fn set_steps(&mut self, steps: Option<u32>) -> Result<()> {
        self.check_changeable(Setting::Steps)?;
        let steps = check_steps(steps.unwrap_or(self.model.info.steps))?;
        if std::mem::replace(&mut self.request.steps, steps) != steps {
            self.set_schedule();
        }
        Ok(())
    }

    /// Uses another shift of the noise schedule from the next chunk on; `None` is the model's own schedule.
    ///
    /// # Errors
    /// As [`set_steps`](Self::set_steps).
    pub fn set_shift(&mut self, shift: Option<f64>) -> Result<()> {
        self.check_changeable(Setting::Shift)?;
        check_shift(shift)?;
        if std::mem::replace(&mut self.request.shift, shift) != shift {
            self.set_schedule();
        }
        Ok(())
    }

    fn set_schedule(&mut self) {
        let (steps, shift) = (self.request.steps, self.request.shift);
        if let Some(sampler) = self.causal_sampler() {
            sampler.set_schedule(steps, shift);
        }
    }

    /// Blends later prompts in over so many chunks.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) from a model that makes its video in one piece.
    pub fn set_blend_chunks(&mut self, chunks: u32) -> Result<()> {
        self.check_changeable(Setting::Prompt)?;
        if let Some(sampler) = self.causal_sampler() {
            sampler.set_blend_chunks(chunks);
        }
        self.request.blend_chunks = chunks;
        Ok(())
    }

    /// Draws the noise of the next chunks from another seed, until a shot with a seed of its own.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) from a model that makes its video in one piece.
    pub fn set_seed(&mut self, seed: u64) -> Result<()> {
        self.check_changeable(Setting::Seed)?;
        if seed == self.request.seed {
            return Ok(());
        }
        if let Some(sampler) = self.causal_sampler() {
            sampler.set_seed(seed);
        }
        self.request.seed = seed;
        self.new_seed = true;
        Ok(())
    }

    /// Draws another label on the frames from the next chunk on, of any model. A text is large for its first two seconds.
    pub fn set_label(&mut self, label: Label) {
        if self.label.label != label {
            self.label.label = label;
            self.label.since = self.frames_generated;
        }
    }

    /// Steers the next chunks so much, for a model with a control branch.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) for a scale outside 0 to 2, and from a model that makes its video in one piece.
    pub fn set_control_scale(&mut self, scale: f64) -> Result<()> {
        check_control_scale(scale)?;
        if scale != 1.0 {
            self.model.info.check_control()?;
        }
        self.check_changeable(Setting::Control)?;
        if scale == self.request.control_scale {
            return Ok(());
        }
        if let Some(sampler) = self.causal_sampler() {
            sampler.set_control_scale(scale);
        }
        self.request.control_scale = scale;
        Ok(())
    }

    /// The sampler of a causal model, after its first chunk has begun.
    fn causal_sampler(&mut self) -> Option<&mut CausalSampler> {
        match &mut self.sampler {
            Some(Sampler::Causal(sampler)) => Some(sampler),
            Some(Sampler::Clip(_)) | None => None,
        }
    }

    fn check_changeable(&self, setting: Setting) -> Result<()> {
        if self.model.info.causal { Ok(()) } else { self.refuse_change(setting) }
    }

    fn refuse_change(&self, setting: Setting) -> Result<()> {
        let name = &self.model.info.name;
        refuse(setting, format!("{name} makes its video in one piece; its {setting} cannot change"))
    }
}
