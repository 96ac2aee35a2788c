// SPDX-License-Identifier: MPL-2.0

//! Prompt changes while the video is generated, and their replay.

use soragen::label::Label;
use soragen::{MotionPath, Reference, Request, Session};

/// A change that takes effect with the next chunk.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Prompt {
        text: String,
        /// After a cut; otherwise it continues the video.
        cut: bool,
    },
    /// `None` is the model's default.
    NegativePrompt(Option<String>),
    References(References),
    /// `None` is what the prompt says.
    MotionPath(Option<String>),
    /// `None` is the model's own.
    GuidanceScale(Option<f64>),
    /// `None` is the model's own number.
    Steps(Option<u32>),
    /// `None` is the model's own.
    Shift(Option<f64>),
    /// For later prompts.
    BlendChunks(u32),
    Seed(u64),
    Label(Label),
    ControlScale(f64),
}

/// The references of a video.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum References {
    /// A list separated by `;`; empty for what the prompt names.
    List(String),
    /// Those of a list, so that a replay does not read the files again.
    Loaded(Vec<Reference>),
}

impl References {
    /// # Errors
    /// Those of [`Reference::open_list`].
    pub fn load(&self) -> soragen::Result<Vec<Reference>> {
        match self {
            Self::List(list) => Reference::open_list(list),
            Self::Loaded(references) => Ok(references.clone()),
        }
    }
}

impl Change {
    /// The same change with its files read.
    ///
    /// # Errors
    /// Those of [`Reference::open_list`].
    pub fn loaded(self) -> soragen::Result<Self> {
        Ok(match self {
            Self::References(references) => Self::References(References::Loaded(references.load()?)),
            other => other,
        })
    }

    /// Applies the change to a session.
    ///
    /// # Errors
    /// Those of the session, and of [`loaded`](Self::loaded).
    pub fn apply(&self, session: &mut Session) -> soragen::Result<()> {
        match self {
            Self::Prompt { text, cut: false } => session.set_prompt(text),
            Self::Prompt { text, cut: true } => session.cut_to(text),
            Self::NegativePrompt(prompt) => session.set_negative_prompt(prompt.as_deref()),
            Self::References(references) => session.set_references(references.load()?),
            Self::MotionPath(path) => {
                let path = path.as_deref().map(MotionPath::parse).transpose()?;
                session.set_motion_path(path)
            }
            Self::GuidanceScale(scale) => session.set_guidance_scale(*scale),
            Self::Steps(steps) => session.set_steps(*steps),
            Self::Shift(shift) => session.set_shift(*shift),
            Self::BlendChunks(chunks) => session.set_blend_chunks(*chunks),
            Self::Seed(seed) => session.set_seed(*seed),
            Self::Label(label) => {
                session.set_label(*label);
                Ok(())
            }
            Self::ControlScale(scale) => session.set_control_scale(*scale),
        }
    }

    /// Applies the change to the request of a later session.
    ///
    /// # Errors
    /// Those of [`loaded`](Self::loaded) and [`MotionPath::parse`].
    pub fn apply_to(&self, request: &mut Request) -> soragen::Result<()> {
        match self {
            Self::Prompt { text, .. } => request.prompt = text.clone(),
            Self::NegativePrompt(prompt) => request.negative_prompt = prompt.clone(),
            Self::References(references) => request.references = references.load()?,
            Self::MotionPath(path) => {
                request.motion_path = path.as_deref().map(MotionPath::parse).transpose()?;
            }
            Self::GuidanceScale(scale) => request.guidance_scale = *scale,
            Self::Steps(steps) => request.steps = *steps,
            Self::Shift(shift) => request.shift = *shift,
            Self::BlendChunks(chunks) => request.blend_chunks = *chunks,
            Self::Seed(seed) => request.seed = *seed,
            Self::Label(label) => request.label = *label,
            Self::ControlScale(scale) => request.control_scale = *scale,
        }
        Ok(())
    }

    /// The property that it is a change of.
    pub fn property(&self) -> &'static str {
        match self {
            Self::Prompt { .. } => "prompt",
            Self::NegativePrompt(_) => "negative-prompt",
            Self::References(_) => "reference",
            Self::MotionPath(_) => "motion-path",
            Self::GuidanceScale(_) => "guidance-scale",
            Self::Steps(_) => "steps",
            Self::Shift(_) => "shift",
            Self::BlendChunks(_) => "blend-chunks",
            Self::Seed(_) => "seed",
            Self::Label(_) => "label",
            Self::ControlScale(_) => "control-scale",
        }
    }

    /// Whether it does something after the value `before` of the property. Some do so even if that is the same: files may have changed,
    /// and paths begin again.
    pub fn counts_after(&self, before: Option<&Self>) -> bool {
        let may_repeat = matches!(
            self,
            Self::Prompt { .. } | Self::NegativePrompt(_) | Self::References(_) | Self::MotionPath(_)
        );
        may_repeat || before != Some(self)
    }

    /// Whether the property has another value; how a prompt begins is none.
    fn differs_from(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Prompt { text, .. }, Self::Prompt { text: before, .. }) => text != before,
            _ => self != other,
        }
    }

    pub fn same_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// Adds it to `changes`, in place of one of the same kind.
    pub fn put_into(self, changes: &mut Vec<Self>) {
        changes.retain(|other| !other.same_kind(&self));
        changes.push(self);
    }

    /// The changes of those `properties` that differ in the settings `now` and `before`.
    pub fn between<'a>(
        properties: impl Iterator<Item = &'a str>,
        now: impl Fn(&str) -> Option<Self>,
        before: impl Fn(&str) -> Option<Self>,
    ) -> Vec<Self> {
        let changes = properties.filter_map(|property| Some((now(property)?, before(property)?)));
        changes.filter(|(now, before)| now.differs_from(before)).map(|(now, _)| now).collect()
    }
}

