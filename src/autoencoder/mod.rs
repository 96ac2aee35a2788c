//! The autoencoders, between pixels and latents.
//!
//! Each autoencoder encodes and decodes as a stream: to decode, latent frames go in as they are generated, and video frames come out. The
//! result does not depend on the chunk sizes, and memory use is constant.

mod conv2d;
mod conv3d;
mod layout;
mod norm;
mod stream;
mod taehv;
mod tiled;
mod wan;

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use crate::checkpoint::Source;
use crate::text_enum::text_enum;
use crate::{Cancel, Error, Result, Size};
use stream::StreamState;
pub use taehv::{Taehv, TaehvConfig};
pub use tiled::Tiling;
pub use wan::{AutoencoderKlWan, WanConfig};

const CONFIG: &str = "vae/config.json";

/// The decoder that turns latents into frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Decoder {
    /// The tiny decoder for models that generate chunk by chunk, if its file is present; otherwise the model's own.
    #[default]
    Auto,
    /// The model's own decoder.
    Full,
    /// TAEHV, from `taew2_1.safetensors` or `taew2_2.safetensors` in the model folder: many times faster, slightly less
    /// sharp.
    Tiny,
    /// The model's own decoder, one tile of the frame at a time: less memory, small differences at the seams. Only for
    /// models that generate the whole video at once. [`Auto`](Self::Auto) selects it if the whole frame does not fit in memory.
    Tiled,
}

text_enum!(Decoder, Decoder, {
    Auto => "auto",
    Full => "full",
    Tiny => "tiny",
    Tiled => "tiled",
});

/// The config of an autoencoder, `vae/config.json`.
#[derive(Clone, Debug)]
pub enum Config {
    /// Wan 2.1 or 2.2.
    Wan(WanConfig),
    /// TAEHV.
    Taehv(TaehvConfig),
}

impl Config {
    /// Reads the config from `source`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] for a damaged file or an unsupported class.
    pub fn read(source: &Source) -> Result<Self> {
        #[derive(Deserialize)]
        struct Class {
            #[serde(rename = "_class_name")]
            name: String,
        }
        let class: Class = source.json(CONFIG)?;
        let (config, checked) = match class.name.as_str() {
            "AutoencoderKLWan" => {
                let config: WanConfig = source.json(CONFIG)?;
                let checked = config.check();
                (Self::Wan(config), checked)
            }
            "AutoencoderTAEHV" => {
                let config: TaehvConfig = source.json(CONFIG)?;
                let checked = config.check();
                (Self::Taehv(config), checked)
            }
            other => {
                let reason = format!("{other} is not supported; use AutoencoderKLWan or AutoencoderTAEHV");
                return Err(source.invalid(CONFIG, reason));
            }
        };
        checked.map_err(|reason| source.invalid(CONFIG, reason))?;
        Ok(config)
    }

    /// Pixels per latent, in each direction.
    pub fn spatial_factor(&self) -> usize {
        match self {
            Self::Wan(config) => config.scale_factor_spatial,
            Self::Taehv(config) => config.spatial_factor(),
        }
    }

    /// Video frames per latent frame; the first latent frame is one video frame.
    pub fn temporal_factor(&self) -> usize {
        match self {
            Self::Wan(config) => config.scale_factor_temporal,
            Self::Taehv(config) => config.temporal_factor(),
        }
    }

    /// Video frames that `latents` latent frames, at least one, decode to.
    pub(crate) fn frames_of(&self, latents: u64) -> u64 {
        1 + (latents - 1) * self.temporal_factor() as u64
    }

    /// Channels of the latents.
    pub fn latent_channels(&self) -> usize {
        match self {
            Self::Wan(config) => config.z_dim,
            Self::Taehv(config) => config.latent_channels,
        }
    }
}

/// A loaded autoencoder.
#[derive(Clone, Debug)]
pub struct Autoencoder {
    config: Config,
    kind: Kind,
    /// Decodes instead of `kind`.
    tiny: Option<Taehv>,
    /// The requested decoder.
    decoder: Decoder,
}

#[derive(Clone, Debug)]
enum Kind {
    Wan(Box<AutoencoderKlWan>),
    Taehv(Taehv),
}

/// The state of a decoder between chunks.
#[derive(Clone, Debug, Default)]
pub struct DecoderState(StreamState);

/// The state of an encoder between chunks.
#[derive(Clone, Debug, Default)]
pub struct EncoderState(StreamState);

