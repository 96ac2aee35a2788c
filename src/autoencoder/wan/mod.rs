//! The autoencoders of Wan 2.1 and Wan 2.2: diffusers' `AutoencoderKLWan` (`autoencoder_kl_wan.py`).

mod blocks;
mod config;

use candle_core::Tensor;
use candle_nn::VarBuilder;

pub use config::WanConfig;

use super::conv3d::CausalConv3d;
use super::layout::ChannelLayout;
use super::norm::RmsNorm;
use super::stream::{Stream, StreamState};
use crate::{Cancel, Result};
use blocks::{Downsample, MidBlock, ResidualBlock, Upsample, average_down, repeat_up};

/// A loaded Wan autoencoder.
#[derive(Clone, Debug)]
pub struct AutoencoderKlWan {
    config: WanConfig,
    layout: ChannelLayout,
    encoder: Encoder,
    quant_conv: CausalConv3d,
    post_quant_conv: CausalConv3d,
    decoder: Decoder,
    /// `[1, z, 1, 1]`.
    mean: Tensor,
    std: Tensor,
}

#[derive(Clone, Debug)]
struct Encoder {
    layout: ChannelLayout,
    conv_in: CausalConv3d,
    stages: Vec<DownStage>,
    mid_block: MidBlock,
    norm_out: RmsNorm,
    conv_out: CausalConv3d,
}

#[derive(Clone, Debug)]
struct DownStage {
    resnets: Vec<ResidualBlock>,
    downsample: Option<Downsample>,
    shortcut: Option<Shortcut>,
}

#[derive(Clone, Debug)]
struct Decoder {
    layout: ChannelLayout,
    conv_in: CausalConv3d,
    mid_block: MidBlock,
    stages: Vec<UpStage>,
    norm_out: RmsNorm,
    conv_out: CausalConv3d,
}

#[derive(Clone, Debug)]
struct UpStage {
    resnets: Vec<ResidualBlock>,
    upsample: Option<Upsample>,
    shortcut: Option<Shortcut>,
}

/// The shortcut around a whole stage of the residual variant.
#[derive(Clone, Copy, Debug)]
struct Shortcut {
    channels: usize,
    /// Resampling factors in time and space.
    factors: (usize, usize),
}

impl AutoencoderKlWan {
    /// Loads the tensors that `config` requires.
    pub fn load(vb: VarBuilder, config: &WanConfig) -> Result<Self> {
        let z = config.z_dim;
        let row = |values: &[f64]| -> Result<Tensor> {
            let row = Tensor::new(values, vb.device())?.to_dtype(vb.dtype())?;
            Ok(row.reshape((1, (), 1, 1))?)
        };
        Ok(Self {
            layout: ChannelLayout::new(vb.dtype(), vb.device()),
            encoder: Encoder::load(vb.pp("encoder"), config)?,
            quant_conv: CausalConv3d::load(vb.pp("quant_conv"), 2 * z, 2 * z, (1, 1))?,
            post_quant_conv: CausalConv3d::load(vb.pp("post_quant_conv"), z, z, (1, 1))?,
            decoder: Decoder::load(vb.pp("decoder"), config)?,
            mean: row(&config.latents_mean)?,
            std: row(&config.latents_std)?,
            config: config.clone(),
        })
    }

    /// Encodes the next frames `[T, 3, H, W]` in \[−1, 1\] to the mode of the latents, `[t, z, h, w]`.
    pub fn encode(&self, video: &Tensor, state: &mut StreamState, cancel: &Cancel) -> Result<Tensor> {
        let video = patchify(video, self.config.patch())?;
        let (frames, mut latents, mut at) = (video.dim(0)?, Vec::new(), 0);
        while at < frames {
            let count = if state.started { self.config.scale_factor_temporal.min(frames - at) } else { 1 };
            let chunk = self.layout.arrange(&video.narrow(0, at, count)?)?;
            let mut stream = Stream::new(state, cancel);
            let moments = self.encoder.forward(&chunk, &mut stream)?;
            latents.push(self.quant_conv.forward(&moments, &mut stream)?);
            state.started = true;
            at += count;
        }
        let moments = self.layout.to_channels_first(&Tensor::cat(&latents, 0)?)?;
        let mode = moments.narrow(1, 0, self.config.z_dim)?;
        Ok(mode.broadcast_sub(&self.mean)?.broadcast_div(&self.std)?)
    }

