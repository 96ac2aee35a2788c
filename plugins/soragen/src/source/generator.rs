// SPDX-License-Identifier: MPL-2.0

//! The thread that owns the session, and the frames it has made.
//!
//! It works one chunk ahead of what was taken. Frames that were taken stay for a while, so that a seek back
//! costs nothing; what is gone is made again, and comes out the same.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use soragen::watermark::{Key, Marker, Plane};
use soragen::{Cancel, Error, Frames, Model, OpenOptions, Progress, Request, Session, Size};

/// Bytes of frames that are kept.
const KEPT: usize = 128 << 20;

/// One picture, RGB of 8 bits, `[H, W, 3]`.
pub type Picture = Arc<[u8]>;

/// What is to be made.
pub struct Job {
    pub source: String,
    pub options: OpenOptions,
    pub request: Request,
    /// What the frames are marked with, if they are.
    pub watermark: Option<Key>,
}

/// What the worker has to say. It is called on the worker's thread.
pub enum Report<'a> {
    Loading,
    Loaded,
    Progress(Progress),
    /// From this frame on the prompt is another.
    Shot {
        index: u64,
        prompt: &'a str,
        frame: u64,
    },
    /// A new prompt cannot be used; the old one stays.
    Refused(&'a Error),
}

/// Why there is no frame.
pub enum Absent {
    /// There is none after the last.
    End,
    /// The wait was interrupted; nothing is lost.
    Flushing,
    /// It was not there in time.
    Late,
    Failed(Arc<Error>),
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Frames made.
    pub frames: u64,
    /// From the start to the first frame.
    pub first_frame: Duration,
    /// Spent on making frames.
    pub busy: Duration,
    /// The last chunk took so long.
    pub chunk: Duration,
    /// Frames that were not there when their time came.
    pub late: u64,
}

/// A running worker. It ends by itself after this is dropped; nobody waits for it.
pub struct Generator(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Whoever waits for a frame is to stop waiting.
    flushing: bool,
    /// Nobody wants anything any more.
    quit: bool,
    size: Option<Size>,
    /// Stops what the worker is doing; a new one for every session.
    cancel: Cancel,
    /// The session has to be started over.
    restart: bool,
    /// The frame that will be taken next.
    wanted: u64,
    /// Number of the first of `frames`.
    first: u64,
    frames: VecDeque<Picture>,
    /// Frames in the last chunk.
    chunk: u64,
    /// Frames in all, when the last is made.
    end: Option<u64>,
    failure: Option<Arc<Error>>,
    /// A prompt that no chunk was made with yet.
    prompt: Option<String>,
    /// Prompts and from which frame they were used, to make the same again.
    script: Vec<(u64, String)>,
    stats: Stats,
}

impl State {
    fn made(&self) -> u64 {
        self.first + self.frames.len() as u64
    }

    /// Whether the worker should make more: less than a chunk is left untaken.
    fn hungry(&self) -> bool {
        self.end.is_none() && self.failure.is_none() && self.made() < self.wanted + self.chunk.max(1)
    }

