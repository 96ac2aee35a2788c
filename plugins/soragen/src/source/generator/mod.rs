// SPDX-License-Identifier: MPL-2.0

//! The worker thread that generates frames, and the handle to it.
//!
//! The worker stays one chunk ahead of the reader, or two while a thread of its own renders the first of them.

mod changes;
mod frame_reader;
mod queue;
mod renderer;
mod shared;
mod worker;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use soragen::{Cache, Error, OpenOptions, Progress, Request, SessionStats, Shot, Size, Threads, YuvColours};

pub use changes::{Change, References};
pub use frame_reader::{Due, FrameError, FrameReader};
pub use queue::FrameData;
use shared::{PanicGuard, Shared, ShotStream};
use worker::Worker;

/// Everything the worker needs to generate a video, except the frame size.
pub struct Job {
    pub source: String,
    pub options: OpenOptions,
    pub request: Request,
    /// The video that the new one continues.
    pub past: Option<Past>,
    /// The application's decision on a prompt that the policy accepts. It is called on the worker's thread.
    pub prompt_check: Box<dyn Fn(&str) -> bool + Send + Sync>,
    /// The cache of latents.
    pub cache: Option<Cache>,
    /// The threads that denoise, and those that render.
    pub threads: [Threads; 2],
    /// Shots arrive through [`Generator::add_shot`]; `request` has none.
    pub streamed_shots: bool,
}

/// A video that is read from a file or a URI, at the frame rate of the model.
pub struct Past {
    pub source: String,
    /// How many of its last frames the model sees, at most.
    pub frames: usize,
    pub frame_rate: (u32, u32),
}

/// What the frames are like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Output {
    pub size: Size,
    /// They stay on the device of the model, in NV12 with these colours; otherwise they are RGB.
    pub on_device: Option<YuvColours>,
}

