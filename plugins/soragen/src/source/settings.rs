// SPDX-License-Identifier: MPL-2.0

//! From the values of the properties to a request of the engine.

use std::path::{Path, PathBuf};

use soragen::checkpoint::{Lora, Parts};
use soragen::hub::{Hub, HubName};
use soragen::policy::Policy;
use soragen::watermark::WatermarkKey;
use soragen::{Cache, Length, ModelInfo, MotionPath, OpenOptions, Reference, Request, Storyboard};

use super::enums::{LatePolicy, Transition};
use super::generator::{Change, Past, References};
use super::playback::Replacement;
pub use super::properties::Settings;
use super::properties::UriCaps;
use super::slate::Slate;
use super::uri::UriValues;
use super::{frame_time, properties};

/// Length of a video.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VideoLength {
    /// Number of frames at the model's frame rate.
    pub frames: u64,
    /// Duration in nanoseconds.
    pub time: u64,
}

impl Settings {
    /// Applies all values of a URI, and the defaults of the values it does not have.
    pub fn set_uri_values(&mut self, values: UriValues) {
        let UriValues { prompt, seed, duration, width, height, framerate, storyboard } = values;
        self.prompt = Some(prompt);
        self.storyboard = storyboard;
        self.seed = seed;
        self.duration = duration.map_or(0, |duration| i64::try_from(duration).unwrap_or(i64::MAX));
        self.uri_caps = UriCaps { width, height, framerate };
    }

    /// The settings that a URI can have; `None` without a prompt or storyboard.
    pub fn uri_values(&self) -> Option<UriValues> {
        // A URI never has a file name, and without its storyboard it would name another video.
        let storyboard = self.storyboard.clone().filter(|text| Storyboard::inline(text).is_ok());
        if storyboard.is_none() && self.storyboard.is_some() {
            return None;
        }
        let prompt = self.prompt.clone().filter(|prompt| !prompt.trim().is_empty());
        let UriCaps { width, height, framerate } = self.uri_caps;
        Some(UriValues {
            prompt: if storyboard.is_some() { prompt.unwrap_or_default() } else { prompt? },
            seed: self.seed,
            duration: u64::try_from(self.duration).ok().filter(|duration| *duration > 0),
            width,
            height,
            framerate,
            storyboard,
        })
    }

    pub fn open_options(&self) -> OpenOptions {
        let mut options = OpenOptions::default();
        options.device = self.device.clone();
        options.precision = self.precision.into();
        options.decoder = self.decoder.into();
        options.offload = self.offload;
        options.parts = self.parts();
        options
    }

    /// The value of a property that may change while a video is generated; `None` for other properties.
    pub fn change_of(&self, property: &str) -> Option<Change> {
        Some(match property {
            "prompt" => Change::Prompt {
                text: self.prompt.clone().unwrap_or_default(),
                cut: self.transition == Transition::Cut,
            },
            "negative-prompt" => Change::NegativePrompt(self.negative_prompt.clone()),
            "reference" => Change::References(References::List(self.reference.clone().unwrap_or_default())),
            "motion-path" => Change::MotionPath(self.motion_path.clone()),
            "guidance-scale" => Change::GuidanceScale(self.own_guidance_scale()),
            "steps" => Change::Steps(self.own_steps()),
            "shift" => Change::Shift(self.own_shift()),
            "blend-chunks" => Change::BlendChunks(self.blend_chunks),
            "seed" => Change::Seed(self.seed),
            "label" => Change::Label(self.label.into()),
            _ => return None,
        })
    }

    /// The changes to a video that is being generated with the settings `before`.
    pub fn changes_since(&self, before: &Self) -> Vec<Change> {
        let names = properties::specs().iter().map(|spec| spec.name());
        Change::between(names, |name| self.change_of(name), |name| before.change_of(name))
    }

    /// `None` is the model's own.
    fn own_guidance_scale(&self) -> Option<f64> {
        (self.guidance_scale > 0.0).then_some(self.guidance_scale)
    }

    fn own_steps(&self) -> Option<u32> {
        (self.steps > 0).then_some(self.steps)
    }

    fn own_shift(&self) -> Option<f64> {
        (self.shift > 0.0).then_some(self.shift)
    }

    /// What a live source shows in place of frames of the model.
    ///
    /// # Errors
    /// Those of [`Slate::open`], and [`soragen::Error::Request`] for a policy without a slate.
    pub fn replacement(&self) -> soragen::Result<Replacement> {
        let slate = Slate::open(&self.slate)?;
        if slate.is_none() && self.late_policy == LatePolicy::Slate {
            let reason = "late-policy=slate needs a slate; set `slate` to black or file:PATH";
            return Err(soragen::Error::Request(soragen::Setting::Slate, reason.into()));
        }
        Ok(Replacement { slate, late_policy: self.late_policy })
    }

