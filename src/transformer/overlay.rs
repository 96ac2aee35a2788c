//! Overlays of frames with references (`reference_overlay` in the config): the latents of the references at their places, as they move
//! there, times their alpha, and that alpha; zero elsewhere.
//!
//! Attention alone copies a subject less and less sharply from frame to frame. An overlay is embedded like the frame, and covers the
//! prediction where it is opaque, so a subject stays as sharp as its picture. The transformer draws the edges, the shadow and everything
//! else.

use candle_core::{DType, Tensor};

use super::Config;
use crate::checkpoint::{Layer, Tensors};
use crate::{Error, Result, Setting, ops};

/// The layers that read an overlay.
#[derive(Clone, Debug)]
pub(super) struct OverlayLayers {
    /// Of the patches.
    embedding: Layer,
    /// From the values of a latent to those of the prediction, f32 `[out_channels, in_channels + alpha values]`.
    out: Tensor,
    /// Alpha values per latent.
    alpha: usize,
}

impl OverlayLayers {
    /// `None` for a model without overlays.
    pub(super) fn load(weights: &Tensors, config: &Config) -> Result<Option<Self>> {
        let Some(alpha) = config.alpha_channels().filter(|_| config.reference_overlay) else {
            return Ok(None);
        };
        let values = config.in_channels + alpha;
        let (patch, dim) = (values * config.patch_area(), config.inner_dim());
        let out =
            weights.to_dtype(DType::F32).pp("overlay_out").get((config.out_channels(), values), "weight")?;
        Ok(Some(Self { embedding: weights.linear_no_bias(patch, dim, "overlay_embedding")?, out, alpha }))
    }

    /// Refuses an overlay of another shape than frames with these latents need.
    pub(super) fn check(&self, overlay: &Tensor, latents: &Tensor) -> Result<()> {
        let (_, channels, frames, height, width) = latents.dims5()?;
        let expected = [1, channels + self.alpha, frames, height, width];
        match overlay.dims() == expected {
            true => Ok(()),
            false => Err(Error::Request(
                Setting::Shape,
                format!("the overlay is {:?}; the transformer takes {expected:?}", overlay.dims()),
            )),
        }
    }

    /// What is added to the tokens of a pass, for the patches of the overlay.
    pub(super) fn embed(&self, patches: &Tensor) -> Result<Tensor> {
        Ok(self.embedding.forward(patches)?)
    }

    /// Covers the prediction, f32 `[1, out_channels, T, H, W]`.
    pub(super) fn cover(&self, prediction: &Tensor, overlay: &Tensor) -> Result<Tensor> {
        let (_, values, frames, height, width) = overlay.dims5()?;
        let overlay = overlay.to_dtype(DType::F32)?;
        let alpha = overlay.narrow(1, values - self.alpha, self.alpha)?.mean_keepdim(1)?;
        let pixels = overlay.reshape((values, frames * height * width))?.contiguous()?;
        let shown = ops::matmul(&self.out, &pixels)?.reshape((1, (), frames, height, width))?;
        Ok((prediction.broadcast_mul(&alpha.affine(-1.0, 1.0)?)? + shown)?)
    }
}
