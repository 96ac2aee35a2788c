//! A request for a video. It does not depend on a model.

use std::sync::Arc;
use std::time::Duration;

use candle_core::Tensor;
use image::{GrayImage, RgbImage};
use serde::Deserialize;

use crate::label::Label;
use crate::policy::Policy;
use crate::reference::Reference;
use crate::watermark::WatermarkKey;
use crate::world::MotionPath;

/// Size of a frame in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Size {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Size {
    /// Whether the colorimetry is ITU-R BT.709 rather than BT.601: above 576 rows, as in GStreamer.
    pub fn is_high_definition(self) -> bool {
        self.height > 576
    }

    /// Samples in one RGB frame: width × height × 3.
    pub fn samples(self) -> usize {
        self.width as usize * self.height as usize * 3
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// Length of a video.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Length {
    /// That of the control video, or else the model's own ([`ModelInfo::natural_frames`](crate::ModelInfo::natural_frames)).
    #[default]
    Natural,
    /// A number of frames, at the model's own frame rate.
    Frames(u64),
    /// Until the session is dropped. Causal models only.
    Endless,
}

/// How a shot follows the shot before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transition {
    /// The video continues with another prompt. Causal models only.
    #[default]
    Continue,
    /// The video starts again. Nothing is kept from before the cut, unless the model remembers shots.
    Cut,
}

/// A part of the video with its own prompt. `Image` is a decoded image and `Subject` a reference; in a
/// [`Storyboard`](crate::Storyboard) they are the path of an image file and the text of a reference.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Shot<Image = RgbImage, Subject = Reference> {
    /// When it starts. A cut is at the nearest frame. A shot that continues starts with the chunk whose first frame is
    /// nearest, the earlier of two.
    pub start: Duration,
    /// What it shows.
    pub prompt: String,
    /// Random seed; `None` is the seed of the request.
    pub seed: Option<u64>,
    /// The image that it starts from; only after a cut.
    pub image: Option<Image>,
    /// Its references; those of the request if there are none.
    pub references: Vec<Subject>,
    /// The paths of its references, in seconds after its start; that of the request if it has none.
    pub motion_path: Option<MotionPath>,
    /// How it follows the shot before it; ignored for the first shot.
    pub transition: Transition,
}

impl<Image, Subject> Shot<Image, Subject> {
    /// A shot that shows `prompt` from `start` on, and continues the video.
    pub fn new(start: Duration, prompt: impl Into<String>) -> Self {
        Self {
            start,
            prompt: prompt.into(),
            seed: None,
            image: None,
            references: Vec::new(),
            motion_path: None,
            transition: Transition::default(),
        }
    }
}

/// How much a video that goes in is changed ([`Session::push_frames`](crate::Session::push_frames)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Restyle {
    /// From 0, which keeps the video, to 1, which ignores it: the noise level that generation starts from.
    pub strength: f64,
    /// How much the strength falls where the video moves fast, from 0 to 1; for causal models. Details of the video that move are
    /// hard to replace (StreamDiffusionV2, <https://arxiv.org/abs/2511.07399>).
    pub motion_noise: f64,
}

impl Default for Restyle {
    fn default() -> Self {
        Self { strength: 0.7, motion_noise: 0.1 }
    }
}

/// A video that steers a new one, frame by frame, with a VACE model (<https://arxiv.org/abs/2503.07598>): depth, poses, edges, or a
/// video of which a part is made anew. Frames and masks are stretched to the size. A new video may be longer; the model is free then.
#[derive(Clone, Debug, Default)]
pub struct Control {
    /// From the first frame of the new video on, at the frame rate of the model.
    pub frames: Vec<RgbImage>,
    /// As many as `frames`: white where the model makes the picture, and black where the frame is kept. Empty is white.
    pub mask: Vec<GrayImage>,
}

