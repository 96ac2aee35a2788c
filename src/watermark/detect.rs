//! Detection the mark, without the original, at an unknown size and cut.

use rayon::prelude::*;
use rustfft::num_complex::Complex32;

use super::pattern::{CELL, CHIPS, Role, SIDE, Tile};
use super::payload::{CODE_BITS, FIT, decode};
use super::residual::{Even, Residual};
use super::spectrum::{AREA, EDGE, Fourier, whiten};
use super::{GenerationId, WatermarkKey};

/// The least scale at which the mark is looked for: a picture of this many times its first size.
pub const MIN_SCALE: f64 = 0.4;
/// The greatest, but for large pictures, which are also looked at at a quarter of their size.
pub const MAX_SCALE: f64 = 1.6;
/// How strong a chip is along its side.
const PROFILE: [f32; CELL] = [0.43, 0.78, 0.97, 0.97, 0.78, 0.43];
/// How many times smaller that is.
const SMALLER: usize = 4;
/// Pixels of a large picture. A quarter of less would hardly hold a tile.
const LARGE: usize = 500_000;

/// Strength from which on pictures are marked even if the payload cannot be read.
///
/// At one shift the correlation with a key that the pictures do not have is a sum of so many chips that it is Gaussian,
/// whatever they show; the places that are looked at are at most `EDGE`² shifts at two thousand scales and those near
/// the `PLACES` best, so that the strongest of all exceeds 8 less than once in ten million times. Among 10,000 keys
/// the tail is what this says, as far as they reach (`keys_that_were_not_used_are_found_as_often_as_derived`).
pub const MARKED: f64 = 8.0;

/// Frames at the beginning that are also looked at alone. What comes first is encoded whole; later an encoder moves the mark along
/// with what moves in the picture.
const OPENING: u64 = 4;
/// Places whose payload is looked at in all frames, and again in the first. Each lets noise pass once in 2²⁴ times, all
/// together once in 2²⁰.
const PLACES: usize = 8;
/// Others near each that are looked at besides, since the strongest is not always the right one. They have to fit, which noise
/// does so seldom that all of them together let it pass less than once in 2²⁴ times.
const NEIGHBOURS: usize = 7;

/// What was found in the frames that were looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detection {
    /// How many frames that is.
    pub frames: u64,
    /// The payload, if it can be read.
    pub id: Option<GenerationId>,
    /// How far the best correlation stands out, in standard deviations of all others.
    pub strength: f64,
    /// How many times their first size the pictures have, where it was found.
    pub scale: f64,
}

impl Detection {
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
    /// The same at a quarter of the size, of large pictures.
    smaller: Residual,
    /// That of the first frames alone.
    opening: Residual,
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
    pub fn new(key: &WatermarkKey) -> Self {
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
        let [seen, smaller, opening] = Default::default();
        Self { tile, sync, shape, fourier, seen, smaller, opening }
    }

    /// Looks at a picture's luma: `height` rows of `width` samples, `stride` apart. One of another size than
    /// before begins anew; one whose data is too short is not looked at.
    pub fn push(&mut self, luma: &[u8], stride: usize, width: usize, height: usize) {
        if !self.seen.push(luma, stride, width, height) {
            return;
        }
        if self.seen.frames == 1 {
            [self.smaller, self.opening] = Default::default();
        }
        if self.seen.frames <= OPENING {
            self.opening.push(luma, stride, width, height);
        }
        if width * height >= LARGE
            && stride >= width
            && let Some(luma) = luma.get(..stride * height)
        {
            let small = shrunk(luma, stride, width);
            self.smaller.push(&small, width / SMALLER, width / SMALLER, height / SMALLER);
        }
    }

    /// Whether a picture of this size goes with those that were looked at.
    pub fn fits(&self, width: usize, height: usize) -> bool {
        self.seen.frames == 0 || (width, height) == (self.seen.width, self.seen.height)
    }

    /// How many frames were looked at since the start or [`Detector::clear`].
    pub fn frames(&self) -> u64 {
        self.seen.frames
    }

    /// Forgets what was seen.
    pub fn clear(&mut self) {
        [self.seen, self.smaller, self.opening] = Default::default();
    }

