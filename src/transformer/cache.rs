//! What a causal model remembers of the frames it has made.

use std::sync::OnceLock;

use serde::Deserialize;

use super::attention::KeyValue;
use crate::kernels::attention::Memory;
use crate::{Error, Result};

/// How a causal model goes along its video, in latent frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct CausalConfig {
    /// Frames made at a time.
    pub chunk: usize,
    /// Last frames that are remembered.
    pub window: usize,
    /// First frames that are remembered for good, besides.
    #[serde(default)]
    pub sink: usize,
}

/// Keys and values, in every block, of finished latent frames: the first `sink` and the last `window`.
///
/// Keys are kept before rotation. The frames that are remembered are taken to stand one after the other
/// from position 0, and the chunk being made after them, so that positions stay within what the model has
/// seen however long the video gets.
#[derive(Clone, Debug)]
pub struct KvCache {
    window: usize,
    sink: usize,
    frames: usize,
    pub(super) blocks: Vec<KeyValue>,
    /// The same as [`packed`](super::packed) blocks read them, once they have.
    pub(super) packed: OnceLock<Vec<Memory>>,
}

impl KvCache {
    /// Remembers nothing yet.
    pub fn new(config: CausalConfig) -> Self {
        Self {
            window: config.window,
            sink: config.sink,
            frames: 0,
            blocks: Vec::new(),
            packed: OnceLock::new(),
        }
    }

    /// Latent frames that are remembered.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Forgets everything, as at a cut.
    pub fn clear(&mut self) {
        self.frames = 0;
        self.blocks.clear();
        self.packed = OnceLock::new();
    }

    /// Forgets all but the first frames that are remembered for good.
    pub fn keep_sink(&mut self) -> Result<()> {
        let kept = self.frames.min(self.sink);
        if kept == 0 {
            self.clear();
            return Ok(());
        }
        let first = |block: &KeyValue| block.narrow(0, block.tokens()? / self.frames * kept);
        self.blocks = self.blocks.iter().map(first).collect::<Result<_>>()?;
        self.frames = kept;
        Ok(())
    }

    /// What `block` remembers.
    pub(super) fn block(&self, block: usize) -> Option<&KeyValue> {
        self.blocks.get(block)
    }

    /// Refuses a chunk of frames of another size than those remembered.
    pub(super) fn check(&self, tokens_per_frame: usize) -> Result<()> {
        match self.blocks.first() {
            Some(first) if first.tokens()? != self.frames * tokens_per_frame => {
                Err(Error::Request("the size of the frames changed in the middle of a shot".into()))
            }
            _ => Ok(()),
        }
    }

    /// Adds `frames` frames, of which `blocks` holds every block's keys and values, and forgets those that
    /// are neither among the first `sink` nor among the last `window`.
    pub(super) fn append(&mut self, frames: usize, blocks: Vec<KeyValue>) -> Result<()> {
        let total = self.frames + frames;
        let forgotten = total.saturating_sub(self.sink + self.window);
        let kept = blocks
            .into_iter()
            .enumerate()
            .map(|(i, new)| {
                let all = match self.block(i) {
                    Some(old) => old.then(&new)?,
                    None => new,
                };
                if forgotten == 0 {
                    return Ok(Some(all));
                }
                let per_frame = all.tokens()? / total;
                let first = (self.sink > 0).then(|| all.narrow(0, self.sink * per_frame)).transpose()?;
                let last = (self.window > 0)
                    .then(|| all.narrow((total - self.window) * per_frame, self.window * per_frame))
                    .transpose()?;
                match (first, last) {
                    (Some(first), Some(last)) => first.then(&last).map(Some),
                    (first, last) => Ok(first.or(last)),
                }
            })
            .collect::<Result<Option<Vec<_>>>>()?;
        // Only now, so that an error leaves everything as it was.
        self.frames = total - forgotten;
        self.blocks = kept.unwrap_or_default();
        self.packed = OnceLock::new();
        Ok(())
    }
}
