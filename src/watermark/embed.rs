//! Laying the mark over pictures.

use super::activity;
use super::pattern::{CELL, Role, SIDE, Tile, phase};
use super::payload::encode;
use super::{GenerationId, Key};
use crate::Size;

/// A cell's shape at each strength, in 8-bit steps. Round, so that no blocks are seen.
const SHAPES: [[i8; CELL * CELL]; 5] = [
    [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    [1, 1, 1, 1, 1, 2, 2, 1, 1, 2, 2, 1, 1, 1, 1, 1],
    [1, 2, 2, 1, 2, 2, 2, 2, 2, 2, 2, 2, 1, 2, 2, 1],
    [1, 2, 2, 1, 2, 4, 4, 2, 2, 4, 4, 2, 1, 2, 2, 1],
    [2, 3, 3, 2, 3, 5, 5, 3, 3, 5, 5, 3, 2, 3, 3, 2],
];
/// Standard deviation of luma from which on the next shape is used.
const BUSY: [f32; SHAPES.len() - 1] = [1.0, 3.0, 8.0, 18.0];

/// No picture is changed by more, as the mean square over its pixels: 42.5 dB below the peak.
const MOST: f32 = 3.6;

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
pub struct Marker {
    key: Key,
    id: GenerationId,
    /// Whether each chip of the tile is added or taken away.
    chips: Vec<bool>,
}

impl Marker {
    /// A marker that writes `id` with `key`.
    pub fn new(key: &Key, id: GenerationId) -> Self {
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
        let strengths = strengths(&activity::deviation(&sums, &squares, across));
        let changes = changes::<STEP, USED>();
        let (right, below) = phase(&self.key, self.id.get(), shot);
        for (cy, line) in plane.data.chunks_mut(plane.stride * CELL).take(down).enumerate() {
            let chips = &self.chips[(cy + below) % SIDE * SIDE..][..SIDE];
            // What is added in each cell of this line of cells.
            let chosen = strengths[cy * across..][..across]
                .iter()
                .enumerate()
                .map(|(cx, strength)| &changes[*strength][usize::from(chips[(cx + right) % SIDE])]);
            let chosen: Vec<_> = chosen.collect();
            for (y, row) in line.chunks_mut(plane.stride).enumerate() {
                for (cell, change) in row[..row_bytes].chunks_exact_mut(CELL * STEP).zip(&chosen) {
                    for (sample, add) in cell.iter_mut().zip(&change[y * CELL * STEP..][..CELL * STEP]) {
                        *sample = sample.saturating_add_signed(*add);
                    }
                }
            }
        }
    }
}

/// Which shape each cell gets, by how busy the picture is there.
fn strengths(deviations: &[f32]) -> Vec<usize> {
    let mut strengths: Vec<_> =
        deviations.iter().map(|d| BUSY.iter().filter(|limit| d >= limit).count()).collect();
    let mut cells = [0.0; SHAPES.len()];
    for strength in &strengths {
        cells[*strength] += 1.0;
    }
    let energy = SHAPES.map(|shape| shape.iter().map(|s| f32::from(s * s)).sum::<f32>() / shape.len() as f32);
    // By how much all are raised and where they end: as strong as may be, but a picture in which little goes on
    // hides little, and is raised by one only.
    let shape = |strength: usize, (raise, most): (usize, usize)| (strength + raise).min(most);
    let change = |choice| (0..SHAPES.len()).map(|s| cells[s] * energy[shape(s, choice)]).sum::<f32>();
    let choices = (0..2).flat_map(|raise| (0..SHAPES.len()).map(move |most| (raise, most)));
    let within = choices.filter(|choice| change(*choice) <= MOST * deviations.len() as f32);
    let choice = within.max_by(|a, b| change(*a).total_cmp(&change(*b))).unwrap_or_default();
    for strength in &mut strengths {
        *strength = shape(*strength, choice);
    }
    strengths
}

/// Luma of a pixel, near enough to tell how busy a place is.
fn luma<const USED: usize>(pixel: &[u8]) -> u32 {
    if USED == 1 {
        u32::from(pixel[0])
    } else {
        (u32::from(pixel[0]) + 2 * u32::from(pixel[1]) + u32::from(pixel[2])) / 4
    }
}

/// Sums of luma and of its square over each cell.
fn measure<const STEP: usize, const USED: usize>(
    plane: &Plane,
    across: usize,
    down: usize,
) -> (Vec<u32>, Vec<u32>) {
    let (mut sums, mut squares) = (vec![0; across * down], vec![0; across * down]);
    for (y, row) in plane.data.chunks(plane.stride).take(down * CELL).enumerate() {
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
