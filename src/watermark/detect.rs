//! Detection of the watermark without the original, at an unknown scale and crop.

use std::time::Duration;

use rayon::prelude::*;
use rustfft::num_complex::Complex32;

use super::pattern::{Scheme, turn};
use super::payload::{FIT, decode};
use super::residual::{Residual, SearchResidual};
use super::spectrum::{Fourier, whiten};
use super::template::{Peak, Template};
use super::{GenerationId, WatermarkKey};

/// Minimum scale of the search, relative to the original size.
pub const MIN_SCALE: f64 = 0.4;
/// Maximum scale of the search. Large frames are also searched at a quarter of their size.
pub const MAX_SCALE: f64 = 1.6;
/// Downscaling factor for large frames.
const DOWNSCALE: usize = 4;
/// Number of pixels from which a frame is large. A smaller frame, downscaled, would hardly contain a tile.
const LARGE: usize = 500_000;

/// Strength from which a watermark counts as detected even if the payload cannot be read.
///
/// At one shift, the correlation with a key that was not embedded is a sum of hundreds of chips and therefore Gaussian,
/// whatever the frames show. A Gaussian exceeds 8 with a probability of 6.2·10⁻¹⁶. The search covers at most 20736 shifts at two
/// thousand scales for three pairs of residual and scheme, twice (all frames and the first), and the neighbours of the
/// `CANDIDATES` best, so that the maximum exceeds 8 less than twice in ten million times. A test with 10,000 keys confirms the
/// distribution (`wrong_keys_reach_the_derived_strengths`).
pub const DETECTION_THRESHOLD: f64 = 8.0;

/// First frames that are also searched alone. The first frame is intra-coded; in later frames, an encoder moves the watermark
/// along with the picture content or, at a low bit rate, does not encode how it changes.
const FIRST_FRAMES: u64 = 4;
/// Candidates whose payload is decoded in each of the three searches: of what turns, of what is constant, and of the first
/// frames. Noise passes once in 2²⁴ times for each, and once in 2²⁰ times for all together.
const CANDIDATES: usize = 5;
/// Neighbours of each candidate that are also decoded, since the strongest is not always the right one. They must reach
/// [`FIT`], so that noise passes for all of them together less than once in 2²⁴ times.
const NEIGHBOURS: usize = 7;

/// The result of a detection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detection {
    /// Number of frames that were analysed.
    pub frames: u64,
    /// The scheme of the pattern that fits best.
    pub scheme: Scheme,
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

/// Detects the watermark of one key, of both schemes. More frames make the detection more reliable.
pub struct Detector {
    templates: [Template; 2],
    fourier: Fourier,
    residual: Residual,
    /// The residual of large frames at a quarter of the size.
    downscaled: Residual,
    /// The residual of the first frames alone.
    first_frames: Residual,
}

/// A residual to search.
struct Source {
    residual: SearchResidual,
    /// Downscaling factor of the frames.
    factor: usize,
    /// Schemes whose pattern it may contain.
    schemes: &'static [Scheme],
}

impl Source {
    /// What all frames have in common.
    fn constant(residual: &Residual, factor: usize) -> Self {
        let schemes = &[Scheme::Static, Scheme::Rotating];
        Self { residual: residual.constant(), factor, schemes }
    }

    /// What turns from frame to frame.
    fn rotating(residual: &Residual, factor: usize) -> Self {
        Self { residual: residual.rotating(), factor, schemes: &[Scheme::Rotating] }
    }
}

/// A possible position of the tile.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    scheme: Scheme,
    /// Horizontal and vertical scale.
    scale: (f64, f64),
    peak: Peak,
}

impl Candidate {
    /// Compares so that the strongest comes first.
    fn by_strength(a: &Self, b: &Self) -> std::cmp::Ordering {
        b.peak.strength.total_cmp(&a.peak.strength)
    }
}

impl Detector {
    /// A detector of the watermarks of `key`.
    pub fn new(key: &WatermarkKey) -> Self {
        let fourier = Fourier::new();
        let templates = [Scheme::Static, Scheme::Rotating].map(|scheme| Template::new(key, scheme, &fourier));
        let [residual, downscaled, first_frames] = Default::default();
        Self { templates, fourier, residual, downscaled, first_frames }
    }

