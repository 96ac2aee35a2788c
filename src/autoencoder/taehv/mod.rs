//! TAEHV, the tiny autoencoder: convolutions over single frames, and blocks that see the frame before.
//! (<https://github.com/madebyollin/taehv>, `taehv.py`.)

mod packed;

use candle_core::{Module, Tensor};
use candle_nn::VarBuilder;
use candle_nn::ops::{pixel_shuffle, pixel_unshuffle};
use serde::Deserialize;

use super::WanConfig;
use super::conv::{PlainConv2d, after_zeros, last};
use super::stream::{Stream, StreamState};
use crate::{Cancel, Result, kernels};
use packed::Packed;

/// `vae/config.json` of a TAEHV.
#[derive(Clone, Debug, Deserialize)]
pub struct TaehvConfig {
    /// Pixels of a side that go into the channels first.
    pub patch_size: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels throughout the encoder.
    pub encoder_width: usize,
    /// Channels of the decoder's three stages and of what follows them.
    pub decoder_widths: [usize; 4],
    /// Whether each stage of the encoder halves the frame rate.
    pub temporal_downscale: [bool; 3],
    /// Whether each stage of the decoder doubles it.
    pub temporal_upscale: [bool; 3],
    /// Whether each stage of the encoder halves the size.
    #[serde(default = "all")]
    pub spatial_downscale: [bool; 3],
    /// Whether each stage of the decoder doubles it.
    pub spatial_upscale: [bool; 3],
}

fn all() -> [bool; 3] {
    [true; 3]
}

impl TaehvConfig {
    /// Of the TAEHV that decodes the latents of one of Wan's autoencoders.
    pub fn of_wan(wan: &WanConfig) -> Self {
        Self {
            patch_size: wan.scale_factor_spatial / 8,
            latent_channels: wan.z_dim,
            encoder_width: 64,
            decoder_widths: [256, 128, 64, 64],
            temporal_downscale: [true, true, false],
            temporal_upscale: [false, true, true],
            spatial_downscale: [true; 3],
            spatial_upscale: [true; 3],
        }
    }

    /// Pixels of a latent's side.
    pub fn spatial_factor(&self) -> usize {
        self.patch_size * factor(&self.spatial_downscale)
    }

    /// Frames of a latent frame, but for the first, which is one.
    pub fn temporal_factor(&self) -> usize {
        factor(&self.temporal_downscale)
    }

    pub(super) fn check(&self) -> std::result::Result<(), String> {
        let widths = self.decoder_widths.iter().chain([&self.latent_channels, &self.encoder_width]);
        if widths.clone().any(|&n| !(1..=4096).contains(&n)) || !(1..=4).contains(&self.patch_size) {
            return Err("a width is 0 or too large".into());
        }
        let (down, up) = (&self.spatial_downscale, &self.spatial_upscale);
        if factor(up) != factor(down) || factor(&self.temporal_upscale) != self.temporal_factor() {
            return Err("what it decodes has not the size of what it encodes".into());
        }
        Ok(())
    }
}

fn factor(stages: &[bool]) -> usize {
    1 << stages.iter().filter(|&&stage| stage).count()
}

/// The autoencoder.
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
    /// In the place of an `Upsample` of 1.
    Same,
    /// Several frames to one.
    Pool(usize, PlainConv2d),
    /// One frame to several.
    Grow(usize, PlainConv2d),
    /// A residual block that also sees its input of one frame ago.
    StreamState([PlainConv2d; 3]),
}

impl Taehv {
    /// Takes the weights that `config` calls for, `encoder.N` and `decoder.N`.
    pub fn load(vb: VarBuilder, config: &TaehvConfig) -> Result<Self> {
        let pixels = 3 * config.patch_size * config.patch_size;
        let width = config.encoder_width;
        let mut encoder = Stack::new(vb.pp("encoder"));
        encoder.conv(pixels, width, 1, true)?;
        encoder.push(Layer::Relu);
        for (pool, shrink) in config.temporal_downscale.into_iter().zip(config.spatial_downscale) {
            let stride = if pool { 2 } else { 1 };
            let conv = plain(encoder.at().pp("conv"), (width * stride, width), 1, 1, false)?;
            encoder.push(Layer::Pool(stride, conv));
            encoder.conv(width, width, if shrink { 2 } else { 1 }, false)?;
            encoder.memory_blocks(width)?;
        }
        encoder.conv(width, config.latent_channels, 1, true)?;

        let mut decoder = Stack::new(vb.pp("decoder"));
        let widths = config.decoder_widths;
        decoder.push(Layer::Clamp);
        decoder.conv(config.latent_channels, widths[0], 1, true)?;
        decoder.push(Layer::Relu);
        for (i, grow) in config.temporal_upscale.into_iter().enumerate() {
            decoder.memory_blocks(widths[i])?;
            decoder.push(if config.spatial_upscale[i] { Layer::Upsample } else { Layer::Same });
            let stride = if grow { 2 } else { 1 };
            let conv = plain(decoder.at().pp("conv"), (widths[i], widths[i] * stride), 1, 1, false)?;
            decoder.push(Layer::Grow(stride, conv));
            decoder.conv(widths[i], widths[i + 1], 1, false)?;
        }
        decoder.push(Layer::Relu);
        decoder.conv(widths[3], pixels, 1, true)?;
        Ok(Self { config: config.clone(), encoder: encoder.finish()?, decoder: decoder.finish()? })
    }

