//! What a whole clip is conditioned on besides its prompt: images, a control video, references, and the video that it continues.

use std::collections::VecDeque;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use image::{DynamicImage, GrayImage, RgbImage};

use super::conditioning::{encode, image_channels, image_latents};
use super::scene::Scene;
use crate::autoencoder::EncoderState;
use crate::picture::{self, Fit};
use crate::reference::Reference;
use crate::transformer::Control;
use crate::{Cancel, Model, Result, Size};

/// Masks above this are white, of 255: `mask > 0.5` in diffusers.
const WHITE: u8 = 127;

/// The conditions of a clip, as tensors.
#[derive(Default)]
pub struct Conditions {
    /// The first latent frame, which stays as it is: `[1, C, 1, H, W]`.
    pub first_frame: Option<Tensor>,
    /// Further channels beside the latents.
    pub channels: Option<Tensor>,
    /// The image encoder's tokens.
    pub images: Option<Tensor>,
    /// The input of the control branch.
    pub control: Option<Control>,
}

impl Conditions {
    /// The conditions of `scene`, whose clip has `latents` latent frames without references.
    pub fn new(model: &Model, scene: &Scene, size: Size, latents: usize, cancel: &Cancel) -> Result<Self> {
        let mut conditions = Self::default();
        if model.info.control {
            conditions.control = Some(control(model, scene, size, latents, cancel)?);
        } else if let Some(image) = &scene.image {
            match model.info.needs_image {
                true => {
                    let last = scene.last_image.as_ref();
                    conditions.channels = Some(image_channels(model, image, last, size, latents, cancel)?);
                }
                false => {
                    conditions.first_frame = Some(image_latents(model, image, size, Fit::Stretch, cancel)?)
                }
            }
            let images: Vec<&RgbImage> =
                [Some(image), scene.last_image.as_ref()].into_iter().flatten().collect();
            conditions.images =
                model.image_encoder.as_ref().map(|encoder| encoder.encode(&images, cancel)).transpose()?;
        }
        Ok(conditions)
    }
}

/// A frame that steers, and its mask.
pub type ControlFrame = (RgbImage, Option<GrayImage>);

/// What steers a causal scene, chunk by chunk.
pub struct ControlVideo {
    /// Those of the request.
    control: Arc<crate::Control>,
    /// Those that were given later.
    pushed: VecDeque<ControlFrame>,
    scale: f64,
    /// Of what stays, and of what steers.
    encoders: [EncoderState; 2],
    /// Frames taken so far.
    taken: usize,
}

impl ControlVideo {
    /// How much the next chunks are steered.
    pub fn set_scale(&mut self, scale: f64) {
        self.scale = scale;
    }

    pub fn new(model: &Model, control: Arc<crate::Control>, scale: f64) -> Self {
        let state = || model.autoencoder.encoder_state();
        Self { control, pushed: VecDeque::new(), scale, encoders: [state(), state()], taken: 0 }
    }

    /// Adds frames after those of the request.
    pub fn push(&mut self, frames: impl IntoIterator<Item = ControlFrame>) {
        self.pushed.extend(frames);
    }

    /// The input of the control branch for the next `latents` latent frames, which stand for `frames` frames. After the end of the
    /// control video the model is free.
    pub fn next(
        &mut self,
        model: &Model,
        size: Size,
        (latents, frames): (usize, usize),
        cancel: &Cancel,
    ) -> Result<Control> {
        let mut known_frames = Vec::new();
        for i in self.taken..self.taken + frames {
            let given = self.control.frames.get(i);
            let pushed = if given.is_some() { None } else { self.pushed.pop_front() };
            let known = match (given, &pushed) {
                (Some(frame), _) => Known::Control(frame, self.control.mask.get(i)),
                (None, Some((frame, mask))) => Known::Control(frame, mask.as_ref()),
                (None, None) => Known::Nothing,
            };
            known_frames.push(known.tensors(model, size)?);
        }
        self.taken += frames;
        let video = KnownVideo::new(known_frames)?;
        let (video, mask) = video.latents(model, &mut self.encoders, latents, cancel)?;
        Ok(Control { latents: Tensor::cat(&[video, mask], 1)?.to_dtype(model.dtype())?, scale: self.scale })
    }
}

/// The input of the control branch, as `prepare_video_latents` and `prepare_masks` of diffusers' `WanVACEPipeline`.
fn control(model: &Model, scene: &Scene, size: Size, latents: usize, cancel: &Cancel) -> Result<Control> {
    let state = || model.autoencoder.encoder_state();
    let known = KnownVideo::of(model, scene, size, latents)?;
    let (mut video, mut mask) = known.latents(model, &mut [state(), state()], latents, cancel)?;
    for reference in &scene.references {
        let Reference::Picture(picture) = reference else { continue };
        let shape = (1, 3, 1, size.height as usize, size.width as usize);
        let factor = model.autoencoder.config().spatial_factor() as u32;
        let canvas = Tensor::from_vec(picture.on_white(size, factor), shape, &model.device)?;
        let known = encode(model, &canvas, &mut state(), cancel)?;
        // Each stands before those that came first, as in the reference.
        video = Tensor::cat(&[Tensor::cat(&[&known, &known.zeros_like()?], 1)?, video], 2)?;
        mask = mask.pad_with_zeros(2, 1, 0)?;
    }
    let latents = Tensor::cat(&[video, mask], 1)?.to_dtype(model.dtype())?;
    Ok(Control { latents, scale: scene.control_scale })
}

