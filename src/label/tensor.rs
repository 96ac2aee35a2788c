//! The label drawn with tensor operations, on the device of the frames.

use candle_core::{Device, Tensor};

use super::{BACKGROUND, InkMask, Labeller};
use crate::{Result, Size};

/// A [`Labeller`] for frames on a device.
#[derive(Clone, Debug)]
pub struct TensorLabeller {
    /// Number of the first frame with the small label.
    large_until: u64,
    large: Option<Mask>,
    small: Option<Mask>,
}

/// A label in a frame of its size: f32 `[H, W]`.
#[derive(Clone, Debug)]
struct Mask {
    /// Remaining brightness of each pixel.
    background: Tensor,
    /// Amount of ink in each pixel.
    ink: Tensor,
}

impl TensorLabeller {
    pub fn new(labeller: &Labeller, device: &Device) -> Result<Self> {
        let Labeller { size, large_until, large, small } = labeller;
        let mask =
            |mask: &Option<InkMask>| mask.as_ref().map(|mask| Mask::new(mask, *size, device)).transpose();
        Ok(Self { large_until: *large_until, large: mask(large)?, small: mask(small)? })
    }

    /// Draws the label on consecutive frames, the first of which has the number `first`: 8-bit levels as f32 `[T, 3, H, W]`.
    pub fn draw(&self, levels: &Tensor, first: u64) -> Result<Tensor> {
        let frames = levels.dim(0)?;
        let large = self.large_until.saturating_sub(first).min(frames as u64) as usize;
        let part = |from: usize, count: usize, mask: &Option<Mask>| -> Result<Option<Tensor>> {
            if count == 0 {
                return Ok(None);
            }
            let levels = levels.narrow(0, from, count)?;
            mask.as_ref().map_or(Ok(levels.clone()), |mask| mask.draw(&levels)).map(Some)
        };
        let parts = [part(0, large, &self.large)?, part(large, frames - large, &self.small)?];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        match &parts[..] {
            [part] => Ok(part.clone()),
            parts => Ok(Tensor::cat(parts, 0)?),
        }
    }
}

impl Mask {
    /// Uploads only the corner with the label.
    fn new(mask: &InkMask, size: Size, device: &Device) -> Result<Self> {
        let (width, rows) = (mask.width, mask.ink.len() / mask.width.max(1));
        let (right, below) = (size.width as usize - width, size.height as usize - rows);
        let whole = |corner: &Tensor| corner.pad_with_zeros(0, 0, below)?.pad_with_zeros(1, 0, right);
        let ink = Tensor::from_slice(&mask.ink, (rows, width), device)?;
        let inside = whole(&ink.ones_like()?)?;
        // Exactly 1 outside.
        let background = ((&inside * f64::from(BACKGROUND))? + inside.affine(-1.0, 1.0)?)?;
        Ok(Self { background, ink: whole(&ink)? })
    }

    fn draw(&self, levels: &Tensor) -> Result<Tensor> {
        let background = levels.broadcast_mul(&self.background)?;
        let white = background.affine(-1.0, 255.0)?.broadcast_mul(&self.ink)?;
        Ok(((background + white)? + 0.5)?.floor()?)
    }
}