    /// Decodes the next latent frames `[t, z, h, w]` to frames `[T, 3, H, W]` in \[0, 1\].
    pub fn decode(&self, latents: &Tensor, state: &mut StreamState, cancel: &Cancel) -> Result<Tensor> {
        let latents = latents.broadcast_mul(&self.std)?.broadcast_add(&self.mean)?;
        let frames = (0..latents.dim(0)?).map(|t| {
            let mut stream = Stream::new(state, cancel);
            let latent = self.layout.arrange(&latents.narrow(0, t, 1)?)?;
            let x = self.post_quant_conv.forward(&latent, &mut stream)?;
            let frames = self.layout.to_channels_first(&self.decoder.forward(&x, &mut stream)?)?;
            state.started = true;
            let frames = unpatchify(&frames, self.config.patch())?;
            Ok(((frames.clamp(-1.0, 1.0)? * 0.5)? + 0.5)?)
        });
        Ok(Tensor::cat(&frames.collect::<Result<Vec<_>>>()?, 0)?)
    }
}

impl Encoder {
    fn load(vb: VarBuilder, config: &WanConfig) -> Result<Self> {
        let mults = &config.dim_mult;
        let blocks = vb.pp("down_blocks");
        let mut dim = config.base_dim;
        let conv_in = CausalConv3d::load(vb.pp("conv_in"), config.in_channels, dim, (3, 3))?;
        let mut stages = Vec::new();
        // The residual variant nests its blocks in stages; the other numbers them consecutively.
        let mut flat = 0;
        for (i, mult) in mults.iter().enumerate() {
            let (n_in, n_out) = (dim, config.base_dim * mult);
            let down = i + 1 < mults.len();
            let temporal = down && config.temperal_downsample[i];
            let mut resnets = Vec::new();
            for j in 0..config.num_res_blocks {
                let at =
                    if config.is_residual { blocks.pp(i).pp("resnets").pp(j) } else { blocks.pp(flat + j) };
                resnets.push(ResidualBlock::load(at, if j == 0 { n_in } else { n_out }, n_out)?);
            }
            flat += config.num_res_blocks;
            let at = if config.is_residual { blocks.pp(i).pp("downsampler") } else { blocks.pp(flat) };
            let downsample = down.then(|| Downsample::load(at, n_out, temporal)).transpose()?;
            flat += usize::from(down);
            let shortcut = config.is_residual.then_some(Shortcut {
                channels: n_out,
                factors: (if temporal { 2 } else { 1 }, if down { 2 } else { 1 }),
            });
            stages.push(DownStage { resnets, downsample, shortcut });
            dim = n_out;
        }
        Ok(Self {
            layout: ChannelLayout::new(vb.dtype(), vb.device()),
            conv_in,
            stages,
            mid_block: MidBlock::load(vb.pp("mid_block"), dim)?,
            norm_out: RmsNorm::load(vb.pp("norm_out"), dim, false)?,
            conv_out: CausalConv3d::load(vb.pp("conv_out"), dim, 2 * config.z_dim, (3, 3))?,
        })
    }

    fn forward(&self, x: &Tensor, stream: &mut Stream) -> Result<Tensor> {
        let mut x = self.conv_in.forward(x, stream)?;
        for stage in &self.stages {
            let before = stage.shortcut.map(|shortcut| (shortcut, x.clone()));
            for resnet in &stage.resnets {
                x = resnet.forward(&x, stream)?;
            }
            if let Some(downsample) = &stage.downsample {
                x = downsample.forward(&x, stream)?;
            }
            if let Some((shortcut, before)) = before {
                let before = self.layout.to_channels_first(&before)?;
                let before = average_down(&before, shortcut.channels, shortcut.factors)?;
                x = (x + self.layout.arrange(&before)?)?;
            }
        }
        let x = self.mid_block.forward(&x, stream)?;
        self.conv_out.forward(&self.norm_out.silu(&x)?, stream)
    }
}

