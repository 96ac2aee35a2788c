//! Detection of the watermark without the original, at an unknown scale and crop.

use rayon::prelude::*;
use rustfft::num_complex::Complex32;

use super::pattern::{CELL, CHIPS, Role, SIDE, Tile};
use super::payload::{CODE_BITS, FIT, decode};
use super::residual::{Residual, SearchResidual};
use super::spectrum::{AREA, EDGE, Fourier, whiten};
use super::{GenerationId, WatermarkKey};

/// Minimum scale of the search, relative to the original size.
pub const MIN_SCALE: f64 = 0.4;
/// Maximum scale of the search. Large frames are also searched at a quarter of their size.
pub const MAX_SCALE: f64 = 1.6;
/// Relative strength of a chip along its side.
const PROFILE: [f32; CELL] = [0.43, 0.78, 0.97, 0.97, 0.78, 0.43];
/// Downscaling factor for large frames.
const DOWNSCALE: usize = 4;
/// Number of pixels from which a frame is large. A smaller frame, downscaled, would hardly contain a tile.
const LARGE: usize = 500_000;

/// Strength from which a watermark counts as detected even if the payload cannot be read.
///
/// At one shift, the correlation with a key that was not embedded is a sum of hundreds of chips and therefore Gaussian,
/// whatever the frames show. The search covers at most `EDGE`² shifts at two thousand scales, and the neighbours of the
/// `CANDIDATES` best, so that the maximum exceeds 8 less than once in ten million times. A test with 10,000 keys confirms the
/// distribution (`wrong_keys_reach_the_derived_strengths`).
pub const DETECTION_THRESHOLD: f64 = 8.0;

/// First frames that are also searched alone. The first frame is intra-coded; in later frames, an encoder moves the watermark
/// along with the picture content.
const FIRST_FRAMES: u64 = 4;
/// Candidates whose payload is decoded, in all frames and again in the first frames. Noise passes once in 2²⁴ times for each, and
/// once in 2²⁰ times for all together.
const CANDIDATES: usize = 8;
/// Neighbours of each candidate that are also decoded, since the strongest is not always the right one. They must reach
/// [`FIT`], so that noise passes for all of them together less than once in 2²⁴ times.
const NEIGHBOURS: usize = 7;

/// The result of a detection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detection {
    /// Number of frames that were analysed.
    pub frames: u64,
    /// The payload, if it can be read.
    pub id: Option<GenerationId>,
    /// The peak of the correlation, in standard deviations above its mean.
    pub strength: f64,
    /// Scale of the frames at the peak, relative to the original size.
    pub scale: f64,
}

impl Detection {
    /// Whether the frames have a watermark of the key: the payload was read, or the strength reaches
    /// [`DETECTION_THRESHOLD`].
    pub fn is_marked(&self) -> bool {
        self.id.is_some() || self.strength >= DETECTION_THRESHOLD
    }
}

/// Detects the watermark of one key. It is constant over a shot, so that more frames make the detection more reliable.
pub struct Detector {
    tile: Tile,
    /// The transform of the synchronisation chips.
    sync: Vec<Complex32>,
    /// The transform of the shape of one chip.
    shape: Vec<Complex32>,
    fourier: Fourier,
    residual: Residual,
    /// The residual of large frames at a quarter of the size.
    downscaled: Residual,
    /// The residual of the first frames alone.
    first_frames: Residual,
}

/// A possible position of the tile.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    strength: f64,
    /// Horizontal and vertical scale.
    scale: (f64, f64),
    /// Shift of the tile, as a pixel index.
    shift: usize,
}

