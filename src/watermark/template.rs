//! The correlation of a spectrum with the tile of a key.

use std::f64::consts::TAU;

use rustfft::num_complex::Complex32;

use super::WatermarkKey;
use super::detect::DETECTION_THRESHOLD;
use super::pattern::{AREA, EDGE, Role, Scheme, Tile};
use super::payload::CODE_BITS;
use super::spectrum::Fourier;

/// Standard deviations of the correlations at shifts by whole cells that a peak at [`DETECTION_THRESHOLD`] must reach. With
/// another key one of the 324 such shifts reaches it twice in ten million times, if the watermark is as strong as it can be. A weaker peak of
/// the right key is found by its payload.
const STANDS_OUT: f64 = 6.5;

/// The tile of a key for detection.
pub struct Template {
    scheme: Scheme,
    tile: Tile,
    /// The transform of the synchronisation chips.
    sync: Vec<Complex32>,
    /// The transform of the shape of one chip.
    shape: Vec<Complex32>,
}

/// Where the synchronisation chips correlate most.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    /// In standard deviations of a Gaussian above its mean. A correlation of [`Scheme::Rotating`] is a complex number whose phase
    /// is unknown; its strength is that of a Gaussian that exceeds it as rarely.
    pub strength: f64,
    /// Greatest strength that counts as evidence of the key.
    pub limit: f64,
    /// Shift of the tile, as a pixel index.
    pub shift: usize,
    /// The phase of the correlation, a number of modulus 1.
    phase: Complex32,
}

impl Template {
    pub fn new(key: &WatermarkKey, scheme: Scheme, fourier: &Fourier) -> Self {
        let tile = Tile::new(key, scheme);
        let (cell, side) = (scheme.cell(), scheme.side());
        let sync = (0..AREA).map(|i| {
            let chip = i / EDGE / cell * side + i % EDGE / cell;
            match tile.roles[chip] {
                Role::Sync => tile.chips[chip] * scheme.weight(i),
                Role::Bit(_) => Complex32::default(),
            }
        });
        let shape = (0..AREA).map(|i| {
            let inside = i / EDGE < cell && i % EDGE < cell;
            Complex32::from(if inside { scheme.weight(i) } else { 0.0 })
        });
        let (sync, shape) = (fourier.transform(sync.collect()), fourier.transform(shape.collect()));
        Self { scheme, tile, sync, shape }
    }

    /// The shift of the tile with the greatest correlation.
    pub fn strongest(&self, fourier: &Fourier, spectrum: &[Complex32]) -> Peak {
        let correlation = fourier.correlate(spectrum, &self.sync);
        match self.scheme {
            Scheme::Static => strongest_real(&correlation),
            Scheme::Rotating => strongest_complex(&correlation, self.scheme.cell()),
        }
    }

    /// The soft bits of the codeword with the tile at `peak`, positive for a probable 1.
    pub fn bits(&self, fourier: &Fourier, spectrum: &[Complex32], peak: Peak) -> [f32; CODE_BITS] {
        let (cell, side) = (self.scheme.cell(), self.scheme.side());
        let correlation = fourier.correlate(spectrum, &self.shape);
        let mut soft = [0.0; CODE_BITS];
        for (i, (role, chip)) in self.tile.roles.iter().zip(&self.tile.chips).enumerate() {
            if let Role::Bit(bit) = role {
                let x = (i % side * cell + peak.shift % EDGE) % EDGE;
                let y = (i / side * cell + peak.shift / EDGE) % EDGE;
                soft[*bit] += (correlation[y * EDGE + x] * (chip * peak.phase).conj()).re;
            }
        }
        soft
    }
}

/// The greatest real part. Without a watermark the values are Gaussian.
fn strongest_real(correlation: &[Complex32]) -> Peak {
    let n = correlation.len() as f64;
    let values = || correlation.iter().map(|c| f64::from(c.re));
    let mean = values().sum::<f64>() / n;
    let variance = values().map(|value| (value - mean).powi(2)).sum::<f64>() / n;
    let best = values().enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
    let (shift, peak) = best.unwrap_or((0, mean));
    let strength = (peak - mean) / variance.sqrt().max(f64::MIN_POSITIVE);
    Peak { strength, limit: f64::INFINITY, shift, phase: Complex32::new(1.0, 0.0) }
}

/// The greatest modulus. Without a watermark, real and imaginary parts are Gaussian, so that the modulus exceeds `s` of their
/// standard deviations with the probability `exp(−s²/2)`. A Gaussian exceeds `x` with a probability of almost
/// `exp(−x²/2) / √(2πx²)`. The result is the `x` of the same probability, with `s` for `x` below the root.
fn strongest_complex(correlation: &[Complex32], cell: usize) -> Peak {
    let squares = || correlation.iter().map(|c| f64::from(c.norm_sqr()));
    let variance = squares().sum::<f64>() / (2.0 * correlation.len() as f64);
    let best = squares().enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
    let (shift, peak) = best.unwrap_or((0, 0.0));
    let square = (peak / variance.max(f64::MIN_POSITIVE)).max(1.0);
    let strength = (square - (TAU * square).ln()).max(0.0).sqrt();
    let value = correlation.get(shift).copied().unwrap_or_default();
    let limit = limit(correlation, shift, cell);
    Peak { strength, limit, shift, phase: value / value.norm().max(f32::MIN_POSITIVE) }
}

/// The strength up to which a peak is evidence of this key. The watermark of another key has the same grid of cells, so that its
/// correlations at shifts by whole cells are larger than all others; the peak must stand out among those too.
fn limit(correlation: &[Complex32], shift: usize, cell: usize) -> f64 {
    let steps = |at: usize| (at % cell..EDGE).step_by(cell);
    let same_grid = steps(shift / EDGE).flat_map(|y| steps(shift % EDGE).map(move |x| y * EDGE + x));
    let squares = same_grid.filter_map(|i| correlation.get(i)).map(|c| f64::from(c.norm_sqr()));
    let (sum, count) = squares.fold((0.0, 0), |(sum, count), square| (sum + square, count + 1));
    let peak = correlation.get(shift).map_or(0.0, |c| f64::from(c.norm_sqr()));
    let variance = (sum - peak) / (2.0 * f64::from((count - 1).max(1)));
    DETECTION_THRESHOLD / STANDS_OUT * (peak / variance.max(f64::MIN_POSITIVE)).sqrt()
}
