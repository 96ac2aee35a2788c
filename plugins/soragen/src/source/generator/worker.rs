// SPDX-License-Identifier: MPL-2.0

//! The thread that owns the model and the session.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Instant;

use soragen::{Cache, Cancel, Error, Model, Result, RgbImage, Session, SessionStats, Shot, Size, Threads};

use super::changes::Change;
use super::renderer::{ChunkRenderer, DenoisedChunk};
use super::shared::Shared;
use super::{GeneratorEvent, Job, Output, Past};
use crate::video::input::VideoInput;

pub struct Worker<R> {
    shared: Arc<Shared>,
    on_event: R,
    /// The warning about the cache was sent.
    cache_warned: bool,
    /// The frames that the video continues, in the size of the last session.
    past: Option<(Size, LastFrames)>,
    started: Instant,
}

/// The last frames of a video, and the number of frames before them.
type LastFrames = (Vec<RgbImage>, u64);

/// The next step of a session.
enum Task {
    NextChunk,
    StartOver,
    Quit,
}

/// A session, and what is constant while it runs.
struct RunningSession<'a> {
    session: Session,
    output: Output,
    cancel: Cancel,
    cache: Option<&'a Cache>,
    /// Number of streamed shots that the session has.
    shots: usize,
    /// Statistics that were already added to the generator's.
    counted: SessionStats,
    /// Number of the first frame of the next chunk.
    next_frame: u64,
}

/// What is new before a chunk.
struct Pending {
    /// Number of the first frame of the chunk.
    first: u64,
    shots: Vec<Shot>,
    /// Total number of frames, once the last shot has arrived.
    end: Option<u64>,
    changes: Vec<Change>,
    /// By controllers.
    controlled: Vec<Change>,
}

impl<R: FnMut(GeneratorEvent)> Worker<R> {
    pub fn new(shared: Arc<Shared>, on_event: R) -> Self {
        Self { shared, on_event, cache_warned: false, past: None, started: Instant::now() }
    }

    /// Generates until the generator is dropped. After a failure it waits for a restart.
    pub fn run(mut self, mut job: Job, render_threads: &Threads) {
        self.shared.set_worker();
        loop {
            match self.open_and_generate(&job, render_threads) {
                Ok(()) => return,
                Err(error) => self.fail(error),
            }
            let Some(changes) = self.wait_restart() else { return };
            for change in changes {
                if let Err(error) = change.apply_to(&mut job.request) {
                    self.send(GeneratorEvent::ChangeRejected(Some(change.property()), &error));
                }
            }
        }
    }

