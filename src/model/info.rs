//! What a model is and what it can make.

use std::collections::BTreeMap;

use super::pacing::PacingConfig;
use super::sizes::Sizes;
use crate::Result;
use crate::checkpoint::{Parts, Source};

/// What a model is and what it can make; read from its configuration, without its weights.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ModelInfo {
    /// Name, for people.
    pub name: String,
    /// Frame sizes.
    pub sizes: Sizes,
    /// Frames per second, as a fraction.
    pub frame_rate: (u32, u32),
    /// Frames of a video that asks for no length.
    pub natural_frames: u64,
    /// The most frames it can make; `None` without a limit.
    pub max_frames: Option<u64>,
    /// Whether it makes its video chunk by chunk, so that frames leave while the rest is not made.
    pub causal: bool,
    /// Whether it remembers the shot before a cut. Such a cut is between chunks, as a new prompt is; a cut to a shot that
    /// starts from an image is at any frame.
    pub remembers_shots: bool,
    /// Whether it can start from an image.
    pub image_to_video: bool,
    /// Whether it must start from an image.
    pub needs_image: bool,
    /// Denoising steps.
    pub steps: u32,
    /// Guidance scale.
    pub guidance_scale: f64,
    /// Guidance scale of the second of two transformers, which makes the steps with little noise.
    pub guidance_scale_2: Option<f64>,
    /// Shift of the noise schedule.
    pub shift: f64,
    /// Negative prompt.
    pub negative_prompt: String,
    /// What a small model was trained to show: words by kind, such as subjects and places. Empty if the model does not say.
    pub knows: BTreeMap<String, Vec<String>>,
}

impl ModelInfo {
    /// Reads the configuration of `source` with `parts` in place of its own. Quick: no weights are read.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound) and [`Error::Invalid`](crate::Error::Invalid) as for
    /// [`Model::open`](crate::Model::open).
    pub fn read(source: &str, parts: &Parts) -> Result<Self> {
        let source = Source::parse(source, parts)?;
        PacingConfig::read(&source)?.info(&source)
    }

    /// The frame that starts nearest to `time`, the later of two.
    pub fn frame_at(&self, time: std::time::Duration) -> u64 {
        let (numerator, denominator) = (u128::from(self.frame_rate.0), u128::from(self.frame_rate.1));
        let second = 1_000_000_000 * denominator;
        let frame = (2 * time.as_nanos() * numerator + second) / (2 * second);
        u64::try_from(frame).unwrap_or(u64::MAX)
    }
}