    /// `[T, 3, H, W]` in \[−1, 1\] to `[t, z, h, w]`; the first frame is taken for all those of the first
    /// latent frame.
    pub fn encode(&self, video: &Tensor, cancel: &Cancel) -> Result<Tensor> {
        let video = ((video + 1.0)? * 0.5)?;
        let first = video.narrow(0, 0, 1)?;
        let mut frames = vec![first; self.config.temporal_factor() - 1];
        frames.push(video);
        let x = pixel_unshuffle(&Tensor::cat(&frames, 0)?, self.config.patch_size)?;
        let mut memory = StreamState::default();
        let mut stream = Stream::new(&mut memory, cancel);
        match &self.encoder {
            Layers::Plain(layers) => run(layers, x, &mut stream),
            Layers::Packed(layers) => Ok(layers.run(&x, &mut stream)?.permute((0, 3, 1, 2))?.contiguous()?),
        }
    }

    /// The next latent frames `[t, z, h, w]` to frames `[T, 3, H, W]` in \[0, 1\].
    pub fn decode(&self, latents: &Tensor, memory: &mut StreamState, cancel: &Cancel) -> Result<Tensor> {
        let mut stream = Stream::new(memory, cancel);
        let frames = match &self.decoder {
            Layers::Plain(layers) => {
                let x = run(layers, latents.clone(), &mut stream)?;
                pixel_shuffle(&x, self.config.patch_size)?.clamp(0.0, 1.0)?
            }
            // Whoever wants pixels wants their colours together: only the order of the axes changes here.
            Layers::Packed(layers) => {
                packed::unpatched(&layers.run(latents, &mut stream)?, self.config.patch_size)?
                    .permute((0, 3, 1, 2))?
            }
        };
        if memory.started {
            return Ok(frames);
        }
        memory.started = true;
        let early = self.config.temporal_factor() - 1;
        Ok(frames.narrow(0, early, frames.dim(0)? - early)?)
    }
}

/// A convolution from and to so many channels that keeps its weights, for [`Packed`] to take them.
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

/// Layers under construction; they are numbered as in a torch `Sequential`.
struct Stack<'a> {
    vb: VarBuilder<'a>,
    layers: Vec<Layer>,
}

impl<'a> Stack<'a> {
    fn new(vb: VarBuilder<'a>) -> Self {
        Self { vb, layers: Vec::new() }
    }

    fn at(&self) -> VarBuilder<'a> {
        self.vb.pp(self.layers.len())
    }

    /// For this CPU if it is one.
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

    fn memory_blocks(&mut self, n: usize) -> Result<()> {
        for _ in 0..3 {
            let vb = self.at().pp("conv");
            let convs = [
                plain(vb.pp(0), (2 * n, n), 3, 1, true)?,
                plain(vb.pp(2), (n, n), 3, 1, true)?,
                plain(vb.pp(4), (n, n), 3, 1, true)?,
            ];
            self.push(Layer::StreamState(convs));
        }
        Ok(())
    }
}

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
            Layer::Same => x,
            Layer::Pool(stride, conv) => {
                let (frames, channels, height, width) = x.dims4()?;
                conv.forward(&x.reshape((frames / stride, stride * channels, height, width))?)?
            }
            Layer::Grow(stride, conv) => {
                let (frames, channels, height, width) = x.dims4()?;
                conv.forward(&x)?.reshape((frames * stride, channels, height, width))?
            }
            Layer::StreamState(convs) => {
                let slot = stream.slot();
                let before = match slot.take() {
                    Some(before) => Tensor::cat(&[&before, &x], 0)?,
                    None => after_zeros(&x, 1)?,
                };
                *slot = Some(last(&x, 1)?);
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
