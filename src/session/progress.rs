//! Progress of a session.

/// The current phase of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It encodes the prompt.
    Text,
    /// It denoises latents.
    Denoise,
    /// It decodes latents to frames.
    Decode,
}

impl Phase {
    /// The word for it in messages: `text`, `denoise`, `decode`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Denoise => "denoise",
            Self::Decode => "decode",
        }
    }
}

/// The progress of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The current phase.
    pub phase: Phase,
    /// Index of the chunk, from 0; always 0 for a whole-clip model.
    pub chunk: u64,
    /// Steps done in this chunk.
    pub step: u32,
    /// Steps in a chunk.
    pub steps: u32,
    /// Frames finished so far.
    pub frame: u64,
}

/// Statistics of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionStats {
    /// Forward passes of the transformer.
    pub forwards: u64,
    /// Frames whose latents came from the cache.
    pub cached: u64,
}

/// Reports progress to the caller, and counts the work for a chunk.
pub(super) struct Reporter<'a> {
    callback: &'a mut dyn FnMut(Progress),
    chunk: u64,
    frame: u64,
    /// Steps in this chunk.
    pub steps: u32,
    /// Forward passes of the transformer for this chunk.
    pub forwards: u64,
    /// Whether the latents of this chunk came from the cache.
    pub cached: bool,
}

impl<'a> Reporter<'a> {
    pub fn new(callback: &'a mut dyn FnMut(Progress), chunk: u64, frame: u64, steps: u32) -> Self {
        Self { callback, chunk, frame, steps, forwards: 0, cached: false }
    }

    pub fn report(&mut self, phase: Phase, step: u32) {
        let Self { chunk, steps, frame, .. } = *self;
        (self.callback)(Progress { phase, chunk, step, steps, frame });
    }
}
