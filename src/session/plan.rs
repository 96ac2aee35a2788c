//! A request together with the model that is to carry it out.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use image::RgbImage;

use crate::model::Sampling;
use crate::noise::Key;
use crate::picture::{self, Fit};
use crate::policy::Policy;
use crate::transformer::Context;
use crate::watermark::GenerationId;
use crate::{Cancel, Error, Length, Model, Request, Result, Size};

/// No text encoder reads a thousandth of it.
const MAX_PROMPT_BYTES: usize = 1 << 20;
/// The number of steps that the models were trained with.
const MAX_STEPS: u32 = 1000;

/// A request that was found fit, with the model's own values where it left them open.
pub struct Plan {
    pub model: Arc<Model>,
    pub size: Size,
    /// `None`: it goes on for ever.
    pub total_frames: Option<u64>,
    pub steps: u32,
    pub shift: Option<f64>,
    pub image: Option<RgbImage>,
    guidance_scale: f64,
    prompt: String,
    negative_prompt: String,
    seed: u64,
    initial_latents: Option<Tensor>,
    policy: Arc<Policy>,
    /// What the request is called.
    pub generation_id: GenerationId,
}

/// The prompt, and with guidance also what not to show, ready for the transformer.
pub struct Conditions {
    pub prompt: Context,
    pub negative: Option<Context>,
}

impl Plan {
    pub fn new(model: Arc<Model>, request: Request) -> Result<Self> {
        let info = &model.info;
        let size = request.size.unwrap_or_else(|| match &request.image {
            Some(image) => info.sizes.like(image.width(), image.height()),
            None => info.sizes.default_size(),
        });
        if !info.sizes.contains(size) {
            return refuse(format!("{} cannot make {size}; it makes {}", info.name, info.sizes));
        }
        let total_frames = match request.length {
            Length::Natural => Some(info.natural_frames),
            Length::Frames(frames) => Some(frames),
            Length::Endless if info.max_frames.is_none() => None,
            Length::Endless => {
                return refuse(format!(
                    "{} makes its video in one piece, which needs an end; ask for a duration",
                    info.name
                ));
            }
        };
        if total_frames == Some(0) {
            return refuse("a video needs at least one frame".into());
        }
        if let (Some(frames), Some(most)) = (total_frames, info.max_frames)
            && frames > most
        {
            return refuse(format!("{} makes {most} frames at most, not {frames}", info.name));
        }
        if request.image.is_some() && !info.image_to_video {
            return refuse(format!("{} cannot start from an image", info.name));
        }
        let steps = request.steps.unwrap_or(info.steps);
        if !(1..=MAX_STEPS).contains(&steps) {
            return refuse(format!("{steps} steps are not possible; use 1 to {MAX_STEPS}"));
        }
        let guidance_scale = request.guidance_scale.unwrap_or(info.guidance_scale);
        if !guidance_scale.is_finite() || guidance_scale < 0.0 {
            return refuse(format!(
                "a guidance scale of {guidance_scale} is not possible; 1 is none, 5 is much"
            ));
        }
        if let Some(shift) = request.shift
            && !(shift.is_finite() && shift > 0.0)
        {
            return refuse(format!("a shift of {shift} is not possible; it is above 0"));
        }
        let negative_prompt = request.negative_prompt.unwrap_or_else(|| info.negative_prompt.clone());
        check_length(&negative_prompt)?;
        let mut plan = Self {
            size,
            total_frames,
            steps,
            shift: request.shift,
            image: request.image,
            guidance_scale,
            prompt: String::new(),
            negative_prompt,
            seed: request.seed,
            initial_latents: None,
            generation_id: GenerationId::new(0),
            policy: request.policy.unwrap_or_else(Policy::built_in),
            model,
        };
        plan.set_prompt(&request.prompt)?;
        plan.generation_id = plan.identify();
        if let Some(latents) = request.initial_latents {
            plan.set_initial_latents(latents)?;
        }
        Ok(plan)
    }

