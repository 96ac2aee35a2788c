//! Overlays: the references of a chunk at their places, as they move there.
//!
//! A latent frame shows several frames, so the latents of what moves are not those of what stands still. A reference is encoded as it moves
//! from its place in one latent frame to its place in the next, over grey. Only the displacement counts, so few encodings are needed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use candle_core::{DType, Tensor};

use super::conditioning::encode;
use crate::world::FacingPicture;
use crate::{Cancel, Model, Result};

/// From the place in the latent frame before, in latents: down and to the right.
pub type Displacement = [i32; 2];

/// Grey behind a reference, of 1.
const GROUND: f32 = 0.5;
/// The largest displacement in each direction. What goes farther appears at its new place.
const FARTHEST: i32 = 4;

/// A reference, and its latents.
pub struct SubjectPicture {
    /// f32 `[4, side, side]`: red, green and blue times alpha, and alpha.
    square: Tensor,
    /// In the first frame of a video.
    pub still: OverlayPicture,
    moved: HashMap<Displacement, OverlayPicture>,
}

/// A reference that moves over grey, in one latent frame: the box around both places.
#[derive(Clone)]
pub struct OverlayPicture {
    /// `[1, C, 1, h, w]`.
    pub latents: Tensor,
    /// f32 `[1, alpha values per latent, 1, h, w]`, the mean of the frames.
    pub alpha: Tensor,
}

impl SubjectPicture {
    pub fn encode(picture: &FacingPicture, model: &Model, cancel: &Cancel) -> Result<Self> {
        let Some(world) = model.world() else { unreachable!("a plan with references has a world") };
        let side = world.side as usize;
        let square = picture.in_square(world.bank(&model.source)?, world.side)?;
        let square =
            Tensor::from_vec(square, (side, side, 4), &model.device)?.permute((2, 0, 1))?.contiguous()?;
        let still = OverlayPicture::encode(&square.unsqueeze(1)?, model, cancel)?;
        Ok(Self { square, still, moved: HashMap::new() })
    }

    /// The picture after it has moved, in a frame that is not the first one of a video.
    pub fn moved(&mut self, by: Displacement, model: &Model, cancel: &Cancel) -> Result<&OverlayPicture> {
        Ok(match self.moved.entry(by) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                new.insert(OverlayPicture::encode(&moving(&self.square, by, model)?, model, cancel)?)
            }
        })
    }
}

/// The frames `[4, T, H, W]` of `square` from the place in the latent frame before on.
fn moving(square: &Tensor, [down, right]: Displacement, model: &Model) -> Result<Tensor> {
    let config = model.autoencoder.config();
    let (pixels, last) = (config.spatial_factor() as i32, config.temporal_factor() as i32);
    // Pixels before and after the picture in a frame.
    let margins = |by: i32, frame: i32| {
        let (room, gone) = ((by * pixels).abs(), (by * pixels * frame).div_euclid(last));
        let before = if by < 0 { room + gone } else { gone };
        (before as usize, (room - before) as usize)
    };
    let frame = |frame: i32| -> Result<Tensor> {
        let ((top, bottom), (left, right)) = (margins(down, frame), margins(right, frame));
        Ok(square.pad_with_zeros(1, top, bottom)?.pad_with_zeros(2, left, right)?)
    };
    Ok(Tensor::stack(&(0..=last).map(frame).collect::<Result<Vec<_>>>()?, 1)?)
}

impl OverlayPicture {
    /// The last latent frame of `frames` `[4, T, H, W]`.
    fn encode(frames: &Tensor, model: &Model, cancel: &Cancel) -> Result<Self> {
        let (_, count, height, width) = frames.dims4()?;
        let alpha = frames.narrow(0, 3, 1)?;
        let on_grey =
            (frames.narrow(0, 0, 3)?.broadcast_sub(&(&alpha * f64::from(GROUND))?)? + f64::from(GROUND))?;
        let video = ((on_grey * 2.0)? - 1.0)?.contiguous()?.unsqueeze(0)?;
        let latents = encode(model, &video, &mut model.autoencoder.encoder_state(), cancel)?;
        let (_, _, latent_frames, h, w) = latents.dims5()?;
        let latents = latents.narrow(2, latent_frames - 1, 1)?.contiguous()?;
        let shown = count.min(model.autoencoder.config().temporal_factor());
        let [rows, columns] = model.reference_alpha();
        let alpha = alpha
            .narrow(1, count - shown, shown)?
            .mean(1)?
            .contiguous()?
            .reshape((h, rows, height / h / rows, w, columns, width / w / columns))?
            .mean((2, 5))?
            .permute((1, 3, 0, 2))?
            .contiguous()?
            .reshape((1, rows * columns, 1, h, w))?;
        Ok(Self { latents: latents.to_dtype(model.dtype())?, alpha: alpha.to_dtype(DType::F32)? })
    }

