//! The watermark embedded with tensor operations, on the device of the frames.
//!
//! All values are whole numbers below 2²⁴ where [`Embedder::embed`] computes with integers, so f32 is exact. Only the strengths of
//! cells, sums of f32, may be rounded to another 256th of a step.

use std::time::Duration;

use candle_core::{Device, Tensor};

use super::Embedder;
use super::activity::{BLOCK, FLOOR};
use super::embed::{CELL, DITHER, HIDING, LIMIT, SIDE, first_dither};
use crate::{Result, Size};

/// The bits of the dither that the threshold does not have.
const LOW_BITS: u32 = 17;
/// The number of thresholds.
const THRESHOLDS: f64 = (1 << (32 - LOW_BITS)) as f64;

/// An [`Embedder`] for frames of one size on a device.
#[derive(Clone)]
pub struct TensorEmbedder {
    embedder: Embedder,
    /// Cells across and down.
    across: usize,
    down: usize,
    pixels: usize,
    /// Row and column in the tile of each row and column of cells.
    chip_rows: Tensor,
    chip_columns: Tensor,
    /// The shape of a chip, `[1, 1, CELL, 1, CELL]`.
    shape: Tensor,
    /// The dither of each column, in [`halves`], `[1, 1, w]`.
    dither: [Tensor; 2],
}

impl TensorEmbedder {
    pub fn new(embedder: &Embedder, size: Size, device: &Device) -> Result<Self> {
        let (width, height) = (size.width as usize, size.height as usize);
        let (across, down) = (width / CELL, height / CELL);
        let places = |count: usize| {
            Tensor::from_vec((0..count).map(|i| (i % SIDE) as u32).collect::<Vec<_>>(), count, device)
        };
        let shape: Vec<_> = embedder.shape.iter().map(|value| *value as f32).collect();
        let columns = across * CELL;
        let (high, low) = halves((0..columns).map(|x| DITHER.0.wrapping_mul(x as u32)));
        let dither = |half| Tensor::from_vec(half, (1, 1, columns), device);
        Ok(Self {
            embedder: embedder.clone(),
            across,
            down,
            pixels: width * height,
            chip_rows: places(down)?,
            chip_columns: places(across)?,
            shape: Tensor::from_vec(shape, (1, 1, CELL, 1, CELL), device)?,
            dither: [dither(high)?, dither(low)?],
        })
    }

    /// Embeds the watermark in frames of shot `shot` at these times, as [`Embedder::embed`] does: 8-bit levels as f32 `[T, 3, H, W]`. The
    /// result may lie up to a few steps outside 0 to 255.
    pub fn embed(&self, levels: &Tensor, shot: u64, times: &[Duration]) -> Result<Tensor> {
        let (frames, _, height, width) = levels.dims4()?;
        if self.across == 0 || self.down == 0 || frames == 0 {
            return Ok(levels.clone());
        }
        let (rows, columns) = (self.down * CELL, self.across * CELL);
        let (tiles, dither) = self.upload(shot, times, levels.device())?;
        let gains = self.gains(&luma(&levels.narrow(2, 0, rows)?.narrow(3, 0, columns)?)?)?;
        let chips = tiles.index_select(&self.chip_rows, 1)?.index_select(&self.chip_columns, 2)?;
        let strengths = ((gains * chips)? * 256.0)?.round()?;
        let cells = strengths.reshape((frames, self.down, 1, self.across, 1))?;
        let change = cells.broadcast_mul(&self.shape)?.reshape((frames, rows, columns))?;
        let change = ((change + self.thresholds(&dither)?)? * (0.5f64).powi(16))?.floor()?;
        let change = change.pad_with_zeros(1, 0, height - rows)?.pad_with_zeros(2, 0, width - columns)?;
        Ok(levels.broadcast_add(&change.unsqueeze(1)?)?)
    }