    /// Adds the luma of a frame: `height` rows of `width` samples, `stride` bytes apart. `time` is the time of the frame,
    /// from any start that is the same for all frames. A change of size discards the earlier frames. A frame whose data is too
    /// short is ignored.
    pub fn push(&mut self, luma: &[u8], stride: usize, width: usize, height: usize, time: Duration) {
        let turn = turn(time);
        if !self.residual.push(luma, stride, (width, height), turn) {
            return;
        }
        if self.residual.frames == 1 {
            [self.downscaled, self.first_frames] = Default::default();
        }
        if self.residual.frames <= FIRST_FRAMES {
            self.first_frames.push(luma, stride, (width, height), turn);
        }
        if width * height >= LARGE
            && stride >= width
            && let Some(luma) = luma.get(..stride * height)
        {
            let small = downscale(luma, stride, width);
            self.downscaled.push(&small, width / DOWNSCALE, (width / DOWNSCALE, height / DOWNSCALE), turn);
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
        let all = |kind: fn(&Residual, usize) -> Source| {
            vec![kind(&self.residual, 1), kind(&self.downscaled, DOWNSCALE)]
        };
        // Most watermarks turn; then there is no need to search on.
        let mut searches = vec![all(Source::rotating), all(Source::constant)];
        if self.residual.frames > FIRST_FRAMES {
            searches.push(vec![Source::constant(&self.first_frames, 1)]);
        }
        let mut best: Option<Detection> = None;
        for found in searches.iter().filter_map(|sources| self.search(sources)) {
            if found.id.is_some() {
                return Some(found);
            }
            if best.is_none_or(|best| best.strength < found.strength) {
                best = Some(found);
            }
        }
        best
    }

    /// The best detection in these residuals.
    fn search(&self, sources: &[Source]) -> Option<Detection> {
        let scales: Vec<_> = sources
            .iter()
            .flat_map(|source| source.residual.scales().map(move |scale| (source, scale)))
            .collect();
        let candidates = scales.into_par_iter().flat_map_iter(|(source, scale)| {
            let spectrum = self.spectrum(&source.residual, (scale, scale));
            source.schemes.iter().map(move |scheme| {
                let peak = self.template(*scheme).strongest(&self.fourier, &spectrum);
                (Candidate { scheme: *scheme, scale: (scale, scale), peak }, source)
            })
        });
        let mut candidates: Vec<_> = candidates.collect();
        candidates.sort_by(|(a, _), (b, _)| Candidate::by_strength(a, b));
        candidates.truncate(CANDIDATES);
        let mut best: Option<Detection> = None;
        for (coarse, source) in candidates {
            let (candidate, id) = self.read(&source.residual, coarse);
            let Candidate { scheme, scale, peak } = candidate;
            let scale = source.factor as f64 * (scale.0 * scale.1).sqrt();
            let strength = if id.is_some() { peak.strength } else { peak.strength.min(peak.limit) };
            let detection = Detection { frames: self.residual.frames, scheme, id, strength, scale };
            if id.is_some() {
                return Some(detection);
            }
            if best.is_none_or(|best| best.strength < detection.strength) {
                best = Some(detection);
            }
        }
        best
    }

    fn template(&self, scheme: Scheme) -> &Template {
        let [constant, rotating] = &self.templates;
        match scheme {
            Scheme::Static => constant,
            Scheme::Rotating => rotating,
        }
    }

    /// The whitened spectrum of the residual folded at a scale.
    fn spectrum(&self, residual: &SearchResidual, scale: (f64, f64)) -> Vec<Complex32> {
        let mut spectrum = self.fourier.transform(residual.fold(scale));
        whiten(&mut spectrum);
        spectrum
    }

    /// The candidates up to two steps of scale away, the strongest first.
    fn nearby(&self, residual: &SearchResidual, candidate: Candidate, step: f64) -> Vec<Candidate> {
        let template = self.template(candidate.scheme);
        let offsets: Vec<_> = (-2..=2).flat_map(|x| (-2..=2).map(move |y| (x, y))).collect();
        let near = offsets.par_iter().map(|(x, y)| {
            let moved = |scale: f64, n: i32| scale * (1.0 + f64::from(n) * step);
            let scale = (moved(candidate.scale.0, *x), moved(candidate.scale.1, *y));
            let peak = template.strongest(&self.fourier, &self.spectrum(residual, scale));
            Candidate { scale, peak, ..candidate }
        });
        let mut near: Vec<_> = near.collect();
        near.sort_by(Candidate::by_strength);
        near
    }

    /// Refines a coarse candidate and decodes its payload.
    fn read(&self, residual: &SearchResidual, coarse: Candidate) -> (Candidate, Option<GenerationId>) {
        // The horizontal and vertical scales may differ slightly.
        let step = coarse.scale.0 / residual.side() as f64;
        let refined = self.nearby(residual, coarse, step)[0];
        let near = self.nearby(residual, refined, step / 2.0);
        let template = self.template(coarse.scheme);
        let read = |(i, candidate): (usize, &Candidate)| {
            let spectrum = self.spectrum(residual, candidate.scale);
            let bits = template.bits(&self.fourier, &spectrum, candidate.peak);
            Some((candidate.scale, decode(&bits, if i == 0 { 0.0 } else { FIT })?))
        };
        match near[..=NEIGHBOURS].par_iter().enumerate().find_map_first(read) {
            Some((scale, id)) => (Candidate { scale, ..near[0] }, Some(id)),
            None => (near[0], None),
        }
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

#[cfg(test)]
mod tests {
    use super::super::pattern::AREA;
    use super::*;

    /// The residual of moving frames with coarse and fine detail, without a watermark, eight in one second.
    fn unmarked() -> Residual {
        let mut residual = Residual::default();
        for time in 0..8 {
            let sample = |i: usize| {
                let (x, y) = ((i % 320 + 3 * time) as f32, (i / 320) as f32);
                let hills = 40.0 * (x / 37.0).sin() * (y / 23.0).cos() + 20.0 * ((x + 2.0 * y) / 9.0).sin();
                let grain = ((i % 320 + 3 * time) * 7919 + i / 320 * 104_729) % 97;
                (128.0 + hills + grain as f32 / 8.0) as u8
            };
            let picture: Vec<_> = (0..320 * 192).map(sample).collect();
            residual.push(&picture, 320, (320, 192), turn(Duration::from_millis(125 * time as u64)));
        }
        residual
    }

    #[test]
    fn wrong_keys_reach_the_derived_strengths() {
        const KEYS: u32 = 10_000;
        let residual = unmarked();
        for source in [Source::constant(&residual, 1), Source::rotating(&residual, 1)] {
            let any = Detector::new(&WatermarkKey::public());
            let spectra: Vec<_> = (0..40)
                .map(|i| any.spectrum(&source.residual, [MIN_SCALE * (1.0 + 0.03 * f64::from(i)); 2].into()))
                .collect();
            for scheme in source.schemes {
                let peaks = (0..KEYS).into_par_iter().map(|i| {
                    let mut key = [0; 16];
                    key[..4].copy_from_slice(&i.to_le_bytes());
                    let key = WatermarkKey::from_bytes(&key).unwrap();
                    let template = Template::new(&key, *scheme, &any.fourier);
                    let spectrum = &spectra[i as usize % spectra.len()];
                    let peak = template.strongest(&any.fourier, spectrum);
                    // Decoding is slower than correlating, so only strong correlations are decoded.
                    let bits = (peak.strength > 4.5).then(|| template.bits(&any.fourier, spectrum, peak));
                    (peak.strength, bits.and_then(|bits| decode(&bits, 0.0)))
                });
                let peaks: Vec<_> = peaks.collect();
                assert_eq!(peaks.iter().filter(|(_, id)| id.is_some()).count(), 0);
                // Tail probabilities of a Gaussian, at each shift. Dependent shifts make large values rarer.
                for (strength, tail) in [(4.5, 3.398e-6), (5.0, 2.867e-7), (5.5, 1.899e-8)] {
                    let expected = f64::from(KEYS) * AREA as f64 * tail;
                    let observed = peaks.iter().filter(|(s, _)| *s > strength).count() as f64;
                    let case = format!("{scheme:?} {strength}: {observed}, not {expected}");
                    assert!(observed < expected + 4.0 * expected.sqrt(), "{case}");
                    assert!(observed > expected / 3.0 - 2.0, "{case}");
                }
            }
        }
    }
}
