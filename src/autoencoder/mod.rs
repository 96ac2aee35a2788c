//! Between pixels and latents. Each autoencoder decodes as a stream: latent frames in, as they are made,
//! frames out; how they are cut into chunks makes no difference, and memory stays flat.

mod conv;
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

/// Which decoder makes frames of the latents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Decoder {
    /// The tiny one where the video is made chunk by chunk and there is one, else the model's own.
    #[default]
    Auto,
    /// The model's own.
    Full,
    /// TAEHV, in `taew2_1.safetensors` or `taew2_2.safetensors` in the model's folder: many times faster, a
    /// little less sharp.
    Tiny,
    /// The model's own, a part of the picture at a time: in less memory, and with what that changes at the seams. Of a
    /// model that makes its video in one piece; it is what [`Auto`](Self::Auto) is where memory would not hold the picture.
    Tiled,
}

text_enum!(Decoder, Decoder, {
    Auto => "auto",
    Full => "full",
    Tiny => "tiny",
    Tiled => "tiled",
});

/// `vae/config.json`.
#[derive(Clone, Debug)]
pub enum Config {
    /// Wan 2.1's or 2.2's.
    Wan(WanConfig),
    /// TAEHV's.
    Taehv(TaehvConfig),
}

impl Config {
    /// Reads it from `source`.
    ///
    /// # Errors
    /// [`Error::NotFound`] and [`Error::Invalid`], if it is of a kind that is not supported too.
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
                let reason = format!("{other} is not supported; AutoencoderKLWan and AutoencoderTAEHV are");
                return Err(source.invalid(CONFIG, reason));
            }
        };
        checked.map_err(|reason| source.invalid(CONFIG, reason))?;
        Ok(config)
    }

    /// Pixels of a latent's side.
    pub fn spatial_factor(&self) -> usize {
        match self {
            Self::Wan(config) => config.scale_factor_spatial,
            Self::Taehv(config) => config.spatial_factor(),
        }
    }

    /// Frames of a latent frame, but for the first, which is one.
    pub fn temporal_factor(&self) -> usize {
        match self {
            Self::Wan(config) => config.scale_factor_temporal,
            Self::Taehv(config) => config.temporal_factor(),
        }
    }

    /// Channels of the latents.
    pub fn latent_channels(&self) -> usize {
        match self {
            Self::Wan(config) => config.z_dim,
            Self::Taehv(config) => config.latent_channels,
        }
    }
}

/// An opened autoencoder.
#[derive(Clone, Debug)]
pub struct Autoencoder {
    config: Config,
    kind: Kind,
    /// Decodes in the place of the other.
    tiny: Option<Taehv>,
    /// What was asked for.
    decoder: Decoder,
}

#[derive(Clone, Debug)]
enum Kind {
    Wan(Box<AutoencoderKlWan>),
    Taehv(Taehv),
}

/// What a decoder remembers of the latents it has seen.
#[derive(Clone, Debug, Default)]
pub struct DecoderState(StreamState);

impl Autoencoder {
    /// Opens `vae/` of `source`, and the tiny decoder if `decoder` asks for it, which it does not by itself
    /// unless `streaming`.
    ///
    /// # Errors
    /// [`Error::NotFound`] and [`Error::Invalid`] if the files are missing, damaged or of an unsupported kind,
    /// [`Error::Request`] for a full decoder that the model does not have.
    pub fn open(
        source: &Source,
        decoder: Decoder,
        streaming: bool,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let config = Config::read(source)?;
        let tiny = match (&config, decoder) {
            (Config::Taehv(_), Decoder::Full | Decoder::Tiled) => {
                return Err(Error::Request(
                    crate::Setting::Decoder,
                    "this model's only decoder is a tiny one; use `auto` or `tiny`".into(),
                ));
            }
            (_, Decoder::Tiled) if streaming => {
                return Err(Error::Request(crate::Setting::Decoder,
                    "tiles go from the first frame to the last, and this model's frames leave chunk by chunk; use `full` \
                     or `tiny`"
                        .into(),
                ));
            }
            (Config::Wan(config), Decoder::Tiny) => Some(tiny(source, config, dtype, device)?),
            (Config::Wan(config), Decoder::Auto) if streaming && source.exists(&tiny_file(config)) => {
                Some(tiny(source, config, dtype, device)?)
            }
            _ => None,
        };
        let weights = source.weights("vae", "diffusion_pytorch_model", dtype, device, &Cancel::new())?;
        let kind = match &config {
            Config::Wan(config) => AutoencoderKlWan::load(weights, config).map(|m| Kind::Wan(Box::new(m))),
            Config::Taehv(config) => Taehv::load(weights, config).map(Kind::Taehv),
        };
        Ok(Self { kind: kind.map_err(|e| source.mismatch("vae", e))?, config, tiny, decoder })
    }

    /// Whether a whole video of `size` is to be [decoded in tiles](Self::decode_tiled): as was asked for, or because the
    /// picture in one piece would take more than `room` bytes.
    pub fn in_tiles(&self, size: Size, room: Option<u64>) -> bool {
        match (&self.config, self.decoder, room) {
            (_, Decoder::Tiled, _) => true,
            (Config::Wan(config), Decoder::Auto, Some(room)) => tiled::bytes(config, size) > room,
            _ => false,
        }
    }

    /// Its sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// `[1, 3, 1 + n × temporal_factor, H, W]` in \[−1, 1\] to latents as the transformer takes them, `[1, z, 1 + n, h, w]`.
    pub fn encode(&self, video: &Tensor, cancel: &Cancel) -> Result<Tensor> {
        let frames = video.squeeze(0)?.transpose(0, 1)?.contiguous()?;
        let latents = match &self.kind {
            Kind::Wan(wan) => wan.encode(&frames, cancel),
            Kind::Taehv(taehv) => taehv.encode(&frames, cancel),
        }?;
        Ok(latents.transpose(0, 1)?.contiguous()?.unsqueeze(0)?)
    }

    /// Remembers nothing yet.
    pub fn decoder_state(&self) -> DecoderState {
        DecoderState::default()
    }

    /// The next latent frames, `[1, z, t, h, w]`, to frames `[T, 3, H, W]` in \[0, 1\].
    ///
    /// # Errors
    /// [`Error::Cancelled`] within a layer of a cancel; `state` is of no use then.
    pub fn decode(&self, latents: &Tensor, state: &mut DecoderState, cancel: &Cancel) -> Result<Tensor> {
        if latents.dim(2)? == 0 {
            return Err(Error::Request(crate::Setting::Shape, "there are no latents to decode".into()));
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

/// Named as its author does (<https://github.com/madebyollin/taehv>): one for each of Wan's autoencoders.
fn tiny_file(config: &WanConfig) -> String {
    let name = if config.scale_factor_spatial == 8 { "taew2_1" } else { "taew2_2" };
    format!("{name}.safetensors")
}

fn tiny(source: &Source, config: &WanConfig, dtype: DType, device: &Device) -> Result<Taehv> {
    let file = tiny_file(config);
    if !source.exists(&file) {
        return Err(Error::NotFound {
            path: source.path(&file),
            hint: "the tiny decoder is a file of its own; get it from https://github.com/madebyollin/taehv \
                   (safetensors/) and put it there"
                .into(),
        });
    }
    let weights = source.weights_file(&file, dtype, device, &Cancel::new())?;
    Taehv::load(weights, &TaehvConfig::of_wan(config)).map_err(|e| source.mismatch(&file, e))
}
