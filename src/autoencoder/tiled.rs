//! Tiled decoding, which needs less memory than the whole frame: diffusers' `AutoencoderKLWan.tiled_decode`.
//!
//! Each tile is decoded independently, from the first frame to the last; the decoder state is dropped before the next tile.
//! Overlapping tiles are blended.

use candle_core::{DType, Device, Tensor};

use super::{Autoencoder, WanConfig};
use crate::{Cancel, Error, Result, Size};

/// The sizes of tiles, in pixels. Names and defaults follow diffusers' `enable_tiling`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Tiling {
    pub tile_sample_min_height: usize,
    pub tile_sample_min_width: usize,
    /// Distance between the top edges of vertically adjacent tiles.
    pub tile_sample_stride_height: usize,
    /// Distance between the left edges of horizontally adjacent tiles.
    pub tile_sample_stride_width: usize,
}

impl Default for Tiling {
    fn default() -> Self {
        Self {
            tile_sample_min_height: 256,
            tile_sample_min_width: 256,
            tile_sample_stride_height: 192,
            tile_sample_stride_width: 192,
        }
    }
}

impl Autoencoder {
    /// Decodes all latent frames of a video `[1, z, t, h, w]` to frames on the CPU, f32 `[T, 3, H, W]` in \[0, 1\]. A picture
    /// that fits in one tile equals the result of [`decode`](Self::decode); a larger one is close to it.
    ///
    /// # Errors
    /// [`Error::Cancelled`], checked before each layer.
    pub fn decode_tiled(&self, latents: &Tensor, tiling: &Tiling, cancel: &Cancel) -> Result<Tensor> {
        let (_, _, _, height, width) = latents.dims5()?;
        if latents.elem_count() == 0 {
            return Err(Error::Request(crate::Setting::Shape, "no latents to decode".into()));
        }
        let factor = self.config().spatial_factor();
        let rows = Side::new(height, tiling.tile_sample_min_height, tiling.tile_sample_stride_height, factor);
        let columns = Side::new(width, tiling.tile_sample_min_width, tiling.tile_sample_stride_width, factor);
        let mut picture = Picture::default();
        for &row in &rows.starts {
            for &column in &columns.starts {
                let tile = latents.narrow(3, row, rows.length)?.narrow(4, column, columns.length)?;
                let frames = self.decode(&tile.contiguous()?, &mut self.decoder_state(), cancel)?;
                let frames = frames.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
                if (rows.length, columns.length) == (height, width) {
                    return Ok(frames);
                }
                picture.add(&frames, [&rows, &columns], [row, column])?;
            }
        }
        picture.finish([&rows, &columns])
    }
}

/// The tiles along one side of the frame, all of the same length.
struct Side {
    /// The start of each tile, in latents; the last tile ends at the end of the side.
    starts: Vec<usize>,
    /// Length of a tile, in latents.
    length: usize,
    /// Pixels per latent.
    factor: usize,
    /// Pixels over which a tile fades in and out.
    fade: usize,
}

impl Side {
    /// Splits a side of `whole` latents, `factor` pixels each, into tiles of `tile` pixels at most `stride` pixels apart.
    fn new(whole: usize, tile: usize, stride: usize, factor: usize) -> Self {
        let length = (tile / factor).clamp(1, whole);
        let stride = (stride / factor).clamp(1, length);
        let spare = whole - length;
        let starts = (0..=spare.div_ceil(stride)).map(|i| (i * stride).min(spare)).collect();
        Self { starts, length, factor, fade: (length - stride) * factor }
    }

    /// Length of the side in pixels.
    fn pixels(&self) -> usize {
        self.starts.last().map_or(0, |start| (start + self.length) * self.factor)
    }

    /// The blending weight of each pixel of a tile.
    fn weights(&self) -> Vec<f32> {
        let length = self.length * self.factor;
        let edge_distance = |pixel: usize| (pixel + 1).min(length - pixel) as f32;
        (0..length).map(|pixel| (edge_distance(pixel) / (self.fade + 1) as f32).min(1.0)).collect()
    }
}

/// The weighted sum of the decoded tiles.
#[derive(Default)]
struct Picture {
    /// `[T, 3, H, W]`.
    sums: Vec<f32>,
    /// The sum of the weights, `[H, W]`.
    weights: Vec<f32>,
}

