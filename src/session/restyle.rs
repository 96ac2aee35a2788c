//! The video that goes in: its frames until a chunk takes them, and the noise level that the chunk starts from.

use candle_core::{Device, Tensor};

use crate::request::Restyle;
use crate::{Error, Result, Size, picture};

/// Of StreamDiffusionV2 (`compute_noise_scale_and_step` in `streamv2v/inference.py`): the difference of two frames that counts as
/// the fastest motion, as RMSE in \[−1, 1\], and the weight of the level of the chunk before.
const FASTEST: f64 = 0.2;
const SMOOTHING: f64 = 0.1;

/// The part of the video that a chunk takes.
pub struct ChunkVideo {
    /// f32 `[1, 3, T, H, W]` in \[−1, 1\].
    pub frames: Tensor,
    /// Noise level, from 0 to 1.
    pub sigma: f64,
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
}

impl InputVideo {
    pub fn new(settings: Restyle, size: Size) -> Self {
        Self { settings, size, waiting: Vec::new(), pushed: 0, ended: false, before: None }
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
        let frames = picture::frames_to_video(taken, self.size, device)?;
        let sigma = self.level(&frames)?;
        Ok(ChunkVideo { frames, sigma })
    }

    /// The noise level of a chunk with these frames.
    fn level(&mut self, frames: &Tensor) -> Result<f64> {
        let Restyle { strength, motion_noise } = self.settings;
        let count = frames.dim(2)?;
        let level = match &self.before {
            // At once: frames that stay as they are need no step.
            _ if strength == 0.0 => 0.0,
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
