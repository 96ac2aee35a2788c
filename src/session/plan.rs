//! A request together with the model that is to carry it out.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use image::RgbImage;

use super::schedule::Schedule;
use crate::cache::{Cache, Kind};
use crate::digest::Digest;
use crate::model::{Expert, Sampling};
use crate::noise::NoiseKey;
use crate::picture::{self, Fit};
use crate::policy::Policy;
use crate::request::Shot;
use crate::transformer::{Context, WanTransformer};
use crate::watermark::GenerationId;
use crate::{Cancel, Error, Length, Model, Request, Result, Size};

/// No text encoder reads half of it: 512 tokens.
const MAX_PROMPT_BYTES: usize = 1 << 14;
/// The number of steps that the models were trained with.
const MAX_STEPS: u32 = 1000;

/// A request that was found fit, with the model's own values where it left them open.
pub struct Plan {
    pub model: Arc<Model>,
    pub size: Size,
    pub steps: u32,
    pub shift: Option<f64>,
    pub blend_chunks: u32,
    pub prompt: String,
    pub seed: u64,
    /// The take that is being made.
    take: Take,
    pub negative_prompt: String,
    guidance_scale: f64,
    /// Of the second of two transformers.
    guidance_scale_2: f64,
    request_seed: u64,
    initial_latents: Option<Tensor>,
    pub cache: Option<Cache>,
    pub policy: Arc<Policy>,
    /// What the request is called.
    pub generation_id: GenerationId,
}

/// What lies between two cuts: nothing is remembered from before it.
#[derive(Default)]
struct Take {
    /// How many were before it, with those of no frame.
    number: u64,
    begun: bool,
    /// How many frames it has; `None`: it goes on for ever.
    frames: Option<u64>,
    /// Latent frames of the takes before it.
    latents_before: usize,
    image: Option<RgbImage>,
}

/// The prompt, and with guidance also what not to show, ready for the transformer.
pub struct Conditions {
    pub prompt: Context,
    pub negative: Option<Context>,
}

impl Conditions {
    /// How many times the transformer runs for them.
    pub fn count(&self) -> u64 {
        1 + u64::from(self.negative.is_some())
    }
}