/// Everything that decides the frames, apart from the model. `None` is the model's own value, unless the field says otherwise.
///
/// ```
/// let mut request = soragen::Request::new("a red fox runs over the snow");
/// request.seed = 7;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Request {
    /// What to show.
    pub prompt: String,
    /// Shots in place of `prompt`, in order, the first at 0. The first shot starts from `image` if it has no image of its
    /// own.
    pub shots: Vec<Shot>,
    /// Number of chunks over which a new prompt gains weight, linearly in the text embedding; 0 switches at once. It has no
    /// effect at a cut.
    pub blend_chunks: u32,
    /// What not to show; used with a guidance scale above 1.
    pub negative_prompt: Option<String>,
    /// The image to start from, scaled to the size; `None` starts from noise. If its aspect ratio differs, a causal model crops it at the centre and
    /// a whole-clip model stretches it, as diffusers does.
    pub image: Option<RgbImage>,
    /// The image to end with, stretched to the size. For models with [`ModelInfo::last_image`](crate::ModelInfo::last_image), and a video
    /// of one shot.
    pub last_image: Option<RgbImage>,
    /// Whether the video ends where it begins: its first frame, `image`, follows its last. For models as `last_image`; the number of
    /// frames is a multiple of those of a latent frame.
    pub loops: bool,
    /// A video that steers this one; `None` leaves it to the prompt. For models with
    /// [`ModelInfo::control`](crate::ModelInfo::control), and a video of one shot.
    pub control: Option<Control>,
    /// How much a VACE model is steered, by `control`, images and references; 1 as it was trained.
    pub control_scale: f64,
    /// Changes a video that goes in; `None` makes a new video.
    pub restyle: Option<Restyle>,
    /// A video that this one continues: its last frames, at the frame rate of the model. The video begins after them. For causal
    /// and VACE models, which see the last [`ModelInfo::past_frames`](crate::ModelInfo::past_frames) of them.
    pub past: Vec<RgbImage>,
    /// Frames of that video before `past`. The motions of the built-in model go on from there.
    pub past_start: u64,
    /// Pictures of subjects that the video shows. Without them the built-in model shows the drawing that the prompt names.
    pub references: Vec<Reference>,
    /// Where the references are, in seconds after the start of the video; `None` leaves it to the prompt.
    pub motion_path: Option<MotionPath>,
    /// One of the sizes that the model can make. `None` is the size whose aspect ratio is nearest to that of the image, and the
    /// model's default size without an image.
    pub size: Option<Size>,
    /// Length of the video.
    pub length: Length,
    /// Random seed.
    pub seed: u64,
    /// Denoising steps; of each chunk, for a causal model.
    pub steps: Option<u32>,
    /// Scale of classifier-free guidance; 1 turns it off.
    pub guidance_scale: Option<f64>,
    /// Guidance scale of the second of two transformers, which makes the low-noise steps; `None` is
    /// `guidance_scale` if that is set. Other models refuse it.
    pub guidance_scale_2: Option<f64>,
    /// Shift of the noise schedule towards noise.
    pub shift: Option<f64>,
    /// Noise to start from: f32 `[1, C, T, H, W]` in latent units. `None` draws it from the seed.
    pub initial_latents: Option<Tensor>,
    /// The policy that every prompt must pass; `None` is [`Policy::built_in`].
    pub policy: Option<Arc<Policy>>,
    /// Visible label in the frames; none by default.
    pub label: Label,
    /// Key of the invisible watermark in the frames; `None` turns the watermark off. The public key by default.
    pub watermark: Option<WatermarkKey>,
    /// Strength of the watermark relative to the default, from 0.5 to 2
    /// ([`STRENGTHS`](crate::watermark::STRENGTHS)). At 1 it is invisible; at 2 it survives a lower bit rate.
    pub watermark_strength: f64,
    /// Whether the frames of [`Session::next_chunk`](crate::Session::next_chunk) have the watermark, as by default. A program that
    /// shows frames at other times than their own embeds it itself, with [`Session::embedder`](crate::Session::embedder).
    pub embed_watermark: bool,
}

impl Request {
    /// A request for a video of `prompt`, with the model's own values for everything else.
    pub fn new(prompt: impl Into<String>) -> Self {
        Self {
            prompt: prompt.into(),
            shots: Vec::new(),
            blend_chunks: 0,
            negative_prompt: None,
            image: None,
            references: Vec::new(),
            motion_path: None,
            size: None,
            last_image: None,
            loops: false,
            control: None,
            control_scale: 1.0,
            restyle: None,
            past: Vec::new(),
            past_start: 0,
            length: Length::default(),
            seed: 0,
            steps: None,
            guidance_scale: None,
            guidance_scale_2: None,
            shift: None,
            initial_latents: None,
            policy: None,
            label: Label::default(),
            watermark: Some(WatermarkKey::public()),
            watermark_strength: 1.0,
            embed_watermark: true,
        }
    }
}

impl Default for Request {
    fn default() -> Self {
        Self::new("")
    }
}
