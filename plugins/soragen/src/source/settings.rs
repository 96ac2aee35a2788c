// SPDX-License-Identifier: MPL-2.0

//! The element's properties.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use gst::glib;
use gst::prelude::*;
use soragen::checkpoint::{Hub, HubName, Lora, Parts};
use soragen::policy::Policy;
use soragen::watermark::Key;
use soragen::{Cache, Length, ModelInfo, OpenOptions, Request, Storyboard};

use super::timeline;
use super::uri::Address;

/// The number format of the weights and of the arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstSoraGenPrecision")]
#[non_exhaustive]
pub enum Precision {
    /// What is best on the device.
    #[default]
    #[enum_value(name = "Auto: f32 on a CPU, bf16 on a GPU", nick = "auto")]
    Auto,
    /// 32-bit.
    #[enum_value(name = "F32: 32-bit", nick = "f32")]
    F32,
    /// 16-bit with the range of 32-bit numbers.
    #[enum_value(name = "Bf16: 16-bit with the range of 32-bit numbers", nick = "bf16")]
    Bf16,
    /// 16-bit.
    #[enum_value(name = "F16: 16-bit", nick = "f16")]
    F16,
    /// 8-bit products in the transformer, for a CPU.
    #[enum_value(name = "Int8: 8-bit products in the transformer, for a CPU", nick = "int8")]
    Int8,
}

impl From<Precision> for soragen::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::Auto => Self::Auto,
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::Bf16,
            Precision::F16 => Self::F16,
            Precision::Int8 => Self::Int8,
        }
    }
}

/// Which decoder makes frames of the latents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstSoraGenDecoder")]
#[non_exhaustive]
pub enum Decoder {
    /// The tiny one where the video is made chunk by chunk and there is one, else the model's own.
    #[default]
    #[enum_value(
        name = "Auto: the tiny one for streaming, where there is one, else the model's own",
        nick = "auto"
    )]
    Auto,
    /// The model's own.
    #[enum_value(name = "Full: the model's own", nick = "full")]
    Full,
    /// TAEHV.
    #[enum_value(name = "Tiny: TAEHV, many times faster and a little less sharp", nick = "tiny")]
    Tiny,
}

impl From<Decoder> for soragen::Decoder {
    fn from(decoder: Decoder) -> Self {
        match decoder {
            Decoder::Auto => Self::Auto,
            Decoder::Full => Self::Full,
            Decoder::Tiny => Self::Tiny,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub prompt: Option<String>,
    pub negative_prompt: Option<String>,
    pub model: String,
    pub transformer: Option<String>,
    pub text_encoder: Option<String>,
    pub autoencoder: Option<String>,
    pub recipe: Option<String>,
    pub lora: Option<String>,
    pub device: String,
    pub precision: Precision,
    pub decoder: Decoder,
    pub image: Option<String>,
    pub storyboard: Option<String>,
    pub blend_chunks: u32,
    pub seed: u64,
    pub steps: u32,
    pub guidance_scale: f64,
    pub guidance_scale_2: f64,
    pub shift: f64,
    /// Nanoseconds; 0 is the model's natural length, −1 without end.
    pub duration: i64,
    pub is_live: bool,
    /// Of the first frame; `None`: frames have none.
    pub timecode: Option<String>,
    /// `None` is the user's own, empty is none.
    pub cache_dir: Option<String>,
    pub cache_size: u64,
    /// What an address asks for beyond the properties; otherwise downstream decides.
    pub width: Option<u32>,
    pub height: Option<u32>,
    pub framerate: Option<(u32, u32)>,
    pub policy: Option<String>,
    pub audit_log: Option<String>,
    pub watermark: bool,
    pub watermark_key: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            prompt: None,
            negative_prompt: None,
            model: "builtin".into(),
            transformer: None,
            text_encoder: None,
            autoencoder: None,
            recipe: None,
            lora: None,
            device: "auto".into(),
            precision: Precision::default(),
            decoder: Decoder::default(),
            image: None,
            storyboard: None,
            blend_chunks: 0,
            seed: 0,
            steps: 0,
            guidance_scale: 0.0,
            guidance_scale_2: 0.0,
            shift: 0.0,
            duration: 0,
            is_live: false,
            timecode: None,
            cache_dir: None,
            cache_size: Cache::DEFAULT_SIZE,
            width: None,
            height: None,
            framerate: None,
            policy: None,
            audit_log: None,
            watermark: true,
            watermark_key: None,
        }
    }
}

