//! What is left of pictures when what they show is taken away.

use super::spectrum::{AREA, EDGE};

/// Pixels on each side that a pixel is compared with: more than a chip has at any scale that is looked for.
const RADIUS: usize = 4;
/// Added to the local standard deviation, in 8-bit steps: less is not told from rounding.
const FLOOR: f32 = 2.0;
/// What stands out more than so many standard deviations is an edge.
const LIMIT: f32 = 2.0;

/// The sum over frames of what stands out from its surroundings, in local standard deviations. The mark is
/// the same in all; the pictures are not.
#[derive(Default)]
pub struct Residual {
    pub width: usize,
    pub height: usize,
    pub frames: u64,
    sum: Vec<f32>,
}

impl Residual {
    pub fn push(&mut self, luma: &[u8], stride: usize, width: usize, height: usize) {
        if width == 0 || height == 0 || stride < width || luma.len() < stride * (height - 1) + width {
            return;
        }
        if (width, height) != (self.width, self.height) {
            *self = Self { width, height, frames: 0, sum: vec![0.0; width * height] };
        }
        self.frames += 1;
        let row = |y: usize| &luma[y * stride..][..width];
        // Sums down the columns of the rows near `y`, kept up to date as it moves on.
        let mut columns = vec![(0u32, 0u32); width];
        for y in 0..RADIUS.min(height) {
            enter(&mut columns, row(y));
        }
        for y in 0..height {
            if y + RADIUS < height {
                enter(&mut columns, row(y + RADIUS));
            }
            if y > RADIUS {
                leave(&mut columns, row(y - RADIUS - 1));
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
                let deviation = (squares as f32 / n - mean * mean).max(0.0).sqrt();
                let out = (f32::from(*sample) - mean) / (deviation + FLOOR);
                *sum += out.clamp(-LIMIT, LIMIT);
            }
        }
    }

    /// The tiles of a picture `scale` times its first size (across, down), all laid over each other.
    pub fn fold(&self, scale: (f64, f64)) -> Vec<f32> {
        let place = |i: usize, scale: f64| ((i as f64 + 0.5) / scale) as usize % EDGE;
        let across: Vec<_> = (0..self.width).map(|x| place(x, scale.0)).collect();
        let mut tile = vec![0.0; AREA];
        for (y, row) in self.sum.chunks_exact(self.width.max(1)).enumerate() {
            let line = &mut tile[place(y, scale.1) * EDGE..][..EDGE];
            for (x, value) in across.iter().zip(row) {
                line[*x] += value;
            }
        }
        tile
    }
}

fn enter(columns: &mut [(u32, u32)], row: &[u8]) {
    for (column, sample) in columns.iter_mut().zip(row) {
        let sample = u32::from(*sample);
        *column = (column.0 + sample, column.1 + sample * sample);
    }
}

fn leave(columns: &mut [(u32, u32)], row: &[u8]) {
    for (column, sample) in columns.iter_mut().zip(row) {
        let sample = u32::from(*sample);
        *column = (column.0 - sample, column.1 - sample * sample);
    }
}
