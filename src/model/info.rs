//! What a model is and what it can make.

use std::collections::BTreeMap;

use super::layout::{CausalModel, Layout, WanIndex};
use crate::checkpoint::{Parts, Source};
use crate::scheduler::SchedulerConfig;
use crate::{Result, Size, autoencoder, transformer};

const TRANSFORMER: &str = "transformer/config.json";

/// The longest side that is offered; more is a matter of memory, not of the model.
pub(super) const MAX_SIDE: u32 = 4096;

/// What Wan is told not to show; quality falls without it (`wan/configs/shared_config.py`).
const WAN_NEGATIVE: &str = "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，\
                            低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，\
                            毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走";

/// The sizes a model can make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// These and no others; the first is the default.
    Exact(Vec<Size>),
    /// Both sides a multiple of `step` from `min` to `max`.
    Multiple {
        /// In pixels, as the others.
        step: u32,
        /// Shortest side.
        min: u32,
        /// Longest side.
        max: u32,
        /// What it makes when nothing is asked for.
        default: Size,
    },
}

impl Sizes {
    /// What the model makes when nothing is asked for.
    pub fn default_size(&self) -> Size {
        match self {
            Self::Exact(sizes) => sizes[0],
            Self::Multiple { default, .. } => *default,
        }
    }

    /// What the model makes of a picture of this size when no size is asked for: of its sizes the one most like
    /// it in shape, or as many pixels as it makes by default.
    pub fn like(&self, width: u32, height: u32) -> Size {
        let shape = |width: u32, height: u32| (f64::from(width.max(1)) / f64::from(height.max(1))).ln();
        let wanted = shape(width, height);
        match self {
            Self::Exact(sizes) => {
                let far = |size: &Size| (shape(size.width, size.height) - wanted).abs();
                *sizes.iter().min_by(|a, b| far(a).total_cmp(&far(b))).unwrap_or(&sizes[0])
            }
            Self::Multiple { step, min, max, default } => {
                let side = (f64::from(default.width) * f64::from(default.height)).sqrt();
                let rounded = |side: f64| {
                    let steps = (side / f64::from(*step)).round() as u32;
                    steps.saturating_mul(*step).clamp(*min, *max)
                };
                let half = (wanted / 2.0).exp();
                Size { width: rounded(side * half), height: rounded(side / half) }
            }
        }
    }

    /// Whether the model can make it.
    pub fn contains(&self, size: Size) -> bool {
        match self {
            Self::Exact(sizes) => sizes.contains(&size),
            Self::Multiple { step, min, max, .. } => {
                [size.width, size.height].iter().all(|side| side % step == 0 && side >= min && side <= max)
            }
        }
    }
}

impl std::fmt::Display for Sizes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(sizes) => {
                let sizes: Vec<_> = sizes.iter().map(Size::to_string).collect();
                f.write_str(&sizes.join(", "))
            }
            Self::Multiple { step, min, max, default } => {
                write!(f, "{default}, or any with both sides a multiple of {step} from {min} to {max}")
            }
        }
    }
}

/// What a model is and what it can make; read from its configuration, without its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    /// For people.
    pub name: String,
    /// The sizes it can make.
    pub sizes: Sizes,
    /// Frames a second, as a fraction.
    pub frame_rate: (u32, u32),
    /// How many frames it makes when nothing is asked for.
    pub natural_frames: u64,
    /// The most frames it can make; `None` if it goes on for as long as asked.
    pub max_frames: Option<u64>,
    /// Whether it makes its video chunk by chunk, with frames leaving while the rest is not begun.
    pub causal: bool,
    /// Whether it has the shot before a cut in view when it makes the one after it. Such a cut is between chunks,
    /// as a new prompt is; only one to a shot that starts from an image is at any frame.
    pub remembers_shots: bool,
    /// Whether it can start from an image.
    pub image_to_video: bool,
    /// Whether it can start from nothing else.
    pub needs_image: bool,
    /// Denoising steps.
    pub steps: u32,
    /// Guidance scale.
    pub guidance_scale: f64,
    /// That of the second of two transformers, which has the steps with little noise.
    pub guidance_scale_2: Option<f64>,
    /// Shift of the noise schedule.
    pub shift: f64,
    /// What it is told not to show unless the request says otherwise.
    pub negative_prompt: String,
    /// What a small model was trained to show: words by kind, as subjects and places. Empty where it is not said.
    pub knows: BTreeMap<String, Vec<String>>,
}

impl ModelInfo {
    /// Reads the configuration of `source` and `parts` alone: quick, and no weight is touched.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound) and [`Error::Invalid`](crate::Error::Invalid) as for
    /// [`Model::open`](crate::Model::open).
    pub fn read(source: &str, parts: &Parts) -> Result<Self> {
        let source = Source::parse(source, parts)?;
        Self::of(&source, &Layout::read(&source)?)
    }

    /// The frame that starts nearest to `time`, the later of two.
    pub fn frame_at(&self, time: std::time::Duration) -> u64 {
        let (numerator, denominator) = (u128::from(self.frame_rate.0), u128::from(self.frame_rate.1));
        let second = 1_000_000_000 * denominator;
        let frame = (2 * time.as_nanos() * numerator + second) / (2 * second);
        u64::try_from(frame).unwrap_or(u64::MAX)
    }

    pub(super) fn of(source: &Source, layout: &Layout) -> Result<Self> {
        match layout {
            Layout::Wan(index) => Self::wan(source, index),
            Layout::Causal(model) => Self::causal(source, model),
        }
    }

