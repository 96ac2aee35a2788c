//! Latents of a generation: their geometry, their noise, and their cache.

use candle_core::{DType, Device, Tensor};

use crate::autoencoder;
use crate::cache::{Cache, Kind};
use crate::digest::Digest;
use crate::error::refuse;
use crate::noise::NoiseKey;
use crate::{Error, Result, Setting, Size};

/// How frames and pixels of a video correspond to its latents.
#[derive(Clone, Copy, Debug)]
pub struct LatentGeometry {
    channels: usize,
    temporal_factor: u64,
    height: usize,
    width: usize,
}

impl LatentGeometry {
    pub fn new(autoencoder: &autoencoder::Config, size: Size) -> Self {
        let factor = autoencoder.spatial_factor();
        Self {
            channels: autoencoder.latent_channels(),
            temporal_factor: autoencoder.temporal_factor() as u64,
            height: size.height as usize / factor,
            width: size.width as usize / factor,
        }
    }

    /// Latent frames for `frames` frames: one for the first frame, then one for every `temporal_factor` frames.
    pub fn latents_of(&self, frames: u64) -> usize {
        if frames == 0 { 0 } else { 1 + (frames - 1).div_ceil(self.temporal_factor) as usize }
    }

    /// Whole latent frames of `frames` frames.
    pub fn whole_latents_of(&self, frames: u64) -> usize {
        if frames == 0 { 0 } else { 1 + ((frames - 1) / self.temporal_factor) as usize }
    }

    /// Frames that the latent frames `first..first + count` of a scene decode to.
    pub fn frames_of(&self, first: usize, count: usize) -> u64 {
        let count = count as u64;
        if first == 0 {
            1 + count.saturating_sub(1) * self.temporal_factor
        } else {
            count * self.temporal_factor
        }
    }

    /// Shape of `frames` latent frames: `[1, C, T, H, W]`.
    pub fn shape(&self, frames: usize) -> [usize; 5] {
        [1, self.channels, frames, self.height, self.width]
    }
}

/// The noise of a scene. It is keyed by the seed, the scene, the latent frame and the step: it does not depend on the device or
/// on the order of computation.
#[derive(Clone, Debug)]
pub struct SceneNoise {
    pub geometry: LatentGeometry,
    pub device: Device,
    pub seed: u64,
    /// Number of the scene in the video.
    pub scene: u64,
    /// Initial noise in place of that of the seed: f32 `[1, C, T, H, W]` of this scene.
    pub initial_latents: Option<Tensor>,
}

impl SceneNoise {
    /// The noise that the latent frames `first..first + count` start from, f32.
    pub fn initial(&self, first: usize, count: usize) -> Result<Tensor> {
        let Some(latents) = &self.initial_latents else { return self.draw(first, 0, count) };
        // The last chunk may reach beyond the end of the scene. Its frames there are not shown.
        let available = latents.dim(2)?.saturating_sub(first).min(count);
        let noise = latents.narrow(2, first, available)?.contiguous()?;
        Ok(noise.pad_with_zeros(2, 0, count - available)?)
    }

    /// The noise that is added after step `step` to the latent frames `first..first + count`, f32.
    pub fn fresh(&self, step: usize, first: usize, count: usize) -> Result<Tensor> {
        self.draw(first, step as u64 + 1, count)
    }

    /// The noise after each of `steps` steps, as [`fresh`](Self::fresh) has it; one upload to the device.
    pub fn fresh_of_steps(&self, steps: usize, first: usize, count: usize) -> Result<Tensor> {
        let host = Self { device: Device::Cpu, ..self.clone() };
        let each = (0..steps).map(|step| host.fresh(step, first, count));
        Ok(Tensor::cat(&each.collect::<Result<Vec<_>>>()?, 0)?.to_device(&self.device)?)
    }

    fn draw(&self, first: usize, step: u64, count: usize) -> Result<Tensor> {
        let key = NoiseKey { seed: self.seed, scene: self.scene, first_latent: first as u64, step };
        key.normal(self.geometry.shape(count).as_slice(), &self.device)
    }
}

/// The caller's initial noise for a whole video. Each scene gets its part.
#[derive(Clone, Debug)]
pub struct InitialLatents {
    /// f32 `[1, C, T, H, W]` of all scenes, one after the other.
    latents: Tensor,
}

