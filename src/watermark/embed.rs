//! Embedding the watermark.

use std::ops::RangeInclusive;
use std::time::Duration;

use rustfft::num_complex::Complex32;

use super::activity::detail;
use super::pattern::{EDGE, Role, Scheme, Tile, phase, turn};
use super::payload::encode;
use super::{GenerationId, WatermarkKey};
use crate::Size;

/// Side of a chip in pixels.
pub const CELL: usize = Scheme::Rotating.cell();
/// Side of the tile in chips.
pub(super) const SIDE: usize = Scheme::Rotating.side();

/// Strengths that [`Embedder::new`] accepts; 1 is the default.
pub const STRENGTHS: RangeInclusive<f64> = 0.5..=2.0;

/// Deviation of the watermark in a flat area of a frame of [`REFERENCE`] pixels, in 8-bit steps.
const FLAT: f32 = 0.35;
/// Pixels of the frame to which [`FLAT`] applies. A larger frame has more tiles and needs less strength.
const REFERENCE: f32 = 640.0 * 480.0;
/// Range of the factor for other sizes.
const SIZE_FACTORS: RangeInclusive<f32> = 0.85..=1.2;
/// Detail, in 8-bit steps, from which it hides the watermark.
pub(super) const HIDING: f32 = 2.0;
/// Limit on the deviation in the whole frame, relative to that in flat areas. Without it, the watermark would be seen in frames
/// that are full of fine detail.
pub(super) const LIMIT: f32 = 1.35;

/// Root mean square of the shape of a chip.
const SHAPE_RMS: f32 = 0.5443;

/// Steps of the dither per pixel, as fractions of 2³²: an additive recurrence of two dimensions based on the plastic number
/// (Roberts, "The Unreasonable Effectiveness of Quasirandom Sequences", 2018). Its errors are fine, so that they are less
/// visible than those of random dither, and encoders drop them.
pub(super) const DITHER: (u32, u32) = (0xc13f_a9a9, 0x91e1_0da6);
/// Step of the dither per millisecond, so that it differs between frames.
const DITHER_TIME: u32 = 0x9e37_79b9;

/// A frame or its luma plane, with 8-bit samples.
pub struct Plane<'a> {
    /// The rows, `stride` bytes apart.
    pub data: &'a mut [u8],
    /// Bytes from one row to the next.
    pub stride: usize,
    /// Bytes from one pixel to the next: 1 for luma, 3 or 4 for RGB or BGR (a fourth byte is unchanged).
    pub step: usize,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
}

impl<'a> Plane<'a> {
    /// A contiguous RGB frame `[H, W, 3]`.
    pub fn rgb(data: &'a mut [u8], size: Size) -> Self {
        let (width, height) = (size.width as usize, size.height as usize);
        Self { data, stride: 3 * width, step: 3, width, height }
    }
}

/// Embeds the watermark of one generation.
#[derive(Clone)]
pub struct Embedder {
    key: WatermarkKey,
    id: GenerationId,
    strength: f32,
    /// The value of each chip of the tile.
    chips: Vec<Complex32>,
    /// The shape of a chip in row-major order, as fractions of 2⁸.
    pub(super) shape: [i32; CELL * CELL],
}

impl Embedder {
    /// An embedder that writes `id` with `key`. `strength` multiplies the default strength and is limited to [`STRENGTHS`].
    pub fn new(key: &WatermarkKey, id: GenerationId, strength: f64) -> Self {
        let bits = encode(id);
        let Tile { roles, chips } = Tile::new(key, Scheme::Rotating);
        let chips = roles.iter().zip(chips).map(|(role, chip)| match role {
            Role::Bit(bit) if !bits[*bit] => -chip,
            _ => chip,
        });
        let weight = |i: usize| Scheme::Rotating.weight(i / CELL * EDGE + i % CELL);
        Self {
            key: key.clone(),
            id,
            strength: strength.clamp(*STRENGTHS.start(), *STRENGTHS.end()) as f32,
            chips: chips.collect(),
            shape: std::array::from_fn(|i| (weight(i) * 256.0).round() as i32),
        }
    }

    /// The ID that it writes.
    pub fn id(&self) -> GenerationId {
        self.id
    }

    /// Embeds the watermark in a frame of shot `shot` at `time` from the start of the video; another start is possible, but it
    /// must be the same for all frames. Pixels beyond the last whole cell are unchanged, and so is a plane whose data is too
    /// short for its size.
    pub fn embed(&self, plane: &mut Plane, shot: u64, time: Duration) {
        match plane.step {
            1 => self.embed_pixels::<1, 1>(plane, shot, time),
            3 => self.embed_pixels::<3, 3>(plane, shot, time),
            4 => self.embed_pixels::<4, 3>(plane, shot, time),
            _ => {}
        }
    }

