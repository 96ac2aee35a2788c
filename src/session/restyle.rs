//! The video that goes in: its frames until a chunk takes them, the noise level that the chunk starts from, and its cuts.

use candle_core::{Device, Tensor};

use crate::request::Restyle;
use crate::{Error, Result, Size, picture};

/// Of StreamDiffusionV2 (`compute_noise_scale_and_step` in `streamv2v/inference.py`): the difference of two frames that counts as
/// the fastest motion, as RMSE in \[−1, 1\], and the weight of the level of the chunk before.
const FASTEST: f64 = 0.2;
const SMOOTHING: f64 = 0.1;

/// Levels of each colour in a histogram, and the share of pixels in other bins that counts as a cut. Motion within a scene moves
/// pixels, but changes few of their colours. StreamDiffusionV2 compares keys of the KV cache instead: with a threshold for one model,
/// and only after the chunk has been made.
const LEVELS: usize = 4;
const CUT: f64 = 0.5;
/// Distance of the pixels that are counted.
const SPACING: usize = 3;

/// The part of the video that a chunk takes.
pub struct ChunkVideo {
    /// f32 `[1, 3, T, H, W]` in \[−1, 1\].
    pub frames: Tensor,
    /// Noise level, from 0 to 1.
    pub sigma: f64,
    /// Another scene of the video begins with one of the frames.
    pub has_cut: bool,
}

/// The video that goes in.
pub struct InputVideo {
    pub settings: Restyle,
    size: Size,
    /// Samples of the frames that wait, RGB.
    waiting: Vec<u8>,
    /// Frames pushed so far.
    pub pushed: u64,
    pub ended: bool,
    /// The last frame of the chunk before, and its noise level.
    before: Option<(Tensor, f64)>,
    /// The histogram of that frame.
    histogram: Option<Histogram>,
}

impl InputVideo {
    pub fn new(settings: Restyle, size: Size) -> Self {
        Self { settings, size, waiting: Vec::new(), pushed: 0, ended: false, before: None, histogram: None }
    }

    /// Adds whole frames, RGB `[T, H, W, 3]`.
    pub fn push(&mut self, samples: &[u8]) {
        self.waiting.extend_from_slice(samples);
        self.pushed += (samples.len() / self.size.samples()) as u64;
    }

    /// Frames that are missing for a chunk of `wanted` frames. After the end none is.
    pub fn missing(&self, wanted: u64) -> u64 {
        let waiting = (self.waiting.len() / self.size.samples()) as u64;
        if self.ended { 0 } else { wanted.saturating_sub(waiting) }
    }

    /// The next `count` frames. After the end of the video its last frame is repeated.
    pub fn take(&mut self, count: u64, device: &Device) -> Result<ChunkVideo> {
        let (frame, count) = (self.size.samples(), count as usize);
        if self.waiting.is_empty() {
            return Err(Error::Generation("the video that goes in has no more frames".into()));
        }
        while self.waiting.len() < count * frame {
            self.waiting.extend_from_within(self.waiting.len() - frame..);
        }
        let rest = self.waiting.split_off(count * frame);
        let taken = std::mem::replace(&mut self.waiting, rest);
        let has_cut = self.has_cut(&taken);
        let frames = picture::frames_to_video(taken, self.size, device)?;
        let sigma = self.level(&frames)?;
        Ok(ChunkVideo { frames, sigma, has_cut })
    }

    /// Whether one of these frames shows another scene than the frame before it.
    fn has_cut(&mut self, samples: &[u8]) -> bool {
        let mut found = false;
        for frame in samples.chunks_exact(self.size.samples()) {
            let now = Histogram::of(frame);
            found |= self.histogram.replace(now.clone()).is_some_and(|before| now.distance(&before) > CUT);
        }
        found
    }

    /// The noise level of a chunk with these frames.
    fn level(&mut self, frames: &Tensor) -> Result<f64> {
        let Restyle { strength, motion_noise } = self.settings;
        let count = frames.dim(2)?;
        let level = match &self.before {
            // At once: frames that stay as they are need no step, and new ones nothing of the video.
            _ if strength == 0.0 || (strength == 1.0 && motion_noise == 0.0) => strength,
            None => strength,
            Some((last, before)) => {
                let earlier = Tensor::cat(&[last, &frames.narrow(2, 0, count - 1)?], 2)?;
                let change = (frames - earlier)?.squeeze(0)?.transpose(0, 1)?.flatten_from(1)?;
                let largest = change.sqr()?.mean(1)?.max(0)?.to_scalar::<f32>()?;
                let motion = (f64::from(largest).sqrt() / FASTEST).min(1.0);
                (1.0 - SMOOTHING) * (strength - motion_noise * motion) + SMOOTHING * before
            }
        };
        let level = level.clamp(0.0, 1.0);
        self.before = Some((frames.narrow(2, count - 1, 1)?, level));
        Ok(level)
    }
}