    /// A digest of everything that decides the frames, but for initial latents.
    fn identify(&self) -> GenerationId {
        let mut digest = blake3::Hasher::new_derive_key("soragen request 1");
        let mut add = |part: &[u8]| {
            // With their lengths, so that no two lists of parts read the same.
            digest.update(&(part.len() as u64).to_le_bytes()).update(part);
        };
        add(self.model.info.name.as_bytes());
        add(self.prompt.as_bytes());
        add(self.negative_prompt.as_bytes());
        add(self.image.as_ref().map_or(&[][..], |image| image.as_raw()));
        let Self { size, seed, steps, guidance_scale, shift, .. } = self;
        add(format!("{size} {seed} {steps} {guidance_scale} {shift:?}").as_bytes());
        let digest = digest.finalize();
        GenerationId::new(digest.as_bytes()[..5].iter().fold(0, |id, byte| id << 8 | u64::from(*byte)))
    }

    pub fn set_prompt(&mut self, prompt: &str) -> Result<()> {
        if prompt.trim().is_empty() {
            return refuse("the prompt is empty; say what to show".into());
        }
        check_length(prompt)?;
        // Every prompt comes this way. What is not to be shown need not: guidance only leads away from it.
        self.policy.admit(prompt)?;
        self.prompt = prompt.into();
        Ok(())
    }

    fn set_initial_latents(&mut self, latents: Tensor) -> Result<()> {
        let Some(count) = self.latent_frames() else {
            return refuse("initial latents need a video with an end; ask for a duration".into());
        };
        let wanted = self.latent_shape(count);
        if latents.dims() != wanted {
            return refuse(format!(
                "the initial latents are {:?}; this video needs {wanted:?}",
                latents.dims()
            ));
        }
        self.initial_latents = Some(latents.to_device(&self.model.device)?.to_dtype(DType::F32)?);
        Ok(())
    }

    /// Latent frames in the whole video: one for the first frame, then one for every few.
    pub fn latent_frames(&self) -> Option<usize> {
        let factor = self.model.autoencoder.config().temporal_factor() as u64;
        Some(1 + (self.total_frames? - 1).div_ceil(factor) as usize)
    }

    /// Shape of `frames` latent frames: `[1, C, T, H, W]`.
    fn latent_shape(&self, frames: usize) -> [usize; 5] {
        let factor = self.model.autoencoder.config().spatial_factor();
        let channels = self.model.autoencoder.config().latent_channels();
        [1, channels, frames, self.size.height as usize / factor, self.size.width as usize / factor]
    }

    /// The noise that latent frames `first..first + count` are made from, f32.
    pub fn noise(&self, first: usize, count: usize) -> Result<Tensor> {
        match &self.initial_latents {
            Some(latents) => {
                // The last chunk may reach beyond the end; what it makes there is not shown.
                let given = latents.dim(2)?.saturating_sub(first).min(count);
                let noise = latents.narrow(2, first, given)?.contiguous()?;
                Ok(noise.pad_with_zeros(2, 0, count - given)?)
            }
            None => {
                let key = Key { seed: self.seed, shot: 0, chunk: first as u64, step: 0 };
                key.normal(self.latent_shape(count).as_slice(), &self.model.device)
            }
        }
    }

    /// The noise that a scheduler adds after step `step`, for a video of `count` latent frames.
    pub fn fresh_noise(&self, step: usize, count: usize) -> Result<Tensor> {
        let key = Key { seed: self.seed, shot: 0, chunk: 0, step: step as u64 + 1 };
        key.normal(self.latent_shape(count).as_slice(), &self.model.device)
    }

    /// The image as latents `[1, C, 1, H, W]`, f32.
    pub fn image_latents(&self, cancel: &Cancel) -> Result<Option<Tensor>> {
        let Some(image) = &self.image else { return Ok(None) };
        let fit = match self.model.sampling {
            Sampling::Whole(_) => Fit::Stretch,
            Sampling::Causal(_) => Fit::Cover,
        };
        let video = picture::to_video(image, self.size, fit, &self.model.device)?;
        let video = video.to_dtype(self.model.dtype)?;
        Ok(Some(self.model.autoencoder.encode(&video, cancel)?.to_dtype(DType::F32)?))
    }