impl Plan {
    pub fn new(model: Arc<Model>, mut request: Request) -> Result<(Self, Schedule)> {
        let info = &model.info;
        let image = request.image.as_ref().or(request.shots.first().and_then(|shot| shot.image.as_ref()));
        let size = request.size.unwrap_or_else(|| match image {
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
        let policy = request.policy.take().unwrap_or_else(Policy::built_in);
        let schedule = Schedule::new(&mut request, info, &policy, total_frames)?;
        let longest = schedule.takes().and_then(|takes| takes.into_iter().max());
        if let (Some(frames), Some(most)) = (longest, info.max_frames)
            && frames > most
        {
            return refuse(format!("{} makes {most} frames at most, not {frames}", info.name));
        }
        let steps = request.steps.unwrap_or(info.steps);
        if !(1..=MAX_STEPS).contains(&steps) {
            return refuse(format!("{steps} steps are not possible; use 1 to {MAX_STEPS}"));
        }
        let guidance_scale = request.guidance_scale.unwrap_or(info.guidance_scale);
        let guidance_scale_2 = match (request.guidance_scale_2, info.guidance_scale_2) {
            (Some(_), None) => {
                return refuse(format!("{} has one transformer, and one guidance scale", info.name));
            }
            // As in diffusers, one that is asked for is for both.
            (asked, own) => asked.or(request.guidance_scale).or(own).unwrap_or(guidance_scale),
        };
        for scale in [guidance_scale, guidance_scale_2] {
            if !scale.is_finite() || scale < 0.0 {
                return refuse(format!("a guidance scale of {scale} is not possible; 1 is none, 5 is much"));
            }
        }
        if let Some(shift) = request.shift
            && !(shift.is_finite() && shift > 0.0)
        {
            return refuse(format!("a shift of {shift} is not possible; it is above 0"));
        }
        let mut plan = Self {
            size,
            steps,
            shift: request.shift,
            blend_chunks: request.blend_chunks,
            guidance_scale,
            guidance_scale_2,
            prompt: String::new(),
            negative_prompt: String::new(),
            seed: request.seed,
            request_seed: request.seed,
            take: Take::default(),
            initial_latents: None,
            cache: None,
            policy,
            generation_id: GenerationId::new(0),
            model,
        };
        plan.set_negative_prompt(request.negative_prompt.as_deref())?;
        plan.generation_id = plan.identify(&schedule);
        if let Some(latents) = request.initial_latents {
            plan.set_initial_latents(latents, &schedule)?;
        }
        Ok((plan, schedule))
    }

    /// A digest of everything that decides the frames, but for initial latents.
    fn identify(&self, schedule: &Schedule) -> GenerationId {
        let Self { size, seed, steps, guidance_scale, shift, blend_chunks, .. } = self;
        let mut numbers = format!("{size} {seed} {steps} {guidance_scale} {shift:?} {blend_chunks}");
        if self.model.info.guidance_scale_2.is_some() {
            numbers += &format!(" {}", self.guidance_scale_2);
        }
        let mut key = Digest::new("request").with("model", self.model.info.name.as_bytes());
        key = key.with("numbers", numbers.as_bytes()).with("negative", self.negative_prompt.as_bytes());
        for Shot { start, prompt, seed, image, transition } in schedule.shots() {
            key = key.with("shot", format!("{start:?} {seed:?} {transition:?}").as_bytes());
            key = key.with("prompt", prompt.as_bytes());
            key = key.with("image", image.as_ref().map_or(&[][..], |image| image.as_raw()));
        }
        GenerationId::new(key.first_bytes().iter().fold(0, |id, byte| id << 8 | u64::from(*byte)))
    }

    /// What follows is of `shot`, of which only one that begins a `take` has an image.
    pub fn begin(&mut self, shot: Shot, take: bool) {
        self.prompt = shot.prompt;
        self.seed = shot.seed.unwrap_or(self.request_seed);
        if take {
            self.take.image = shot.image;
        }
    }

    /// `None` is the model's own. Another goes through the policy, so that the audit log has all that a model is given.
    pub fn set_negative_prompt(&mut self, prompt: Option<&str>) -> Result<()> {
        if let Some(prompt) = prompt.filter(|prompt| !prompt.is_empty()) {
            check_text(prompt)?;
            self.policy.admit_negative(prompt)?;
        }
        self.negative_prompt = prompt.unwrap_or(&self.model.info.negative_prompt).into();
        Ok(())
    }

    /// What follows is a take of `frames` frames.
    pub fn begin_take(&mut self, frames: Option<u64>) {
        // The first take is number 0.
        if std::mem::replace(&mut self.take.begun, true) {
            self.take.latents_before += self.latent_frames().unwrap_or(0);
            self.take.number += 1;
        }
        self.take.frames = frames;
    }

    fn set_initial_latents(&mut self, latents: Tensor, schedule: &Schedule) -> Result<()> {
        let Some(takes) = schedule.takes() else {
            return refuse("initial latents need a video with an end; ask for a duration".into());
        };
        let wanted = self.latent_shape(takes.into_iter().map(|frames| self.latents_of(frames)).sum());
        if latents.dims() != wanted {
            return refuse(format!(
                "the initial latents are {:?}; this video needs {wanted:?}",
                latents.dims()
            ));
        }
        self.initial_latents = Some(latents.to_device(&self.model.device)?.to_dtype(DType::F32)?);
        Ok(())
    }

    /// Latent frames in the take.
    pub fn latent_frames(&self) -> Option<usize> {
        Some(self.latents_of(self.take.frames?))
    }

    /// Latent frames for so many frames: one for the first, then one for every few.
    fn latents_of(&self, frames: u64) -> usize {
        let factor = self.model.autoencoder.config().temporal_factor() as u64;
        if frames == 0 { 0 } else { 1 + (frames - 1).div_ceil(factor) as usize }
    }

    /// Frames that `count` latent frames after `first` become.
    pub fn frames_of(&self, first: usize, count: usize) -> u64 {
        let factor = self.model.autoencoder.config().temporal_factor();
        let frames = if first == 0 { 1 + count.saturating_sub(1) * factor } else { count * factor };
        frames as u64
    }

    /// Shape of `frames` latent frames: `[1, C, T, H, W]`.
    fn latent_shape(&self, frames: usize) -> [usize; 5] {
        let factor = self.model.autoencoder.config().spatial_factor();
        let channels = self.model.autoencoder.config().latent_channels();
        [1, channels, frames, self.size.height as usize / factor, self.size.width as usize / factor]
    }

    /// The noise that the take's latent frames `first..first + count` are made from, f32.
    pub fn noise(&self, first: usize, count: usize) -> Result<Tensor> {
        match &self.initial_latents {
            Some(latents) => {
                // The last chunk may reach beyond the end; what it makes there is not shown.
                let given = self.latent_frames().unwrap_or(0).saturating_sub(first).min(count);
                let noise = latents.narrow(2, self.take.latents_before + first, given)?.contiguous()?;
                Ok(noise.pad_with_zeros(2, 0, count - given)?)
            }
            None => self.draw(first, 0, count),
        }
    }

    /// The noise that is added after step `step` to the take's latent frames `first..first + count`.
    pub fn fresh_noise(&self, step: usize, first: usize, count: usize) -> Result<Tensor> {
        self.draw(first, step as u64 + 1, count)
    }

    fn draw(&self, first: usize, step: u64, count: usize) -> Result<Tensor> {
        let key = NoiseKey { seed: self.seed, shot: self.take.number, chunk: first as u64, step };
        key.normal(self.latent_shape(count).as_slice(), &self.model.device)
    }

    /// Whether the take starts from an image.
    pub fn has_image(&self) -> bool {
        self.take.image.is_some()
    }

    /// The image as latents `[1, C, 1, H, W]`, f32.
    pub fn image_latents(&self, cancel: &Cancel) -> Result<Option<Tensor>> {
        let Some(image) = &self.take.image else { return Ok(None) };
        let fit = match self.model.sampling {
            Sampling::Whole(..) => Fit::Stretch,
            Sampling::Causal(..) => Fit::Cover,
        };
        let video = picture::to_video(image, self.size, fit, &self.model.device)?;
        Ok(Some(self.encode(&video, cancel)?))
    }

    /// The image as a model takes it that sees it beside the latents, f32 `[1, temporal factor + C, T, H, W]`: whether a
    /// frame is given, and the latents of a video that is grey after the image; as diffusers' `WanImageToVideoPipeline`.
    pub fn image_channels(&self, frames: usize, cancel: &Cancel) -> Result<Option<Tensor>> {
        let Some(image) = &self.take.image else { return Ok(None) };
        let device = &self.model.device;
        let video = picture::to_video(image, self.size, Fit::Stretch, device)?;
        let factor = self.model.autoencoder.config().temporal_factor();
        let latents = self.encode(&video.pad_with_zeros(2, 0, frames.saturating_sub(1) * factor)?, cancel)?;
        let (_, _, _, height, width) = latents.dims5()?;
        let mask = Tensor::ones((1, factor, 1, height, width), DType::F32, device)?;
        let mask = mask.pad_with_zeros(2, 0, frames.saturating_sub(1))?;
        Ok(Some(Tensor::cat(&[mask, latents], 1)?))
    }

    fn encode(&self, video: &Tensor, cancel: &Cancel) -> Result<Tensor> {
        let video = video.to_dtype(self.model.dtype())?;
        Ok(self.model.autoencoder.encode(&video, cancel)?.to_dtype(DType::F32)?)
    }

    /// Everything that decides the take's latents but the prompts; `None` if nobody wants to know.
    pub fn key(&self) -> Option<Digest> {
        if self.cache.is_none() || self.initial_latents.is_some() {
            return None;
        }
        let mut key = self.model.key()?;
        let shift = self.shift.map_or(0, f64::to_bits);
        for (name, number) in [
            ("width", self.size.width.into()),
            ("height", self.size.height.into()),
            ("steps", self.steps.into()),
            ("shift", shift),
            ("guidance", self.guidance_scale.to_bits()),
            ("guidance 2", self.guidance_scale_2.to_bits()),
            ("seed", self.seed),
            ("take", self.take.number),
        ] {
            key = key.with(name, &number.to_le_bytes());
        }
        if let Some(image) = &self.take.image {
            key = key.with("image", format!("{}x{}", image.width(), image.height()).as_bytes());
            key = key.with("pixels", image.as_raw());
        }
        Some(key)
    }

    /// `count` latent frames that were made before.
    pub fn recall(&self, key: Option<Digest>, count: usize) -> Option<Tensor> {
        let latents = self.cache.as_ref()?.get(Kind::Latents, &key?, &self.model.device)?;
        (latents.dims() == self.latent_shape(count)).then_some(latents)
    }

    /// Keeps `latents` for whoever asks for them again.
    pub fn store(&self, key: Option<Digest>, latents: &Tensor) {
        if let (Some(cache), Some(key)) = (&self.cache, key) {
            cache.put(Kind::Latents, &key, latents);
        }
    }

    /// The embedding of `prompt`, f32.
    pub fn embeds(&self, prompt: &str, cancel: &Cancel) -> Result<Tensor> {
        Ok(self.model.text.encode(prompt, self.cache.as_ref(), cancel)?.to_dtype(DType::F32)?)
    }

    /// Of a prompt's embedding and, where it guides, of what not to show.
    pub fn conditions(
        &self,
        expert: Expert,
        transformer: &WanTransformer,
        prompt: &Tensor,
        negative: &str,
        cancel: &Cancel,
    ) -> Result<Conditions> {
        let context = |embeds: &Tensor| transformer.context(&embeds.to_dtype(self.model.dtype())?, cancel);
        let negative = self.guides(expert).then(|| context(&self.embeds(negative, cancel)?)).transpose()?;
        Ok(Conditions { prompt: context(prompt)?, negative })
    }

    /// Whether what is not to be shown guides. At 1 it has no weight, and where the first scale is not above 1 there is no
    /// guidance at all, as in diffusers; below 1 it would lead towards it, which the policy lets pass for that it never does.
    fn guides(&self, expert: Expert) -> bool {
        self.guidance_scale > 1.0 && self.scale(expert) > 1.0
    }

    fn scale(&self, expert: Expert) -> f64 {
        match expert {
            Expert::High => self.guidance_scale,
            Expert::Low => self.guidance_scale_2,
        }
    }

    /// Classifier-free guidance (<https://arxiv.org/abs/2207.12598>).
    pub fn guide(&self, expert: Expert, prompt: Tensor, negative: Option<Tensor>) -> Result<Tensor> {
        let prompt = prompt.to_dtype(DType::F32)?;
        let Some(negative) = negative.filter(|_| self.guides(expert)) else { return Ok(prompt) };
        let negative = negative.to_dtype(DType::F32)?;
        Ok((&negative + ((prompt - &negative)? * self.scale(expert))?)?)
    }
}

/// The gate that every prompt comes through.
pub fn admit(prompt: &str, policy: &Policy) -> Result<()> {
    if prompt.trim().is_empty() {
        return refuse("the prompt is empty; say what to show".into());
    }
    check_text(prompt)?;
    policy.admit(prompt)
}

fn check_text(prompt: &str) -> Result<()> {
    if prompt.len() > MAX_PROMPT_BYTES {
        return refuse(format!(
            "a prompt of {} bytes is too long; {MAX_PROMPT_BYTES} are more than a model reads",
            prompt.len()
        ));
    }
    // Whoever is asked by way of C would see what is before it, and the model all.
    if prompt.contains('\0') {
        return refuse("there is a NUL in the prompt; leave it out".into());
    }
    Ok(())
}

fn refuse<T>(reason: String) -> Result<T> {
    Err(Error::Request(crate::Setting::Shots, reason))
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
    use std::time::Duration;

    use super::*;
    use crate::{OpenOptions, Session, Transition};

    #[test]
    fn another_request_has_another_id() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/miniature");
        let model = Model::open(folder, &OpenOptions::default()).unwrap();
        let id = |request: Request| Plan::new(model.clone(), request).unwrap().0.generation_id;
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
        let start = |prompt: &str, later: &str| {
            let shot = |start, prompt: &str| Shot {
                start: Duration::from_secs(start),
                prompt: prompt.into(),
                seed: None,
                image: None,
                transition: Transition::Cut,
            };
            let policy = Some(Arc::new(Policy::parse(policy).unwrap()));
            let shots = vec![shot(0, prompt), shot(1, later)];
            Session::new(model.clone(), Request { shots, policy, ..Default::default() })
        };
        assert!(matches!(start("a quartz fox", "a fox"), Err(Error::Refused { .. })));
        assert!(matches!(start("a fox", "a quartz fox"), Err(Error::Refused { .. })));
        let mut session = start("a fox", "a bird").unwrap();
        assert!(matches!(session.set_prompt("a fox of qu4rtz"), Err(Error::Refused { .. })));
        assert!(session.set_prompt("a fox of stone").is_ok());
        // What is not wanted may be named; an application may refuse that too.
        assert!(session.set_negative_prompt(Some("quartz")).is_ok());
        assert!(session.set_negative_prompt(None).is_ok());
        let policy = Some(Policy::parse(policy).unwrap().guarded(|prompt| prompt != "quartz"));
        let request = Request {
            prompt: "a fox".into(),
            negative_prompt: Some("quartz".into()),
            policy,
            ..Default::default()
        };
        assert!(matches!(Session::new(model, request), Err(Error::Refused { .. })));
    }

    #[test]
    fn nothing_leads_towards_a_negative_prompt() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/experts/t2v");
        let model = Model::open(folder, &OpenOptions::default()).unwrap();
        let at = |number: f32| Tensor::new(&[number], &candle_core::Device::Cpu).unwrap();
        for (scale, made) in [(3.0, 3.0), (1.0, 1.0), (0.5, 1.0), (0.0, 1.0)] {
            let request = Request {
                prompt: "a fox".into(),
                guidance_scale: Some(5.0),
                guidance_scale_2: Some(scale),
                ..Default::default()
            };
            let plan = Plan::new(model.clone(), request).unwrap().0;
            let guided = plan.guide(Expert::Low, at(1.0), Some(at(0.0))).unwrap();
            assert_eq!(guided.to_vec1::<f32>().unwrap(), [made], "{scale}");
            assert_eq!(
                plan.guide(Expert::High, at(1.0), Some(at(0.0))).unwrap().to_vec1::<f32>().unwrap(),
                [5.0]
            );
        }
    }

    #[test]
    fn no_noise_is_used_twice() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/miniature");
        let model = Model::open(folder, &OpenOptions::default()).unwrap();
        let plan = |seed| {
            let request = Request { prompt: "a fox".into(), seed, ..Default::default() };
            Plan::new(model.clone(), request).unwrap().0
        };
        let (mut one, two) = (plan(1), plan(2));
        one.begin_take(Some(5));
        let mut drawn = vec![
            one.noise(0, 2),
            one.noise(2, 2),
            two.noise(0, 2),
            one.fresh_noise(0, 0, 2),
            one.fresh_noise(1, 0, 2),
            one.fresh_noise(0, 2, 2),
            two.fresh_noise(0, 0, 2),
        ];
        one.begin_take(Some(5));
        drawn.extend([one.noise(0, 2), one.fresh_noise(0, 0, 2)]);
        let drawn: Vec<Vec<f32>> =
            drawn.into_iter().map(|noise| noise.unwrap().flatten_all().unwrap().to_vec1().unwrap()).collect();
        for (i, noise) in drawn.iter().enumerate() {
            assert!(drawn[..i].iter().all(|other| other != noise), "noise {i}");
        }
    }
}
