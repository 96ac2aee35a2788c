// SPDX-License-Identifier: MPL-2.0

//! The state that the worker shares with the element.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Duration;

use soragen::watermark::Embedder;
use soragen::{Cancel, Error, Shot, ShotInfo};

use super::changes::Changes;
use super::queue::FrameQueue;
use super::{Output, Stats};
use crate::monitor::Monitor;

/// A longer stream of shots is cut off here. All shots are kept to generate the same video again.
const MAX_SHOTS: usize = 100_000;

/// An external call that takes this long on the worker's thread is assumed to wait for the thread that stops the element.
const EXTERNAL_CALL_TIMEOUT: Duration = Duration::from_secs(2);

pub struct Shared {
    pub state: Monitor<State>,
    /// Cancels opening the model; set only when the generator is dropped.
    pub open_cancel: Cancel,
}

/// Shots that arrive while the video is generated.
#[derive(Default)]
pub struct ShotStream {
    shots: Vec<Shot>,
    /// All shots that start before this frame have arrived.
    pub complete_until: u64,
    /// Total number of frames, once the last shot has arrived.
    pub end: Option<u64>,
}

impl ShotStream {
    /// Appends a shot. Returns false for one that is empty, or that starts no later than the last one.
    pub fn add(&mut self, shot: Shot) -> bool {
        let later = self.shots.last().is_none_or(|last| last.start < shot.start);
        let accepted = later && !shot.prompt.trim().is_empty() && self.shots.len() < MAX_SHOTS;
        if accepted {
            self.shots.push(shot);
        }
        accepted
    }

    /// The last shot becomes the first one of a video that begins again.
    pub fn start_over(&mut self) {
        self.shots.drain(..self.shots.len().saturating_sub(1));
        if let Some(shot) = self.shots.first_mut() {
            shot.start = Duration::ZERO;
        }
    }

    pub fn shots(&self) -> &[Shot] {
        &self.shots
    }
}

#[derive(Default)]
pub struct State {
    /// `None` if the request has all shots.
    pub shot_stream: Option<ShotStream>,
    /// Readers return instead of waiting.
    pub flushing: bool,
    /// How often the element went from PAUSED to PLAYING.
    pub resumes: u64,
    /// The generator was dropped.
    pub quit: bool,
    /// The video ends with the frames generated so far.
    pub truncated: bool,
    /// `None` before negotiation.
    pub output: Option<Output>,
    /// Replaces the seed of the request.
    pub seed: Option<u64>,
    /// Cancels the current session; each session has its own.
    pub cancel: Cancel,
    /// The session starts over.
    pub restart: bool,
    /// The rendering thread of the session has ended.
    pub renderer_stopped: bool,
    pub queue: FrameQueue,
    pub failure: Option<Arc<Error>>,
    /// How often the worker started again after a failure.
    pub restarts: u64,
    pub changes: Changes,
    /// Shots by their first frame.
    pub shots: BTreeMap<u64, Arc<ShotInfo>>,
    /// Embeds the watermark of the current session.
    pub embedder: Option<Embedder>,
    pub stats: Stats,
    /// The worker's thread, once it runs.
    worker: Option<ThreadId>,
    /// Number of running calls on the worker's thread to a handler of the application or a policy hook.
    external_calls: u32,
    /// The worker has released the model.
    finished: bool,
}

impl State {
    /// The worker has ended.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    pub fn needs_frames(&self) -> bool {
        self.failure.is_none() && self.queue.needs_frames()
    }

    /// Whether all shots that affect the frames before `end` have arrived.
    pub fn has_shots_until(&self, end: u64) -> bool {
        self.shot_stream.as_ref().is_none_or(|stream| stream.end.is_some() || stream.complete_until > end)
    }

    pub fn start_over(&mut self) {
        self.cancel.cancel();
        self.restart = true;
        self.truncated = false;
        self.queue.clear();
        self.shots.clear();
    }

    /// Starts over with another seed, which also replaces those that were set while it played.
    pub fn start_over_with(&mut self, seed: u64) {
        self.seed = Some(seed);
        self.changes.forget_seeds();
        self.start_over();
    }
}

impl Shared {
    pub fn new(shot_stream: Option<ShotStream>) -> Self {
        let state = State { shot_stream, ..State::default() };
        Self { state: Monitor::new(state), open_cancel: Cancel::new() }
    }

    /// Marks the calling thread as the worker. With threads of its own it is a thread of that pool.
    pub fn set_worker(&self) {
        self.state.lock().worker = Some(std::thread::current().id());
    }

    /// Calls a handler of the application or a policy hook on the worker's thread. Such a call may block for any time.
    pub fn call_external<T>(&self, call: impl FnOnce() -> T) -> T {
        struct Scope<'a>(&'a Shared);
        impl Drop for Scope<'_> {
            fn drop(&mut self) {
                self.0.state.update(|state| state.external_calls -= 1);
            }
        }
        // Wakes a thread that waits for the worker: from here on it waits with a timeout.
        self.state.update(|state| state.external_calls += 1);
        let _scope = Scope(self);
        call()
    }

    /// Waits until the worker has released the model. Returns false instead of waiting forever: on the worker's own thread,
    /// or if an external call does not return within [`EXTERNAL_CALL_TIMEOUT`].
    pub fn wait_finished(&self) -> bool {
        let mut state = self.state.lock();
        if state.worker == Some(std::thread::current().id()) {
            return false;
        }
        while !state.finished {
            if state.external_calls == 0 {
                state = self.state.wait(state);
                continue;
            }
            let returned =
                self.state.wait_while(state, EXTERNAL_CALL_TIMEOUT, |state| state.external_calls > 0);
            let Some(after) = returned else { return false };
            state = after;
        }
        true
    }
}

/// Marks the worker as finished when it is dropped; after a panic, readers get an error instead of waiting.
pub struct PanicGuard(pub Arc<Shared>);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        let panicked = std::thread::panicking();
        self.0.state.update(|state| {
            state.finished = true;
            if panicked {
                let error = Error::Generation("internal error: the generator panicked".into());
                state.failure = Some(Arc::new(error));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shot(seconds: u64, prompt: &str) -> Shot {
        let start = Duration::from_secs(seconds);
        Shot::new(start, prompt)
    }

    #[test]
    fn shots_are_added_in_order_and_not_empty() {
        let mut stream = ShotStream::default();
        assert!(stream.add(shot(1, "a")));
        assert!(!stream.add(shot(1, "b")), "not later");
        assert!(!stream.add(shot(2, " ")), "empty");
        assert!(stream.add(shot(2, "b")));
        assert_eq!(stream.shots().len(), 2);
    }

    #[test]
    fn frames_wait_for_their_shots() {
        let mut state = State { shot_stream: Some(ShotStream::default()), ..State::default() };
        assert!(!state.has_shots_until(0));
        state.shot_stream.as_mut().unwrap().complete_until = 9;
        assert!(state.has_shots_until(8) && !state.has_shots_until(9));
        state.shot_stream.as_mut().unwrap().end = Some(9);
        assert!(state.has_shots_until(100));
    }

    #[test]
    fn starting_over_cancels_the_session_and_keeps_the_seed() {
        let mut state = State { seed: Some(7), truncated: true, ..State::default() };
        let cancel = state.cancel.clone();
        state.queue.set_end(3);
        assert!(!state.needs_frames());
        state.start_over();
        assert!(cancel.is_cancelled() && state.restart && !state.truncated);
        assert!(state.needs_frames() && state.seed == Some(7));
    }
}
