//! `soragen.Session`.
//!
//! The engine works on a thread of its own, without the lock of the interpreter, while the calling thread looks for signals: Ctrl-C
//! cancels, and raises `KeyboardInterrupt`.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

use numpy::{PyArray4, PyReadonlyArrayDyn};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use soragen::{Cache, Cancel, Threads};

use crate::arrays::{from_frames, from_latents, to_frames};
use crate::errors::ForPython;
use crate::model::Model;
use crate::request::RequestFields;

/// Time between two looks for signals.
const POLL: Duration = Duration::from_millis(20);

/// Runs `work` on another thread. A signal whose handler raises sets `cancel`, and the exception is raised when `work` ends.
pub fn on_a_thread<T: Send + 'static>(
    py: Python<'_>,
    cancel: &Cancel,
    work: impl FnOnce() -> T + Send + 'static,
) -> PyResult<T> {
    let (sender, mut result) = sync_channel(1);
    std::thread::Builder::new().name("soragen".into()).spawn(move || {
        let _ = sender.send(work());
    })?;
    let mut raised = None;
    loop {
        let waiting = &mut result;
        match py.detach(move || waiting.recv_timeout(POLL)) {
            Ok(done) => return raised.map_or(Ok(done), Err),
            Err(RecvTimeoutError::Timeout) if raised.is_none() => {
                if let Err(error) = py.check_signals() {
                    cancel.cancel();
                    raised = Some(error);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(PyRuntimeError::new_err("the engine has stopped; this is a fault of soragen"));
            }
        }
    }
}

/// How far a session is.
#[pyclass(module = "soragen", frozen, get_all)]
pub struct Progress {
    /// `text`, `denoise` or `decode`.
    phase: &'static str,
    chunk: u64,
    step: u32,
    steps: u32,
    frame: u64,
    total_frames: Option<u64>,
}

/// What a session has computed.
#[pyclass(module = "soragen", frozen, get_all)]
pub struct Stats {
    /// Forward passes of the transformer.
    forwards: u64,
    /// Frames whose latents came from the cache.
    cached: u64,
}

#[pymethods]
impl Stats {
    fn __repr__(&self) -> String {
        format!("Stats(forwards={}, cached={})", self.forwards, self.cached)
    }
}

impl From<soragen::SessionStats> for Stats {
    fn from(stats: soragen::SessionStats) -> Self {
        Self { forwards: stats.forwards, cached: stats.cached }
    }
}

/// One running generation.
#[pyclass(module = "soragen", frozen)]
pub struct Session {
    /// `None` after it is closed.
    session: Arc<Mutex<Option<soragen::Session>>>,
    /// The thread that calls `progress`, during the call: the session is locked.
    reporting: Arc<Mutex<Option<ThreadId>>>,
    threads: Arc<Threads>,
    cancel: Cancel,
    callback: Option<Arc<Py<PyAny>>>,
    total_frames: Option<u64>,
    size: soragen::Size,
    frame_rate: (u32, u32),
    /// In the watermark.
    generation_id: Option<String>,
}

impl Session {
    pub fn start(
        model: &Model,
        request: &RequestFields,
        cache: Option<Cache>,
        callback: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let (request, video) = request.read(model.model.info())?;
        let mut session = match cache {
            Some(cache) => soragen::Session::with_cache(model.model.clone(), request, cache),
            None => soragen::Session::new(model.model.clone(), request),
        }
        .for_python()?;
        for frame in &video {
            let frame = soragen::stretch_frame(frame, session.size()).for_python()?;
            session.push_frames(&frame).for_python()?;
        }
        session.end_video();
        Ok(Self {
            threads: model.threads.clone(),
            cancel: Cancel::new(),
            callback: callback.map(Arc::new),
            total_frames: session.total_frames(),
            size: session.size(),
            frame_rate: model.model.info().frame_rate,
            generation_id: session.watermark_id().map(|id| id.to_string()),
            session: Arc::new(Mutex::new(Some(session))),
            reporting: Arc::default(),
        })
    }

    /// Calls `work` with the session on another thread.
    fn work<T: Send + 'static>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(
            &mut Option<soragen::Session>,
            &Cancel,
            &mut dyn FnMut(soragen::Progress),
        ) -> soragen::Result<T>
        + Send
        + 'static,
    ) -> PyResult<T> {
        let (session, threads, cancel) = (self.session.clone(), self.threads.clone(), self.cancel.clone());
        self.check_not_reporting()?;
        let (callback, total_frames, reporting) =
            (self.callback.clone(), self.total_frames, self.reporting.clone());
        let raised = Arc::new(Mutex::new(None));
        let in_callback = raised.clone();
        let result = on_a_thread(py, &self.cancel, move || {
            let mut report = |progress: soragen::Progress| {
                let Some(callback) = &callback else { return };
                let progress = Progress {
                    phase: progress.phase.as_str(),
                    chunk: progress.chunk,
                    step: progress.step,
                    steps: progress.steps,
                    frame: progress.frame,
                    total_frames,
                };
                let set = |thread| *reporting.lock().unwrap_or_else(PoisonError::into_inner) = thread;
                set(Some(std::thread::current().id()));
                let called = Python::attach(|py| callback.call1(py, (progress,)));
                set(None);
                if let Err(error) = called {
                    cancel.cancel();
                    in_callback.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            };
            let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
            let session: &mut Option<soragen::Session> = &mut session;
            threads.run(|| work(session, &cancel, &mut report))
        })?;
        match raised.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => result.for_python(),
        }
    }

    pub fn make_scene(&self, py: Python<'_>, scene: usize) -> PyResult<Stats> {
        let stats = self.work(py, move |session, cancel, progress| match session.take() {
            Some(session) => session.make_scene(scene, cancel, progress),
            None => Err(soragen::Error::Cancelled),
        })?;
        Ok(stats.into())
    }

    fn is_reporting(&self) -> bool {
        *self.reporting.lock().unwrap_or_else(PoisonError::into_inner) == Some(std::thread::current().id())
    }

    fn check_not_reporting(&self) -> PyResult<()> {
        match self.is_reporting() {
            true => Err(PyRuntimeError::new_err("a progress callback can only close the session")),
            false => Ok(()),
        }
    }

    /// Calls `change` with the session, between two chunks.
    fn change(
        &self,
        py: Python<'_>,
        change: impl FnOnce(&mut soragen::Session) -> soragen::Result<()> + Send,
    ) -> PyResult<()> {
        self.check_not_reporting()?;
        py.detach(|| match self.session.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(session) => change(session),
            None => Err(soragen::Error::Cancelled),
        })
        .for_python()
    }
}