impl Picture {
    /// Adds `frames` `[T, 3, h, w]` of the tile whose first latent is at `at` (row, column).
    fn add(&mut self, frames: &Tensor, [rows, columns]: [&Side; 2], at: [usize; 2]) -> Result<()> {
        let (count, channels, height, width) = frames.dims4()?;
        let (whole_height, whole_width) = (rows.pixels(), columns.pixels());
        let area = whole_height * whole_width;
        self.weights.resize(area, 0.0);
        self.sums.resize(count * channels * area, 0.0);
        let values = frames.flatten_all()?.to_vec1::<f32>()?;
        let (down, across) = (rows.weights(), columns.weights());
        let offset = |row: usize| (at[0] * rows.factor + row) * whole_width + at[1] * columns.factor;
        for (row, down) in down.iter().enumerate() {
            for (sum, across) in self.weights[offset(row)..].iter_mut().zip(&across) {
                *sum += down * across;
            }
        }
        let planes = values.chunks_exact(height * width).zip(self.sums.chunks_exact_mut(area));
        for (plane, sums) in planes {
            for ((row, down), values) in down.iter().enumerate().zip(plane.chunks_exact(width)) {
                let sums = &mut sums[offset(row)..];
                for ((sum, value), across) in sums.iter_mut().zip(values).zip(&across) {
                    *sum += value * down * across;
                }
            }
        }
        Ok(())
    }

    /// Divides by the weights: the frames `[T, 3, H, W]`.
    fn finish(mut self, [rows, columns]: [&Side; 2]) -> Result<Tensor> {
        let (height, width) = (rows.pixels(), columns.pixels());
        for plane in self.sums.chunks_exact_mut(height * width) {
            for (sum, weight) in plane.iter_mut().zip(&self.weights) {
                *sum /= weight;
            }
        }
        Ok(Tensor::from_vec(self.sums, ((), 3, height, width), &Device::Cpu)?)
    }
}

/// Estimates the memory in bytes that the decoder of `config` needs for a frame of `size` in f32, without the weights: the
/// state of its convolutions, two input frames each, and the activations at full resolution.
pub(super) fn memory_bytes(config: &WanConfig, size: Size) -> u64 {
    let base = config.decoder_base_dim.unwrap_or(config.base_dim) as u64;
    let patch = config.patch() as u64;
    let state = 2 * 2 * (config.num_res_blocks as u64 + 1);
    // The input and the result of a block, both with the two frames before, and the sum.
    let activations = 4 * (config.scale_factor_temporal as u64 + 2);
    let mut area = u64::from(size.width) * u64::from(size.height) / (patch * patch);
    let mut values = 0_u64;
    for (stage, mult) in config.dim_mult.iter().enumerate() {
        let frames = if stage == 0 { state + activations } else { state };
        values = values.saturating_add(area * base * *mult as u64 * frames);
        area /= 4;
    }
    values.saturating_mul(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_the_whole_side() {
        for (whole, tile, stride) in [(13, 4, 3), (12, 4, 4), (5, 4, 1), (4, 4, 3), (3, 4, 3), (60, 32, 24)] {
            let side = Side::new(whole, tile * 8, stride * 8, 8);
            let mut covered = vec![false; whole];
            for &start in &side.starts {
                covered[start..start + side.length].fill(true);
            }
            assert!(covered.iter().all(|&covered| covered), "{whole} {tile} {stride}: {:?}", side.starts);
            assert_eq!(side.pixels(), 8 * whole);
            assert!(side.starts.windows(2).all(|pair| pair[1] - pair[0] <= stride));
            assert!(side.weights().iter().all(|&weight| weight > 0.0));
        }
    }

    #[test]
    fn the_memory_estimate_grows_with_the_picture() {
        let gigabytes =
            |width, height| memory_bytes(&WanConfig::default(), Size { width, height }) as f64 / 1e9;
        assert!((0.5..2.0).contains(&gigabytes(256, 256)), "{}", gigabytes(256, 256));
        assert!((5.0..9.0).contains(&gigabytes(832, 480)), "{}", gigabytes(832, 480));
        assert!((12.0..20.0).contains(&gigabytes(1280, 720)), "{}", gigabytes(1280, 720));
    }
}
