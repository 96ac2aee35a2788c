//! TAEHV, the tiny autoencoder: convolutions of single frames, and blocks that also read the previous frame
//! (<https://github.com/madebyollin/taehv>, `taehv.py`).

mod packed;

use candle_core::{Module, Tensor};
use candle_nn::VarBuilder;
use candle_nn::ops::{pixel_shuffle, pixel_unshuffle};
use serde::Deserialize;

use super::WanConfig;
use super::conv2d::PlainConv2d;
use super::stream::{Stream, StreamState, last_frames, pad_before};
use crate::{Cancel, Result, kernels};
use packed::Packed;

/// `vae/config.json` of TAEHV.
#[derive(Clone, Debug, Deserialize)]
pub struct TaehvConfig {
    /// Side of the pixel blocks that are folded into channels before the first layer.
    pub patch_size: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of all encoder layers.
    pub encoder_width: usize,
    /// Channels of the decoder's three stages and of its last layer.
    pub decoder_widths: [usize; 4],
    /// Residual blocks of each stage of the decoder.
    #[serde(default = "three")]
    pub decoder_blocks: [usize; 3],
    /// Whether each stage of the encoder halves the frame rate.
    pub temporal_downscale: [bool; 3],
    /// Whether each stage of the decoder doubles it.
    pub temporal_upscale: [bool; 3],
    /// Whether each stage of the encoder halves the size.
    #[serde(default = "all")]
    pub spatial_downscale: [bool; 3],
    /// Whether each stage of the decoder doubles the size.
    pub spatial_upscale: [bool; 3],
}

fn all() -> [bool; 3] {
    [true; 3]
}

fn three() -> [usize; 3] {
    [ENCODER_BLOCKS; 3]
}

/// Residual blocks of each stage of the encoder.
const ENCODER_BLOCKS: usize = 3;

impl TaehvConfig {
    /// The config of the TAEHV for the latents of a Wan autoencoder.
    pub fn of_wan(wan: &WanConfig) -> Self {
        Self {
            patch_size: wan.scale_factor_spatial / 8,
            latent_channels: wan.z_dim,
            encoder_width: 64,
            decoder_widths: [256, 128, 64, 64],
            decoder_blocks: three(),
            temporal_downscale: [true, true, false],
            temporal_upscale: [false, true, true],
            spatial_downscale: [true; 3],
            spatial_upscale: [true; 3],
        }
    }

    /// Pixels per latent, in each direction.
    pub fn spatial_factor(&self) -> usize {
        self.patch_size * factor(&self.spatial_downscale)
    }

    /// Video frames per latent frame; the first latent frame is one video frame.
    pub fn temporal_factor(&self) -> usize {
        factor(&self.temporal_downscale)
    }

    pub(super) fn check(&self) -> std::result::Result<(), String> {
        let widths = self.decoder_widths.iter().chain([&self.latent_channels, &self.encoder_width]);
        if widths.clone().any(|&n| !(1..=4096).contains(&n)) || !(1..=4).contains(&self.patch_size) {
            return Err("a width or patch_size is 0 or too large".into());
        }
        if self.decoder_blocks.iter().any(|&count| count > 16) {
            return Err("a stage of decoder_blocks has more than 16 blocks".into());
        }
        let (down, up) = (&self.spatial_downscale, &self.spatial_upscale);
        if factor(up) != factor(down) || factor(&self.temporal_upscale) != self.temporal_factor() {
            return Err("the downscale and upscale settings do not match".into());
        }
        Ok(())
    }
}

fn factor(stages: &[bool]) -> usize {
    1 << stages.iter().filter(|&&stage| stage).count()
}

/// A loaded TAEHV.
#[derive(Clone, Debug)]
pub struct Taehv {
    config: TaehvConfig,
    encoder: Layers,
    decoder: Layers,
}

#[derive(Clone, Debug)]
enum Layers {
    Plain(Vec<Layer>),
    Packed(Packed),
}