impl Detector {
    /// A detector of the watermarks of `key`.
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
        let [residual, downscaled, first_frames] = Default::default();
        Self { tile, sync, shape, fourier, residual, downscaled, first_frames }
    }

    /// Adds the luma of a frame: `height` rows of `width` samples, `stride` bytes apart. A change of size discards the earlier
    /// frames. A frame whose data is too short is ignored.
    pub fn push(&mut self, luma: &[u8], stride: usize, width: usize, height: usize) {
        if !self.residual.push(luma, stride, width, height) {
            return;
        }
        if self.residual.frames == 1 {
            [self.downscaled, self.first_frames] = Default::default();
        }
        if self.residual.frames <= FIRST_FRAMES {
            self.first_frames.push(luma, stride, width, height);
        }
        if width * height >= LARGE
            && stride >= width
            && let Some(luma) = luma.get(..stride * height)
        {
            let small = downscale(luma, stride, width);
            self.downscaled.push(&small, width / DOWNSCALE, width / DOWNSCALE, height / DOWNSCALE);
        }
    }

    /// Whether a frame of this size can be added without discarding the earlier frames.
    pub fn fits(&self, width: usize, height: usize) -> bool {
        self.residual.frames == 0 || (width, height) == (self.residual.width, self.residual.height)
    }

    /// Number of frames since the start, the last change of size or [`Detector::clear`].
    pub fn frames(&self) -> u64 {
        self.residual.frames
    }

    /// Discards all frames.
    pub fn clear(&mut self) {
        [self.residual, self.downscaled, self.first_frames] = Default::default();
    }

    /// Analyses the frames so far; `None` without frames.
    pub fn detect(&self) -> Option<Detection> {
        if self.residual.frames == 0 {
            return None;
        }
        // Each residual with its downscaling factor.
        let all = self.search(&[(self.residual.equalise(), 1), (self.downscaled.equalise(), DOWNSCALE)])?;
        if all.id.is_some() || self.residual.frames <= FIRST_FRAMES {
            return Some(all);
        }
        let first = self.search(&[(self.first_frames.equalise(), 1)]);
        first.filter(|first| first.id.is_some() || first.strength > all.strength).or(Some(all))
    }

    /// The best detection in these residuals, each with its downscaling factor.
    fn search(&self, residuals: &[(SearchResidual, usize)]) -> Option<Detection> {
        let scales: Vec<_> =
            residuals.iter().flat_map(|entry| entry.0.scales().map(move |scale| (entry, scale))).collect();
        let candidates =
            scales.into_par_iter().map(|(entry, scale)| (self.best(&entry.0, (scale, scale)), entry));
        let mut candidates: Vec<_> = candidates.collect();
        candidates.sort_by(|(a, _), (b, _)| b.strength.total_cmp(&a.strength));
        candidates.truncate(CANDIDATES);
        let mut best: Option<Detection> = None;
        for (coarse, (residual, factor)) in candidates {
            let (candidate, id) = self.read(residual, coarse);
            let scale = *factor as f64 * (candidate.scale.0 * candidate.scale.1).sqrt();
            let detection =
                Detection { frames: self.residual.frames, id, strength: candidate.strength, scale };
            if id.is_some() {
                return Some(detection);
            }
            if best.is_none_or(|best| best.strength < detection.strength) {
                best = Some(detection);
            }
        }
        best
    }

    /// The whitened spectrum of the residual folded at a scale.
    fn spectrum(&self, residual: &SearchResidual, scale: (f64, f64)) -> Vec<Complex32> {
        let mut spectrum = self.fourier.transform(&residual.fold(scale));
        whiten(&mut spectrum);
        spectrum
    }

    /// The shift of the tile with the greatest correlation, and its strength.
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
    fn best(&self, residual: &SearchResidual, scale: (f64, f64)) -> Candidate {
        let (shift, strength) = self.strongest(&self.spectrum(residual, scale));
        Candidate { strength, scale, shift }
    }

    /// The candidates up to two steps of scale away, the strongest first.
    fn nearby(&self, residual: &SearchResidual, candidate: Candidate, step: f64) -> Vec<Candidate> {
        let offsets: Vec<_> = (-2..=2).flat_map(|x| (-2..=2).map(move |y| (x, y))).collect();
        let near = offsets.par_iter().map(|(x, y)| {
            let moved = |scale: f64, n: i32| scale * (1.0 + f64::from(n) * step);
            self.best(residual, (moved(candidate.scale.0, *x), moved(candidate.scale.1, *y)))
        });
        let mut near: Vec<_> = near.collect();
        near.sort_by(|a, b| b.strength.total_cmp(&a.strength));
        near
    }

    /// Refines a coarse candidate and decodes its payload.
    fn read(&self, residual: &SearchResidual, coarse: Candidate) -> (Candidate, Option<GenerationId>) {
        // The horizontal and vertical scales may differ slightly.
        let step = coarse.scale.0 / residual.side() as f64;
        let refined = self.nearby(residual, coarse, step)[0];
        let near = self.nearby(residual, refined, step / 2.0);
        let read = |(i, candidate): (usize, &Candidate)| {
            let bits = self.bits(&self.spectrum(residual, candidate.scale), candidate.shift);
            Some((candidate.scale, decode(&bits, if i == 0 { 0.0 } else { FIT })?))
        };
        match near[..=NEIGHBOURS].par_iter().enumerate().find_map_first(read) {
            Some((scale, id)) => (Candidate { scale, ..near[0] }, Some(id)),
            None => (near[0], None),
        }
    }

    /// The soft bits of the codeword with the tile at `shift`, positive for a probable 1.
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