    /// Latents times alpha, and alpha, f32 `[1, C + alpha values, 1, h, w]`.
    fn premultiplied(&self) -> Result<Tensor> {
        let latents = self.latents.to_dtype(DType::F32)?.broadcast_mul(&self.alpha.mean_keepdim(1)?)?;
        Ok(Tensor::cat(&[&latents, &self.alpha], 1)?)
    }
}

/// The displacement between two places in pixels, and the upper left corner of the box around both, in latents of `pixels`.
pub fn displacement(place: [i32; 2], before: [i32; 2], pixels: i32) -> (Displacement, [i32; 2]) {
    let [at, from] = [place, before].map(|place| place.map(|position| position.div_euclid(pixels)));
    let by = [at[0].saturating_sub(from[0]), at[1].saturating_sub(from[1])];
    match by.iter().all(|step| step.abs() <= FARTHEST) {
        true => (by, [at[0].min(from[0]), at[1].min(from[1])]),
        false => ([0, 0], at),
    }
}

/// The overlay f32 `[1, C + alpha values, 1, H, W]` with these pictures at these corners in latents; later ones hide earlier ones. `None` if
/// nothing is in the frame.
pub fn overlay(
    pictures: &[(OverlayPicture, [i32; 2])],
    [height, width]: [usize; 2],
) -> Result<Option<Tensor>> {
    let mut made: Option<Tensor> = None;
    for (picture, [top, left]) in pictures {
        let alpha = picture.alpha.dim(1)?;
        let picture = picture.premultiplied()?;
        let Some(picture) = in_frame(&picture, 3, *top, height)? else { continue };
        let Some(picture) = in_frame(&picture, 4, *left, width)? else { continue };
        made = Some(match made {
            None => picture,
            Some(under) => {
                let alpha = picture.narrow(1, picture.dim(1)? - alpha, alpha)?;
                (under.broadcast_mul(&alpha.mean_keepdim(1)?.affine(-1.0, 1.0)?)? + picture)?
            }
        });
    }
    Ok(made)
}

/// `x` from `start` on in `length` zeros along `dim`, which may begin before them or end after them; `None` if nothing is left.
fn in_frame(x: &Tensor, dim: usize, start: i32, length: usize) -> Result<Option<Tensor>> {
    let size = x.dim(dim)? as i64;
    let (start, end) = (i64::from(start), i64::from(start) + size);
    let (from, to) = (start.max(0), end.min(length as i64));
    if from >= to {
        return Ok(None);
    }
    let part = x.narrow(dim, (from - start) as usize, (to - from) as usize)?;
    Ok(Some(part.pad_with_zeros(dim, from as usize, length - to as usize)?))
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    #[test]
    fn a_displacement_is_between_two_places() {
        assert_eq!(displacement([16, 40], [16, 24], 8), ([0, 2], [2, 3]));
        assert_eq!(displacement([0, -8], [16, 8], 8), ([-2, -2], [0, -1]));
        assert_eq!(displacement([0, 80], [0, 0], 8), ([0, 0], [0, 10]), "too far");
        assert_eq!(displacement([i32::MAX, 0], [i32::MIN, 0], 8).0, [0, 0]);
    }

    /// A picture of one colour channel and one alpha value, one latent high.
    fn picture(values: &[f32], alpha: &[f32]) -> OverlayPicture {
        let tensor = |x: &[f32]| Tensor::from_slice(x, (1, 1, 1, 1, x.len()), &Device::Cpu).unwrap();
        OverlayPicture { latents: tensor(values), alpha: tensor(alpha) }
    }

    #[test]
    fn pictures_are_cut_at_the_edge_and_hide_earlier_ones() {
        let made = |pictures: &[(OverlayPicture, [i32; 2])]| {
            let made = overlay(pictures, [1, 3]).unwrap();
            made.map(|made| made.flatten_all().unwrap().to_vec1::<f32>().unwrap())
        };
        let wide = picture(&[2.0, 4.0, 6.0], &[1.0, 0.5, 1.0]);
        assert_eq!(made(&[(wide.clone(), [0, -1])]).unwrap(), [2.0, 6.0, 0.0, 0.5, 1.0, 0.0]);
        assert_eq!(made(&[(wide.clone(), [0, 2])]).unwrap(), [0.0, 0.0, 2.0, 0.0, 0.0, 1.0]);
        assert_eq!(made(&[(wide.clone(), [1, 0]), (wide.clone(), [0, 3])]), None);
        let both = [(wide, [0, 0]), (picture(&[8.0], &[0.5]), [0, 2])];
        assert_eq!(made(&both).unwrap(), [2.0, 2.0, 7.0, 1.0, 0.5, 1.0]);
    }
}