#[derive(Clone, Debug)]
enum Layer {
    Conv(PlainConv2d),
    Relu,
    /// tanh(x / 3) · 3.
    Clamp,
    Upsample,
    /// Replaces `Upsample` in a stage without upsampling, so that layer numbers stay the same.
    Identity,
    /// `TPool`: several frames to one.
    TemporalPool(usize, PlainConv2d),
    /// `TGrow`: one frame to several.
    TemporalGrow(usize, PlainConv2d),
    /// `MemBlock`: a residual block that also reads its input of the previous frame.
    MemBlock([PlainConv2d; 3]),
}

impl Taehv {
    /// Loads the tensors that `config` requires, `encoder.N` and `decoder.N`.
    pub fn load(vb: VarBuilder, config: &TaehvConfig) -> Result<Self> {
        let pixels = 3 * config.patch_size * config.patch_size;
        let width = config.encoder_width;
        let mut encoder = Stack::new(vb.pp("encoder"));
        encoder.conv(pixels, width, 1, true)?;
        encoder.push(Layer::Relu);
        for (pool, shrink) in config.temporal_downscale.into_iter().zip(config.spatial_downscale) {
            let stride = if pool { 2 } else { 1 };
            let conv = plain(encoder.at().pp("conv"), (width * stride, width), 1, 1, false)?;
            encoder.push(Layer::TemporalPool(stride, conv));
            encoder.conv(width, width, if shrink { 2 } else { 1 }, false)?;
            encoder.mem_blocks(width, ENCODER_BLOCKS)?;
        }
        encoder.conv(width, config.latent_channels, 1, true)?;

        let mut decoder = Stack::new(vb.pp("decoder"));
        let widths = config.decoder_widths;
        decoder.push(Layer::Clamp);
        decoder.conv(config.latent_channels, widths[0], 1, true)?;
        decoder.push(Layer::Relu);
        for (i, grow) in config.temporal_upscale.into_iter().enumerate() {
            decoder.mem_blocks(widths[i], config.decoder_blocks[i])?;
            decoder.push(if config.spatial_upscale[i] { Layer::Upsample } else { Layer::Identity });
            let stride = if grow { 2 } else { 1 };
            let conv = plain(decoder.at().pp("conv"), (widths[i], widths[i] * stride), 1, 1, false)?;
            decoder.push(Layer::TemporalGrow(stride, conv));
            decoder.conv(widths[i], widths[i + 1], 1, false)?;
        }
        decoder.push(Layer::Relu);
        decoder.conv(widths[3], pixels, 1, true)?;
        Ok(Self { config: config.clone(), encoder: encoder.finish()?, decoder: decoder.finish()? })
    }

    /// Encodes the next frames `[T, 3, H, W]` in \[−1, 1\] to latents `[t, z, h, w]`. The first frame of all is repeated to fill
    /// the first latent frame.
    pub fn encode(&self, video: &Tensor, state: &mut StreamState, cancel: &Cancel) -> Result<Tensor> {
        let video = ((video + 1.0)? * 0.5)?;
        let mut frames = match state.started {
            true => Vec::new(),
            false => vec![video.narrow(0, 0, 1)?; self.config.temporal_factor() - 1],
        };
        frames.push(video);
        let x = pixel_unshuffle(&Tensor::cat(&frames, 0)?, self.config.patch_size)?;
        state.started = true;
        let mut stream = Stream::new(state, cancel);
        match &self.encoder {
            Layers::Plain(layers) => run(layers, x, &mut stream),
            Layers::Packed(layers) => Ok(layers.run(&x, &mut stream)?.permute((0, 3, 1, 2))?.contiguous()?),
        }
    }

    /// Decodes the next latent frames `[t, z, h, w]` to frames `[T, 3, H, W]` in \[0, 1\].
    pub fn decode(&self, latents: &Tensor, state: &mut StreamState, cancel: &Cancel) -> Result<Tensor> {
        let mut stream = Stream::new(state, cancel);
        let frames = match &self.decoder {
            Layers::Plain(layers) => {
                let x = run(layers, latents.clone(), &mut stream)?;
                pixel_shuffle(&x, self.config.patch_size)?.clamp(0.0, 1.0)?
            }
            // The frames stay channels-last in memory, as image formats need them: only the order of the axes changes.
            Layers::Packed(layers) => {
                packed::unpatched(&layers.run(latents, &mut stream)?, self.config.patch_size)?
                    .permute((0, 3, 1, 2))?
            }
        };
        if state.started {
            return Ok(frames);
        }
        state.started = true;
        let extra = self.config.temporal_factor() - 1;
        // The first latent frame is one video frame: the frames before its last are dropped.
        Ok(frames.narrow(0, extra, frames.dim(0)? - extra)?)
    }
}

