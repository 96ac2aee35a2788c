//! A scene: frames that share one clip or one KV cache. Nothing is kept from before it. A model that remembers shots may cut
//! inside a scene.

use std::sync::Arc;

use candle_core::Tensor;
use image::RgbImage;

use super::latents::{InitialLatents, LatentStore, SceneNoise};
use super::validate::ValidatedRequest;
use crate::digest::Digest;
use crate::model::Pacing;
use crate::{Control, Model, Reference, Result, Shot};

/// The input of a sampler.
pub struct Scene {
    /// Frames of the scene; `None` without an end.
    pub frames: Option<u64>,
    pub image: Option<RgbImage>,
    /// The image that it ends with.
    pub last_image: Option<RgbImage>,
    /// Whether its first frame follows its last one.
    pub loops: bool,
    /// The video that the scene continues, in whole chunks: f32 `[1, 3, T, H, W]` in \[−1, 1\].
    pub past: Option<Tensor>,
    /// What steers a VACE model.
    pub control: Option<Arc<Control>>,
    pub control_scale: f64,
    pub references: Vec<Reference>,
    /// The prompt of the first shot.
    pub prompt: String,
    pub negative_prompt: String,
    pub noise: SceneNoise,
    /// Identifies everything that decides the latents except the prompts; `None` if latents are not cached.
    pub key: Option<Digest>,
}

/// Builds the scenes of a video, in order.
#[derive(Default)]
pub struct SceneBuilder {
    /// Number of the next scene.
    next_number: u64,
    /// Latent frames of the scenes before the current one.
    latents_before: usize,
    /// Latent frames of the current scene.
    latents: usize,
}

impl SceneBuilder {
    /// Leaves out `count` scenes.
    pub fn skip(&mut self, count: u64) {
        self.next_number += count;
    }

    /// The next scene. It starts with `shot` and has `frames` frames; `None` is a scene without an end. The references of the shot are those
    /// of a VACE model, each of which takes a latent frame.
    pub fn next(
        &mut self,
        model: &Model,
        request: &ValidatedRequest,
        store: &LatentStore,
        initial_latents: Option<&InitialLatents>,
        shot: Shot,
        frames: Option<u64>,
    ) -> Result<Scene> {
        let geometry = store.geometry;
        self.latents_before += self.latents;
        self.latents = frames.map_or(0, |frames| geometry.latents_of(frames) + shot.references.len());
        let number = self.next_number;
        self.next_number += 1;
        let seed = shot.seed.unwrap_or(request.seed);
        let initial_latents =
            initial_latents.map(|latents| latents.scene(self.latents_before, self.latents)).transpose()?;
        let key = match (&store.cache, &initial_latents) {
            (Some(_), None) if request.restyle.is_none() && !request.continues && !has_ring(model) => {
                scene_key(model, request, seed, number, shot.image.as_ref())
            }
            _ => None,
        };
        let digests = shot.references.iter().map(Reference::digest);
        let key = key.map(|key| {
            digests.fold(request.with_conditions(key), |key, digest| key.with("reference", digest.as_bytes()))
        });
        let noise =
            SceneNoise { geometry, device: model.device.clone(), seed, scene: number, initial_latents };
        Ok(Scene {
            frames,
            image: shot.image,
            last_image: request.last_image.clone(),
            loops: request.loops,
            past: None,
            control: request.control.clone(),
            control_scale: request.control_scale,
            references: shot.references,
            prompt: shot.prompt,
            negative_prompt: request.negative_prompt.clone(),
            noise,
            key,
        })
    }
}

/// Whether the KV cache has noisy latents, which cannot be made again from finished ones.
fn has_ring(model: &Model) -> bool {
    matches!(&model.pacing, Pacing::Causal { config, .. } if config.ring.is_some())
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