/// Pending changes, and the applied ones with their frames: a session that starts over applies them again at the same
/// frames and generates the same video.
#[derive(Default)]
pub struct Changes {
    /// By controllers, for the next chunk. They come again in a replay.
    controlled: Vec<Change>,
    pending: Vec<Change>,
    applied: Vec<(u64, Change)>,
}

impl Changes {
    /// Adds a pending change. It replaces a pending one of the same kind.
    pub fn request(&mut self, change: Change) {
        change.put_into(&mut self.pending);
    }

    /// Adds a change by a controller for the next chunk.
    pub fn request_controlled(&mut self, change: Change) {
        change.put_into(&mut self.controlled);
    }

    /// Takes the changes by controllers. They are not recorded.
    pub fn take_controlled(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.controlled)
    }

    /// The changes to apply before frame `frame`: those to replay, then the pending ones.
    pub fn take_due(&mut self, frame: u64) -> Vec<Change> {
        let replayed = self.applied.iter().filter(|(at, _)| *at == frame).map(|(_, change)| change.clone());
        let mut due: Vec<_> = replayed.collect();
        // Pending changes wait until the replay has passed the last applied change.
        if self.applied.last().is_none_or(|(at, _)| *at <= frame) {
            due.append(&mut self.pending);
        }
        due
    }

    /// Takes the changes that were applied: the last of each kind. Pending ones stay, for the first chunk of another start.
    pub fn take_last(&mut self) -> Vec<Change> {
        let all: Vec<_> = std::mem::take(&mut self.applied).into_iter().map(|(_, change)| change).collect();
        let is_last = |i: usize| all[i + 1..].iter().all(|later| !later.same_kind(&all[i]));
        (0..all.len()).filter(|&i| is_last(i)).map(|i| all[i].clone()).collect()
    }

    /// Forgets changes of the seed.
    pub fn forget_seeds(&mut self) {
        self.pending.retain(|change| !matches!(change, Change::Seed(_)));
        self.applied.retain(|(_, change)| !matches!(change, Change::Seed(_)));
    }

    /// Records that `change` was applied before frame `frame`. Of several changes of one kind before one frame, the last
    /// counts.
    pub fn record(&mut self, frame: u64, change: Change) {
        self.applied.retain(|(at, other)| *at != frame || !other.same_kind(&change));
        self.applied.push((frame, change));
        // A replayed change keeps its place.
        self.applied.sort_by_key(|(at, _)| *at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(text: &str) -> Change {
        Change::Prompt { text: text.into(), cut: false }
    }

    #[test]
    fn the_last_pending_change_of_a_kind_replaces_the_others() {
        let mut changes = Changes::default();
        changes.request(prompt("a"));
        changes.request(Change::NegativePrompt(None));
        changes.request(prompt("b"));
        assert_eq!(changes.take_due(0), [Change::NegativePrompt(None), prompt("b")]);
        assert!(changes.take_due(0).is_empty());
    }

    #[test]
    fn the_last_change_of_each_kind_is_kept_for_another_start() {
        let mut changes = Changes::default();
        changes.record(0, prompt("a"));
        changes.record(5, Change::Seed(3));
        changes.record(9, prompt("b"));
        changes.request(Change::Steps(Some(2)));
        assert_eq!(changes.take_last(), [Change::Seed(3), prompt("b")]);
        assert!(changes.take_last().is_empty());
        assert_eq!(changes.take_due(0), [Change::Steps(Some(2))]);
        changes.record(5, Change::Seed(3));
        changes.request(Change::Seed(4));
        changes.forget_seeds();
        assert!(changes.take_last().is_empty());
    }

    #[test]
    fn applied_changes_are_replayed_at_their_frames() {
        let mut changes = Changes::default();
        for (frame, text) in [(9, "a"), (21, "b")] {
            changes.request(prompt(text));
            for change in changes.take_due(frame) {
                changes.record(frame, change);
            }
        }
        // The second pass applies the same changes and does not record them again.
        for _ in 0..2 {
            assert!(changes.take_due(0).is_empty());
            for (frame, text) in [(9, "a"), (21, "b")] {
                let due = changes.take_due(frame);
                assert_eq!(due, [prompt(text)]);
                due.into_iter().for_each(|change| changes.record(frame, change));
            }
        }
    }

    #[test]
    fn pending_changes_wait_for_the_end_of_the_replay() {
        let mut changes = Changes::default();
        changes.record(9, prompt("a"));
        changes.request(prompt("b"));
        assert!(changes.take_due(0).is_empty());
        assert_eq!(changes.take_due(9), [prompt("a"), prompt("b")]);
    }
}
