//! `soragen.Model`.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use soragen::{Cache, Cancel, OpenOptions, Threads};

use crate::cache::{Entries, entries};
use crate::errors::ForPython;
use crate::info::ModelInfo;
use crate::request::RequestFields;
use crate::session::{Session, Stats, on_a_thread};

/// An opened model, shared by all sessions.
#[pyclass(module = "soragen", frozen)]
pub struct Model {
    pub model: Arc<soragen::Model>,
    pub threads: Arc<Threads>,
}

#[pymethods]
impl Model {
    #[staticmethod]
    #[pyo3(signature = (source = "builtin", *, device = "auto", precision = "auto", decoder = "auto", offload = false, threads = 0))]
    fn open(
        py: Python<'_>,
        source: &str,
        device: &str,
        precision: &str,
        decoder: &str,
        offload: bool,
        threads: usize,
    ) -> PyResult<Self> {
        let mut options = OpenOptions::default();
        options.device = device.into();
        options.precision = precision.parse().for_python()?;
        options.decoder = decoder.parse().for_python()?;
        options.offload = offload;
        let threads = Arc::new(Threads::new(threads).for_python()?);
        let cancel = Cancel::new();
        let (source, pool) = (source.to_string(), threads.clone());
        let opening = cancel.clone();
        let model =
            on_a_thread(py, &cancel, move || pool.run(|| soragen::Model::open(&source, &options, &opening)))?;
        Ok(Self { model: model.for_python()?, threads })
    }

    #[getter]
    fn info(&self) -> ModelInfo {
        self.model.info().clone().into()
    }

    #[pyo3(signature = (request, *, cache_dir = None, progress = None))]
    fn start(
        &self,
        request: RequestFields<'_>,
        cache_dir: Option<PathBuf>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Session> {
        Session::start(
            self,
            &request,
            cache_dir.map(|folder| Cache::new(folder, Cache::DEFAULT_SIZE)),
            progress,
        )
    }

    /// Frames of each scene of a request.
    fn scenes(&self, request: RequestFields<'_>) -> PyResult<Vec<u64>> {
        let (request, _) = request.read(self.model.info())?;
        let session = soragen::Session::new(self.model.clone(), request).for_python()?;
        session
            .scenes()
            .ok_or_else(|| PyValueError::new_err("a video without an end has no list of scenes; set seconds"))
    }

    /// The names of the entries with the latents of each scene.
    fn film_entries(&self, request: RequestFields<'_>) -> PyResult<Vec<Vec<String>>> {
        let (request, _) = request.read(self.model.info())?;
        // The folder of a cache is created with its first entry, and there is none.
        let cache = Cache::new("", 0);
        let session = soragen::Session::with_cache(self.model.clone(), request, cache).for_python()?;
        session.film_entries(&Cancel::new()).for_python()
    }

    /// Makes the latents of one scene: entries for a cache on any machine, and how much work they were.
    #[pyo3(signature = (request, scene, *, progress = None))]
    fn make_scene<'py>(
        &self,
        py: Python<'py>,
        request: RequestFields<'_>,
        scene: usize,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<(Entries<'py>, Stats)> {
        let folder = tempfile::tempdir()?;
        // Nothing is removed from it.
        let cache = Cache::new(folder.path(), u64::MAX).portable();
        let session = Session::start(self, &request, Some(cache.clone()), progress)?;
        let stats = session.make_scene(py, scene)?;
        if let Some(failure) = cache.failure() {
            return Err(crate::errors::exception(soragen::Error::Generation(failure.to_string())));
        }
        Ok((entries(py, &cache)?, stats))
    }

    fn __repr__(&self) -> String {
        format!("<soragen.Model {:?}>", self.model.info().name)
    }
}

/// Every denoising step of models in `folder` takes so many seconds longer, until the process ends.
#[cfg(feature = "testing")]
#[pyfunction]
pub fn set_step_delay(folder: PathBuf, seconds: f64) {
    let delay = std::time::Duration::from_secs_f64(seconds);
    std::mem::forget(soragen::testing::slow(&folder, delay, soragen::testing::wait));
}
