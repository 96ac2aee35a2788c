//! The state of a decoder or encoder between chunks.

use candle_core::{Result, Tensor};

use crate::Cancel;

/// The state of every layer, in the order in which the layers run.
#[derive(Clone, Debug, Default)]
pub struct StreamState {
    slots: Vec<Option<Tensor>>,
    /// Whether a chunk has been processed.
    pub started: bool,
}

/// One pass through the layers.
pub struct Stream<'a> {
    state: &'a mut StreamState,
    next: usize,
    pub cancel: &'a Cancel,
}

impl<'a> Stream<'a> {
    pub fn new(state: &'a mut StreamState, cancel: &'a Cancel) -> Self {
        Self { state, next: 0, cancel }
    }

    /// Whether this is the first chunk.
    pub fn first(&self) -> bool {
        !self.state.started
    }

    /// The state of the calling layer. Each layer calls this once per pass, in the same order every time.
    pub fn slot(&mut self) -> &mut Option<Tensor> {
        let at = self.next;
        self.next += 1;
        if self.state.slots.len() <= at {
            self.state.slots.resize(at + 1, None);
        }
        &mut self.state.slots[at]
    }
}

/// Pads `x` with `count` frames of zeros in front.
pub fn pad_before(x: &Tensor, count: usize) -> Result<Tensor> {
    x.pad_with_zeros(0, count, 0)
}

/// A copy of the last `count` frames of `x`, or of all frames if there are fewer.
pub fn last_frames(x: &Tensor, count: usize) -> Result<Tensor> {
    let frames = x.dim(0)?;
    let count = count.min(frames);
    x.narrow(0, frames - count, count)?.force_contiguous()
}
