//! Cyclic correlation of pictures of the tile, by Fourier transforms.

use std::sync::Arc;

use rustfft::num_complex::Complex32;
use rustfft::{Fft, FftPlanner};

use super::pattern::{CELL, SIDE};

/// Pixels on a side of the tile.
pub const EDGE: usize = SIDE * CELL;
/// Pixels in the tile.
pub const AREA: usize = EDGE * EDGE;
/// Neighbours, on each side, that a frequency's strength is compared with.
const NEAR: usize = 2;

/// Transforms of a picture of the tile's size.
pub struct Fourier {
    forward: Arc<dyn Fft<f32>>,
    inverse: Arc<dyn Fft<f32>>,
}

impl Fourier {
    pub fn new() -> Self {
        let mut planner = FftPlanner::new();
        Self { forward: planner.plan_fft_forward(EDGE), inverse: planner.plan_fft_inverse(EDGE) }
    }

    /// The transform of a real picture.
    pub fn transform(&self, picture: &[f32]) -> Vec<Complex32> {
        let mut spectrum: Vec<_> = picture.iter().map(|&re| Complex32 { re, im: 0.0 }).collect();
        both_ways(self.forward.as_ref(), &mut spectrum);
        spectrum
    }

    /// At every shift of `template` against `picture`, both transformed, the sum of products, but for a
    /// constant factor.
    pub fn correlate(&self, picture: &[Complex32], template: &[Complex32]) -> Vec<f32> {
        let mut product: Vec<_> = picture.iter().zip(template).map(|(p, t)| p * t.conj()).collect();
        both_ways(self.inverse.as_ref(), &mut product);
        // Transformed twice along each axis, the axes are back in their places.
        product.into_iter().map(|c| c.re).collect()
    }
}

/// Rows, then columns; the result is transposed.
fn both_ways(fft: &dyn Fft<f32>, data: &mut [Complex32]) {
    fft.process(data);
    transpose(data);
    fft.process(data);
}

fn transpose(data: &mut [Complex32]) {
    for y in 0..EDGE {
        for x in 0..y {
            data.swap(y * EDGE + x, x * EDGE + y);
        }
    }
}

/// Makes all frequencies about equally strong. A picture's own are strong where it is coarse or regular,
/// which is where the mark is drowned.
pub fn whiten(spectrum: &mut [Complex32]) {
    let strength: Vec<f32> = spectrum.iter().map(|c| c.norm()).collect();
    let mut smooth = around(&strength);
    let mut turned = vec![0.0; AREA];
    for (i, value) in smooth.iter().enumerate() {
        turned[i % EDGE * EDGE + i / EDGE] = *value;
    }
    smooth = around(&turned);
    let mean = strength.iter().sum::<f32>() / AREA as f32;
    for (i, c) in spectrum.iter_mut().enumerate() {
        *c /= smooth[i % EDGE * EDGE + i / EDGE] + 1e-3 * mean + f32::MIN_POSITIVE;
    }
}

/// Means over neighbours in a row, cyclically.
fn around(values: &[f32]) -> Vec<f32> {
    let width = 2 * NEAR + 1;
    let mut out = Vec::with_capacity(values.len());
    for row in values.chunks_exact(EDGE) {
        for x in 0..EDGE {
            let sum: f32 = (0..width).map(|i| row[(x + EDGE + i - NEAR) % EDGE]).sum();
            out.push(sum / width as f32);
        }
    }
    out
}