    fn causal(source: &Source, model: &CausalModel) -> Result<Self> {
        let autoencoder = autoencoder::Config::read(source)?;
        let sizes: Vec<_> = model.sizes().collect();
        let step = size_step(source, &autoencoder, &transformer_config(source)?)?;
        if let Some(size) = sizes.iter().find(|size| size.width % step != 0 || size.height % step != 0) {
            return Err(
                source.invalid("soragen.json", format!("the size {size} is not a multiple of {step}"))
            );
        }
        Ok(Self {
            name: model.name.clone(),
            sizes: Sizes::Exact(sizes),
            frame_rate: model.frame_rate,
            natural_frames: frames(model.natural_latents, &autoencoder),
            max_frames: None,
            causal: true,
            remembers_shots: model.causal.shots.is_some(),
            image_to_video: true,
            needs_image: false,
            steps: model.causal.timesteps.len() as u32,
            guidance_scale: model.guidance_scale,
            guidance_scale_2: None,
            shift: 1.0,
            negative_prompt: String::new(),
            knows: model.knows.clone(),
        })
    }

    fn wan(source: &Source, index: &WanIndex) -> Result<Self> {
        let autoencoder = autoencoder::Config::read(source)?;
        let transformer = transformer_config(source)?;
        let step = size_step(source, &autoencoder, &transformer)?;
        // The 5B model of Wan 2.2 is the one that takes an image in this way; its native format is 720p at 24.
        let (default, frame_rate, natural_frames) = match index.expand_timesteps {
            true => (Size { width: 1280, height: 704 }, (24, 1), 121),
            false => (Size { width: 832, height: 480 }, (16, 1), 81),
        };
        let needs_image = index.image_channels();
        let latents = autoencoder.latent_channels();
        let channels = if needs_image { 2 * latents + autoencoder.temporal_factor() } else { latents };
        if transformer.in_channels != channels {
            let reason = format!(
                "in_channels is {}, where the autoencoder makes it {channels}",
                transformer.in_channels
            );
            return Err(source.invalid(TRANSFORMER, reason));
        }
        // `wan/configs/wan_t2v_A14B.py` and `wan_i2v_A14B.py` of <https://github.com/Wan-Video/Wan2.2>.
        let (steps, guidance_scale, guidance_scale_2) = match (index.two(), needs_image) {
            (true, false) => (40, 4.0, Some(3.0)),
            (true, true) => (40, 3.5, Some(3.5)),
            (false, _) => (50, 5.0, None),
        };
        let round = |side: u32| (side / step * step).max(step);
        Ok(Self {
            name: source.name(),
            sizes: Sizes::Multiple {
                step,
                min: step,
                max: MAX_SIDE / step * step,
                default: Size { width: round(default.width), height: round(default.height) },
            },
            frame_rate,
            natural_frames,
            max_frames: Some(frames(transformer.rope_max_seq_len as u64, &autoencoder)),
            causal: false,
            remembers_shots: false,
            image_to_video: index.expand_timesteps || needs_image,
            needs_image,
            steps,
            guidance_scale,
            guidance_scale_2,
            shift: SchedulerConfig::read(source)?.shift(),
            negative_prompt: WAN_NEGATIVE.into(),
            knows: BTreeMap::new(),
        })
    }
}

fn transformer_config(source: &Source) -> Result<transformer::Config> {
    let config: transformer::Config = source.json(TRANSFORMER)?;
    config.check().map_err(|e| source.invalid(TRANSFORMER, e))?;
    Ok(config)
}

/// Pixels that both sides are a multiple of: one token's.
fn size_step(
    source: &Source,
    autoencoder: &autoencoder::Config,
    transformer: &transformer::Config,
) -> Result<u32> {
    let [_, rows, columns] = transformer.patch_size;
    let (more, less) = (rows.max(columns), rows.min(columns));
    // The least common multiple, if it is small enough to be one.
    let side = (1..=less).map(|n| n.saturating_mul(more)).find(|side| side.is_multiple_of(less));
    let step = side.unwrap_or(more).saturating_mul(autoencoder.spatial_factor());
    match u32::try_from(step) {
        Ok(step) if step <= MAX_SIDE => Ok(step),
        _ => Err(source.invalid(TRANSFORMER, format!("patch_size makes a token of {step} pixels"))),
    }
}

/// Frames in so many latent frames: the first is one, the others are several.
fn frames(latents: u64, autoencoder: &autoencoder::Config) -> u64 {
    1 + (latents - 1) * autoencoder.temporal_factor() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(width: u32, height: u32) -> Size {
        Size { width, height }
    }

    #[test]
    fn a_picture_gets_a_size_of_its_shape() {
        let default = size(1280, 704);
        let sizes = Sizes::Multiple { step: 32, min: 32, max: 4096, default };
        assert_eq!(sizes.like(1280, 704), default);
        assert_eq!(sizes.like(100, 100), size(960, 960));
        assert_eq!(sizes.like(3000, 4000), size(832, 1088));
        for (width, height) in [(1, 100_000), (100_000, 1), (0, 0)] {
            assert!(sizes.contains(sizes.like(width, height)), "{width}x{height}");
        }
        let sizes = Sizes::Exact(vec![size(320, 192), size(192, 320), size(256, 256)]);
        assert_eq!(sizes.like(1200, 1000), size(256, 256));
        assert_eq!(sizes.like(1080, 1920), size(192, 320));
        assert_eq!(sizes.like(4000, 3000), size(320, 192));
    }
}
