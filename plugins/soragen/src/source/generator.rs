// SPDX-License-Identifier: MPL-2.0

//! The thread that owns the session, and the frames it has made.
//!
//! It works one chunk ahead of what was taken. Frames that were taken stay for a while, so that a seek back
//! costs nothing; what is gone is made again, and comes out the same.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use soragen::label::{Label, Labeller};
use soragen::watermark::{Embedder, GenerationId, Plane, WatermarkKey};
use soragen::{
    Cache, Cancel, Error, Frames, Model, OpenOptions, Progress, Request, Session, SessionStats, Shot,
    ShotInfo, Size, Threads,
};

/// Bytes of frames that are kept.
const KEPT: usize = 128 << 20;

/// Shots that are taken while the video is made; all are kept, to make the same again.
const MAX_SHOTS: usize = 100_000;

/// One picture, RGB of 8 bits, `[H, W, 3]`.
pub type Picture = Arc<[u8]>;

/// What is to be made.
pub struct Job {
    pub source: String,
    pub options: OpenOptions,
    pub request: Request,
    /// Where its latents are kept.
    pub cache: Option<Cache>,
    /// What it is all computed on.
    pub threads: Threads,
    /// Whether its shots come while the video is made, by [`Generator::add_shot`], and none is in `request`.
    pub open: bool,
    /// What the frames are marked with, if they are.
    pub watermark: Option<WatermarkKey>,
    /// What a viewer sees on them.
    pub label: Label,
}

/// What changes from the next chunk on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Prompt(String),
    /// `None` is the model's own.
    NegativePrompt(Option<String>),
}

/// What the worker has to say. It is called on the worker's thread.
pub enum Report<'a> {
    Loading,
    Loaded,
    Progress(Progress),
    /// Latents cannot be kept any more.
    NotKept(&'a Error),
    /// A change cannot be made; what was stays.
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
    /// Of all sessions.
    pub effort: SessionStats,
}

