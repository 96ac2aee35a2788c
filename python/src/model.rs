//! `soragen.Model`.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use soragen::{Cache, Cancel, OpenOptions, Threads};

use crate::cache::entries;
use crate::errors::ForPython;
use crate::request::RequestFields;
use crate::session::{Session, Stats, on_a_thread};

/// What a model can do, and its default values.
#[pyclass(module = "soragen", frozen, get_all)]
pub struct ModelInfo {
    name: String,
    /// Width and height.
    size: (u32, u32),
    frame_rate: (u32, u32),
    natural_frames: u64,
    latent_frames: u64,
    chunk_frames: u64,
    past_frames: u64,
    max_frames: Option<u64>,
    causal: bool,
    remembers_shots: bool,
    image_to_video: bool,
    needs_image: bool,
    last_image: bool,
    control: bool,
    max_references: usize,
    steps: u32,
    guidance_scale: f64,
    shift: f64,
    negative_prompt: String,
    knows: std::collections::BTreeMap<String, Vec<String>>,
}

#[pymethods]
impl ModelInfo {
    fn __repr__(&self) -> String {
        let ((width, height), (numerator, denominator)) = (self.size, self.frame_rate);
        format!(
            "ModelInfo(name={:?}, size=({width}, {height}), frame_rate=({numerator}, {denominator}))",
            self.name
        )
    }
}

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
    #[expect(clippy::too_many_arguments, reason = "the options of the engine")]
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
        let info = self.model.info().clone();
        let size = info.sizes.default_size();
        ModelInfo {
            size: (size.width, size.height),
            name: info.name,
            frame_rate: info.frame_rate,
            natural_frames: info.natural_frames,
            latent_frames: info.latent_frames,
            chunk_frames: info.chunk_frames,
            past_frames: info.past_frames,
            max_frames: info.max_frames,
            causal: info.causal,
            remembers_shots: info.remembers_shots,
            image_to_video: info.image_to_video,
            needs_image: info.needs_image,
            last_image: info.last_image,
            control: info.control,
            max_references: info.max_references,
            steps: info.steps,
            guidance_scale: info.guidance_scale,
            shift: info.shift,
            negative_prompt: info.negative_prompt,
            knows: info.knows,
        }
    }

    /// Whether the model makes this size; a size that is another one is refused by a session.
    fn makes(&self, width: u32, height: u32) -> bool {
        self.model.info().sizes.contains(soragen::Size { width, height })
    }

    /// The size of the model whose aspect ratio is nearest to this one.
    fn size_like(&self, width: u32, height: u32) -> (u32, u32) {
        let size = self.model.info().sizes.like(width, height);
        (size.width, size.height)
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
        let endless = || {
            pyo3::exceptions::PyValueError::new_err(
                "a video without an end has no list of scenes; set seconds",
            )
        };
        session.scenes().ok_or_else(endless)
    }

    /// Makes the latents of one scene: entries for a cache on any machine, and how much work they were.
    #[pyo3(signature = (request, scene, *, progress = None))]
    fn make_scene<'py>(
        &self,
        py: Python<'py>,
        request: RequestFields<'_>,
        scene: usize,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<(Vec<(String, Bound<'py, PyBytes>)>, Stats)> {
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
