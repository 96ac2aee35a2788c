//! What a decoder or encoder remembers between chunks.

use candle_core::Tensor;

use crate::Cancel;

/// What every layer remembers, in the order in which they are visited.
#[derive(Clone, Debug, Default)]
pub struct StreamState {
    slots: Vec<Option<Tensor>>,
    /// Whether anything has been through.
    pub started: bool,
}

/// One way through the layers.
pub struct Stream<'a> {
    memory: &'a mut StreamState,
    next: usize,
    pub cancel: &'a Cancel,
}

impl<'a> Stream<'a> {
    pub fn new(memory: &'a mut StreamState, cancel: &'a Cancel) -> Self {
        Self { memory, next: 0, cancel }
    }

    /// Whether this is the first chunk.
    pub fn first(&self) -> bool {
        !self.memory.started
    }

    /// What the layer that asks remembers; each asks once, in the same order every time.
    pub fn slot(&mut self) -> &mut Option<Tensor> {
        let at = self.next;
        self.next += 1;
        if self.memory.slots.len() <= at {
            self.memory.slots.resize(at + 1, None);
        }
        &mut self.memory.slots[at]
    }
}
