//! Reproducible noise that depends only on its key.
//!
//! The random generator of a device depends on the hardware and on earlier calls. Here every noise tensor is drawn from
//! ChaCha8, keyed by the seed and by the position where the noise is used. A chunk can therefore be generated again without
//! the chunks before it.

use candle_core::{Device, Shape, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

use crate::{Error, Result};

/// The key of a noise tensor: the seed and the position where it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoiseKey {
    /// Seed of the request or of the shot.
    pub seed: u64,
    /// Number of the scene in the video, from 0.
    pub scene: u64,
    /// First latent frame that the noise is for, counted within the scene.
    pub first_latent: u64,
    /// Denoising step; 0 is the initial noise.
    pub step: u64,
}

impl NoiseKey {
    /// Draws standard normal noise, f32, of `shape` on `device`.
    ///
    /// # Errors
    /// [`Error::Memory`] if the tensor cannot be allocated.
    pub fn normal(self, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        let mut rng = ChaCha8Rng::from_seed(self.bytes());
        let count = shape.elem_count();
        let mut noise: Vec<f32> = Vec::new();
        // The request decides the size, and a failed allocation would otherwise abort the process.
        noise.try_reserve_exact(count).map_err(|_| {
            Error::Memory(format!(
                "not enough memory for a noise tensor of {shape:?}; request a smaller size or fewer frames"
            ))
        })?;
        let normal = Distribution::<f32>::sample_iter(StandardNormal, &mut rng);
        noise.extend(normal.take(count));
        Ok(Tensor::from_vec(noise, shape, device)?)
    }

    fn bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (field, part) in
            bytes.chunks_exact_mut(8).zip([self.seed, self.scene, self.first_latent, self.step])
        {
            field.copy_from_slice(&part.to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: NoiseKey = NoiseKey { seed: 1, scene: 0, first_latent: 0, step: 0 };

    fn draw(key: NoiseKey) -> Vec<f32> {
        key.normal((1, 4, 16, 16), &Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn the_same_key_gives_the_same_noise() {
        assert_eq!(draw(KEY), draw(KEY));
    }

    #[test]
    fn every_part_of_the_key_matters() {
        let others = [
            NoiseKey { seed: 2, ..KEY },
            NoiseKey { scene: 1, ..KEY },
            NoiseKey { first_latent: 1, ..KEY },
            NoiseKey { step: 1, ..KEY },
        ];
        for other in others {
            assert_ne!(draw(KEY), draw(other), "{other:?}");
        }
    }

    /// Noise of seeds 7 and 9, scenes 0 and 1, latent frames 0 to 15, steps 0 to 3. `make_shots.py` reads it too.
    fn recorded() -> Tensor {
        let mut all = Vec::new();
        for seed in [7, 9] {
            for scene in 0..2 {
                for first_latent in 0..16 {
                    all.extend((0..4).map(|step| {
                        NoiseKey { seed, scene, first_latent, step }.normal(36, &Device::Cpu).unwrap()
                    }));
                }
            }
        }
        Tensor::cat(&all, 0).unwrap().reshape((2, 2, 16, 4, 36)).unwrap()
    }

    const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/miniature/noise.safetensors");

    /// A seed must give the same video in every version.
    #[test]
    fn noise_equals_the_recorded_noise() {
        let before = candle_core::safetensors::load(RECORD, &Device::Cpu).unwrap();
        let values = |noise: &Tensor| noise.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(values(&before["noise"]) == values(&recorded()));
    }

    #[test]
    #[ignore = "writes the fixture that other tests read"]
    fn record() {
        recorded().save_safetensors("noise", RECORD).unwrap();
    }

    #[test]
    fn noise_is_standard_normal() {
        let noise = draw(KEY);
        let n = noise.len() as f32;
        let mean = noise.iter().sum::<f32>() / n;
        let variance = noise.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / n;
        // Five standard errors of the mean and of the variance of 1024 draws.
        assert!(mean.abs() < 5.0 / n.sqrt(), "mean {mean}");
        assert!((variance - 1.0).abs() < 5.0 * (2.0 / n).sqrt(), "variance {variance}");
    }
}