const ENDLESS: i64 = -1;

/// The properties, in the order in which they are shown.
pub fn properties() -> &'static [glib::ParamSpec] {
    static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
        let text = |name: &'static str, nick: &'static str, blurb: &'static str| {
            glib::ParamSpecString::builder(name).nick(nick).blurb(blurb)
        };
        vec![
            text("prompt", "Prompt", "What to show; while playing it takes effect with the next chunk")
                .mutable_playing()
                .build(),
            text(
                "negative-prompt",
                "Negative prompt",
                "What not to show, where guidance is above 1; while playing it takes effect with the next chunk \
                 (unset = the model's own)",
            )
            .mutable_playing()
            .build(),
            text(
                "model",
                "Model",
                "`builtin`, a folder in diffusers' or in Wan's own layout, a transformer in one file (safetensors, GGUF), \
                 or hf:owner/name@revision, which is downloaded where it is not in the cache of huggingface_hub",
            )
            .default_value(Some("builtin"))
            .mutable_ready()
            .build(),
            text("transformer", "Transformer", "A file or folder in the place of the model's transformer")
                .mutable_ready()
                .build(),
            text(
                "text-encoder",
                "Text encoder",
                "A file or folder in the place of the model's text encoder, with its tokenizer.json beside it",
            )
            .mutable_ready()
            .build(),
            text(
                "autoencoder",
                "Autoencoder",
                "A file or folder in the place of the model's autoencoder; TAEHV too",
            )
            .mutable_ready()
            .build(),
            text(
                "recipe",
                "Recipe",
                "How a causal transformer makes its video: self-forcing, causal-forcing, causal-forcing-framewise, \
                 longlive, or a soragen.json (unset = the one beside the transformer, if there is one)",
            )
            .mutable_ready()
            .build(),
            text(
                "lora",
                "LoRA",
                "Files with changes to the transformer's weights, each PATH or PATH:SCALE, with ; between them",
            )
            .mutable_ready()
            .build(),
            text("device", "Device", "auto, cpu, cuda:N or metal")
                .default_value(Some("auto"))
                .mutable_ready()
                .build(),
            glib::ParamSpecEnum::builder_with_default("precision", Precision::default())
                .nick("Precision")
                .blurb("Number format of the weights and of the arithmetic")
                .mutable_ready()
                .build(),
            glib::ParamSpecEnum::builder_with_default("decoder", Decoder::default())
                .nick("Decoder")
                .blurb("Which decoder makes the frames: the model's own, or a tiny one (taew2_1.safetensors or \
                        taew2_2.safetensors in the model's folder)")
                .mutable_ready()
                .build(),
            text("image", "Image", "A picture file to start from; it is scaled to cover the size and cropped")
                .mutable_ready()
                .build(),
            text(
                "storyboard",
                "Storyboard",
                "Shots in place of the prompt: a file (TOML, SubRip, WebVTT), or as in \
                 0:00 a cat wakes | 0:04 the cat runs | 0:08 (cut) snow falls | 0:12",
            )
            .mutable_ready()
            .build(),
            glib::ParamSpecUInt::builder("blend-chunks")
                .nick("Blend chunks")
                .blurb("Over how many chunks a new prompt gains weight before it has all, except at a cut (0 = at once)")
                .maximum(1000)
                .mutable_ready()
                .build(),
            glib::ParamSpecUInt64::builder("seed")
                .nick("Seed")
                .blurb("Which of the possible videos")
                .mutable_ready()
                .build(),
            glib::ParamSpecUInt::builder("steps")
                .nick("Steps")
                .blurb("Denoising steps, of each chunk where there are chunks (0 = the model's own)")
                .maximum(1000)
                .mutable_ready()
                .build(),
            glib::ParamSpecDouble::builder("guidance-scale")
                .nick("Guidance scale")
                .blurb("Classifier-free guidance; 1 is none (0 = the model's own)")
                .minimum(0.0)
                .maximum(100.0)
                .mutable_ready()
                .build(),
            glib::ParamSpecDouble::builder("guidance-scale-2")
                .nick("Guidance scale 2")
                .blurb("Of the second of two transformers, as Wan 2.2 A14B has them (0 = that of the first if it is set, else \
                        the model's own)")
                .minimum(0.0)
                .maximum(100.0)
                .mutable_ready()
                .build(),
            glib::ParamSpecDouble::builder("shift")
                .nick("Shift")
                .blurb("Shift of the noise schedule towards noise (0 = the model's own)")
                .minimum(0.0)
                .maximum(100.0)
                .mutable_ready()
                .build(),
            glib::ParamSpecInt64::builder("duration")
                .nick("Duration")
                .blurb("How long, in nanoseconds (0 = the model's natural length, without end when live; -1 = without end)")
                .minimum(ENDLESS)
                .mutable_ready()
                .build(),
            glib::ParamSpecBoolean::builder("is-live")
                .nick("Is live")
                .blurb("Keep to the clock: where the model is late, the last frame is shown again")
                .mutable_ready()
                .build(),
            text(
                "timecode",
                "Time code",
                "That of the first frame, as in 10:00:00:00; it drops frame numbers at 30000/1001 and 60000/1001 \
                 (unset = frames have none)",
            )
            .mutable_ready()
            .build(),
            text(
                "cache-dir",
                "Cache folder",
                "Where latents are kept, so that the same video is only decoded the next time (unset = soragen in \
                 the user's cache folder, empty = none)",
            )
            .mutable_ready()
            .build(),
            glib::ParamSpecUInt64::builder("cache-size")
                .nick("Cache size")
                .blurb("Bytes that the cache may have; the least recently used goes first (0 = no cache)")
                .default_value(Cache::DEFAULT_SIZE)
                .mutable_ready()
                .build(),
            text("policy", "Policy", "A TOML file that says which prompts are refused (unset = the one that ships)")
                .mutable_ready()
                .build(),
            text("audit-log", "Audit log", "A file to which every decision on a prompt is written (unset = none)")
                .mutable_ready()
                .build(),
            glib::ParamSpecBoolean::builder("watermark")
                .nick("Watermark")
                .blurb("Mark the frames invisibly, so that they can be told")
                .default_value(true)
                .mutable_ready()
                .build(),
            text("watermark-key", "Watermark key", "A file with the key of the mark (unset = the public key)")
                .mutable_ready()
                .build(),
            glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                .nick("Statistics")
                .blurb("frames: frames made; first-frame-ns: from start to the first; fps: frames made a second; \
                        chunk-ns: time the last chunk took; late: frames shown again because the next was late; \
                        cached: frames whose latents had been made before; forwards: times that the transformer ran")
                .read_only()
                .build(),
        ]
    });
    &PROPERTIES
}

