//! Cyclic correlation of tile-sized images with Fourier transforms.

use std::sync::Arc;

use rustfft::num_complex::Complex32;
use rustfft::{Fft, FftPlanner};

use super::pattern::{AREA, EDGE};

/// Radius of the neighbourhood over which frequencies are equalised.
const NEAR: usize = 2;

/// Fourier transforms of tile-sized images.
pub struct Fourier {
    forward: Arc<dyn Fft<f32>>,
    inverse: Arc<dyn Fft<f32>>,
}

impl Fourier {
    pub fn new() -> Self {
        let mut planner = FftPlanner::new();
        Self { forward: planner.plan_fft_forward(EDGE), inverse: planner.plan_fft_inverse(EDGE) }
    }

    /// The transform of an image.
    pub fn transform(&self, mut picture: Vec<Complex32>) -> Vec<Complex32> {
        transform_2d(self.forward.as_ref(), &mut picture);
        picture
    }

    /// The cyclic cross-correlation of `picture` and `template`, both transformed, up to a constant factor.
    pub fn correlate(&self, picture: &[Complex32], template: &[Complex32]) -> Vec<Complex32> {
        let mut product: Vec<_> = picture.iter().zip(template).map(|(p, t)| p * t.conj()).collect();
        transform_2d(self.inverse.as_ref(), &mut product);
        // Each transform transposes the axes: after two of them they are in the original order.
        product
    }
}

/// A 2D transform, rows then columns. The result is transposed.
fn transform_2d(fft: &dyn Fft<f32>, data: &mut [Complex32]) {
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

/// Equalises the strength of all frequencies. Coarse or regular content has strong frequencies that mask the watermark.
pub fn whiten(spectrum: &mut [Complex32]) {
    let strength: Vec<f32> = spectrum.iter().map(|c| c.norm()).collect();
    let mut smooth = around(&strength);
    let mut transposed = vec![0.0; AREA];
    for (i, value) in smooth.iter().enumerate() {
        transposed[i % EDGE * EDGE + i / EDGE] = *value;
    }
    smooth = around(&transposed);
    let mean = strength.iter().sum::<f32>() / AREA as f32;
    for (i, c) in spectrum.iter_mut().enumerate() {
        *c /= smooth[i % EDGE * EDGE + i / EDGE] + 1e-3 * mean + f32::MIN_POSITIVE;
    }
}

/// The cyclic mean over neighbours in each row.
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
