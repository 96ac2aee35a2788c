//! Places in the engine where tests can wait or fail.

#![allow(dead_code)]

use crate::checkpoint::Source;
use crate::{Cancel, Result};

/// A place in the engine where a test hook is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Before a tensor of the weights is loaded.
    Load,
    /// Before a text encoder encodes a prompt.
    Encode,
    /// Before a denoising step.
    Step {
        /// Number of the chunk in its scene, from 0.
        chunk: usize,
        /// Number of the step in its chunk, from 0.
        step: usize,
    },
}

/// Calls the hook of the model at `source`, if there is one.
#[inline]
pub(crate) fn call(_source: &Source, _event: Event, _cancel: &Cancel) -> Result<()> {
    Ok(())
}