    /// What is in the frames so far; `None` if there were none.
    pub fn finding(&self) -> Option<Detection> {
        if self.seen.frames == 0 {
            return None;
        }
        // The pictures, and how many times smaller than they came.
        let found = self.look(&[(self.seen.even(), 1), (self.smaller.even(), SMALLER)])?;
        if found.id.is_some() || self.seen.frames <= OPENING {
            return Some(found);
        }
        let first = self.look(&[(self.opening.even(), 1)]);
        first.filter(|first| first.id.is_some() || first.strength > found.strength).or(Some(found))
    }

    /// The best that is in any of these pictures, which are so many times smaller than they came.
    fn look(&self, seen: &[(Even, usize)]) -> Option<Detection> {
        let looks: Vec<_> = seen.iter().flat_map(|of| of.0.scales().map(move |scale| (of, scale))).collect();
        let looks = looks.into_par_iter().map(|(of, scale)| (self.best(&of.0, (scale, scale)), of));
        let mut places: Vec<_> = looks.collect();
        places.sort_by(|(a, _), (b, _)| b.strength.total_cmp(&a.strength));
        places.truncate(PLACES);
        let mut found: Option<Detection> = None;
        for (rough, (seen, times)) in places {
            let (place, id) = self.read(seen, rough);
            let scale = *times as f64 * (place.scale.0 * place.scale.1).sqrt();
            let here = Detection { frames: self.seen.frames, id, strength: place.strength, scale };
            if id.is_some() {
                return Some(here);
            }
            if found.is_none_or(|best| best.strength < here.strength) {
                found = Some(here);
            }
        }
        found
    }

    /// The pictures folded at a scale, transformed.
    fn spectrum(&self, seen: &Even, scale: (f64, f64)) -> Vec<Complex32> {
        let mut spectrum = self.fourier.transform(&seen.fold(scale));
        whiten(&mut spectrum);
        spectrum
    }

    /// The shift of the tile that fits a spectrum best, and how far it stands out.
    fn strongest(&self, spectrum: &[Complex32]) -> (usize, f64) {
        let correlation = self.fourier.correlate(spectrum, &self.sync);
        let n = AREA as f64;
        let mean = correlation.iter().map(|c| f64::from(*c)).sum::<f64>() / n;
        let variance = correlation.iter().map(|c| (f64::from(*c) - mean).powi(2)).sum::<f64>() / n;
        let best = correlation.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        let (shift, peak) = best.map_or((0, mean), |(shift, peak)| (shift, f64::from(*peak)));
        (shift, (peak - mean) / variance.sqrt().max(f64::MIN_POSITIVE))
    }

    /// The best shift at a scale.
    fn best(&self, seen: &Even, scale: (f64, f64)) -> Place {
        let (shift, strength) = self.strongest(&self.spectrum(seen, scale));
        Place { strength, scale, shift }
    }

    /// The places up to two steps of scale away, the best first.
    fn nearby(&self, seen: &Even, place: Place, step: f64) -> Vec<Place> {
        let moves: Vec<_> = (-2..=2).flat_map(|x| (-2..=2).map(move |y| (x, y))).collect();
        let near = moves.par_iter().map(|(x, y)| {
            let moved = |scale: f64, n: i32| scale * (1.0 + f64::from(n) * step);
            self.best(seen, (moved(place.scale.0, *x), moved(place.scale.1, *y)))
        });
        let mut near: Vec<_> = near.collect();
        near.sort_by(|a, b| b.strength.total_cmp(&a.strength));
        near
    }

    /// Finds the place more exactly and reads what is there.
    fn read(&self, seen: &Even, rough: Place) -> (Place, Option<GenerationId>) {
        // The picture may have been scaled a little more one way than the other.
        let step = rough.scale.0 / seen.side() as f64;
        let place = self.nearby(seen, rough, step)[0];
        let near = self.nearby(seen, place, step / 2.0);
        let read = |(i, place): (usize, &Place)| {
            let bits = self.bits(&self.spectrum(seen, place.scale), place.shift);
            Some((place.scale, decode(&bits, if i == 0 { 0.0 } else { FIT })?))
        };
        match near[..=NEIGHBOURS].par_iter().enumerate().find_map_first(read) {
            Some((scale, id)) => (Place { scale, ..near[0] }, Some(id)),
            None => (near[0], None),
        }
    }