    /// Embeds with `STEP` bytes per pixel, of which the first `USED` are changed.
    fn embed_pixels<const STEP: usize, const USED: usize>(
        &self,
        plane: &mut Plane,
        shot: u64,
        time: Duration,
    ) {
        let (across, down) = (plane.width / CELL, plane.height / CELL);
        let row_bytes = across * CELL * STEP;
        let needed = plane.stride * (down * CELL).saturating_sub(1) + row_bytes;
        if across == 0 || down == 0 || plane.stride < row_bytes || plane.data.len() < needed {
            return;
        }
        let gains = self.gains(&detail::<STEP, USED>(plane), plane.width * plane.height);
        let (right, below) = phase(&self.key, self.id.get(), shot);
        let turn = turn(time);
        let dither = first_dither(time);
        let mut added = vec![0i8; across * CELL];
        for (cy, line) in plane.data.chunks_mut(plane.stride * CELL).take(down).enumerate() {
            let chips = &self.chips[(cy + below) % SIDE * SIDE..][..SIDE];
            // The strength of each cell in this row of cells, as fractions of 2⁸ of a step.
            let strengths = gains[cy * across..][..across].iter().enumerate();
            let strengths = strengths
                .map(|(cx, gain)| (gain * (chips[(cx + right) % SIDE] * turn).re * 256.0).round() as i32);
            let strengths: Vec<_> = strengths.collect();
            for (y, row) in line.chunks_mut(plane.stride).enumerate() {
                let dither = dither.wrapping_add(DITHER.1.wrapping_mul((cy * CELL + y) as u32));
                self.assemble(&mut added, &strengths, y, dither);
                if STEP == 1 {
                    for (sample, add) in row.iter_mut().zip(&added) {
                        *sample = sample.saturating_add_signed(*add);
                    }
                } else {
                    for (pixel, add) in row.chunks_exact_mut(STEP).zip(&added) {
                        for sample in &mut pixel[..USED] {
                            *sample = sample.saturating_add_signed(*add);
                        }
                    }
                }
            }
        }
    }

    /// The change of each pixel in row `y` of a row of cells, rounded to steps by the dither, whose value at the first pixel is
    /// `dither`. The dither has half a step: more would add noise, less would lose the watermark in flat areas.
    fn assemble(&self, added: &mut [i8], strengths: &[i32], y: usize, dither: u32) {
        let shape = &self.shape[y * CELL..][..CELL];
        for (cx, (cell, strength)) in added.chunks_exact_mut(CELL).zip(strengths).enumerate() {
            let dither = dither.wrapping_add(DITHER.0.wrapping_mul((cx * CELL) as u32));
            for (x, (pixel, shape)) in cell.iter_mut().zip(shape).enumerate() {
                // From a quarter to three quarters of 2¹⁶.
                let threshold =
                    (1 << 14) + (dither.wrapping_add(DITHER.0.wrapping_mul(x as u32)) >> 17) as i32;
                *pixel = ((strength * shape + threshold) >> 16) as i8;
            }
        }
    }

    /// The strength of each cell in 8-bit steps, from the detail around it and the number of pixels of the frame.
    fn gains(&self, detail: &[f32], pixels: usize) -> Vec<f32> {
        let mut gains: Vec<_> = detail.iter().map(|detail| masking(*detail)).collect();
        let power = gains.iter().map(|gain| gain * gain).sum::<f32>() / gains.len().max(1) as f32;
        let limit = (LIMIT / power.sqrt()).min(1.0);
        let flat = self.flat(pixels, limit);
        gains.iter_mut().for_each(|gain| *gain *= flat);
        gains
    }

    /// The strength of a cell in a flat area of a frame with so many pixels, in 8-bit steps.
    pub(super) fn flat(&self, pixels: usize, limit: f32) -> f32 {
        let size =
            (REFERENCE / pixels as f32).cbrt().sqrt().clamp(*SIZE_FACTORS.start(), *SIZE_FACTORS.end());
        self.strength * FLAT * size * limit / SHAPE_RMS
    }

    /// The relative strengths of the chips of the tile at `time`, with the chip of a frame's first cell in shot `shot` first.
    pub(super) fn tile(&self, shot: u64, time: Duration) -> impl Iterator<Item = f32> {
        let ((right, below), turn) = (phase(&self.key, self.id.get(), shot), turn(time));
        (0..SIDE * SIDE).map(move |i| {
            let (row, column) = ((i / SIDE + below) % SIDE, (i + right) % SIDE);
            (self.chips[row * SIDE + column] * turn).re
        })
    }
}

/// The dither of the first pixel of a frame at `time`.
pub(super) fn first_dither(time: Duration) -> u32 {
    // Truncation is intended: only the fraction matters.
    (time.as_millis() as u32).wrapping_mul(DITHER_TIME)
}

/// How much stronger the watermark may be than in a flat area: the power 3/8 of the detail, from square roots, which are
/// the same on all machines.
fn masking(detail: f32) -> f32 {
    let quarter = (1.0 + detail / HIDING).sqrt().sqrt();
    quarter * quarter.sqrt()
}
