//! Embedding the watermark.

use super::activity;
use super::pattern::{CELL, Role, SIDE, Tile, phase};
use super::payload::encode;
use super::{GenerationId, WatermarkKey};
use crate::Size;

/// The shape of a cell at each strength, in 8-bit steps. Rounded, so that no blocks are visible.
const SHAPES: [[i8; CELL * CELL]; 5] = [
    mirrored([[0, 1, 1], [1, 1, 1], [1, 1, 1]]),
    mirrored([[0, 1, 1], [1, 1, 2], [1, 2, 2]]),
    mirrored([[1, 1, 1], [1, 2, 2], [1, 2, 3]]),
    mirrored([[1, 1, 2], [1, 2, 3], [2, 3, 4]]),
    mirrored([[1, 2, 2], [2, 3, 4], [2, 4, 5]]),
];
/// Variance levels, a quarter of an octave each, from one strength to the next. A busy area hides a stronger watermark, but
/// also makes detection harder; the strength therefore grows much more slowly than the detail.
const STEPS: usize = 12;
/// Number of variance levels, enough for all variances of 8-bit samples.
const LEVELS: usize = 64;
/// The lowest level that is not flat.
const FLAT: usize = 4;
/// Mean luma below which a flat cell gets the weakest shape: grain is most visible there.
const DARK: f32 = 48.0;

/// Limit on the mean squared change of a frame: a PSNR of 42.1 dB.
const MAX_MSE: f32 = 4.0;

/// Mirrors the top left quarter of a shape.
const fn mirrored(quarter: [[i8; CELL / 2]; CELL / 2]) -> [i8; CELL * CELL] {
    let mut shape = [0; CELL * CELL];
    let mut i = 0;
    while i < CELL * CELL {
        let (y, x) = (i / CELL, i % CELL);
        let (down, right) = (CELL - 1 - y, CELL - 1 - x);
        shape[i] = quarter[if y < down { y } else { down }][if x < right { x } else { right }];
        i += 1;
    }
    shape
}

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
    /// Whether each chip of the tile is added or subtracted.
    chips: Vec<bool>,
}

impl Embedder {
    /// An embedder that writes `id` with `key`.
    pub fn new(key: &WatermarkKey, id: GenerationId) -> Self {
        let bits = encode(id);
        let Tile { roles, signs } = Tile::new(key);
        let chips = roles.iter().zip(signs).map(|(role, sign)| match role {
            Role::Sync => sign > 0.0,
            Role::Bit(bit) => (sign > 0.0) == bits[*bit],
        });
        Self { key: key.clone(), id, chips: chips.collect() }
    }

    /// The ID that it writes.
    pub fn id(&self) -> GenerationId {
        self.id
    }

    /// Embeds the watermark in a frame of shot `shot`. Pixels beyond the last whole cell are unchanged, and so is a plane
    /// whose data is too short for its size.
    pub fn embed(&self, plane: &mut Plane, shot: u64) {
        match plane.step {
            1 => self.embed_pixels::<1, 1>(plane, shot),
            3 => self.embed_pixels::<3, 3>(plane, shot),
            4 => self.embed_pixels::<4, 3>(plane, shot),
            _ => {}
        }
    }

    /// Embeds with `STEP` bytes per pixel, of which the first `USED` are changed.
    fn embed_pixels<const STEP: usize, const USED: usize>(&self, plane: &mut Plane, shot: u64) {
        let (across, down) = (plane.width / CELL, plane.height / CELL);
        let row_bytes = across * CELL * STEP;
        let needed = plane.stride * (down * CELL).saturating_sub(1) + row_bytes;
        if across == 0 || down == 0 || plane.stride < row_bytes || plane.data.len() < needed {
            return;
        }
        let (sums, squares) = measure::<STEP, USED>(plane, across, down);
        let strengths = strengths(&activity::around_cells(&sums, &squares, CELL * CELL / 2, across));
        let changes = changes::<STEP, USED>();
        let (right, below) = phase(&self.key, self.id.get(), shot);
        let mut added = vec![0; row_bytes];
        for (cy, line) in plane.data.chunks_mut(plane.stride * CELL).take(down).enumerate() {
            let chips = &self.chips[(cy + below) % SIDE * SIDE..][..SIDE];
            // The change of each cell in this row of cells.
            let chosen = strengths[cy * across..][..across]
                .iter()
                .enumerate()
                .map(|(cx, strength)| &changes[*strength][usize::from(chips[(cx + right) % SIDE])]);
            let chosen: Vec<_> = chosen.collect();
            for (y, row) in line.chunks_mut(plane.stride).enumerate() {
                // Assembled first, so that the addition is vectorised.
                for (cell, change) in added.chunks_exact_mut(CELL * STEP).zip(&chosen) {
                    cell.copy_from_slice(&change[y * CELL * STEP..][..CELL * STEP]);
                }
                for (sample, add) in row[..row_bytes].iter_mut().zip(&added) {
                    *sample = sample.saturating_add_signed(*add);
                }
            }
        }
    }
}