impl Settings {
    /// Takes a new value; says whether there is such a property.
    pub fn set(&mut self, name: &str, value: &glib::Value) -> bool {
        match name {
            "prompt" => self.prompt = get(value),
            "negative-prompt" => self.negative_prompt = get(value),
            "model" => self.model = get::<Option<String>>(value).unwrap_or_default(),
            "transformer" => self.transformer = filled(value),
            "text-encoder" => self.text_encoder = filled(value),
            "autoencoder" => self.autoencoder = filled(value),
            "recipe" => self.recipe = filled(value),
            "lora" => self.lora = filled(value),
            "device" => self.device = get::<Option<String>>(value).unwrap_or_default(),
            "precision" => self.precision = get(value),
            "decoder" => self.decoder = get(value),
            "image" => self.image = filled(value),
            "storyboard" => {
                self.storyboard = get::<Option<String>>(value).filter(|text| !text.trim().is_empty())
            }
            "blend-chunks" => self.blend_chunks = get(value),
            "seed" => self.seed = get(value),
            "steps" => self.steps = get(value),
            "guidance-scale" => self.guidance_scale = get(value),
            "guidance-scale-2" => self.guidance_scale_2 = get(value),
            "shift" => self.shift = get(value),
            "duration" => self.duration = get(value),
            "is-live" => self.is_live = get(value),
            "timecode" => self.timecode = filled(value),
            "cache-dir" => self.cache_dir = get(value),
            "cache-size" => self.cache_size = get(value),
            "policy" => self.policy = filled(value),
            "audit-log" => self.audit_log = filled(value),
            "watermark" => self.watermark = get(value),
            "watermark-key" => self.watermark_key = filled(value),
            _ => return false,
        }
        true
    }

