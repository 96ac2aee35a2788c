//! Laying the mark over pictures.

use super::activity;
use super::pattern::{CELL, Role, SIDE, Tile, phase};
use super::payload::encode;
use super::{GenerationId, WatermarkKey};
use crate::Size;

/// A cell's shape at each strength, in 8-bit steps. Round, so that no blocks are seen.
const SHAPES: [[i8; CELL * CELL]; 5] = [
    whole([[0, 1, 1], [1, 1, 1], [1, 1, 1]]),
    whole([[0, 1, 1], [1, 1, 2], [1, 2, 2]]),
    whole([[1, 1, 1], [1, 2, 2], [1, 2, 3]]),
    whole([[1, 1, 2], [1, 2, 3], [2, 3, 4]]),
    whole([[1, 2, 2], [2, 3, 4], [2, 4, 5]]),
];
/// Steps of variance, a quarter of an octave each, from one strength to the next. What is busy hides more; but what
/// is laid over it is also harder to find there, so that the mark is far from growing as the picture's own detail does.
const STEPS: usize = 12;
/// Steps that are told apart: all that 8 bits can have.
const BUSIEST: usize = 64;
/// The step from which on a place is not flat.
const FLAT: usize = 4;
/// Mean luma below which a flat place gets the least: grain is seen there first.
const DARK: f32 = 48.0;

/// No picture is changed by more, as the mean square over its pixels: 42.1 dB below the peak.
const MOST: f32 = 4.0;

/// A shape by its quarter at the top left.
const fn whole(quarter: [[i8; CELL / 2]; CELL / 2]) -> [i8; CELL * CELL] {
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

/// A picture to mark, or its luma plane: samples of 8 bits.
pub struct Plane<'a> {
    /// Rows, `stride` bytes apart.
    pub data: &'a mut [u8],
    /// Bytes from row to row.
    pub stride: usize,
    /// Bytes from pixel to pixel: 1 for luma, 3 or 4 for red, green and blue in this order or the reverse
    /// (the fourth is left alone).
    pub step: usize,
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl<'a> Plane<'a> {
    /// A picture, `[H, W, 3]` without gaps.
    pub fn rgb(data: &'a mut [u8], size: Size) -> Self {
        let (width, height) = (size.width as usize, size.height as usize);
        Self { data, stride: 3 * width, step: 3, width, height }
    }
}

/// Marks the pictures of one generation.
#[derive(Clone)]
pub struct Embedder {
    key: WatermarkKey,
    id: GenerationId,
    /// Whether each chip of the tile is added or taken away.
    chips: Vec<bool>,
}

impl Embedder {
    /// A marker that writes `id` with `key`.
    pub fn new(key: &WatermarkKey, id: GenerationId) -> Self {
        let bits = encode(id);
        let Tile { roles, signs } = Tile::new(key);
        let chips = roles.iter().zip(signs).map(|(role, sign)| match role {
            Role::Sync => sign > 0.0,
            Role::Bit(bit) => (sign > 0.0) == bits[*bit],
        });
        Self { key: key.clone(), id, chips: chips.collect() }
    }

    /// What it writes.
    pub fn id(&self) -> GenerationId {
        self.id
    }

    /// Marks a picture of shot `shot`. Pixels beyond the last whole cell stay as they are, and so does a
    /// plane whose data is too short for its size.
    pub fn mark(&self, plane: &mut Plane, shot: u64) {
        match plane.step {
            1 => self.mark_pixels::<1, 1>(plane, shot),
            3 => self.mark_pixels::<3, 3>(plane, shot),
            4 => self.mark_pixels::<4, 3>(plane, shot),
            _ => {}
        }
    }

    /// `STEP` bytes to a pixel, of which `USED` are marked.
    fn mark_pixels<const STEP: usize, const USED: usize>(&self, plane: &mut Plane, shot: u64) {
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
            // What is added in each cell of this line of cells.
            let chosen = strengths[cy * across..][..across]
                .iter()
                .enumerate()
                .map(|(cx, strength)| &changes[*strength][usize::from(chips[(cx + right) % SIDE])]);
            let chosen: Vec<_> = chosen.collect();
            for (y, row) in line.chunks_mut(plane.stride).enumerate() {
                // Put together first, it is added many bytes at a time.
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

/// Which shape each cell gets, by how busy the picture is there: as strong as may be in all.
fn strengths(cells: &[(f32, f32)]) -> Vec<usize> {
    let places: Vec<_> = cells.iter().map(|(mean, variance)| (*mean < DARK, step(*variance))).collect();
    let mut counts = [[0.0; BUSIEST]; 2];
    for (dark, step) in &places {
        counts[usize::from(*dark)][*step] += 1.0;
    }
    let energy = SHAPES.map(|shape| shape.iter().map(|s| f32::from(s * s)).sum::<f32>() / shape.len() as f32);
    let change = |quiet| -> f32 {
        let at = |dark| {
            (0..BUSIEST)
                .map(move |step| counts[usize::from(dark)][step] * energy[strength(dark, step, quiet)])
        };
        at(false).chain(at(true)).sum()
    };
    let within = |quiet: &usize| change(*quiet) <= MOST * cells.len() as f32;
    let quiet = (FLAT..BUSIEST).find(within).unwrap_or(BUSIEST);
    places.into_iter().map(|(dark, step)| strength(dark, step, quiet)).collect()
}

/// The strength in a place, where what has a step below `quiet` gets the second.
fn strength(dark: bool, step: usize, quiet: usize) -> usize {
    let busy = (step + STEPS).saturating_sub(quiet) / STEPS;
    if busy == 0 && dark { 0 } else { (1 + busy).min(SHAPES.len() - 1) }
}

/// Twice the binary logarithm of a variance, in halves: its exponent and the first two bits behind it.
fn step(variance: f32) -> usize {
    let quarters = |value: f32| (value.to_bits() >> (f32::MANTISSA_DIGITS - 3)) as usize;
    (quarters(1.0 + variance) - quarters(1.0)).min(BUSIEST - 1)
}

/// Luma of a pixel, near enough to tell how busy a place is.
fn luma<const USED: usize>(pixel: &[u8]) -> u32 {
    if USED == 1 {
        u32::from(pixel[0])
    } else {
        (u32::from(pixel[0]) + 2 * u32::from(pixel[1]) + u32::from(pixel[2])) / 4
    }
}

/// Sums of luma and of its square over every second row of each cell, which is enough to tell how busy it is.
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

/// By strength and by sign, what is added to the bytes of a cell.
fn changes<const STEP: usize, const USED: usize>() -> [[Vec<i8>; 2]; SHAPES.len()] {
    SHAPES.map(|shape| {
        [-1, 1].map(|sign| {
            shape.iter().flat_map(|s| (0..STEP).map(move |i| if i < USED { sign * s } else { 0 })).collect()
        })
    })
}