impl Autoencoder {
    /// Loads the autoencoder in `vae/` of `source`, and the tiny decoder if `decoder` requires it. `streaming` says that the
    /// model generates chunk by chunk; [`Decoder::Auto`] uses the tiny decoder only then.
    ///
    /// # Errors
    /// [`Error::NotFound`] and [`Error::Invalid`] if the files are missing, damaged or of an unsupported kind,
    /// [`Error::Request`] for a decoder that this model does not support, and [`Error::Cancelled`].
    pub fn open(
        source: &Source,
        decoder: Decoder,
        streaming: bool,
        dtype: DType,
        device: &Device,
        cancel: &Cancel,
    ) -> Result<Self> {
        cancel.check()?;
        let config = Config::read(source)?;
        let tiny = match (&config, decoder) {
            (Config::Taehv(_), Decoder::Full | Decoder::Tiled) => {
                return Err(Error::Request(
                    crate::Setting::Decoder,
                    "this model has only a tiny decoder; use `auto` or `tiny`".into(),
                ));
            }
            (_, Decoder::Tiled) if streaming => {
                return Err(Error::Request(crate::Setting::Decoder,
                    "the tiled decoder needs the whole video, and this model generates it chunk by chunk; use `full` or \
                     `tiny`"
                        .into(),
                ));
            }
            (Config::Wan(config), Decoder::Tiny) => Some(load_tiny(source, config, dtype, device, cancel)?),
            (Config::Wan(config), Decoder::Auto) if streaming && source.exists(&tiny_file(config)) => {
                Some(load_tiny(source, config, dtype, device, cancel)?)
            }
            _ => None,
        };
        let weights = source.weights("vae", "diffusion_pytorch_model", dtype, device, cancel)?;
        let kind = match &config {
            Config::Wan(config) => AutoencoderKlWan::load(weights, config).map(|m| Kind::Wan(Box::new(m))),
            Config::Taehv(config) => Taehv::load(weights, config).map(Kind::Taehv),
        };
        Ok(Self { kind: kind.map_err(|e| source.mismatch("vae", e))?, config, tiny, decoder })
    }

    /// Whether to [decode a whole video of `size` in tiles](Self::decode_tiled): on request, or because the full frame
    /// would need more than `memory_headroom` bytes.
    pub fn in_tiles(&self, size: Size, memory_headroom: Option<u64>) -> bool {
        match (&self.config, self.decoder, memory_headroom) {
            (_, Decoder::Tiled, _) => true,
            (Config::Wan(config), Decoder::Auto, Some(headroom)) => {
                tiled::memory_bytes(config, size) > headroom
            }
            _ => false,
        }
    }

    /// The config it was loaded with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Encodes the next frames `[1, 3, T, H, W]` in \[−1, 1\] to normalised latents `[1, z, t, h, w]`. The first chunk has
    /// `1 + n × temporal_factor` frames and becomes `1 + n` latent frames, later chunks have `n × temporal_factor`.
    ///
    /// # Errors
    /// [`Error::Request`] for another number of frames; [`Error::Cancelled`], checked before each layer; `state` is invalid
    /// afterwards.
    pub fn encode(&self, video: &Tensor, state: &mut EncoderState, cancel: &Cancel) -> Result<Tensor> {
        let (first, factor) = (usize::from(!state.0.started), self.config.temporal_factor());
        let count = video.dim(2)?;
        if count == 0 || count < first || !(count - first).is_multiple_of(factor) {
            return Err(Error::Request(
                crate::Setting::Shape,
                format!("{count} frames; the encoder takes {first} + n × {factor}"),
            ));
        }
        let frames = video.squeeze(0)?.transpose(0, 1)?.contiguous()?;
        let latents = match &self.kind {
            Kind::Wan(wan) => wan.encode(&frames, &mut state.0, cancel),
            Kind::Taehv(taehv) => taehv.encode(&frames, &mut state.0, cancel),
        }?;
        Ok(latents.transpose(0, 1)?.contiguous()?.unsqueeze(0)?)
    }

    /// The state before the first frames.
    pub fn encoder_state(&self) -> EncoderState {
        EncoderState::default()
    }

    /// The state before the first chunk.
    pub fn decoder_state(&self) -> DecoderState {
        DecoderState::default()
    }

    /// Decodes the next latent frames `[1, z, t, h, w]` to frames `[T, 3, H, W]` in \[0, 1\].
    ///
    /// # Errors
    /// [`Error::Cancelled`], checked before each layer; `state` is invalid afterwards.
    pub fn decode(&self, latents: &Tensor, state: &mut DecoderState, cancel: &Cancel) -> Result<Tensor> {
        if latents.dim(2)? == 0 {
            return Err(Error::Request(crate::Setting::Shape, "no latents to decode".into()));
        }
        let latents = latents.squeeze(0)?.transpose(0, 1)?.contiguous()?;
        if let Some(tiny) = &self.tiny {
            return tiny.decode(&latents, &mut state.0, cancel);
        }
        match &self.kind {
            Kind::Wan(wan) => wan.decode(&latents, &mut state.0, cancel),
            Kind::Taehv(taehv) => taehv.decode(&latents, &mut state.0, cancel),
        }
    }
}

/// The file name that the author uses (<https://github.com/madebyollin/taehv>) for each of Wan's autoencoders.
fn tiny_file(config: &WanConfig) -> String {
    let name = if config.scale_factor_spatial == 8 { "taew2_1" } else { "taew2_2" };
    format!("{name}.safetensors")
}

fn load_tiny(
    source: &Source,
    config: &WanConfig,
    dtype: DType,
    device: &Device,
    cancel: &Cancel,
) -> Result<Taehv> {
    let file = tiny_file(config);
    if !source.exists(&file) {
        return Err(Error::NotFound {
            path: source.path(&file),
            hint:
                "the tiny decoder is a separate file; download it from https://github.com/madebyollin/taehv \
                   (safetensors/) to this path"
                    .into(),
        });
    }
    let weights = source.weights_file(&file, dtype, device, cancel)?;
    Taehv::load(weights, &TaehvConfig::of_wan(config)).map_err(|e| source.mismatch(&file, e))
}