/// A running worker. It ends by itself after this is dropped; nobody waits for it.
pub struct Generator(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// Shots that come while the video is made.
#[derive(Default)]
struct Coming {
    shots: Vec<Shot>,
    /// All that start before this frame are there.
    known: u64,
    /// How many frames there are in all, once that is known.
    end: Option<u64>,
}

#[derive(Default)]
struct State {
    coming: Option<Coming>,
    /// Whoever waits for a frame is to stop waiting.
    flushing: bool,
    /// Nobody wants anything any more.
    quit: bool,
    /// Nobody wants any more frames than there are.
    stopped: bool,
    size: Option<Size>,
    /// In place of the request's.
    seed: Option<u64>,
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
    /// What no chunk was made with yet.
    changes: Vec<Change>,
    /// Changes and from which frame they held, to make the same again.
    script: Vec<(u64, Change)>,
    /// What is shown from which frame on.
    shots: BTreeMap<u64, Arc<ShotInfo>>,
    /// What the mark of the session that runs says, if the frames are marked.
    mark: Option<GenerationId>,
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

    /// Whether all shots are there that decide over the frames up to `needed`.
    fn knows(&self, needed: u64) -> bool {
        self.coming.as_ref().is_none_or(|coming| coming.end.is_some() || coming.known > needed)
    }

    fn start_over(&mut self) {
        self.cancel.cancel();
        self.restart = true;
        self.stopped = false;
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
    pub fn start(mut job: Job, report: impl FnMut(Report) + Send + 'static) -> std::io::Result<Self> {
        let state = State { coming: job.open.then(Coming::default), ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let worker = Worker {
            shared: shared.clone(),
            report,
            warned: false,
            started: Instant::now(),
            marker: None,
            labeller: None,
        };
        let watch = Watch(shared.clone());
        std::thread::Builder::new().name("soragen".into()).spawn(move || {
            let _watch = watch;
            let threads = std::mem::take(&mut job.threads);
            threads.run(|| worker.run(job));
        })?;
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

    /// Has `change` hold from the next chunk on; of several of one kind the last counts.
    pub fn change(&self, change: Change) {
        let mut state = self.0.lock();
        state.changes.retain(|other| std::mem::discriminant(other) != std::mem::discriminant(&change));
        state.changes.push(change);
    }

    /// Adds a shot after the others; says whether it is one: whether it shows something, and starts later.
    pub fn add_shot(&self, shot: Shot) -> bool {
        let mut state = self.0.lock();
        let Some(coming) = &mut state.coming else { return false };
        let later = coming.shots.last().is_none_or(|last| last.start < shot.start);
        if !later || shot.prompt.trim().is_empty() || coming.shots.len() == MAX_SHOTS {
            return false;
        }
        coming.shots.push(shot);
        self.0.changed.notify_all();
        true
    }

    /// All shots that start before frame `known` were added.
    pub fn set_known(&self, known: u64) {
        if let Some(coming) = &mut self.0.lock().coming {
            coming.known = coming.known.max(known);
        }
        self.0.changed.notify_all();
    }

    /// All shots were added, and the last ends before frame `end`.
    pub fn finish(&self, end: u64) {
        let mut state = self.0.lock();
        if let Some(coming) = &mut state.coming {
            coming.end = Some(end);
            if coming.shots.is_empty() {
                state.end = Some(0);
            }
        }
        self.0.changed.notify_all();
    }

    /// Makes no more frames than there are, until [`resume`](Self::resume).
    pub fn end_here(&self) {
        let mut state = self.0.lock();
        state.cancel.cancel();
        state.stopped = true;
        state.end = Some(state.made());
        self.0.changed.notify_all();
    }

    /// Makes the frames that [`end_here`](Self::end_here) has kept from being made.
    pub fn resume(&self) {
        let mut state = self.0.lock();
        if state.stopped {
            state.start_over();
            self.0.changed.notify_all();
        }
    }

    /// Makes everything anew, with another seed.
    pub fn regenerate(&self, seed: u64) {
        let mut state = self.0.lock();
        state.seed = Some(seed);
        state.start_over();
        self.0.changed.notify_all();
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

/// Has nobody wait for frames of a worker that has panicked.
struct Watch(Arc<Shared>);

impl Drop for Watch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = Error::Generation("the generator has come to an end that it should not have".into());
            self.0.lock().failure = Some(Arc::new(error));
            self.0.changed.notify_all();
        }
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

    /// What frame `n`, which was made, shows.
    pub fn shot(&self, n: u64) -> Option<Arc<ShotInfo>> {
        self.0.lock().shots.range(..=n).next_back().map(|(_, shown)| shown.clone())
    }

    /// What the invisible mark of the frames says, if they have one.
    pub fn mark(&self) -> Option<GenerationId> {
        self.0.lock().mark
    }

    /// A frame was not there when its time came.
    pub fn count_late(&self) -> u64 {
        let stats = &mut self.0.lock().stats;
        stats.late += 1;
        stats.late
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
    /// That latents cannot be kept.
    warned: bool,
    started: Instant,
    /// Of the session that runs.
    marker: Option<Embedder>,
    labeller: Option<Labeller>,
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
            let mut request = Request { size: Some(size), ..job.request.clone() };
            {
                let state = self.shared.lock();
                request.seed = state.seed.unwrap_or(request.seed);
                if let Some(coming) = &state.coming {
                    request.shots = coming.shots.clone();
                }
            }
            let shots = request.shots.len();
            let session = match &job.cache {
                Some(cache) => Session::with_cache(model.clone(), request, cache.clone()),
                None => Session::new(model.clone(), request),
            };
            let mark =
                |session: &Session| Some(Embedder::new(job.watermark.as_ref()?, session.generation_id()));
            self.marker = session.as_ref().ok().and_then(mark);
            self.labeller = Some(Labeller::new(job.label, size, model.info().frame_rate));
            self.shared.lock().mark = self.marker.as_ref().map(Embedder::id);
            match session.and_then(|session| self.make(session, shots, job.cache.as_ref(), &cancel)) {
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
            let any = state.coming.as_ref().is_none_or(|coming| !coming.shots.is_empty());
            if let Some(size) = state.size.filter(|_| any && !state.stopped) {
                state.restart = false;
                state.cancel = Cancel::new();
                return Some((size, state.cancel.clone()));
            }
            state = self.shared.wait(state);
        }
    }

    /// `needed`: up to which frame the shots have to be known to make more.
    fn next_task(&self, needed: u64) -> Task {
        let mut state = self.shared.lock();
        loop {
            if state.quit {
                return Task::Quit;
            }
            if state.restart {
                return Task::StartOver;
            }
            if state.hungry() && state.knows(needed) {
                return Task::Make;
            }
            state = self.shared.wait(state);
        }
    }

    /// Makes frames until somebody wants something else. The session was given `shots` of those that come.
    fn make(
        &mut self,
        mut session: Session,
        mut shots: usize,
        cache: Option<&Cache>,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        let mut effort = SessionStats::default();
        loop {
            match self.next_task(session.next_end()) {
                Task::Make => {}
                Task::StartOver | Task::Quit => return Ok(()),
            }
            let (made, added, end) = {
                let state = self.shared.lock();
                let coming = state.coming.as_ref();
                let added = coming
                    .map(|coming| coming.shots.iter().skip(shots).cloned().collect::<Vec<_>>())
                    .unwrap_or_default();
                (state.made(), added, coming.and_then(|coming| coming.end))
            };
            shots += added.len();
            for shot in added {
                if let Err(error) = session.add_shot(shot) {
                    self.tell(Report::Refused(&error));
                }
            }
            if let Some(end) = end {
                session.end_at(end);
            }
            for change in self.changes_at(made) {
                let changed = match &change {
                    Change::Prompt(prompt) => session.set_prompt(prompt),
                    Change::NegativePrompt(prompt) => session.set_negative_prompt(prompt.as_deref()),
                };
                if let Err(error) = changed {
                    self.tell(Report::Refused(&error));
                    continue;
                }
                self.remember(made, change);
            }
            let began = Instant::now();
            let (shared, report) = (&self.shared, &mut self.report);
            let frames = session.next_chunk(cancel, &mut |progress| {
                if !shared.lock().quit {
                    report(Report::Progress(progress));
                }
            })?;
            if let Some(failure) = cache.and_then(Cache::failure)
                && !std::mem::replace(&mut self.warned, true)
            {
                self.tell(Report::NotKept(&failure));
            }
            self.count(&mut effort, session.effort());
            match frames {
                Some(frames) => self.add(&frames, began.elapsed(), &session),
                None => self.shared.lock().end = Some(made),
            }
            self.shared.changed.notify_all();
        }
    }

    /// The changes that are due before frame `made`: of an earlier run, or new ones.
    fn changes_at(&self, made: u64) -> Vec<Change> {
        let mut state = self.shared.lock();
        let again = state.script.iter().filter(|(frame, _)| *frame == made).map(|(_, change)| change.clone());
        let mut due: Vec<_> = again.collect();
        // Not in the middle of what is made again.
        if state.script.last().is_none_or(|(frame, _)| *frame <= made) {
            due.append(&mut state.changes);
        }
        due
    }

    /// Adds to the statistics what a session has done since `before`.
    fn count(&self, before: &mut SessionStats, now: SessionStats) {
        let stats = &mut self.shared.lock().stats;
        stats.effort.forwards += now.forwards - before.forwards;
        stats.effort.recalled += now.recalled - before.recalled;
        *before = now;
    }

    fn remember(&self, frame: u64, change: Change) {
        let mut state = self.shared.lock();
        let entry = (frame, change);
        if !state.script.contains(&entry) {
            state.script.push(entry);
        }
    }

    fn add(&self, frames: &Frames, took: Duration, session: &Session) {
        let pictures: Vec<Picture> = (frames.first..)
            .zip(frames.iter())
            .map(|(number, frame)| {
                let mut picture: Vec<u8> = frame.iter().map(|&sample| soragen::to_u8(sample)).collect();
                if let Some(labeller) = &self.labeller {
                    labeller.draw(&mut picture, number);
                }
                if let Some(marker) = &self.marker {
                    marker.embed(&mut Plane::rgb(&mut picture, frames.size), session.shown().index);
                }
                picture.into()
            })
            .collect();
        let mut state = self.shared.lock();
        if state.restart {
            return;
        }
        let shown = session.shown();
        if shown.frame == frames.first {
            state.shots.insert(shown.frame, Arc::new(shown.clone()));
        }
        state.chunk = pictures.len() as u64;
        state.frames.extend(pictures);
        let most = KEPT / (3 * frames.size.width * frames.size.height).max(1) as usize;
        while state.frames.len() > most && state.first < state.wanted {
            state.frames.pop_front();
            state.first += 1;
        }
        let made = state.made();
        if session.total_frames() == Some(made) {
            state.end = Some(made);
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
