//! The residual of frames: what remains after the picture content is removed.

use super::spectrum::{AREA, EDGE};

/// Radius of the neighbourhood that is subtracted from a pixel.
const RADIUS: usize = 2;
/// Added to the local variance, in squared 8-bit steps. A smaller variance cannot be distinguished from coding noise.
const FLOOR: f32 = 12.0;
/// Radius over which the strength of the summed residual is equalised.
const REACH: usize = 4;

/// The sum of the high-pass residuals of all frames. The watermark is the same in all frames of a shot; the content is not.
///
/// Every pixel is weighted by the local variance to the power of −¾. The optimal weight of a measurement is the inverse of
/// its variance, but the watermark is stronger in busy areas, and encoders preserve more of it there.
#[derive(Default)]
pub struct Residual {
    pub width: usize,
    pub height: usize,
    pub frames: u64,
    sum: Vec<f32>,
}

impl Residual {
    /// Adds a frame. A change of size resets the sum. Returns `false` and ignores the frame if `luma` is too short.
    pub fn push(&mut self, luma: &[u8], stride: usize, width: usize, height: usize) -> bool {
        if width == 0 || height == 0 || stride < width || luma.len() < stride * (height - 1) + width {
            return false;
        }
        if (width, height) != (self.width, self.height) {
            *self = Self { width, height, frames: 0, sum: vec![0.0; width * height] };
        }
        self.frames += 1;
        let row = |y: usize| &luma[y * stride..][..width];
        // Running column sums over the rows near `y`.
        let mut columns = vec![(0u32, 0u32); width];
        for y in 0..RADIUS.min(height) {
            add_row(&mut columns, row(y));
        }
        for y in 0..height {
            if y + RADIUS < height {
                add_row(&mut columns, row(y + RADIUS));
            }
            if y > RADIUS {
                remove_row(&mut columns, row(y - RADIUS - 1));
            }
            let rows = (y + RADIUS + 1).min(height) - y.saturating_sub(RADIUS);
            let sum = &mut self.sum[y * width..][..width];
            let (mut near, mut squares) = (0, 0);
            for column in &columns[..RADIUS.min(width)] {
                (near, squares) = (near + column.0, squares + column.1);
            }
            for (x, (sample, sum)) in row(y).iter().zip(sum).enumerate() {
                if let Some(column) = columns.get(x + RADIUS) {
                    (near, squares) = (near + column.0, squares + column.1);
                }
                if x > RADIUS {
                    let column = columns[x - RADIUS - 1];
                    (near, squares) = (near - column.0, squares - column.1);
                }
                let n = (rows * ((x + RADIUS + 1).min(width) - x.saturating_sub(RADIUS))) as f32;
                let mean = near as f32 / n;
                let variance = (squares as f32 / n - mean * mean).max(0.0);
                // Two square roots are much faster than `powf`.
                let deviation = (variance + FLOOR).sqrt();
                *sum += (f32::from(*sample) - mean) / (deviation * deviation.sqrt());
            }
        }
        true
    }

    /// Equalises the local strength: without this, static content would outweigh the rest.
    pub fn equalise(&self) -> SearchResidual {
        let squares: Vec<f32> = self.sum.iter().map(|out| out * out).collect();
        let near = blurred(&squares, self.width);
        let mean = squares.iter().sum::<f32>() / squares.len().max(1) as f32;
        let floor = 0.1 * mean + f32::MIN_POSITIVE;
        let data = self.sum.iter().zip(near).map(|(out, near)| out / (near + floor).sqrt());
        SearchResidual { width: self.width, height: self.height, data: data.collect() }
    }
}

/// The residual for the search: its local strength is equalised.
pub struct SearchResidual {
    width: usize,
    height: usize,
    data: Vec<f32>,
}

impl SearchResidual {
    /// The longer side in pixels.
    pub fn side(&self) -> usize {
        self.width.max(self.height)
    }

    /// Sums all tiles of a frame scaled by `scale` (horizontal, vertical) relative to the original.
    pub fn fold(&self, scale: (f64, f64)) -> Vec<f32> {
        let place = |i: usize, scale: f64| ((i as f64 + 0.5) / scale) as usize % EDGE;
        let across: Vec<_> = (0..self.width).map(|x| place(x, scale.0)).collect();
        let mut tile = vec![0.0; AREA];
        for (y, row) in self.data.chunks_exact(self.width.max(1)).enumerate() {
            let line = &mut tile[place(y, scale.1) * EDGE..][..EDGE];
            for (x, value) in across.iter().zip(row) {
                line[*x] += value;
            }
        }
        tile
    }
}

/// The mean over the neighbourhood of each pixel.
fn blurred(values: &[f32], width: usize) -> Vec<f32> {
    let width = width.max(1);
    let height = values.len() / width;
    let mean = |near: &mut dyn Iterator<Item = f32>, count: usize| near.sum::<f32>() / count as f32;
    let near = |at: usize, end: usize| at.saturating_sub(REACH)..(at + REACH + 1).min(end);
    let mut rows = Vec::with_capacity(values.len());
    for row in values.chunks_exact(width) {
        rows.extend((0..width).map(|x| {
            let near = near(x, width);
            mean(&mut row[near.clone()].iter().copied(), near.len())
        }));
    }
    let mut out = Vec::with_capacity(values.len());
    for y in 0..height {
        let near = near(y, height);
        out.extend((0..width).map(|x| mean(&mut near.clone().map(|y| rows[y * width + x]), near.len())));
    }
    out
}

/// Adds a row to the column sums.
fn add_row(columns: &mut [(u32, u32)], row: &[u8]) {
    for (column, sample) in columns.iter_mut().zip(row) {
        let sample = u32::from(*sample);
        *column = (column.0 + sample, column.1 + sample * sample);
    }
}

/// Removes a row from the column sums.
fn remove_row(columns: &mut [(u32, u32)], row: &[u8]) {
    for (column, sample) in columns.iter_mut().zip(row) {
        let sample = u32::from(*sample);
        *column = (column.0 - sample, column.1 - sample * sample);
    }
}