impl InitialLatents {
    /// Checks `latents` against the number of `frames` of each scene; `None` is a video without an end. Each scene has `references` latent
    /// frames more, for a VACE model.
    pub fn new(
        latents: Tensor,
        frames: Option<Vec<u64>>,
        references: usize,
        geometry: &LatentGeometry,
        device: &Device,
    ) -> Result<Self> {
        let Some(frames) = frames else {
            return refuse(
                Setting::InitialLatents,
                "initial latents need a video with an end; set a duration".into(),
            );
        };
        let expected =
            geometry.shape(frames.into_iter().map(|frames| geometry.latents_of(frames) + references).sum());
        if latents.dims() != expected {
            return refuse(
                Setting::InitialLatents,
                format!("the initial latents are {:?}; this video needs {expected:?}", latents.dims()),
            );
        }
        Ok(Self { latents: latents.to_device(device)?.to_dtype(DType::F32)? })
    }

    /// The `count` latent frames of a scene; `before` counts the latent frames of the scenes before it.
    pub fn scene(&self, before: usize, count: usize) -> Result<Tensor> {
        Ok(self.latents.narrow(2, before, count)?)
    }
}

/// Reads and writes latents in the cache, if there is one.
#[derive(Clone, Debug)]
pub struct LatentStore {
    pub cache: Option<Cache>,
    pub geometry: LatentGeometry,
    pub device: Device,
}

impl LatentStore {
    /// The `count` latent frames under `key`, if the cache has them.
    pub fn get(&self, key: Option<Digest>, count: usize) -> Option<Tensor> {
        let latents = self.cache.as_ref()?.get(Kind::Latents, &key?, &self.device)?;
        (latents.dims() == self.geometry.shape(count)).then_some(latents)
    }

    /// Stores `latents` under `key`, after a check that they are finite.
    ///
    /// # Errors
    /// As [`check_finite`].
    pub fn put(&self, key: Option<Digest>, latents: &Tensor) -> Result<()> {
        if let (Some(cache), Some(key)) = (&self.cache, key) {
            check_finite(latents)?;
            cache.put(Kind::Latents, &key, latents);
        }
        Ok(())
    }
}

/// Replaces the first frame of `latents` by `image`, one latent frame. Without an image it returns them unchanged.
pub fn replace_first_frame(image: Option<&Tensor>, latents: Tensor) -> Result<Tensor> {
    let Some(image) = image else { return Ok(latents) };
    let rest = latents.dim(2)? - 1;
    if rest == 0 {
        return Ok(image.to_dtype(DType::F32)?);
    }
    Ok(Tensor::cat(&[image, &latents.narrow(2, 1, rest)?], 2)?)
}

/// `latents` with as much of `noise` as the noise level `sigma` says, f32.
pub fn noised(latents: &Tensor, noise: &Tensor, sigma: f64) -> Result<Tensor> {
    Ok(((noise * sigma)? + (latents * (1.0 - sigma))?)?)
}

/// Refuses latents with values that are not finite: they would decode to a grey or black frame without an error.
pub fn check_finite(latents: &Tensor) -> Result<()> {
    refuse_infinite(Some(&latents.sum_all()?))
}

/// As [`check_finite`], with the sum of the latents. A GPU computes the sum while the host goes on; only this call waits for it.
pub fn refuse_infinite(sum: Option<&Tensor>) -> Result<()> {
    match sum {
        Some(sum) if !sum.to_scalar::<f32>()?.is_finite() => Err(Error::Generation(
            "the model computed a value that is not finite; a higher precision or another size may help"
                .into(),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: LatentGeometry = LatentGeometry { channels: 2, temporal_factor: 4, height: 3, width: 2 };

    #[test]
    fn frames_and_latents_correspond() {
        for frames in 0..20 {
            let latents = GEOMETRY.latents_of(frames);
            assert!(GEOMETRY.frames_of(0, latents) >= frames);
            assert!(latents < 2 || GEOMETRY.frames_of(0, latents - 1) < frames, "{frames}");
        }
        assert_eq!(GEOMETRY.frames_of(1, 3), 12);
    }

    #[test]
    fn no_noise_is_used_twice() {
        let noise = |seed, scene| {
            let (geometry, device) = (GEOMETRY, Device::Cpu);
            SceneNoise { geometry, device, seed, scene, initial_latents: None }
        };
        let (one, two, later) = (noise(1, 0), noise(2, 0), noise(1, 1));
        let drawn = [
            one.initial(0, 2),
            one.initial(2, 2),
            two.initial(0, 2),
            one.fresh(0, 0, 2),
            one.fresh(1, 0, 2),
            one.fresh(0, 2, 2),
            two.fresh(0, 0, 2),
            later.initial(0, 2),
            later.fresh(0, 0, 2),
        ];
        let drawn: Vec<Vec<f32>> =
            drawn.into_iter().map(|noise| noise.unwrap().flatten_all().unwrap().to_vec1().unwrap()).collect();
        for (i, noise) in drawn.iter().enumerate() {
            assert!(drawn[..i].iter().all(|other| other != noise), "noise {i}");
        }
    }
}
