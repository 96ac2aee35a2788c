//! What is asked for, before a model is known.

use std::sync::Arc;

use candle_core::Tensor;
use image::RgbImage;

use crate::policy::Policy;

/// A picture's size in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Size {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// How much video is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Length {
    /// What the model makes of itself ([`ModelInfo::natural_frames`](crate::ModelInfo::natural_frames)).
    #[default]
    Natural,
    /// So many frames, at the model's own frame rate.
    Frames(u64),
    /// Until the session is dropped. Only a causal model can.
    Endless,
}

/// Everything that decides the frames, apart from the model. `None` means the model's own default.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// What to show.
    pub prompt: String,
    /// What not to show; only used with a guidance scale above 1.
    pub negative_prompt: Option<String>,
    /// The picture to start from, scaled to the size. If it has another shape, a causal model's is cropped at
    /// the centre; a diffusers pipeline's is stretched, as there.
    pub image: Option<RgbImage>,
    /// One of the sizes the model can make; `None` is the one most like the image in shape, if there is one.
    pub size: Option<Size>,
    /// How long.
    pub length: Length,
    /// Which of the possible videos.
    pub seed: u64,
    /// Denoising steps (a chunk, for a causal model).
    pub steps: Option<u32>,
    /// Classifier-free guidance; 1 is none.
    pub guidance_scale: Option<f64>,
    /// Shift of the noise schedule towards noise.
    pub shift: Option<f64>,
    /// The noise to start from in place of the seed's: f32 `[1, C, T, H, W]` in latent units.
    pub initial_latents: Option<Tensor>,
    /// Which prompts pass; `None` is [`Policy::built_in`].
    pub policy: Option<Arc<Policy>>,
}