    fn parts(&self) -> Parts {
        let path = |text: &Option<String>| text.as_ref().map(PathBuf::from);
        let loras = self.lora.iter().flat_map(|list| list.split(';'));
        Parts {
            transformer: path(&self.transformer),
            text_encoder: path(&self.text_encoder),
            autoencoder: path(&self.autoencoder),
            image_encoder: path(&self.image_encoder),
            vace: path(&self.vace),
            recipe: self.recipe.clone(),
            loras: loras.map(str::trim).filter(|lora| !lora.is_empty()).map(Lora::parse).collect(),
        }
    }

    /// The model, if it has to be downloaded first.
    pub fn missing_model(&self) -> soragen::Result<Option<HubName>> {
        Hub::from_env().missing_model(&self.model)
    }

    /// The properties of the model. Reads no weights.
    pub fn info(&self) -> soragen::Result<ModelInfo> {
        ModelInfo::read(&self.model, &self.parts())
    }

    /// The cache of latents, unless it is disabled.
    pub fn cache(&self) -> Option<Cache> {
        Cache::open(self.cache_dir.as_deref(), self.cache_size).filter(|_| self.cache_size > 0)
    }

    /// The storyboard, if there is one. Its images are not read yet.
    pub fn storyboard(&self) -> soragen::Result<Option<Storyboard>> {
        self.storyboard.as_deref().map(Storyboard::open).transpose()
    }

    /// Whether there is a prompt or a storyboard.
    pub fn has_prompt(&self) -> bool {
        self.storyboard.is_some() || self.prompt.as_ref().is_some_and(|prompt| !prompt.trim().is_empty())
    }

    /// The key of the watermark, unless it is disabled.
    fn watermark_key(&self) -> soragen::Result<Option<WatermarkKey>> {
        self.watermark.then(|| WatermarkKey::open(path(&self.watermark_key))).transpose()
    }

    /// The length of the video; `None` for an endless one.
    pub fn length(&self, info: &ModelInfo, storyboard: Option<&Storyboard>) -> Option<VideoLength> {
        match (self.duration, storyboard.and_then(|board| board.end)) {
            (0, Some(end)) => Some(VideoLength {
                frames: info.frame_at(end).max(1),
                time: u64::try_from(end.as_nanos()).unwrap_or(u64::MAX),
            }),
            (0, None) if self.is_live && info.max_frames.is_none() => None,
            (0, None) => {
                let frames = info.natural_length(self.loops);
                Some(VideoLength { frames, time: frame_time::frame_start(frames, info.frame_rate) })
            }
            (duration, _) => {
                let time = u64::try_from(duration).ok()?;
                Some(VideoLength { frames: frame_time::frames_before(time, info.frame_rate), time })
            }
        }
    }

    /// The image files that the shots start from.
    pub fn images(&self, storyboard: Option<&Storyboard>) -> Vec<String> {
        let of_shots = storyboard.into_iter().flat_map(Storyboard::images);
        let own = self.image.iter().chain(&self.last_image).cloned();
        own.chain(of_shots.map(|path| path.to_string_lossy().into_owned())).collect()
    }

    /// The video that the new one continues.
    pub fn past(&self, info: &ModelInfo) -> Option<Past> {
        let source = self.extend.clone()?;
        Some(Past { source, frames: info.past_frames as usize, frame_rate: info.frame_rate })
    }

    /// The request for a video of `frames` frames, or an endless one. Its size is set after negotiation.
    pub fn request(&self, frames: Option<u64>, storyboard: Option<&Storyboard>) -> soragen::Result<Request> {
        let mut request = Request::new(self.prompt.clone().unwrap_or_default());
        request.shots = storyboard.map(Storyboard::shots).transpose()?.unwrap_or_default();
        request.blend_chunks = self.blend_chunks;
        request.negative_prompt = self.negative_prompt.clone();
        request.image = path(&self.image).map(soragen::read_image).transpose()?;
        request.last_image = path(&self.last_image).map(soragen::read_image).transpose()?;
        request.loops = self.loops;
        request.references =
            self.reference.as_deref().map(Reference::open_list).transpose()?.unwrap_or_default();
        request.motion_path = self.motion_path.as_deref().map(MotionPath::parse).transpose()?;
        request.length = frames.map_or(Length::Endless, Length::Frames);
        request.seed = self.seed;
        request.steps = self.own_steps();
        request.guidance_scale = self.own_guidance_scale();
        request.guidance_scale_2 = (self.guidance_scale_2 > 0.0).then_some(self.guidance_scale_2);
        request.shift = self.own_shift();
        request.policy = Some(Policy::open(path(&self.policy), path(&self.audit_log))?);
        request.label = self.label.into();
        request.watermark = self.watermark_key()?;
        request.watermark_strength = self.watermark_strength;
        // A live source repeats frames, and marks them when it shows them.
        request.embed_watermark = !self.is_live;
        Ok(request)
    }
}

fn path(text: &Option<String>) -> Option<&Path> {
    text.as_deref().map(Path::new)
}
