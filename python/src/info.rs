//! `soragen.ModelInfo`, and checks that need no open model.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use soragen::checkpoint::Parts;
use soragen::policy::Policy;
use soragen::{Size, Sizes};

use crate::errors::ForPython;

/// What a model can do, and its default values.
#[pyclass(module = "soragen", frozen)]
pub struct ModelInfo {
    sizes: Sizes,
    #[pyo3(get)]
    name: String,
    /// Width and height.
    #[pyo3(get)]
    size: (u32, u32),
    #[pyo3(get)]
    frame_rate: (u32, u32),
    #[pyo3(get)]
    natural_frames: u64,
    #[pyo3(get)]
    latent_frames: u64,
    #[pyo3(get)]
    chunk_frames: u64,
    #[pyo3(get)]
    past_frames: u64,
    #[pyo3(get)]
    max_frames: Option<u64>,
    #[pyo3(get)]
    causal: bool,
    #[pyo3(get)]
    remembers_shots: bool,
    #[pyo3(get)]
    image_to_video: bool,
    #[pyo3(get)]
    needs_image: bool,
    #[pyo3(get)]
    last_image: bool,
    #[pyo3(get)]
    control: bool,
    #[pyo3(get)]
    max_references: usize,
    #[pyo3(get)]
    steps: u32,
    #[pyo3(get)]
    guidance_scale: f64,
    #[pyo3(get)]
    shift: f64,
    #[pyo3(get)]
    negative_prompt: String,
    #[pyo3(get)]
    knows: BTreeMap<String, Vec<String>>,
}

impl From<soragen::ModelInfo> for ModelInfo {
    fn from(info: soragen::ModelInfo) -> Self {
        let size = info.sizes.default_size();
        Self {
            size: (size.width, size.height),
            sizes: info.sizes,
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
}

#[pymethods]
impl ModelInfo {
    /// Reads it from the configuration of a model, without its weights.
    #[staticmethod]
    fn read(source: &str) -> PyResult<Self> {
        Ok(soragen::ModelInfo::read(source, &Parts::default()).for_python()?.into())
    }

    /// Whether the model makes frames of this size.
    fn makes(&self, width: u32, height: u32) -> bool {
        self.sizes.contains(Size { width, height })
    }

    /// The size of the model whose aspect ratio is nearest to this one.
    fn size_like(&self, width: u32, height: u32) -> (u32, u32) {
        let size = self.sizes.like(width.max(1), height.max(1));
        (size.width, size.height)
    }

    fn __repr__(&self) -> String {
        let ((width, height), (numerator, denominator)) = (self.size, self.frame_rate);
        let name = &self.name;
        format!("ModelInfo(name={name:?}, size=({width}, {height}), frame_rate=({numerator}, {denominator}))")
    }
}

/// Refuses a prompt that the policy refuses, and logs it.
#[pyfunction]
#[pyo3(signature = (prompt, *, policy = None, audit_log = None))]
pub fn admit(
    py: Python<'_>,
    prompt: &str,
    policy: Option<PathBuf>,
    audit_log: Option<PathBuf>,
) -> PyResult<()> {
    let admitted = py.detach(|| Policy::open(policy.as_deref(), audit_log.as_deref())?.admit(prompt));
    admitted.for_python()
}

/// Width and height of the picture in the bytes of a file. Raises `ValueError` if they cannot be decoded.
#[pyfunction]
pub fn picture_size(py: Python<'_>, data: Vec<u8>) -> PyResult<(u32, u32)> {
    let picture = py.detach(|| soragen::decode_image(&data)).map_err(PyValueError::new_err)?;
    Ok(picture.dimensions())
}
