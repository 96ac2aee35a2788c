//! An opened model: its parts, its defaults, what it can make.

use std::sync::Arc;

use crate::{Result, Size};

/// The number format of the weights and of the arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// What is best on the device: f32 on a CPU, bf16 on a GPU.
    #[default]
    Auto,
    /// 32-bit.
    F32,
    /// 16-bit with f32's range.
    Bf16,
    /// 16-bit.
    F16,
}

/// How to open a model.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// `auto`, `cpu`, `cuda:N` or `metal`.
    pub device: String,
    /// Number format.
    pub precision: Precision,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { device: "auto".into(), precision: Precision::Auto }
    }
}

/// The sizes a model can make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// These and no others; the first is the default.
    Exact(Vec<Size>),
    /// Both sides a multiple of `step` from `min` to `max`.
    Multiple {
        /// In pixels, as the others.
        step: u32,
        /// Shortest side.
        min: u32,
        /// Longest side.
        max: u32,
        /// What it makes when nothing is asked for.
        default: Size,
    },
}

impl Sizes {
    /// What the model makes when nothing is asked for.
    pub fn default_size(&self) -> Size {
        match self {
            Self::Exact(sizes) => sizes[0],
            Self::Multiple { default, .. } => *default,
        }
    }

    /// Whether the model can make it.
    pub fn contains(&self, size: Size) -> bool {
        match self {
            Self::Exact(sizes) => sizes.contains(&size),
            Self::Multiple { step, min, max, .. } => {
                [size.width, size.height].iter().all(|side| side % step == 0 && side >= min && side <= max)
            }
        }
    }
}

/// What a model is and what it can make; read from its configuration, without its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    /// For people.
    pub name: String,
    /// The sizes it can make.
    pub sizes: Sizes,
    /// Frames a second, as a fraction.
    pub frame_rate: (u32, u32),
    /// How many frames it makes when nothing is asked for.
    pub natural_frames: u64,
    /// Whether it goes on for as long as asked, chunk by chunk.
    pub causal: bool,
    /// Whether it can start from an image.
    pub image_to_video: bool,
    /// Denoising steps.
    pub steps: u32,
    /// Guidance scale.
    pub guidance_scale: f64,
    /// Shift of the noise schedule.
    pub shift: f64,
    /// What it is told not to show unless the request says otherwise.
    pub negative_prompt: String,
}

impl ModelInfo {
    /// Reads the configuration of `source` alone: quick, and no weight is touched.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound) and [`Error::Invalid`](crate::Error::Invalid) as for [`Model::open`].
    pub fn read(_source: &str) -> Result<Self> {
        unreachable!()
    }
}

/// An opened model, shared by whoever uses it.
pub struct Model {
    info: ModelInfo,
}

impl Model {
    /// Opens `source`: `builtin`, or a folder in diffusers layout. A model that is open already with the
    /// same options is shared, not loaded again.
    pub fn open(_source: &str, _options: &OpenOptions) -> Result<Arc<Self>> {
        unreachable!()
    }

    /// What it is and what it can make.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }
}