/// Loads a convolution from `n_in` to `n_out` channels. It keeps its weights in torch's layout, from which [`Packed`] is built.
fn plain(
    vb: VarBuilder,
    (n_in, n_out): (usize, usize),
    kernel: usize,
    stride: usize,
    bias: bool,
) -> Result<PlainConv2d> {
    let bias = bias.then(|| vb.get(n_out, "bias")).transpose()?;
    let padding = kernel / 2;
    Ok(PlainConv2d::new(vb.get((n_out, n_in, kernel, kernel), "weight")?, bias, stride, (padding, padding))?)
}

/// Builds a list of layers, numbered like those of a torch `Sequential`.
struct Stack<'a> {
    vb: VarBuilder<'a>,
    layers: Vec<Layer>,
}

impl<'a> Stack<'a> {
    fn new(vb: VarBuilder<'a>) -> Self {
        Self { vb, layers: Vec::new() }
    }

    /// The tensors of the next layer.
    fn at(&self) -> VarBuilder<'a> {
        self.vb.pp(self.layers.len())
    }

    /// Packs the layers for the CPU kernels where they support the device and the data type.
    fn finish(self) -> Result<Layers> {
        Ok(match kernels::arch(self.vb.dtype(), self.vb.device()) {
            Some(arch) => Layers::Packed(Packed::new(arch, &self.layers)?),
            None => Layers::Plain(self.layers),
        })
    }

    fn push(&mut self, layer: Layer) {
        self.layers.push(layer);
    }

    fn conv(&mut self, n_in: usize, n_out: usize, stride: usize, bias: bool) -> Result<()> {
        let conv = plain(self.at(), (n_in, n_out), 3, stride, bias)?;
        self.push(Layer::Conv(conv));
        Ok(())
    }

    fn mem_blocks(&mut self, n: usize, count: usize) -> Result<()> {
        for _ in 0..count {
            let vb = self.at().pp("conv");
            let convs = [
                plain(vb.pp(0), (2 * n, n), 3, 1, true)?,
                plain(vb.pp(2), (n, n), 3, 1, true)?,
                plain(vb.pp(4), (n, n), 3, 1, true)?,
            ];
            self.push(Layer::MemBlock(convs));
        }
        Ok(())
    }
}

/// Runs the plain layers.
fn run(layers: &[Layer], mut x: Tensor, stream: &mut Stream) -> Result<Tensor> {
    for layer in layers {
        stream.cancel.check()?;
        x = match layer {
            Layer::Conv(conv) => conv.forward(&x)?,
            Layer::Relu => x.relu()?,
            Layer::Clamp => ((x / 3.0)?.tanh()? * 3.0)?,
            Layer::Upsample => {
                let (_, _, height, width) = x.dims4()?;
                x.upsample_nearest2d(2 * height, 2 * width)?
            }
            Layer::Identity => x,
            Layer::TemporalPool(stride, conv) => {
                let (frames, channels, height, width) = x.dims4()?;
                conv.forward(&x.reshape((frames / stride, stride * channels, height, width))?)?
            }
            Layer::TemporalGrow(stride, conv) => {
                let (frames, channels, height, width) = x.dims4()?;
                conv.forward(&x)?.reshape((frames * stride, channels, height, width))?
            }
            Layer::MemBlock(convs) => {
                let slot = stream.slot();
                let before = match slot.take() {
                    Some(before) => Tensor::cat(&[&before, &x], 0)?,
                    None => pad_before(&x, 1)?,
                };
                *slot = Some(last_frames(&x, 1)?);
                let mut y = Tensor::cat(&[&x, &before.narrow(0, 0, x.dim(0)?)?], 1)?;
                for (i, conv) in convs.iter().enumerate() {
                    y = conv.forward(&y)?;
                    if i < 2 {
                        y = y.relu()?;
                    }
                }
                (y + x)?.relu()?
            }
        };
    }
    Ok(x)
}