/// Shares of the pixels of a frame with about the same colour.
#[derive(Clone)]
struct Histogram(Vec<f64>);

impl Histogram {
    /// The histogram of a frame, RGB.
    fn of(frame: &[u8]) -> Self {
        let mut bins = vec![0.0; LEVELS.pow(3)];
        let pixels = frame.chunks_exact(3).step_by(SPACING);
        let share = 1.0 / pixels.len().max(1) as f64;
        for pixel in pixels {
            let bin = pixel.iter().fold(0, |bin, &value| bin * LEVELS + usize::from(value) * LEVELS / 256);
            bins[bin] += share;
        }
        Self(bins)
    }

    /// Share of the pixels that are in other bins, from 0 to 1.
    fn distance(&self, other: &Self) -> f64 {
        self.0.iter().zip(&other.0).map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { width: 2, height: 1 };

    fn levels(settings: Restyle, frames: &[u8], chunks: &[u64]) -> Vec<f64> {
        let mut video = InputVideo::new(settings, SIZE);
        frames.iter().for_each(|&value| video.push(&[value; 6]));
        chunks.iter().map(|&count| video.take(count, &Device::Cpu).unwrap().sigma).collect()
    }

    #[test]
    fn fast_motion_lowers_the_noise_level_and_levels_follow_slowly() {
        let settings = Restyle { strength: 0.8, motion_noise: 0.1 };
        // One step of 8 bits is 2 / 255 of RMSE; 51 steps are twice the fastest motion.
        let found = levels(settings, &[0, 0, 10, 0, 51, 102, 102], &[1, 2, 2, 2]);
        let slow = 0.9 * (0.8 - 0.1 * (20.0 / 255.0 / 0.2)) + 0.1 * 0.8;
        let fast = 0.9 * (0.8 - 0.1) + 0.1 * slow;
        let expected = [0.8, slow, fast, 0.9 * (0.8 - 0.1) + 0.1 * fast];
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        let steady = levels(Restyle { motion_noise: 0.0, ..settings }, &[0, 255, 0], &[1, 2]);
        assert!(steady.iter().all(|level| (level - 0.8).abs() < 1e-12), "{steady:?}");
    }

    #[test]
    fn cuts_are_other_colours_and_not_motion() {
        const SIZE: Size = Size { width: 16, height: 2 };
        // Three quarters of a frame are bright, from column `from` on.
        let frame = |from: usize, bright: u8| -> Vec<u8> {
            (0..32).flat_map(|i| [if (i % 16 + 16 - from) % 16 < 12 { bright } else { 20 }; 3]).collect()
        };
        let mut video = InputVideo::new(Restyle::default(), SIZE);
        let frames = [frame(0, 200), frame(5, 200), frame(11, 195), frame(11, 90), frame(0, 90)];
        frames.iter().for_each(|frame| video.push(frame));
        let cuts: Vec<_> = (0..5).map(|_| video.take(1, &Device::Cpu).unwrap().has_cut).collect();
        assert_eq!(cuts, [false, false, false, true, false]);
    }

    #[test]
    fn the_last_frame_fills_the_last_chunk() {
        let mut video = InputVideo::new(Restyle::default(), SIZE);
        [0, 255, 0].iter().for_each(|&value| video.push(&[value; 6]));
        assert_eq!((video.missing(1), video.missing(4)), (0, 1));
        video.take(1, &Device::Cpu).unwrap();
        video.ended = true;
        assert_eq!(video.missing(4), 0);
        let frames = video.take(4, &Device::Cpu).unwrap().frames;
        let first: Vec<f32> = frames
            .get(0)
            .unwrap()
            .get(0)
            .unwrap()
            .flatten_from(1)
            .unwrap()
            .narrow(1, 0, 1)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        assert_eq!(first, [1.0, -1.0, -1.0, -1.0]);
    }
}