    pub fn conditions(&self, cancel: &Cancel) -> Result<Conditions> {
        let context = |text: &str| {
            let embeds = self.model.text.encode(text, cancel)?.to_dtype(self.model.dtype)?;
            self.model.transformer.context(&embeds)
        };
        // At 1 the negative prompt has no weight, and below there is no guidance, as in diffusers.
        let negative = (self.guidance_scale > 1.0).then(|| context(&self.negative_prompt)).transpose()?;
        Ok(Conditions { prompt: context(&self.prompt)?, negative })
    }

    /// Classifier-free guidance (<https://arxiv.org/abs/2207.12598>).
    pub fn guide(&self, prompt: Tensor, negative: Option<Tensor>) -> Result<Tensor> {
        let prompt = prompt.to_dtype(DType::F32)?;
        let Some(negative) = negative else { return Ok(prompt) };
        let negative = negative.to_dtype(DType::F32)?;
        Ok((&negative + ((prompt - &negative)? * self.guidance_scale)?)?)
    }
}

fn check_length(prompt: &str) -> Result<()> {
    if prompt.len() > MAX_PROMPT_BYTES {
        return refuse(format!("a prompt of {} bytes is too long", prompt.len()));
    }
    Ok(())
}

fn refuse<T>(reason: String) -> Result<T> {
    Err(Error::Request(reason))
}

/// Latents that are not numbers would come out as a grey or black picture without a word.
pub fn check_finite(latents: &Tensor) -> Result<()> {
    if latents.sum_all()?.to_scalar::<f32>()?.is_finite() {
        return Ok(());
    }
    Err(Error::Generation(
        "the model computed something that is not a number; a higher precision or another size may help"
            .into(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OpenOptions;

    #[test]
    fn another_request_has_another_id() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/miniature");
        let model = Model::open(folder, &OpenOptions::default()).unwrap();
        let id = |request: Request| Plan::new(model.clone(), request).unwrap().generation_id;
        let request = Request { prompt: "a fox".into(), seed: 1, ..Default::default() };
        let first = id(request.clone());
        assert_eq!(id(Request { length: Length::Frames(5), ..request.clone() }), first, "however long");
        assert_eq!(id(Request { size: Some(model.info.sizes.default_size()), ..request.clone() }), first);
        for other in [
            Request { prompt: "a fo".into(), ..request.clone() },
            Request { seed: 2, ..request.clone() },
            Request { negative_prompt: Some("rain".into()), ..request.clone() },
            Request { image: Some(RgbImage::new(2, 2)), ..request.clone() },
            Request { steps: Some(2), ..request.clone() },
            Request { guidance_scale: Some(3.5), ..request.clone() },
        ] {
            assert_ne!(id(other.clone()), first, "{other:?}");
        }
    }

    #[test]
    fn every_prompt_goes_through_the_gate() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/miniature");
        let model = Model::open(folder, &OpenOptions::default()).unwrap();
        let policy =
            "name = \"test\"\n[[category]]\nname = \"stones\"\naction = \"block\"\nphrases = [\"quartz\"]";
        let plan = |prompt: &str| {
            let policy = Some(Arc::new(Policy::parse(policy).unwrap()));
            Plan::new(model.clone(), Request { prompt: prompt.into(), policy, ..Default::default() })
        };
        assert!(matches!(plan("a quartz fox"), Err(Error::Refused { .. })));
        let mut plan = plan("a fox").unwrap();
        assert!(matches!(plan.set_prompt("a fox of qu4rtz"), Err(Error::Refused { .. })));
        assert_eq!(plan.prompt, "a fox");
    }

    #[test]
    fn no_noise_is_used_twice() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/miniature");
        let model = Model::open(folder, &OpenOptions::default()).unwrap();
        let plan = |seed| {
            let request = Request { prompt: "a fox".into(), seed, ..Default::default() };
            Plan::new(model.clone(), request).unwrap()
        };
        let (one, two) = (plan(1), plan(2));
        let drawn = [
            one.noise(0, 2),
            one.noise(2, 2),
            two.noise(0, 2),
            one.fresh_noise(0, 2),
            one.fresh_noise(1, 2),
            two.fresh_noise(0, 2),
        ];
        let drawn = drawn.map(|noise| noise.unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap());
        for (i, noise) in drawn.iter().enumerate() {
            assert!(drawn[..i].iter().all(|other| other != noise), "noise {i}");
        }
    }
}
