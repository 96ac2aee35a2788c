//! The pipelines of the Wan family: their abilities, and Wan's own default values.

use std::collections::BTreeMap;

use super::index::PipelineIndex;
use super::info::ModelInfo;
use super::sizes::{MAX_SIDE, Sizes};
use crate::checkpoint::Source;
use crate::scheduler::SchedulerConfig;
use crate::{Result, Size, autoencoder, transformer};

const TRANSFORMER: &str = "transformer/config.json";

/// Latent frames of another video that a VACE model sees when it continues it: 17 frames, a second of its 81.
const VACE_PAST: u64 = 5;
/// References that a VACE model takes. Each takes the place of a latent frame; the paper shows up to three
/// (<https://arxiv.org/abs/2503.07598>).
const VACE_REFERENCES: usize = 4;

/// Wan's negative prompt; quality falls without it (`wan/configs/shared_config.py`).
const NEGATIVE_PROMPT: &str = "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，\
                            低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，\
                            毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走";

pub fn pipeline_info(source: &Source, index: &PipelineIndex) -> Result<ModelInfo> {
    let autoencoder = autoencoder::Config::read(source)?;
    let transformer = transformer_config(source)?;
    let step = token_side(source, &transformer, &autoencoder)?;
    // Only Wan 2.2 TI2V-5B expands timesteps; its native format is 720p at 24 frames per second.
    let (default, frame_rate, natural_frames) = match index.expand_timesteps {
        true => (Size { width: 1280, height: 704 }, (24, 1), 121),
        false => (Size { width: 832, height: 480 }, (16, 1), 81),
    };
    let needs_image = index.has_image_channels();
    let latents = autoencoder.latent_channels();
    let channels = if needs_image { 2 * latents + autoencoder.temporal_factor() } else { latents };
    if transformer.in_channels != channels {
        let reason =
            format!("in_channels is {}, but the autoencoder requires {channels}", transformer.in_channels);
        return Err(source.invalid(TRANSFORMER, reason));
    }
    let is_vace = index.is_vace();
    if is_vace != transformer.vace_layers.is_some() {
        let reason = "a WanVACEPipeline has a transformer with vace_layers, and other pipelines have none";
        return Err(source.invalid(TRANSFORMER, reason));
    }
    transformer.check_control(&autoencoder).map_err(|reason| source.invalid(TRANSFORMER, reason))?;
    if transformer.image_dim.is_some() && !needs_image {
        return Err(source.invalid(TRANSFORMER, "image_dim is set, but the pipeline starts from no image"));
    }
    // Each position embedding of the image encoder's tokens belongs to the first or to the last image (FLF2V).
    let needs_last_image = transformer.pos_embed_seq_len.is_some();
    // `wan/configs/wan_t2v_A14B.py` and `wan_i2v_A14B.py` of <https://github.com/Wan-Video/Wan2.2>; `generate.py` of
    // <https://github.com/Wan-Video/Wan2.1>.
    let (steps, guidance_scale, guidance_scale_2) = match (index.has_two_transformers(), needs_image) {
        (true, false) => (40, 4.0, Some(3.0)),
        (true, true) => (40, 3.5, Some(3.5)),
        (false, true) if !needs_last_image => (40, 5.0, None),
        (false, _) => (50, 5.0, None),
    };
    let round = |side: u32| (side / step * step).max(step);
    Ok(ModelInfo {
        name: source.name(),
        sizes: Sizes::Multiple {
            step,
            min: step,
            max: MAX_SIDE / step * step,
            default: Size { width: round(default.width), height: round(default.height) },
        },
        frame_rate,
        natural_frames,
        chunk_frames: natural_frames,
        past_frames: if is_vace { autoencoder.frames_of(VACE_PAST) } else { 0 },
        latent_frames: autoencoder.temporal_factor() as u64,
        max_frames: Some(autoencoder.frames_of(transformer.rope_max_seq_len as u64)),
        causal: false,
        remembers_shots: false,
        image_to_video: index.expand_timesteps || needs_image || is_vace,
        needs_image,
        // A model that reads its image with the image encoder has learned one image, or two.
        last_image: is_vace || needs_last_image || (needs_image && transformer.image_dim.is_none()),
        needs_last_image,
        control: is_vace,
        steps,
        guidance_scale,
        guidance_scale_2,
        shift: SchedulerConfig::read(source)?.shift(),
        negative_prompt: NEGATIVE_PROMPT.into(),
        max_references: if is_vace { VACE_REFERENCES } else { 0 },
        knows: BTreeMap::new(),
    })
}

/// Temporal positions that the transformer has.
pub fn max_positions(source: &Source) -> Result<usize> {
    Ok(transformer_config(source)?.rope_max_seq_len)
}

/// Width and height must be multiples of this.
pub fn size_step(source: &Source, autoencoder: &autoencoder::Config) -> Result<u32> {
    token_side(source, &transformer_config(source)?, autoencoder)
}

/// Pixels per side of a token.
fn token_side(
    source: &Source,
    transformer: &transformer::Config,
    autoencoder: &autoencoder::Config,
) -> Result<u32> {
    let [_, rows, columns] = transformer.patch_size;
    let (more, less) = (rows.max(columns), rows.min(columns));
    // The least common multiple, if it is small.
    let side = (1..=less).map(|n| n.saturating_mul(more)).find(|side| side.is_multiple_of(less));
    let step = side.unwrap_or(more).saturating_mul(autoencoder.spatial_factor());
    match u32::try_from(step) {
        Ok(step) if step <= MAX_SIDE => Ok(step),
        _ => Err(source.invalid(TRANSFORMER, format!("patch_size makes a token of {step} pixels"))),
    }
}

fn transformer_config(source: &Source) -> Result<transformer::Config> {
    let config: transformer::Config = source.json(TRANSFORMER)?;
    config.check().map_err(|e| source.invalid(TRANSFORMER, e))?;
    Ok(config)
}
