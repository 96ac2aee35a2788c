//! Text and image conditioning.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use image::RgbImage;

use super::guidance::Guidance;
use crate::autoencoder::EncoderState;
use crate::model::Expert;
use crate::picture::{self, Fit};
use crate::text::weighted;
use crate::transformer::{Context, WanTransformer};
use crate::{Cache, Cancel, Error, Model, Result, Setting, Size};

/// Computes the text contexts of a generation.
#[derive(Clone)]
pub struct TextConditioner {
    pub model: Arc<Model>,
    /// Cache of prompt embeddings.
    pub cache: Option<Cache>,
    pub guidance: Guidance,
}

/// The prompt, and with guidance also the negative prompt, ready for every block of one transformer.
pub struct TextContexts {
    pub prompt: Context,
    pub negative: Option<Context>,
}

impl TextContexts {
    /// Forward passes of the transformer for one step.
    pub fn forwards(&self) -> u64 {
        1 + u64::from(self.negative.is_some())
    }
}

impl TextConditioner {
    /// The embedding of `prompt`, f32 `[1, tokens, dim]`: the mean of its parts, by their weights.
    pub fn embed(&self, prompt: &str, cancel: &Cancel) -> Result<Tensor> {
        let parts = weighted::parts(prompt).map_err(|reason| Error::Request(Setting::Prompt, reason))?;
        if let [part] = &parts[..] {
            return self.embed_text(&part.text, cancel);
        }
        let shares = parts.iter().map(|part| Ok((self.embed_text(&part.text, cancel)? * part.share)?));
        shares.reduce(|sum, part| Ok((sum? + part?)?)).unwrap_or_else(|| unreachable!("a prompt has a part"))
    }

    /// The embedding of a text without weights, f32 `[1, tokens, dim]`.
    pub fn embed_text(&self, text: &str, cancel: &Cancel) -> Result<Tensor> {
        let reworded = self.model.world().map(|world| world.reworded(text));
        let text = reworded.as_deref().unwrap_or(text);
        Ok(self.model.text.encode(text, self.cache.as_ref(), cancel)?.to_dtype(DType::F32)?)
    }

    /// The contexts of the prompt with this embedding and of the `negative` prompt for `transformer`, with the image encoder's tokens of a
    /// model that reads images.
    pub fn contexts(
        &self,
        expert: Expert,
        transformer: &WanTransformer,
        prompt_embeds: &Tensor,
        negative: &str,
        images: Option<&Tensor>,
        cancel: &Cancel,
    ) -> Result<TextContexts> {
        let context = |embeds: &Tensor| {
            transformer.context_with_images(&embeds.to_dtype(self.model.dtype())?, images, cancel)
        };
        let negative =
            self.guidance.is_on(expert).then(|| context(&self.embed_text(negative, cancel)?)).transpose()?;
        Ok(TextContexts { prompt: context(prompt_embeds)?, negative })
    }
}

/// `image` as one latent frame, f32 `[1, C, 1, H, W]`.
pub fn image_latents(
    model: &Model,
    image: &RgbImage,
    size: Size,
    fit: Fit,
    cancel: &Cancel,
) -> Result<Tensor> {
    let video = picture::to_video(image, size, fit, &model.device)?;
    encode(model, &video, &mut model.autoencoder.encoder_state(), cancel)
}

/// `image` and the `last` one, if there is one, for a transformer that takes them as further channels beside the latents, f32
/// `[1, temporal factor + C, frames, H, W]`: a mask that is 1 at the frames of the images, and the latents of a video that is
/// grey between them; as diffusers' `WanImageToVideoPipeline`.
pub fn image_channels(
    model: &Model,
    image: &RgbImage,
    last: Option<&RgbImage>,
    size: Size,
    frames: usize,
    cancel: &Cancel,
) -> Result<Tensor> {
    let video = |image| picture::to_video(image, size, Fit::Stretch, &model.device);
    let factor = model.autoencoder.config().temporal_factor();
    let grey = frames.saturating_sub(1) * factor;
    let padded = match last.filter(|_| grey > 0) {
        None => video(image)?.pad_with_zeros(2, 0, grey)?,
        Some(last) => Tensor::cat(&[video(image)?.pad_with_zeros(2, 0, grey - 1)?, video(last)?], 2)?,
    };
    let latents = encode(model, &padded, &mut model.autoencoder.encoder_state(), cancel)?;
    let (_, _, _, height, width) = latents.dims5()?;
    let first = Tensor::ones((1, factor, 1, height, width), DType::F32, &model.device)?;
    let mut mask = first.pad_with_zeros(2, 0, frames.saturating_sub(1))?;
    if last.is_some() && grey > 0 {
        // The channels are the frames of a latent frame.
        let at_end = first.narrow(1, 0, 1)?.pad_with_zeros(1, factor - 1, 0)?;
        mask = (mask + at_end.pad_with_zeros(2, frames - 1, 0)?)?;
    }
    Ok(Tensor::cat(&[mask, latents], 1)?)
}

/// The next frames of a video, `[1, 3, T, H, W]` in \[−1, 1\], as latents, f32 `[1, C, t, h, w]`.
pub fn encode(model: &Model, video: &Tensor, state: &mut EncoderState, cancel: &Cancel) -> Result<Tensor> {
    let video = video.to_dtype(model.dtype())?;
    Ok(model.autoencoder.encode(&video, state, cancel)?.to_dtype(DType::F32)?)
}
