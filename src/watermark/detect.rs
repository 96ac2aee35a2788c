//! Finding the mark, without the original, at an unknown size and cut.

use rayon::prelude::*;
use rustfft::num_complex::Complex32;

use super::pattern::{CELL, CHIPS, Role, SIDE, Tile};
use super::payload::{CODE_BITS, decode};
use super::residual::Residual;
use super::spectrum::{AREA, EDGE, Fourier, whiten};
use super::{GenerationId, Key};

/// The least scale at which the mark is looked for: a picture of this many times its first size.
pub const MIN_SCALE: f64 = 0.4;
/// The greatest.
pub const MAX_SCALE: f64 = 1.6;

/// Strength from which on pictures are marked even if the payload cannot be read. Noise is a little wilder than
/// Gaussian here: of 300 keys that two unmarked clips did not have, the strongest came to 6.7 and the mean to 5.5;
/// the extreme value distribution through these gets to 8.9 once in a million.
pub const MARKED: f64 = 9.0;

/// Places whose payload is looked at. Each lets noise pass once in 2²⁴ times, all together once in two million.
const PLACES: usize = 8;

/// What was found in the frames that were looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finding {
    /// How many frames that is.
    pub frames: u64,
    /// The payload, if it can be read.
    pub id: Option<GenerationId>,
    /// How far the best correlation stands out, in standard deviations of all others.
    pub strength: f64,
    /// How many times their first size the pictures have, where it was found.
    pub scale: f64,
}

impl Finding {
    /// Whether the pictures bear a mark of the key: the payload was read or the strength is [`MARKED`].
    pub fn is_marked(&self) -> bool {
        self.id.is_some() || self.strength >= MARKED
    }
}

/// Looks for the marks of one key. A mark is constant over a shot: the more frames, the surer.
pub struct Detector {
    tile: Tile,
    /// The chips that are known, as a picture, transformed.
    sync: Vec<Complex32>,
    /// One chip's shape, transformed.
    shape: Vec<Complex32>,
    fourier: Fourier,
    seen: Residual,
}

/// Where the tile may be.
#[derive(Clone, Copy, Debug)]
struct Place {
    strength: f64,
    /// Scale across and down.
    scale: (f64, f64),
    /// Pixels of the tile.
    shift: usize,
}

impl Detector {
    /// A detector of the marks that `key` makes.
    pub fn new(key: &Key) -> Self {
        let tile = Tile::new(key);
        let fourier = Fourier::new();
        let mut sync = vec![0.0; AREA];
        for (i, pixel) in sync.iter_mut().enumerate() {
            let chip = i / EDGE / CELL * SIDE + i % EDGE / CELL;
            if tile.roles[chip] == Role::Sync {
                *pixel = tile.signs[chip] * weight(i);
            }
        }
        let mut shape = vec![0.0; AREA];
        for y in 0..CELL {
            for x in 0..CELL {
                shape[y * EDGE + x] = weight(y * EDGE + x);
            }
        }
        let (sync, shape) = (fourier.transform(&sync), fourier.transform(&shape));
        Self { tile, sync, shape, fourier, seen: Residual::default() }
    }

    /// Looks at a picture's luma: `height` rows of `width` samples, `stride` apart. One of another size than
    /// before begins anew; one whose data is too short is not looked at.
    pub fn push(&mut self, luma: &[u8], stride: usize, width: usize, height: usize) {
        self.seen.push(luma, stride, width, height);
    }

    /// How many frames were looked at since the start or [`Detector::clear`].
    pub fn frames(&self) -> u64 {
        self.seen.frames
    }

    /// Forgets what was seen.
    pub fn clear(&mut self) {
        self.seen = Residual::default();
    }