    fn start_over(&mut self) {
        self.cancel.cancel();
        self.restart = true;
        self.first = 0;
        self.frames.clear();
        self.chunk = 0;
        self.end = None;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generator {
    /// Starts the worker, which opens the model at once and makes frames as soon as it is told the size.
    ///
    /// # Errors
    /// The system's, if there can be no other thread.
    pub fn start(job: Job, report: impl FnMut(Report) + Send + 'static) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let worker = Worker { shared: shared.clone(), report, started: Instant::now(), marker: None };
        std::thread::Builder::new().name("soragen".into()).spawn(move || worker.run(job))?;
        Ok(Self(shared))
    }

    /// Sets the size of the frames; another than before starts over.
    pub fn set_size(&self, size: Size) {
        let mut state = self.0.lock();
        if state.size.is_some_and(|before| before != size) {
            state.start_over();
        }
        state.size = Some(size);
        self.0.changed.notify_all();
    }

    /// Has `prompt` used from the next chunk on.
    pub fn set_prompt(&self, prompt: String) {
        self.0.lock().prompt = Some(prompt);
    }

    /// Interrupts whoever waits in [`Made::take`], until it is called with `false`.
    pub fn set_flushing(&self, flushing: bool) {
        self.0.lock().flushing = flushing;
        self.0.changed.notify_all();
    }

    pub fn stats(&self) -> Stats {
        self.0.lock().stats
    }

    /// The frames, for whoever waits for them.
    pub fn frames(&self) -> Made {
        Made(self.0.clone())
    }
}

/// The frames of a [`Generator`]. It does not keep the worker going.
pub struct Made(Arc<Shared>);

impl Made {
    /// Waits for frame `n`, until `deadline` if there is one.
    pub fn take(&self, n: u64, deadline: Option<Instant>) -> Result<Picture, Absent> {
        let mut state = self.0.lock();
        state.wanted = n;
        if n < state.first {
            state.start_over();
        }
        self.0.changed.notify_all();
        loop {
            if state.flushing {
                return Err(Absent::Flushing);
            }
            if let Some(picture) = n.checked_sub(state.first).and_then(|i| state.frames.get(i as usize)) {
                let picture = picture.clone();
                state.wanted = n + 1;
                self.0.changed.notify_all();
                return Ok(picture);
            }
            if let Some(failure) = &state.failure {
                return Err(Absent::Failed(failure.clone()));
            }
            if state.end.is_some_and(|end| n >= end) {
                return Err(Absent::End);
            }
            state = match deadline {
                None => self.0.wait(state),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(Absent::Late);
                    }
                    self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// A frame was not there when its time came.
    pub fn count_late(&self) {
        self.0.lock().stats.late += 1;
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.quit = true;
        state.flushing = true;
        state.cancel.cancel();
        self.0.changed.notify_all();
    }
}

struct Worker<R> {
    shared: Arc<Shared>,
    report: R,
    started: Instant,
    /// Of the session that runs.
    marker: Option<Marker>,
}

/// What to do next.
enum Task {
    Make,
    StartOver,
    Quit,
}

impl<R: FnMut(Report)> Worker<R> {
    fn run(mut self, job: Job) {
        self.tell(Report::Loading);
        let model = Model::open(&job.source, &job.options);
        self.tell(Report::Loaded);
        let model = match model {
            Ok(model) => model,
            Err(error) => return self.fail(error),
        };
        while let Some((size, cancel)) = self.next_session() {
            let request = Request { size: Some(size), ..job.request.clone() };
            let session = Session::new(model.clone(), request);
            let mark =
                |session: &Session| Some(Marker::new(job.watermark.as_ref()?, session.generation_id()));
            self.marker = session.as_ref().ok().and_then(mark);
            match session.and_then(|session| self.make(session, &cancel)) {
                Ok(()) | Err(Error::Cancelled) => {}
                Err(error) => return self.fail(error),
            }
        }
    }

    /// Says nothing when nobody wants to know any more.
    fn tell(&mut self, report: Report) {
        if !self.shared.lock().quit {
            (self.report)(report);
        }
    }

    fn fail(&mut self, error: Error) {
        self.shared.lock().failure = Some(Arc::new(error));
        self.shared.changed.notify_all();
    }

    /// Waits for something to begin; `None`: nothing ever will.
    fn next_session(&self) -> Option<(Size, Cancel)> {
        let mut state = self.shared.lock();
        loop {
            if state.quit {
                return None;
            }
            if let Some(size) = state.size {
                state.restart = false;
                state.cancel = Cancel::new();
                return Some((size, state.cancel.clone()));
            }
            state = self.shared.wait(state);
        }
    }

    fn next_task(&self) -> Task {
        let mut state = self.shared.lock();
        loop {
            if state.quit {
                return Task::Quit;
            }
            if state.restart {
                return Task::StartOver;
            }
            if state.hungry() {
                return Task::Make;
            }
            state = self.shared.wait(state);
        }
    }

    /// Makes frames until somebody wants something else.
    fn make(&mut self, mut session: Session, cancel: &Cancel) -> Result<(), Error> {
        let mut shot = 0;
        loop {
            match self.next_task() {
                Task::Make => {}
                Task::StartOver | Task::Quit => return Ok(()),
            }
            let made = self.shared.lock().made();
            for prompt in self.prompts_at(made) {
                match session.set_prompt(&prompt) {
                    Ok(()) => {
                        shot += 1;
                        self.tell(Report::Shot { index: shot, prompt: &prompt, frame: made });
                        self.remember(made, prompt);
                    }
                    Err(error) => self.tell(Report::Refused(&error)),
                }
            }
            let began = Instant::now();
            let (shared, report) = (&self.shared, &mut self.report);
            let frames = session.next_chunk(cancel, &mut |progress| {
                if !shared.lock().quit {
                    report(Report::Progress(progress));
                }
            })?;
            match frames {
                Some(frames) => self.add(&frames, shot, began.elapsed(), session.total_frames()),
                None => self.shared.lock().end = Some(made),
            }
            self.shared.changed.notify_all();
        }
    }

    /// The prompts that are due before frame `made`: of an earlier run, or a new one.
    fn prompts_at(&self, made: u64) -> Vec<String> {
        let mut state = self.shared.lock();
        let again = state.script.iter().filter(|(frame, _)| *frame == made).map(|(_, prompt)| prompt.clone());
        let mut due: Vec<_> = again.collect();
        // Not in the middle of what is made again.
        if state.script.last().is_none_or(|(frame, _)| *frame <= made) {
            due.extend(state.prompt.take());
        }
        due
    }

    fn remember(&self, frame: u64, prompt: String) {
        let mut state = self.shared.lock();
        if !state.script.contains(&(frame, prompt.clone())) {
            state.script.push((frame, prompt));
        }
    }

    fn add(&self, frames: &Frames, shot: u64, took: Duration, total: Option<u64>) {
        let pictures: Vec<Picture> = frames
            .iter()
            .map(|frame| {
                let mut picture: Vec<u8> =
                    frame.iter().map(|sample| (sample * 255.0).round() as u8).collect();
                if let Some(marker) = &self.marker {
                    let (width, height) = (frames.size.width as usize, frames.size.height as usize);
                    let data = &mut picture[..];
                    marker.mark(&mut Plane { data, stride: 3 * width, step: 3, width, height }, shot);
                }
                picture.into()
            })
            .collect();
        let mut state = self.shared.lock();
        if state.restart {
            return;
        }
        state.chunk = pictures.len() as u64;
        state.frames.extend(pictures);
        let most = KEPT / (3 * frames.size.width * frames.size.height).max(1) as usize;
        while state.frames.len() > most && state.first < state.wanted {
            state.frames.pop_front();
            state.first += 1;
        }
        let made = state.made();
        if total == Some(made) {
            state.end = total;
        }
        let stats = &mut state.stats;
        if stats.frames == 0 {
            stats.first_frame = self.started.elapsed();
        }
        stats.frames += frames.len() as u64;
        stats.busy += took;
        stats.chunk = took;
    }
}
