//! The abilities and default values of a model.

use std::collections::BTreeMap;

use super::sizes::Sizes;

/// The abilities and default values of a model, from its configuration, without its weights.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ModelInfo {
    /// Name, for people.
    pub name: String,
    /// Frame sizes.
    pub sizes: Sizes,
    /// Frames per second, as a fraction.
    pub frame_rate: (u32, u32),
    /// Default length, in frames.
    pub natural_frames: u64,
    /// Frames that a latent frame stands for, after the first.
    pub latent_frames: u64,
    /// Frames that are made at a time, at most: those of a chunk, or the whole clip.
    pub chunk_frames: u64,
    /// Last frames of a video that it sees when it continues that video; 0 if it cannot.
    pub past_frames: u64,
    /// Upper bound of the frames of a scene; `None` without a limit.
    pub max_frames: Option<u64>,
    /// Whether it generates chunk by chunk, and outputs frames before the whole video is generated.
    pub causal: bool,
    /// Whether it remembers the shot before a cut. Such a cut is between chunks, as a new prompt is; a cut to a shot that
    /// starts from an image is at any frame.
    pub remembers_shots: bool,
    /// Whether it can start from an image.
    pub image_to_video: bool,
    /// Whether it must start from an image.
    pub needs_image: bool,
    /// Whether a video can end with an image; it starts from one too, or from a prompt alone if `needs_image` is not set.
    pub last_image: bool,
    /// Whether a video must end with an image.
    pub needs_last_image: bool,
    /// Whether a control video can steer it (VACE).
    pub control: bool,
    /// Pictures of subjects that it takes; 0 for a model without references.
    pub max_references: usize,
    /// Denoising steps.
    pub steps: u32,
    /// Guidance scale.
    pub guidance_scale: f64,
    /// Guidance scale of the second of two transformers, which makes the low-noise steps.
    pub guidance_scale_2: Option<f64>,
    /// Shift of the noise schedule.
    pub shift: f64,
    /// Negative prompt.
    pub negative_prompt: String,
    /// The words that a model with references knows, by kind: its drawings, motions, places, times of day and weathers. Empty for other
    /// models.
    pub knows: BTreeMap<String, Vec<String>>,
}

impl ModelInfo {
    /// Whether each reference is a latent frame of the clip (VACE). A model with a world places its references in every chunk instead.
    pub(crate) fn has_reference_latents(&self) -> bool {
        self.control && !self.causal
    }

    /// Default length in frames, of a video that `loops` or not.
    pub fn natural_length(&self, loops: bool) -> u64 {
        // The last frame of a loop would be the first one again.
        self.natural_frames.saturating_sub(u64::from(loops)).max(1)
    }

    /// The frame that starts nearest to `time`; the later one if two are equally near.
    pub fn frame_at(&self, time: std::time::Duration) -> u64 {
        let (numerator, denominator) = (u128::from(self.frame_rate.0), u128::from(self.frame_rate.1));
        let second = 1_000_000_000 * denominator;
        let frame = (2 * time.as_nanos() * numerator + second) / (2 * second);
        u64::try_from(frame).unwrap_or(u64::MAX)
    }
}