/// The strength of each cell from its mean and variance: as strong as the limit for the whole frame allows.
fn strengths(cells: &[(f32, f32)]) -> Vec<usize> {
    let activity: Vec<_> = cells.iter().map(|(mean, variance)| (*mean < DARK, level(*variance))).collect();
    let mut counts = [[0.0; LEVELS]; 2];
    for (dark, level) in &activity {
        counts[usize::from(*dark)][*level] += 1.0;
    }
    let energy = SHAPES.map(|shape| shape.iter().map(|s| f32::from(s * s)).sum::<f32>() / shape.len() as f32);
    let change = |quiet| -> f32 {
        let at = |dark| {
            (0..LEVELS)
                .map(move |level| counts[usize::from(dark)][level] * energy[strength(dark, level, quiet)])
        };
        at(false).chain(at(true)).sum()
    };
    let within = |quiet: &usize| change(*quiet) <= MAX_MSE * cells.len() as f32;
    let quiet = (FLAT..LEVELS).find(within).unwrap_or(LEVELS);
    activity.into_iter().map(|(dark, level)| strength(dark, level, quiet)).collect()
}

/// The strength of a cell. A level below `quiet` gets strength 1, or 0 if the cell is dark.
fn strength(dark: bool, level: usize, quiet: usize) -> usize {
    let busy = (level + STEPS).saturating_sub(quiet) / STEPS;
    if busy == 0 && dark { 0 } else { (1 + busy).min(SHAPES.len() - 1) }
}

/// The variance level: the logarithm in quarter octaves, from the exponent and the first two bits of the mantissa.
fn level(variance: f32) -> usize {
    let quarters = |value: f32| (value.to_bits() >> (f32::MANTISSA_DIGITS - 3)) as usize;
    (quarters(1.0 + variance) - quarters(1.0)).min(LEVELS - 1)
}

/// Approximate luma of a pixel, precise enough to measure activity.
fn luma<const USED: usize>(pixel: &[u8]) -> u32 {
    if USED == 1 {
        u32::from(pixel[0])
    } else {
        (u32::from(pixel[0]) + 2 * u32::from(pixel[1]) + u32::from(pixel[2])) / 4
    }
}

/// Sums of luma and its square over every second row of each cell, precise enough to measure activity.
fn measure<const STEP: usize, const USED: usize>(
    plane: &Plane,
    across: usize,
    down: usize,
) -> (Vec<u32>, Vec<u32>) {
    let (mut sums, mut squares) = (vec![0; across * down], vec![0; across * down]);
    for (y, row) in plane.data.chunks(plane.stride).take(down * CELL).enumerate().step_by(2) {
        let at = y / CELL * across;
        let cells = row[..across * CELL * STEP].chunks_exact(CELL * STEP);
        for ((cell, sum), square) in cells.zip(&mut sums[at..]).zip(&mut squares[at..]) {
            for pixel in cell.chunks_exact(STEP) {
                let luma = luma::<USED>(pixel);
                *sum += luma;
                *square += luma * luma;
            }
        }
    }
    (sums, squares)
}

/// The change of the bytes of a cell, by strength and sign.
fn changes<const STEP: usize, const USED: usize>() -> [[Vec<i8>; 2]; SHAPES.len()] {
    SHAPES.map(|shape| {
        [-1, 1].map(|sign| {
            shape.iter().flat_map(|s| (0..STEP).map(move |i| if i < USED { sign * s } else { 0 })).collect()
        })
    })
}
