//! One running generation.

use std::sync::Arc;

use crate::{Cancel, Frames, Model, Request, Result};

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
pub struct Session {}

impl Session {
    /// Checks `request` against what `model` can make. Computes nothing.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) says what the model cannot do and what it can.
    pub fn new(_model: Arc<Model>, _request: Request) -> Result<Self> {
        unreachable!()
    }

    /// How many frames there will be in all; `None` if it goes on for ever.
    pub fn total_frames(&self) -> Option<u64> {
        unreachable!()
    }

    /// Uses another prompt from the next chunk on. A model that makes its video in one piece refuses.
    pub fn set_prompt(&mut self, _prompt: &str) -> Result<()> {
        unreachable!()
    }

    /// Makes the next frames; `None` after the last.
    ///
    /// Returns within one transformer block or decoder layer of a cancel, with
    /// [`Error::Cancelled`](crate::Error::Cancelled); the session is spent then: make another from the same request.
    pub fn next_chunk(
        &mut self,
        _cancel: &Cancel,
        _progress: &mut dyn FnMut(Progress),
    ) -> Result<Option<Frames>> {
        unreachable!()
    }
}