impl SearchResidual {
    /// The scales to search, so close that no part of the frame is off by more than one pixel of the tile.
    fn scales(&self) -> impl Iterator<Item = f64> + use<> {
        let side = self.side() as f64;
        std::iter::successors((side > 0.0).then_some(MIN_SCALE), move |scale| {
            Some(scale * (1.0 + 4.0 * scale / side))
        })
        .take_while(|scale| *scale <= MAX_SCALE)
    }
}

/// Downscales a frame to a quarter of its size by averaging 4×4 pixels; an incomplete last row is dropped.
fn downscale(luma: &[u8], stride: usize, width: usize) -> Vec<u8> {
    let across = width / DOWNSCALE;
    let mut small = Vec::with_capacity(luma.len() / (DOWNSCALE * DOWNSCALE));
    for rows in luma.chunks_exact(stride * DOWNSCALE) {
        let mut sums = vec![0u16; across];
        for row in rows.chunks_exact(stride) {
            for (sum, pixels) in sums.iter_mut().zip(row.chunks_exact(DOWNSCALE)) {
                *sum += pixels.iter().map(|pixel| u16::from(*pixel)).sum::<u16>();
            }
        }
        small.extend(sums.iter().map(|sum| ((sum + 8) / 16) as u8));
    }
    small
}

/// The strength profile of a chip at a pixel of the tile.
fn weight(pixel: usize) -> f32 {
    PROFILE[pixel % EDGE % CELL] * PROFILE[pixel / EDGE % CELL]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The residual of moving frames with coarse and fine detail, without a watermark.
    fn unmarked() -> SearchResidual {
        let mut residual = Residual::default();
        for time in 0..8 {
            let sample = |i: usize| {
                let (x, y) = ((i % 320 + 3 * time) as f32, (i / 320) as f32);
                let hills = 40.0 * (x / 37.0).sin() * (y / 23.0).cos() + 20.0 * ((x + 2.0 * y) / 9.0).sin();
                let grain = ((i % 320 + 3 * time) * 7919 + i / 320 * 104_729) % 97;
                (128.0 + hills + grain as f32 / 8.0) as u8
            };
            let picture: Vec<_> = (0..320 * 192).map(sample).collect();
            residual.push(&picture, 320, 320, 192);
        }
        residual.equalise()
    }

    #[test]
    fn wrong_keys_reach_the_derived_strengths() {
        const KEYS: u32 = 10_000;
        let residual = unmarked();
        let any = Detector::new(&WatermarkKey::public());
        let spectra: Vec<_> = (0..40)
            .map(|i| any.spectrum(&residual, [MIN_SCALE * (1.0 + 0.03 * f64::from(i)); 2].into()))
            .collect();
        let detections = (0..KEYS).into_par_iter().map(|i| {
            let mut key = [0; 16];
            key[..4].copy_from_slice(&i.to_le_bytes());
            let detector = Detector::new(&WatermarkKey::from_bytes(&key).unwrap());
            let spectrum = &spectra[i as usize % spectra.len()];
            let (shift, strength) = detector.strongest(spectrum);
            // Decoding is slower than correlating, so only strong correlations are decoded.
            let id = (strength > 4.5).then(|| decode(&detector.bits(spectrum, shift), 0.0)).flatten();
            (strength, id)
        });
        let detections: Vec<_> = detections.collect();
        assert_eq!(detections.iter().filter(|(_, id)| id.is_some()).count(), 0);
        // Tail probabilities of a Gaussian, at EDGE² shifts. Dependent shifts make large values rarer.
        for (strength, tail) in [(4.5, 3.398e-6), (5.0, 2.867e-7), (5.5, 1.899e-8)] {
            let expected = f64::from(KEYS) * AREA as f64 * tail;
            let observed = detections.iter().filter(|(s, _)| *s > strength).count() as f64;
            assert!(observed < expected + 4.0 * expected.sqrt(), "{strength}: {observed}, not {expected}");
            assert!(observed > expected / 3.0 - 2.0, "{strength}: {observed}, not {expected}");
        }
    }
}
