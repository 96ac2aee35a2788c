//! What is asked for, before a model is known.

use std::sync::Arc;
use std::time::Duration;

use candle_core::Tensor;
use image::RgbImage;
use serde::Deserialize;

use crate::policy::Policy;

/// A picture's size in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Size {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Size {
    /// Whether colours are those of ITU-R BT.709: from more rows on than BT.601 has, as everywhere in GStreamer.
    pub fn is_high_definition(self) -> bool {
        self.height > 576
    }
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

/// How a shot follows the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transition {
    /// The video goes on, with another prompt. Only a causal model can.
    #[default]
    Continue,
    /// It starts anew: nothing is remembered of what was before.
    Cut,
}

/// A part of the video with a prompt of its own. `Image` is a picture, or in a
/// [`Storyboard`](crate::Storyboard) still a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shot<Image = RgbImage> {
    /// When it starts. A cut is made at the frame nearest to that time. Where the video goes on, the chunk whose
    /// first frame is nearest to it is the first with the new prompt, the earlier of two.
    pub start: Duration,
    /// What it shows.
    pub prompt: String,
    /// Which of the possible videos; `None` is the request's.
    pub seed: Option<u64>,
    /// The picture to start from; only at a cut.
    pub image: Option<Image>,
    /// How it follows the one before; of no account for the first.
    pub transition: Transition,
}

/// Everything that decides the frames, apart from the model. `None` means the model's own default.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// What to show.
    pub prompt: String,
    /// What to show when, in place of `prompt`, if there are any: each starts later than the one before it, the
    /// first at 0. The first takes `image` if it has none.
    pub shots: Vec<Shot>,
    /// Over how many chunks a new prompt gains weight, linearly in the text embedding, before it has all; 0 is
    /// at once. It has no meaning at a cut.
    pub blend_chunks: u32,
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
    /// That of the second of two transformers, which has the steps with little noise; `None` is `guidance_scale` if that
    /// is given. Other models have none.
    pub guidance_scale_2: Option<f64>,
    /// Shift of the noise schedule towards noise.
    pub shift: Option<f64>,
    /// The noise to start from in place of the seed's: f32 `[1, C, T, H, W]` in latent units.
    pub initial_latents: Option<Tensor>,
    /// Which prompts pass; `None` is [`Policy::built_in`].
    pub policy: Option<Arc<Policy>>,
}