#[pymethods]
impl Session {
    /// The next frames, or `None` after the last.
    fn next_chunk<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyArray4<u8>>>> {
        let frames = self.work(py, |session, cancel, progress| match session {
            Some(session) => session.next_chunk(cancel, progress),
            None => Err(soragen::Error::Cancelled),
        })?;
        frames.map(|frames| from_frames(py, frames)).transpose()
    }

    /// The latents of the next chunk, or of the next whole clip, in place of its frames.
    fn next_latents<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyArray4<f32>>>> {
        let latents = self.work(py, |session, cancel, progress| match session {
            Some(session) => session.next_latents(cancel, progress),
            None => Err(soragen::Error::Cancelled),
        })?;
        latents.map(|latents| from_latents(py, &latents)).transpose()
    }

    fn set_prompt(&self, py: Python<'_>, prompt: &str) -> PyResult<()> {
        self.change(py, |session| session.set_prompt(prompt))
    }

    fn push_frames(&self, py: Python<'_>, frames: PyReadonlyArrayDyn<'_, u8>) -> PyResult<()> {
        let (frames, size) = (to_frames(&frames, "frames")?, self.size);
        self.change(py, |session| {
            frames.iter().try_for_each(|frame| session.push_frames(&soragen::stretch_frame(frame, size)?))
        })
    }

    /// Cancels what is running, and frees the session.
    fn close(&self, py: Python<'_>) {
        self.cancel.cancel();
        if self.is_reporting() {
            return;
        }
        let session = py.detach(|| self.session.lock().unwrap_or_else(PoisonError::into_inner).take());
        drop(session);
    }

    #[getter]
    fn size(&self) -> (u32, u32) {
        (self.size.width, self.size.height)
    }

    #[getter]
    fn frame_rate(&self) -> (u32, u32) {
        self.frame_rate
    }

    #[getter]
    fn total_frames(&self) -> Option<u64> {
        self.total_frames
    }

    #[getter]
    fn generation_id(&self) -> Option<&str> {
        self.generation_id.as_deref()
    }

    #[getter]
    fn stats(&self, py: Python<'_>) -> PyResult<Option<Stats>> {
        self.check_not_reporting()?;
        Ok(py.detach(|| {
            let session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
            session.as_ref().map(|session| session.stats().into())
        }))
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyArray4<u8>>>> {
        self.next_chunk(py)
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __exit__(&self, py: Python<'_>, _kind: Py<PyAny>, _value: Py<PyAny>, _trace: Py<PyAny>) {
        self.close(py);
    }
}