/// An event of the worker. It is sent on the worker's thread.
pub enum GeneratorEvent<'a> {
    Loading,
    Loaded,
    /// What the user should know about the model's files.
    Note(&'a str),
    /// The error follows when a frame is read.
    LoadFailed,
    Progress(Progress),
    /// The cache can no longer be written.
    CacheFailed(&'a Error),
    /// A shot, or a change of a property, was rejected; the video continues without it.
    ChangeRejected(Option<&'static str>, &'a Error),
    /// The chunk that begins with this frame is about to be made.
    ChunkBegins(u64),
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Frames generated.
    pub frames: u64,
    /// Time from the start to the first frame.
    pub first_frame: Duration,
    /// Time spent generating frames.
    pub busy: Duration,
    /// Time that the last chunk took.
    pub chunk: Duration,
    /// Frames that missed their deadline.
    pub late: u64,
    /// Sum over all sessions.
    pub sessions: SessionStats,
}

/// A running worker. Dropping it cancels the worker and waits until the worker has released the model, within one
/// transformer block or decoder layer, unless a signal handler or policy hook on its thread runs longer than 2 s.
///
/// Drop it without holding a lock: a handler of the application on the worker's thread may need that lock to return.
pub struct Generator {
    shared: Arc<Shared>,
    worker: Option<JoinHandle<()>>,
}

impl Generator {
    /// Starts the worker. It opens the model at once, and generates frames after [`set_output`](Self::set_output).
    ///
    /// # Errors
    /// If the system cannot spawn a thread.
    pub fn start(
        mut job: Job,
        on_event: impl FnMut(GeneratorEvent) + Send + 'static,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::new(job.streamed_shots.then(ShotStream::default)));
        let check = std::mem::replace(&mut job.prompt_check, Box::new(|_| false));
        let checking = shared.clone();
        // After a stop nobody waits for an answer.
        let check =
            move |prompt: &str| !checking.state.lock().quit && checking.call_external(|| check(prompt));
        job.request.policy = job.request.policy.map(|policy| policy.guarded(check));
        let guard = PanicGuard(shared.clone());
        let worker = Worker::new(shared.clone(), on_event);
        let worker = std::thread::Builder::new().name("soragen".into()).spawn(move || {
            let _guard = guard;
            let [threads, render_threads] = std::mem::take(&mut job.threads);
            threads.run(move || worker.run(job, &render_threads));
        })?;
        Ok(Self { shared, worker: Some(worker) })
    }

    /// Sets what the frames are like. If it changes, generation starts over.
    pub fn set_output(&self, output: Output) {
        self.shared.state.update(|state| {
            if state.output.is_some_and(|before| before != output) {
                state.start_over();
            }
            state.output = Some(output);
        });
    }

    /// Applies `change` from the next chunk on.
    pub fn change(&self, change: Change) {
        self.shared.state.lock().changes.request(change);
    }

    /// Applies `change`, of a property with a controller, to the next chunk.
    pub fn change_controlled(&self, change: Change) {
        self.shared.state.lock().changes.request_controlled(change);
    }

    /// Appends a shot. Returns false if it is dropped: empty, or out of order.
    pub fn add_shot(&self, shot: Shot) -> bool {
        self.shared.state.update(|state| state.shot_stream.as_mut().is_some_and(|stream| stream.add(shot)))
    }

    /// Declares that all shots that start before frame `frame` were added.
    pub fn set_shots_complete_until(&self, frame: u64) {
        self.shared.state.update(|state| {
            if let Some(stream) = &mut state.shot_stream {
                stream.complete_until = stream.complete_until.max(frame);
            }
        });
    }

    /// Declares that all shots were added, and that the video has `end` frames.
    pub fn finish_shots(&self, end: u64) {
        self.shared.state.update(|state| {
            if let Some(stream) = &mut state.shot_stream {
                stream.end = Some(end);
                if stream.shots().is_empty() {
                    state.queue.set_end(0);
                }
            }
        });
    }

    /// Ends the video with an error. An earlier error stays.
    pub fn fail(&self, error: Error) {
        self.shared.state.update(|state| {
            state.failure.get_or_insert_with(|| Arc::new(error));
        });
    }

    /// Ends the video after the frames generated so far, until [`resume`](Self::resume).
    pub fn truncate(&self) {
        self.shared.state.update(|state| {
            state.cancel.cancel();
            state.truncated = true;
            let end = state.queue.generated();
            state.queue.set_end(end);
        });
    }

    /// Undoes [`truncate`](Self::truncate).
    pub fn resume(&self) {
        self.shared.state.update(|state| {
            if state.truncated {
                state.start_over();
            }
        });
    }

    /// Starts over with another seed.
    pub fn regenerate(&self, seed: u64) {
        self.shared.state.update(|state| state.start_over_with(seed));
    }

    /// Whether the worker has failed and waits for [`restart`](Self::restart).
    pub fn has_failed(&self) -> bool {
        let state = self.shared.state.lock();
        state.failure.is_some() && !state.is_finished()
    }

    /// After a failure, opens the model again and starts over with another seed and with the changes so far.
    pub fn restart(&self, seed: u64) {
        self.shared.state.update(|state| {
            state.failure = None;
            if let Some(stream) = &mut state.shot_stream {
                stream.start_over();
            }
            state.restarts += 1;
            state.start_over_with(seed);
        });
    }

    /// How often it was [`restart`](Self::restart)ed.
    pub fn restarts(&self) -> u64 {
        self.shared.state.lock().restarts
    }

    /// While `flushing`, [`FrameReader::read`] returns instead of waiting.
    pub fn set_flushing(&self, flushing: bool) {
        self.shared.state.update(|state| state.flushing = flushing);
    }

    /// Declares that the element plays again, so that deadlines may have moved.
    pub fn count_resume(&self) {
        self.shared.state.update(|state| state.resumes += 1);
    }

    pub fn stats(&self) -> Stats {
        self.shared.state.lock().stats
    }

    pub fn reader(&self) -> FrameReader {
        FrameReader(self.shared.clone())
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        self.shared.open_cancel.cancel();
        self.shared.state.update(|state| {
            state.quit = true;
            state.flushing = true;
            state.cancel.cancel();
        });
        if self.shared.wait_finished()
            && let Some(worker) = self.worker.take()
        {
            // After a panic the error is in the shared state.
            let _ = worker.join();
        }
    }
}