    /// The bits of the codeword, with the tile at `shift`: positive where one is rather 1.
    fn bits(&self, spectrum: &[Complex32], shift: usize) -> [f32; CODE_BITS] {
        let chips = self.fourier.correlate(spectrum, &self.shape);
        let mut soft = [0.0; CODE_BITS];
        for chip in 0..CHIPS {
            if let Role::Bit(bit) = self.tile.roles[chip] {
                let x = (chip % SIDE * CELL + shift % EDGE) % EDGE;
                let y = (chip / SIDE * CELL + shift / EDGE) % EDGE;
                soft[bit] += self.tile.signs[chip] * chips[y * EDGE + x];
            }
        }
        soft
    }
}

impl Even {
    /// Scales so close together that no part of the picture is off by more than a pixel of the tile.
    fn scales(&self) -> impl Iterator<Item = f64> + use<> {
        let side = self.side() as f64;
        std::iter::successors((side > 0.0).then_some(MIN_SCALE), move |scale| {
            Some(scale * (1.0 + 4.0 * scale / side))
        })
        .take_while(|scale| *scale <= MAX_SCALE)
    }
}

/// A picture at a quarter of its size: means of 4×4 pixels, whole rows of them.
fn shrunk(luma: &[u8], stride: usize, width: usize) -> Vec<u8> {
    let across = width / SMALLER;
    let mut small = Vec::with_capacity(luma.len() / (SMALLER * SMALLER));
    for rows in luma.chunks_exact(stride * SMALLER) {
        let mut sums = vec![0u16; across];
        for row in rows.chunks_exact(stride) {
            for (sum, pixels) in sums.iter_mut().zip(row.chunks_exact(SMALLER)) {
                *sum += pixels.iter().map(|pixel| u16::from(*pixel)).sum::<u16>();
            }
        }
        small.extend(sums.iter().map(|sum| ((sum + 8) / 16) as u8));
    }
    small
}

/// A chip is strongest in its middle.
fn weight(pixel: usize) -> f32 {
    PROFILE[pixel % EDGE % CELL] * PROFILE[pixel / EDGE % CELL]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pictures with coarse and fine things in them, moving.
    fn unmarked() -> Even {
        let mut seen = Residual::default();
        for time in 0..8 {
            let sample = |i: usize| {
                let (x, y) = ((i % 320 + 3 * time) as f32, (i / 320) as f32);
                let hills = 40.0 * (x / 37.0).sin() * (y / 23.0).cos() + 20.0 * ((x + 2.0 * y) / 9.0).sin();
                let grain = ((i % 320 + 3 * time) * 7919 + i / 320 * 104_729) % 97;
                (128.0 + hills + grain as f32 / 8.0) as u8
            };
            let picture: Vec<_> = (0..320 * 192).map(sample).collect();
            seen.push(&picture, 320, 320, 192);
        }
        seen.even()
    }

    #[test]
    fn keys_that_were_not_used_are_found_as_often_as_derived() {
        const KEYS: u32 = 10_000;
        let seen = unmarked();
        let any = Detector::new(&WatermarkKey::public());
        let spectra: Vec<_> = (0..40)
            .map(|i| any.spectrum(&seen, [MIN_SCALE * (1.0 + 0.03 * f64::from(i)); 2].into()))
            .collect();
        let looks = (0..KEYS).into_par_iter().map(|i| {
            let mut key = [0; 16];
            key[..4].copy_from_slice(&i.to_le_bytes());
            let detector = Detector::new(&WatermarkKey::from_bytes(&key).unwrap());
            let spectrum = &spectra[i as usize % spectra.len()];
            let (shift, strength) = detector.strongest(spectrum);
            // Reading takes longer than finding; it is tried where the key fits best.
            let id = (strength > 4.5).then(|| decode(&detector.bits(spectrum, shift), 0.0)).flatten();
            (strength, id)
        });
        let looks: Vec<_> = looks.collect();
        assert_eq!(looks.iter().filter(|(_, id)| id.is_some()).count(), 0);
        // What a Gaussian exceeds so often, at EDGE² shifts; the shifts are not independent, which makes it less often.
        for (strength, tail) in [(4.5, 3.398e-6), (5.0, 2.867e-7), (5.5, 1.899e-8)] {
            let expected = f64::from(KEYS) * AREA as f64 * tail;
            let seen = looks.iter().filter(|(s, _)| *s > strength).count() as f64;
            assert!(seen < expected + 4.0 * expected.sqrt(), "{strength}: {seen} of {expected}");
            assert!(seen > expected / 3.0 - 2.0, "{strength}: {seen} of {expected}");
        }
    }
}