    /// What differs between frames, in one upload: the chips of the tile `[T, SIDE, SIDE]`, and the [`halves`] of the dither of each row,
    /// each `[T, h, 1]`.
    fn upload(&self, shot: u64, times: &[Duration], device: &Device) -> Result<(Tensor, [Tensor; 2])> {
        let (frames, rows) = (times.len(), self.down * CELL);
        let mut values = Vec::with_capacity(frames * (SIDE * SIDE + 2 * rows));
        for &time in times {
            values.extend(self.embedder.tile(shot, time));
            let first = first_dither(time);
            let (high, low) = halves((0..rows).map(|y| first.wrapping_add(DITHER.1.wrapping_mul(y as u32))));
            values.extend(high.into_iter().chain(low));
        }
        let values = Tensor::from_vec(values, (frames, ()), device)?;
        let tiles = values.narrow(1, 0, SIDE * SIDE)?.contiguous()?.reshape((frames, SIDE, SIDE))?;
        let half = |i: usize| values.narrow(1, SIDE * SIDE + i * rows, rows)?.unsqueeze(2);
        Ok((tiles, [half(0)?, half(1)?]))
    }

    /// From a quarter to three quarters of 2¹⁶: the upper bits of the sum of the dither's rows and columns, modulo 2³².
    fn thresholds(&self, [rows_high, rows_low]: &[Tensor; 2]) -> Result<Tensor> {
        let [columns_high, columns_low] = &self.dither;
        let low = rows_low.broadcast_add(columns_low)?;
        let carry = (low * (0.5f64).powi(LOW_BITS as i32))?.floor()?;
        let high = (rows_high.broadcast_add(columns_high)? + carry)?;
        let turns = (&high / THRESHOLDS)?.floor()?;
        Ok(((high - (turns * THRESHOLDS)?)? + f64::from(1 << 14))?)
    }

    /// The strength of each cell in 8-bit steps, `[T, down, across]`.
    fn gains(&self, luma: &Tensor) -> Result<Tensor> {
        let detail = self.detail(luma)?;
        let quarter = detail.affine(1.0 / f64::from(HIDING), 1.0)?.sqrt()?.sqrt()?;
        let gains = (&quarter * quarter.sqrt()?)?;
        let power = gains.sqr()?.mean_keepdim((1, 2))?;
        // The lesser of it and 1.
        let limit =
            (power.sqrt()?.recip()? * f64::from(LIMIT))?.affine(-1.0, 1.0)?.relu()?.affine(-1.0, 1.0)?;
        let flat = f64::from(self.embedder.flat(self.pixels, 1.0));
        Ok(gains.broadcast_mul(&(limit * flat)?)?)
    }

    /// The detail around each cell, as [`detail`](super::activity::detail).
    fn detail(&self, luma: &Tensor) -> Result<Tensor> {
        let pixels = (BLOCK * BLOCK) as f64;
        let frames = luma.dim(0)?;
        let (blocks, rows) = (2 * self.across, 2 * self.down);
        let luma = luma.reshape((frames * rows, BLOCK, blocks, BLOCK))?;
        let mean = (luma.sum((1, 3))? / pixels)?;
        let variance = ((luma.sqr()?.sum((1, 3))? / pixels)? - mean.sqr()?)?.relu()?;
        let inverse = (variance.sqrt()? + f64::from(FLOOR))?.recip()?.reshape((frames, rows, blocks))?;
        let sums = around(&around(&inverse, 2)?, 1)?;
        Ok((sums.recip()? * 16.0)?.affine(1.0, -f64::from(FLOOR))?.relu()?)
    }
}

/// The sums over the two blocks of each cell and their neighbours along `dim`. The last block of a frame is its own neighbour.
fn around(blocks: &Tensor, dim: usize) -> Result<Tensor> {
    let cells = blocks.dim(dim)? / 2;
    let padded = blocks.pad_with_same(dim, 1, 1)?;
    let mut shape = padded.dims().to_vec();
    shape.splice(dim..=dim, [cells + 1, 2]);
    let pairs = padded.reshape(shape)?.sum(dim + 1)?;
    Ok((pairs.narrow(dim, 0, cells)? + pairs.narrow(dim, 1, cells)?)?)
}

/// Luma as the detail is measured in: whole numbers `[T, h, w]`.
fn luma(levels: &Tensor) -> Result<Tensor> {
    let colour = |i: usize| levels.narrow(1, i, 1)?.squeeze(1);
    Ok((((colour(0)? + colour(2)?)? + (colour(1)? * 2.0)?)? * 0.25)?.floor()?)
}

/// The bits from [`LOW_BITS`] on, and those below: f32 has 24 bits.
fn halves(values: impl Iterator<Item = u32>) -> (Vec<f32>, Vec<f32>) {
    values.map(|value| ((value >> LOW_BITS) as f32, (value & ((1 << LOW_BITS) - 1)) as f32)).unzip()
}