    /// Opens the model, then runs one session after the other until the generator is dropped.
    fn open_and_generate(&mut self, job: &Job, render_threads: &Threads) -> Result<()> {
        self.send(GeneratorEvent::Loading);
        let model = self.open(job).inspect_err(|_| self.send(GeneratorEvent::LoadFailed))?;
        self.send(GeneratorEvent::Loaded);
        model.notes().iter().for_each(|note| self.send(GeneratorEvent::Note(note)));
        while let Some((output, cancel)) = self.next_session() {
            let started = self.start_session(job, &model, output, cancel);
            match started.and_then(|running| self.generate(running, render_threads)) {
                Ok(()) | Err(Error::Cancelled) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits for a restart, and returns the changes until then; `None` if the generator was dropped.
    fn wait_restart(&self) -> Option<Vec<Change>> {
        let mut state = self.shared.state.lock();
        loop {
            if state.quit {
                return None;
            }
            if state.failure.is_none() {
                return Some(state.changes.take_last());
            }
            state = self.shared.state.wait(state);
        }
    }

    fn open(&self, job: &Job) -> Result<Arc<Model>> {
        Model::open(&job.source, &job.options, &self.shared.open_cancel)
    }

    /// Sends an event, unless the generator was dropped.
    fn send(&mut self, event: GeneratorEvent) {
        if !self.shared.state.lock().quit {
            self.shared.call_external(|| (self.on_event)(event));
        }
    }

    fn fail(&self, error: Error) {
        self.shared.state.update(|state| state.failure = Some(Arc::new(error)));
    }

    /// Waits until a session can start; `None` if the generator was dropped.
    fn next_session(&self) -> Option<(Output, Cancel)> {
        let mut state = self.shared.state.lock();
        loop {
            if state.quit {
                return None;
            }
            let has_shots = state.shot_stream.as_ref().is_none_or(|stream| !stream.shots().is_empty());
            if let Some(output) = state.output.filter(|_| has_shots && !state.truncated) {
                state.restart = false;
                state.cancel = Cancel::new();
                return Some((output, state.cancel.clone()));
            }
            state = self.shared.state.wait(state);
        }
    }

    /// The frames that the video continues.
    fn past(&mut self, past: &Past, size: Size, cancel: &Cancel) -> Result<LastFrames> {
        if let Some((_, frames)) = self.past.as_ref().filter(|(read, _)| *read == size) {
            return Ok(frames.clone());
        }
        let frames =
            VideoInput::last_frames(&past.source, past.frames, past.frame_rate, |_, _| size, cancel)?;
        self.past = Some((size, frames.clone()));
        Ok(frames)
    }

    fn start_session<'a>(
        &mut self,
        job: &'a Job,
        model: &Arc<Model>,
        output: Output,
        cancel: Cancel,
    ) -> Result<RunningSession<'a>> {
        let (mut request, size) = (job.request.clone(), output.size);
        request.size = Some(size);
        if let Some(past) = &job.past {
            (request.past, request.past_start) = self.past(past, size, &cancel)?;
        }
        {
            let state = self.shared.state.lock();
            request.seed = state.seed.unwrap_or(request.seed);
            if let Some(stream) = &state.shot_stream {
                request.shots = stream.shots().to_vec();
            }
        }
        let shots = request.shots.len();
        let cache = job.cache.as_ref();
        // The policy of the request may run a hook.
        let session = self.shared.call_external(|| match cache {
            Some(cache) => Session::with_cache(model.clone(), request, cache.clone()),
            None => Session::new(model.clone(), request),
        })?;
        self.shared.state.lock().embedder = session.embedder().cloned();
        let counted = SessionStats::default();
        Ok(RunningSession { session, output, cancel, cache, shots, counted, next_frame: 0 })
    }

    /// Waits until the next chunk is needed and the shots before frame `end`, which decide it, have arrived.
    fn next_task(&self, end: u64) -> Task {
        let mut state = self.shared.state.lock();
        loop {
            if state.quit {
                return Task::Quit;
            }
            if state.restart || state.renderer_stopped {
                return Task::StartOver;
            }
            if state.needs_frames() && state.has_shots_until(end) {
                return Task::NextChunk;
            }
            state = self.shared.state.wait(state);
        }
    }

    /// Generates chunks until the session has to start over or the generator is dropped. Another thread renders a chunk while the next one
    /// is denoised.
    fn generate(&mut self, mut running: RunningSession, threads: &Threads) -> Result<()> {
        let RunningSession { session, output, cancel, .. } = &running;
        let renderer =
            ChunkRenderer::new(self.shared.clone(), session, output.on_device, cancel, self.started);
        std::thread::scope(|scope| {
            // A chunk waits until the one before it is rendered, so that no more than these two are in memory.
            let (sender, chunks) = sync_channel(0);
            let rendering = std::thread::Builder::new()
                .name("soragen-render".into())
                .spawn_scoped(scope, || threads.run(|| renderer.run(chunks)))
                .map_err(|e| Error::Device(format!("cannot spawn a thread: {e}")))?;
            let denoised = self.denoise(&mut running, sender);
            match rendering.join() {
                // The cause, where the denoising thread found only that nobody takes its chunks.
                Ok(rendered) => rendered.and(denoised),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Denoises one chunk after the other, for the rendering thread.
    fn denoise(&mut self, running: &mut RunningSession, chunks: SyncSender<DenoisedChunk>) -> Result<()> {
        loop {
            match self.next_task(running.session.next_end()) {
                Task::NextChunk => {}
                Task::StartOver | Task::Quit => return Ok(()),
            }
            self.send(GeneratorEvent::ChunkBegins(running.next_frame));
            let Some(pending) = self.take_pending(running) else { continue };
            let first = pending.first;
            self.apply(running, pending);
            let began = Instant::now();
            let (shared, on_event) = (&self.shared, &mut self.on_event);
            let latents = running.session.denoise_chunk(&running.cancel, &mut |progress| {
                if !shared.state.lock().quit {
                    shared.call_external(|| on_event(GeneratorEvent::Progress(progress)));
                }
            })?;
            if let Some(failure) = running.cache.and_then(Cache::failure)
                && !std::mem::replace(&mut self.cache_warned, true)
            {
                self.send(GeneratorEvent::CacheFailed(&failure));
            }
            self.count(running);
            let Some(latents) = latents else {
                self.shared.state.update(|state| {
                    if !state.restart {
                        state.queue.set_end(first);
                    }
                });
                continue;
            };
            running.next_frame = latents.first() + latents.frames();
            self.shared.state.lock().queue.expect_chunk(latents.frames());
            let (shot, total) = (running.session.shot().clone(), running.session.total_frames());
            if chunks.send(DenoisedChunk { latents, shot, total, began }).is_err() {
                return Err(Error::Cancelled);
            }
        }
    }

    /// Takes what is new before the next chunk; `None` if the session has to start over.
    fn take_pending(&self, running: &RunningSession) -> Option<Pending> {
        let mut state = self.shared.state.lock();
        if state.restart {
            return None;
        }
        let first = running.next_frame;
        let stream = state.shot_stream.as_ref();
        let shots =
            stream.and_then(|stream| stream.shots().get(running.shots..)).unwrap_or_default().to_vec();
        let end = stream.and_then(|stream| stream.end);
        let (changes, controlled) = (state.changes.take_due(first), state.changes.take_controlled());
        Some(Pending { first, shots, end, changes, controlled })
    }

    /// Passes new shots and changes to the session.
    fn apply(&mut self, running: &mut RunningSession, pending: Pending) {
        let Pending { first, shots, end, changes, controlled } = pending;
        running.shots += shots.len();
        for shot in shots {
            if let Err(error) = self.shared.call_external(|| running.session.add_shot(shot)) {
                self.send(GeneratorEvent::ChangeRejected(None, &error));
            }
        }
        if let Some(end) = end {
            running.session.end_at(end);
        }
        let changes = changes.into_iter().map(|change| (change, true));
        let controlled = controlled.into_iter().map(|change| (change, false));
        for (change, is_recorded) in changes.chain(controlled) {
            let property = Some(change.property());
            let change = match change.loaded() {
                Ok(change) => change,
                Err(error) => {
                    self.send(GeneratorEvent::ChangeRejected(property, &error));
                    continue;
                }
            };
            let applied = self.shared.call_external(|| change.apply(&mut running.session));
            match applied {
                Ok(()) if is_recorded => self.shared.state.lock().changes.record(first, change),
                Ok(()) => {}
                Err(error) => self.send(GeneratorEvent::ChangeRejected(property, &error)),
            }
        }
    }

    fn count(&self, running: &mut RunningSession) {
        let now = running.session.stats();
        let before = std::mem::replace(&mut running.counted, now);
        let stats = &mut self.shared.state.lock().stats;
        stats.sessions.forwards += now.forwards - before.forwards;
        stats.sessions.cached += now.cached - before.cached;
    }
}