impl Decoder {
    fn load(vb: VarBuilder, config: &WanConfig) -> Result<Self> {
        let base = config.decoder_base_dim.unwrap_or(config.base_dim);
        let mults: Vec<_> = config.dim_mult.iter().rev().collect();
        let temporal: Vec<_> = config.temperal_downsample.iter().rev().collect();
        let mut dim = base * mults[0];
        let conv_in = CausalConv3d::load(vb.pp("conv_in"), config.z_dim, dim, (3, 3))?;
        let mid_block = MidBlock::load(vb.pp("mid_block"), dim)?;
        let mut stages = Vec::new();
        for (i, mult) in mults.iter().enumerate() {
            // In Wan 2.1, upsampling halves the channels.
            let n_in = if i > 0 && !config.is_residual { dim / 2 } else { dim };
            let n_out = base * *mult;
            let up = i + 1 < mults.len();
            let doubles = up && *temporal[i];
            let block = vb.pp("up_blocks").pp(i);
            let resnets = (0..=config.num_res_blocks).map(|j| {
                ResidualBlock::load(block.pp("resnets").pp(j), if j == 0 { n_in } else { n_out }, n_out)
            });
            let (at, halved) = match config.is_residual {
                true => (block.pp("upsampler"), n_out),
                false => (block.pp("upsamplers.0"), n_out / 2),
            };
            let upsample = || Upsample::load(at, n_out, halved, doubles);
            let shortcut = Shortcut { channels: n_out, factors: (if doubles { 2 } else { 1 }, 2) };
            stages.push(UpStage {
                resnets: resnets.collect::<Result<_>>()?,
                upsample: up.then(upsample).transpose()?,
                shortcut: (up && config.is_residual).then_some(shortcut),
            });
            dim = n_out;
        }
        Ok(Self {
            layout: ChannelLayout::new(vb.dtype(), vb.device()),
            conv_in,
            mid_block,
            stages,
            norm_out: RmsNorm::load(vb.pp("norm_out"), dim, false)?,
            conv_out: CausalConv3d::load(vb.pp("conv_out"), dim, config.out_channels, (3, 3))?,
        })
    }

    fn forward(&self, x: &Tensor, stream: &mut Stream) -> Result<Tensor> {
        let x = self.conv_in.forward(x, stream)?;
        let mut x = self.mid_block.forward(&x, stream)?;
        for stage in &self.stages {
            let before = stage.shortcut.map(|shortcut| (shortcut, x.clone()));
            for resnet in &stage.resnets {
                x = resnet.forward(&x, stream)?;
            }
            if let Some(upsample) = &stage.upsample {
                x = upsample.forward(&x, stream)?;
            }
            if let Some((shortcut, before)) = before {
                let before = self.layout.to_channels_first(&before)?;
                let before = repeat_up(&before, shortcut.channels, shortcut.factors, stream.first())?;
                x = (x + self.layout.arrange(&before)?)?;
            }
        }
        self.conv_out.forward(&self.norm_out.silu(&x)?, stream)
    }
}

/// Folds the pixels of a patch into channels, ordered by channel, column and row.
fn patchify(x: &Tensor, patch: usize) -> Result<Tensor> {
    let (frames, channels, height, width) = x.dims4()?;
    let x = x.reshape(vec![frames, channels, height / patch, patch, width / patch, patch])?;
    let x = x.permute(vec![0, 1, 5, 3, 2, 4])?.contiguous()?;
    Ok(x.reshape((frames, channels * patch * patch, height / patch, width / patch))?)
}

/// The inverse of [`patchify`].
fn unpatchify(x: &Tensor, patch: usize) -> Result<Tensor> {
    let (frames, channels, height, width) = x.dims4()?;
    let channels = channels / (patch * patch);
    let x = x.reshape(vec![frames, channels, patch, patch, height, width])?;
    let x = x.permute(vec![0, 1, 4, 3, 5, 2])?.contiguous()?;
    Ok(x.reshape((frames, channels, height * patch, width * patch))?)
}