    pub fn get(&self, name: &str) -> Option<glib::Value> {
        Some(match name {
            "prompt" => self.prompt.to_value(),
            "negative-prompt" => self.negative_prompt.to_value(),
            "model" => self.model.to_value(),
            "transformer" => self.transformer.to_value(),
            "text-encoder" => self.text_encoder.to_value(),
            "autoencoder" => self.autoencoder.to_value(),
            "recipe" => self.recipe.to_value(),
            "lora" => self.lora.to_value(),
            "device" => self.device.to_value(),
            "precision" => self.precision.to_value(),
            "decoder" => self.decoder.to_value(),
            "image" => self.image.to_value(),
            "storyboard" => self.storyboard.to_value(),
            "blend-chunks" => self.blend_chunks.to_value(),
            "seed" => self.seed.to_value(),
            "steps" => self.steps.to_value(),
            "guidance-scale" => self.guidance_scale.to_value(),
            "guidance-scale-2" => self.guidance_scale_2.to_value(),
            "shift" => self.shift.to_value(),
            "duration" => self.duration.to_value(),
            "is-live" => self.is_live.to_value(),
            "timecode" => self.timecode.to_value(),
            "cache-dir" => self.cache_dir.to_value(),
            "cache-size" => self.cache_size.to_value(),
            "policy" => self.policy.to_value(),
            "audit-log" => self.audit_log.to_value(),
            "watermark" => self.watermark.to_value(),
            "watermark-key" => self.watermark_key.to_value(),
            _ => return None,
        })
    }

    /// All that an address says, and what it does not say as if nobody had.
    pub fn set_address(&mut self, address: Address) {
        let Address { prompt, seed, duration, width, height, framerate, storyboard } = address;
        self.prompt = Some(prompt);
        self.storyboard = storyboard;
        self.seed = seed;
        self.duration = duration.map_or(0, |duration| i64::try_from(duration).unwrap_or(i64::MAX));
        (self.width, self.height, self.framerate) = (width, height, framerate);
    }

    /// The settings as an address, as far as one can say them; `None` without a prompt.
    pub fn address(&self) -> Option<Address> {
        // A file's name is no part of an address.
        let storyboard = self.storyboard.clone().filter(|text| Storyboard::inline(text).is_ok());
        let prompt = self.prompt.clone().filter(|prompt| !prompt.trim().is_empty());
        Some(Address {
            prompt: if storyboard.is_some() { prompt.unwrap_or_default() } else { prompt? },
            seed: self.seed,
            duration: u64::try_from(self.duration).ok().filter(|duration| *duration > 0),
            width: self.width,
            height: self.height,
            framerate: self.framerate,
            storyboard,
        })
    }

    pub fn open_options(&self) -> OpenOptions {
        OpenOptions {
            device: self.device.clone(),
            precision: self.precision.into(),
            decoder: self.decoder.into(),
            parts: self.parts(),
        }
    }