    /// What is in the frames so far; `None` if there were none.
    pub fn finding(&self) -> Option<Finding> {
        if self.seen.frames == 0 {
            return None;
        }
        let mut places: Vec<_> =
            self.scales().par_iter().map(|scale| self.best((*scale, *scale)).0).collect();
        places.sort_by(|a, b| b.strength.total_cmp(&a.strength));
        places.truncate(PLACES);
        let mut found: Option<(Place, Option<GenerationId>)> = None;
        for place in places {
            let (place, id) = self.read(place);
            if id.is_some() || found.is_none_or(|(best, _)| best.strength < place.strength) {
                found = Some((place, id));
            }
            if id.is_some() {
                break;
            }
        }
        let (place, id) = found?;
        let scale = (place.scale.0 * place.scale.1).sqrt();
        Some(Finding { frames: self.seen.frames, id, strength: place.strength, scale })
    }

    /// Scales so close together that no part of the picture is off by more than a pixel of the tile.
    fn scales(&self) -> Vec<f64> {
        let side = self.seen.width.max(self.seen.height) as f64;
        std::iter::successors(Some(MIN_SCALE), |scale| Some(scale * (1.0 + 4.0 * scale / side)))
            .take_while(|scale| *scale <= MAX_SCALE)
            .collect()
    }

    /// The best shift at a scale, and the picture folded at that scale, transformed.
    fn best(&self, scale: (f64, f64)) -> (Place, Vec<Complex32>) {
        let mut spectrum = self.fourier.transform(&self.seen.fold(scale));
        whiten(&mut spectrum);
        let correlation = self.fourier.correlate(&spectrum, &self.sync);
        let n = AREA as f64;
        let mean = correlation.iter().map(|c| f64::from(*c)).sum::<f64>() / n;
        let variance = correlation.iter().map(|c| (f64::from(*c) - mean).powi(2)).sum::<f64>() / n;
        let best = correlation.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        let (shift, peak) = best.map_or((0, mean), |(shift, peak)| (shift, f64::from(*peak)));
        let strength = (peak - mean) / variance.sqrt().max(f64::MIN_POSITIVE);
        (Place { strength, scale, shift }, spectrum)
    }

    /// The best place among those up to two steps of scale away.
    fn nearby(&self, place: Place, step: f64) -> (Place, Vec<Complex32>) {
        let moves: Vec<_> = (-2..=2).flat_map(|x| (-2..=2).map(move |y| (x, y))).collect();
        let near = moves.par_iter().map(|(x, y)| {
            let moved = |scale: f64, n: i32| scale * (1.0 + f64::from(n) * step);
            self.best((moved(place.scale.0, *x), moved(place.scale.1, *y)))
        });
        let best = near.max_by(|a, b| a.0.strength.total_cmp(&b.0.strength));
        best.unwrap_or_else(|| self.best(place.scale))
    }

    /// Finds the place more exactly and reads what is there.
    fn read(&self, rough: Place) -> (Place, Option<GenerationId>) {
        // The picture may have been scaled a little more one way than the other.
        let step = rough.scale.0 / self.seen.width.max(self.seen.height) as f64;
        let (place, _) = self.nearby(rough, step);
        let (place, spectrum) = self.nearby(place, step / 2.0);
        let chips = self.fourier.correlate(&spectrum, &self.shape);
        let mut soft = [0.0; CODE_BITS];
        for chip in 0..CHIPS {
            if let Role::Bit(bit) = self.tile.roles[chip] {
                let x = (chip % SIDE * CELL + place.shift % EDGE) % EDGE;
                let y = (chip / SIDE * CELL + place.shift / EDGE) % EDGE;
                soft[bit] += self.tile.signs[chip] * chips[y * EDGE + x];
            }
        }
        (place, decode(&soft))
    }
}

/// A chip is strongest in its middle.
fn weight(pixel: usize) -> f32 {
    let along = |i: usize| if (1..=2).contains(&(i % CELL)) { 1.2 } else { 0.8 };
    along(pixel % EDGE) * along(pixel / EDGE)
}
