//! The residual of frames: what remains after the picture content is removed.

use std::ops::AddAssign;

use rustfft::num_complex::Complex32;

use super::pattern::{AREA, EDGE};

/// How the picture content is removed from a frame.
///
/// Every pixel is weighted by the local variance to the power of −¾. The optimal weight of a measurement is the inverse of
/// its variance, but the watermark is stronger in busy areas, and encoders preserve more of it there.
struct HighPass {
    /// Radius of the neighbourhood that is subtracted from a pixel.
    radius: usize,
    /// Added to the local variance, in squared 8-bit steps. A smaller variance cannot be distinguished from coding noise.
    floor: f32,
}

/// For what all frames have in common, with the cells of [`Scheme::Static`](super::Scheme::Static).
const CONSTANT: HighPass = HighPass { radius: 2, floor: 12.0 };
/// For what turns. The neighbourhood is wider, as content that does not move cancels out anyway.
const ROTATING: HighPass = HighPass { radius: 5, floor: 8.0 };
/// Radius over which the strength of the summed residual is equalised.
const REACH: usize = 4;
/// Least variance of the frames' angles for [`Residual::rotating`]: that of a twentieth of a turn.
const MIN_SPREAD: f32 = 0.02;

/// The sums of the high-pass residuals of all frames.
#[derive(Default)]
pub struct Residual {
    pub width: usize,
    pub height: usize,
    pub frames: u64,
    constant: Vec<f32>,
    /// The sum of the residuals, each turned back by the angle of the pattern in its frame.
    turned: Vec<Complex32>,
    /// The sum of the same residuals, not turned.
    unturned: Vec<f32>,
    /// The sum of the turns.
    turns: Complex32,
}

impl Residual {
    /// Adds a frame in which the pattern was turned by `turn`. A change of size resets the sums. Returns `false` and ignores the
    /// frame if `luma` is too short.
    pub fn push(
        &mut self,
        luma: &[u8],
        stride: usize,
        (width, height): (usize, usize),
        turn: Complex32,
    ) -> bool {
        if width == 0 || height == 0 || stride < width || luma.len() < stride * (height - 1) + width {
            return false;
        }
        if (width, height) != (self.width, self.height) {
            let (constant, unturned) = (vec![0.0; width * height], vec![0.0; width * height]);
            let turned = vec![Complex32::default(); width * height];
            *self = Self { width, height, constant, turned, unturned, ..Self::default() };
        }
        self.frames += 1;
        let turn = turn.conj();
        self.turns += turn;
        let row = |y: usize| &luma[y * stride..][..width];
        let mut sums = self.constant.chunks_exact_mut(width);
        CONSTANT.apply(row, height, |residual| {
            for (sum, value) in sums.next().into_iter().flatten().zip(residual) {
                *sum += *value;
            }
        });
        let mut sums = self.turned.chunks_exact_mut(width).zip(self.unturned.chunks_exact_mut(width));
        ROTATING.apply(row, height, |residual| {
            if let Some((turned, unturned)) = sums.next() {
                for ((turned, unturned), value) in turned.iter_mut().zip(unturned).zip(residual) {
                    *turned += turn * *value;
                    *unturned += *value;
                }
            }
        });
        true
    }

    /// What all frames have in common: the pattern of [`Scheme::Static`](super::Scheme::Static), or that of a few frames.
    pub fn constant(&self) -> SearchResidual {
        let squares: Vec<_> = self.constant.iter().map(|out| out * out).collect();
        let weights = self.equalise(&squares);
        let data = self.constant.iter().zip(weights).map(|(out, weight)| out * weight).collect();
        SearchResidual { width: self.width, height: self.height, data: Samples::Real(data) }
    }