/// A video of which some frames, or parts of them, are known.
struct KnownVideo {
    /// f32 `[1, 3, T, H, W]` in \[−1, 1\], grey where nothing is known.
    video: Tensor,
    /// `[1, 1, T, H, W]`: 0 where the video stays, 1 where the model makes it.
    mask: Tensor,
}

/// A frame of a [`KnownVideo`].
enum Known<'a> {
    Nothing,
    /// It stays.
    Frame(&'a RgbImage),
    /// It steers; where the mask is black, it stays.
    Control(&'a RgbImage, Option<&'a GrayImage>),
}

impl KnownVideo {
    fn of(model: &Model, scene: &Scene, size: Size, latents: usize) -> Result<Self> {
        let factor = model.autoencoder.config().temporal_factor();
        let past = scene.past.as_ref().map_or(Ok(0), |past| past.dim(2))?;
        let count = 1 + (latents - 1) * factor - past;
        let mut frames: Vec<Known> = (0..count).map(|_| Known::Nothing).collect();
        if let Some(control) = &scene.control {
            for (i, (known, frame)) in frames.iter_mut().zip(&control.frames).enumerate() {
                *known = Known::Control(frame, control.mask.get(i));
            }
        }
        if let (Some(image), Some(first)) = (&scene.image, frames.first_mut()) {
            *first = Known::Frame(image);
        }
        if let Some(image) = &scene.last_image {
            // Frames after the end fill the last latent frame, and are not shown.
            let end = match scene.frames {
                Some(frames) if !scene.loops => frames as usize,
                _ => count,
            };
            if let Some(last) = frames.get_mut(end.clamp(1, count) - 1) {
                *last = Known::Frame(image);
            }
        }
        let past = match &scene.past {
            Some(past) => Some((past.clone(), past.narrow(1, 0, 1)?.zeros_like()?)),
            None => None,
        };
        let frames = frames.iter().map(|frame| frame.tensors(model, size));
        Self::new(past.into_iter().map(Ok).chain(frames).collect::<Result<_>>()?)
    }

    /// Its parts, `[1, 3, T, H, W]` and `[1, 1, T, H, W]` each.
    fn new(parts: Vec<(Tensor, Tensor)>) -> Result<Self> {
        let (videos, masks): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        Ok(Self { video: Tensor::cat(&videos, 2)?, mask: Tensor::cat(&masks, 2)? })
    }

    /// What stays, and what steers or is made anew, as latents `[1, 2 C, latents, H, W]`, each with its own encoder; and the mask as
    /// channels.
    fn latents(
        &self,
        model: &Model,
        [inactive, reactive]: &mut [EncoderState; 2],
        latents: usize,
        cancel: &Cancel,
    ) -> Result<(Tensor, Tensor)> {
        let Self { video, mask } = self;
        let inactive = encode(model, &video.broadcast_mul(&mask.affine(-1.0, 1.0)?)?, inactive, cancel)?;
        let reactive = encode(model, &video.broadcast_mul(mask)?, reactive, cancel)?;
        let mask = mask_channels(mask, model.autoencoder.config().spatial_factor(), latents)?;
        Ok((Tensor::cat(&[inactive, reactive], 1)?, mask))
    }
}

impl Known<'_> {
    /// The frame `[1, 3, 1, H, W]` and its mask `[1, 1, 1, H, W]`.
    fn tensors(&self, model: &Model, size: Size) -> Result<(Tensor, Tensor)> {
        let shape = |channels| (1, channels, 1, size.height as usize, size.width as usize);
        let zeros = |channels| Tensor::zeros(shape(channels), DType::F32, &model.device);
        let pixels = |image: &RgbImage| picture::to_video(image, size, Fit::Stretch, &model.device);
        Ok(match self {
            Self::Nothing => (zeros(3)?, zeros(1)?.affine(1.0, 1.0)?),
            Self::Frame(image) => (pixels(image)?, zeros(1)?),
            Self::Control(frame, None) => (pixels(frame)?, zeros(1)?.affine(1.0, 1.0)?),
            Self::Control(frame, Some(mask)) => {
                let mask = DynamicImage::from((*mask).clone()).into_rgb8();
                let white = |value: &u8| if *value > WHITE { 1_f32 } else { 0.0 };
                let white: Vec<f32> =
                    picture::stretch_frame(&mask, size)?.iter().step_by(3).map(white).collect();
                (pixels(frame)?, Tensor::from_vec(white, shape(1), &model.device)?)
            }
        })
    }
}

/// The pixels of each latent as channels, `[1, factor², latents, H, W]`, of the mask `[1, 1, T, H, W]`; of the frames of a latent frame
/// the middle one counts.
fn mask_channels(mask: &Tensor, factor: usize, latents: usize) -> Result<Tensor> {
    let (_, _, frames, height, width) = mask.dims5()?;
    let (rows, columns) = (height / factor, width / factor);
    let nearest: Vec<u32> =
        (0..latents).map(|i| ((2 * i + 1) * frames / (2 * latents)).min(frames - 1) as u32).collect();
    let nearest = Tensor::new(nearest, mask.device())?;
    let mask = crate::ops::index_select(mask, &nearest, 2)?;
    Ok(mask
        .reshape((latents, rows, factor, columns, factor))?
        .permute((2, 4, 0, 1, 3))?
        .contiguous()?
        .reshape((1, factor * factor, latents, rows, columns))?)
}
