//! One scene of a video: what lies between two cuts that nothing is remembered across.

use image::RgbImage;

use super::latents::{GivenNoise, LatentStore, SceneNoise};
use super::validate::ValidatedRequest;
use crate::digest::Digest;
use crate::{Model, Result, Shot};

/// What a sampler starts from.
pub struct Scene {
    /// Frames of the scene; `None` without an end.
    pub frames: Option<u64>,
    pub image: Option<RgbImage>,
    /// The prompt of the first shot.
    pub prompt: String,
    pub negative_prompt: String,
    pub noise: SceneNoise,
    /// Identifies everything that decides the latents except the prompts; `None` if latents are not cached.
    pub key: Option<Digest>,
}

/// Counts the scenes of a video.
#[derive(Default)]
pub struct SceneCounter {
    /// Scenes begun.
    begun: u64,
    /// Latent frames of the scenes before the current one.
    latents_before: usize,
    /// Latent frames of the current scene.
    latents: usize,
}

impl SceneCounter {
    /// The next scene: of `shot`, with `frames` frames.
    pub fn next(
        &mut self,
        model: &Model,
        request: &ValidatedRequest,
        store: &LatentStore,
        given: Option<&GivenNoise>,
        shot: Shot,
        frames: Option<u64>,
    ) -> Result<Scene> {
        let geometry = store.geometry;
        self.latents_before += self.latents;
        self.latents = frames.map_or(0, |frames| geometry.latents_of(frames));
        let number = self.begun;
        self.begun += 1;
        let seed = shot.seed.unwrap_or(request.seed);
        let given = given.map(|given| given.scene(self.latents_before, self.latents)).transpose()?;
        let key = match (&store.cache, &given) {
            (Some(_), None) => scene_key(model, request, seed, number, shot.image.as_ref()),
            _ => None,
        };
        let noise = SceneNoise { geometry, device: model.device.clone(), seed, scene: number, given };
        let negative_prompt = request.negative_prompt.clone();
        Ok(Scene { frames, image: shot.image, prompt: shot.prompt, negative_prompt, noise, key })
    }
}

fn scene_key(
    model: &Model,
    request: &ValidatedRequest,
    seed: u64,
    number: u64,
    image: Option<&RgbImage>,
) -> Option<Digest> {
    let mut key = model.key()?;
    for (name, number) in [
        ("width", request.size.width.into()),
        ("height", request.size.height.into()),
        ("steps", request.steps.into()),
        ("shift", request.shift.map_or(0, f64::to_bits)),
        ("guidance", request.guidance.scale.to_bits()),
        ("guidance 2", request.guidance.scale_2.to_bits()),
        ("seed", seed),
        ("scene", number),
    ] {
        key = key.with(name, &number.to_le_bytes());
    }
    if let Some(image) = image {
        key = key.with("image", format!("{}x{}", image.width(), image.height()).as_bytes());
        key = key.with("pixels", image.as_raw());
    }
    Some(key)
}
