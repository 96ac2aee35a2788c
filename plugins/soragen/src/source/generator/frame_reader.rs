// SPDX-License-Identifier: MPL-2.0

//! The consumer's side of the frame queue.

use std::sync::Arc;

use soragen::watermark::{Embedder, GenerationId};
use soragen::{Error, ShotInfo};

use super::super::deadline::Deadline;
use super::queue::FrameData;
use super::shared::Shared;

/// Why [`FrameReader::read`] returned no frame.
pub enum FrameError {
    /// The frame is after the last one.
    End,
    /// The wait was interrupted; no frame was lost.
    Flushing,
    /// The deadline passed.
    Late,
    /// The element was paused and plays again, so that the deadline may have moved.
    Resumed,
    /// The worker failed.
    Failed(Arc<Error>),
}

/// When a frame is due.
#[derive(Clone, Copy)]
pub struct Due<'a> {
    pub deadline: &'a Deadline,
    /// [`FrameReader::resumes`] when the deadline was set.
    pub resumes: u64,
}

/// Reads the frames of a [`Generator`](super::Generator). It does not keep the worker running.
pub struct FrameReader(pub(super) Arc<Shared>);

impl FrameReader {
    /// Waits for frame `n`, and until it is `due`. A frame that is no longer queued is generated again.
    pub fn read(&self, n: u64, due: Option<Due>) -> Result<FrameData, FrameError> {
        let shared = &self.0;
        let mut state = shared.state.lock();
        if !state.queue.seek(n) {
            state.start_over();
        }
        shared.state.notify();
        loop {
            if state.flushing {
                return Err(FrameError::Flushing);
            }
            if due.is_some_and(|due| due.resumes != state.resumes) {
                return Err(FrameError::Resumed);
            }
            let now = due.is_none_or(|due| due.deadline.is_reached());
            if !state.queue.contains(n) {
                if let Some(failure) = &state.failure {
                    return Err(FrameError::Failed(failure.clone()));
                }
                if state.queue.is_past_end(n) {
                    return Err(FrameError::End);
                }
                if now && due.is_some() {
                    return Err(FrameError::Late);
                }
            } else if now && let Some(frame) = state.queue.read(n) {
                shared.state.notify();
                return Ok(frame);
            }
            state = shared.state.wait(state);
        }
    }

    /// Waits for the time at which a frame is `due`.
    pub fn wait_until(&self, due: Due) -> Result<(), FrameError> {
        let mut state = self.0.state.lock();
        loop {
            if state.flushing {
                return Err(FrameError::Flushing);
            }
            if due.resumes != state.resumes {
                return Err(FrameError::Resumed);
            }
            if due.deadline.is_reached() {
                return Ok(());
            }
            state = self.0.state.wait(state);
        }
    }

    /// How often the element went from PAUSED to PLAYING.
    pub fn resumes(&self) -> u64 {
        self.0.state.lock().resumes
    }

    /// Wakes the reader when a deadline is reached.
    pub fn waker(&self) -> impl FnOnce() + Send + 'static {
        let shared = self.0.clone();
        // Under the lock: the reader has either not checked its deadline yet, or waits.
        move || shared.state.update(|_| ())
    }

    /// The shot that frame `n` belongs to. The frame must have been read.
    pub fn shot(&self, n: u64) -> Option<Arc<ShotInfo>> {
        self.0.state.lock().shots.range(..=n).next_back().map(|(_, shot)| shot.clone())
    }

    /// The watermark's payload, if the frames are watermarked.
    pub fn generation_id(&self) -> Option<GenerationId> {
        self.0.state.lock().embedder.as_ref().map(Embedder::id)
    }

    /// Embeds the watermark, if the frames are watermarked.
    pub fn embedder(&self) -> Option<Embedder> {
        self.0.state.lock().embedder.clone()
    }

    /// Counts a frame that was late, and returns their number.
    pub fn count_late(&self) -> u64 {
        let stats = &mut self.0.state.lock().stats;
        stats.late += 1;
        stats.late
    }
}