    /// What turns as the pattern of [`Scheme::Rotating`](super::Scheme::Rotating) does. What all frames have in common cancels
    /// out. Empty if the frames are too close in time.
    pub fn rotating(&self) -> SearchResidual {
        let mean = self.turns / (self.frames.max(1) as f32);
        if 1.0 - mean.norm_sqr() < MIN_SPREAD || self.frames == 0 {
            return SearchResidual { width: 0, height: 0, data: Samples::Complex(Vec::new()) };
        }
        let turned = self.turned.iter().zip(&self.unturned).map(|(turned, sum)| turned - mean * *sum);
        let turned: Vec<_> = turned.collect();
        let squares: Vec<_> = turned.iter().map(Complex32::norm_sqr).collect();
        let weights = self.equalise(&squares);
        let data = turned.into_iter().zip(weights).map(|(out, weight)| out * weight).collect();
        SearchResidual { width: self.width, height: self.height, data: Samples::Complex(data) }
    }

    /// Weights that equalise the local strength: without them, a few strong areas would outweigh the rest.
    fn equalise(&self, squares: &[f32]) -> Vec<f32> {
        let mean = squares.iter().sum::<f32>() / squares.len().max(1) as f32;
        let floor = 0.1 * mean + f32::MIN_POSITIVE;
        blurred(squares, self.width).into_iter().map(|near| 1.0 / (near + floor).sqrt()).collect()
    }
}

impl HighPass {
    /// Passes the residual of each row to `add`, from the top. All of the `height` rows have the same width.
    fn apply<'a>(&self, row: impl Fn(usize) -> &'a [u8], height: usize, mut add: impl FnMut(&[f32])) {
        let (radius, width) = (self.radius, row(0).len());
        // Running column sums over the rows near `y`.
        let mut columns = vec![(0u32, 0u32); width];
        let mut residual = vec![0.0; width];
        for y in 0..radius.min(height) {
            add_row(&mut columns, row(y));
        }
        for y in 0..height {
            if y + radius < height {
                add_row(&mut columns, row(y + radius));
            }
            if y > radius {
                remove_row(&mut columns, row(y - radius - 1));
            }
            let rows = (y + radius + 1).min(height) - y.saturating_sub(radius);
            let (mut near, mut squares) = (0, 0);
            for column in &columns[..radius.min(width)] {
                (near, squares) = (near + column.0, squares + column.1);
            }
            for (x, (sample, residual)) in row(y).iter().zip(&mut residual).enumerate() {
                if let Some(column) = columns.get(x + radius) {
                    (near, squares) = (near + column.0, squares + column.1);
                }
                if x > radius {
                    let column = columns[x - radius - 1];
                    (near, squares) = (near - column.0, squares - column.1);
                }
                let n = (rows * ((x + radius + 1).min(width) - x.saturating_sub(radius))) as f32;
                let mean = near as f32 / n;
                let variance = (squares as f32 / n - mean * mean).max(0.0);
                // Two square roots are much faster than `powf`.
                let deviation = (variance + self.floor).sqrt();
                *residual = (f32::from(*sample) - mean) / (deviation * deviation.sqrt());
            }
            add(&residual);
        }
    }
}

/// The residual for the search: its local strength is equalised.
pub struct SearchResidual {
    width: usize,
    height: usize,
    data: Samples,
}

enum Samples {
    Real(Vec<f32>),
    Complex(Vec<Complex32>),
}

impl SearchResidual {
    /// The longer side in pixels.
    pub fn side(&self) -> usize {
        self.width.max(self.height)
    }

    /// Sums all tiles of a frame scaled by `scale` (horizontal, vertical) relative to the original.
    pub fn fold(&self, scale: (f64, f64)) -> Vec<Complex32> {
        match &self.data {
            Samples::Real(data) => self.fold_samples(data, scale).into_iter().map(Complex32::from).collect(),
            Samples::Complex(data) => self.fold_samples(data, scale),
        }
    }

    fn fold_samples<T: Copy + Default + AddAssign>(&self, data: &[T], scale: (f64, f64)) -> Vec<T> {
        let place = |i: usize, scale: f64| ((i as f64 + 0.5) / scale) as usize % EDGE;
        let across: Vec<_> = (0..self.width).map(|x| place(x, scale.0)).collect();
        let mut tile = vec![T::default(); AREA];
        for (y, row) in data.chunks_exact(self.width.max(1)).enumerate() {
            let line = &mut tile[place(y, scale.1) * EDGE..][..EDGE];
            for (x, value) in across.iter().zip(row) {
                line[*x] += *value;
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