    fn parts(&self) -> Parts {
        let path = |text: &Option<String>| text.as_ref().map(PathBuf::from);
        Parts {
            transformer: path(&self.transformer),
            text_encoder: path(&self.text_encoder),
            autoencoder: path(&self.autoencoder),
            recipe: self.recipe.clone(),
            loras: self
                .lora
                .iter()
                .flat_map(|all| all.split(';'))
                .map(|one| Lora::parse(one.trim()))
                .collect(),
        }
    }

    /// The model, if it has to be downloaded first.
    pub fn lacking(&self) -> soragen::Result<Option<HubName>> {
        let hub = Hub::from_env();
        Ok(HubName::parse(&self.model)?.filter(|name| !hub.offline && hub.find(name).is_err()))
    }

    /// What the model is, without its weights.
    pub fn info(&self) -> soragen::Result<ModelInfo> {
        ModelInfo::read(&self.model, &self.parts())
    }

    /// Where latents are kept, if they are.
    pub fn cache(&self) -> Option<Cache> {
        Cache::open(self.cache_dir.as_deref(), self.cache_size).filter(|_| self.cache_size > 0)
    }

    /// The shots, if there are any; their images are not read yet.
    pub fn storyboard(&self) -> soragen::Result<Option<Storyboard>> {
        self.storyboard.as_deref().map(Storyboard::open).transpose()
    }

    /// What the frames are to be marked with, if they are.
    pub fn key(&self) -> soragen::Result<Option<Key>> {
        self.watermark.then(|| Key::open(file(&self.watermark_key))).transpose()
    }

    /// Frames at the model's own rate and nanoseconds in all; `None` without end.
    pub fn extent(&self, info: &ModelInfo, storyboard: Option<&Storyboard>) -> Option<(u64, u64)> {
        match (self.duration, storyboard.and_then(|board| board.end)) {
            (0, Some(end)) => {
                Some((info.frame_at(end).max(1), u64::try_from(end.as_nanos()).unwrap_or(u64::MAX)))
            }
            (0, None) if self.is_live && info.max_frames.is_none() => None,
            (0, None) => Some((info.natural_frames, timeline::start(info.natural_frames, info.frame_rate))),
            (duration, _) => {
                let time = u64::try_from(duration).ok()?;
                Some((timeline::before(time, info.frame_rate), time))
            }
        }
    }

    /// What the engine is asked for, `frames` of it or without end, but for the size, which is negotiated.
    pub fn request(&self, frames: Option<u64>, storyboard: Option<&Storyboard>) -> soragen::Result<Request> {
        Ok(Request {
            prompt: self.prompt.clone().unwrap_or_default(),
            shots: storyboard.map(Storyboard::shots).transpose()?.unwrap_or_default(),
            blend_chunks: self.blend_chunks,
            negative_prompt: self.negative_prompt.clone(),
            image: file(&self.image).map(soragen::read_image).transpose()?,
            size: None,
            length: frames.map_or(Length::Endless, Length::Frames),
            seed: self.seed,
            steps: (self.steps > 0).then_some(self.steps),
            guidance_scale: (self.guidance_scale > 0.0).then_some(self.guidance_scale),
            guidance_scale_2: (self.guidance_scale_2 > 0.0).then_some(self.guidance_scale_2),
            shift: (self.shift > 0.0).then_some(self.shift),
            initial_latents: None,
            policy: Some(Policy::open(file(&self.policy), file(&self.audit_log))?),
        })
    }
}

fn file(path: &Option<String>) -> Option<&Path> {
    path.as_deref().map(Path::new)
}

/// A text, if there is one.
fn filled(value: &glib::Value) -> Option<String> {
    get::<Option<String>>(value).filter(|path| !path.is_empty())
}

fn get<'a, T: glib::value::FromValue<'a>>(value: &'a glib::Value) -> T {
    value.get().unwrap_or_else(|_| unreachable!("GObject checks the type"))
}
