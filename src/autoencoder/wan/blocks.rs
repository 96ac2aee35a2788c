//! The blocks of the encoder and the decoder. All take frames in the layout of [`ChannelLayout::new`].

use candle_core::{DType, Module, Tensor};
use candle_nn::VarBuilder;
use candle_nn::ops::softmax_last_dim;

use super::super::conv2d::Conv2d;
use super::super::conv3d::CausalConv3d;
use super::super::layout::ChannelLayout;
use super::super::norm::RmsNorm;
use super::super::stream::{Stream, last_frames, pad_before};
use crate::ops::matmul;
use crate::{Cancel, Result};

/// Maximum number of attention scores in memory at a time.
const MAX_SCORES: usize = 128 << 20;

/// Two causal convolutions with a shortcut: `WanResidualBlock`.
#[derive(Clone, Debug)]
pub struct ResidualBlock {
    norm1: RmsNorm,
    conv1: CausalConv3d,
    norm2: RmsNorm,
    conv2: CausalConv3d,
    shortcut: Option<CausalConv3d>,
}

impl ResidualBlock {
    pub fn load(vb: VarBuilder, n_in: usize, n_out: usize) -> Result<Self> {
        let shortcut = || CausalConv3d::load(vb.pp("conv_shortcut"), n_in, n_out, (1, 1));
        Ok(Self {
            norm1: RmsNorm::load(vb.pp("norm1"), n_in, false)?,
            conv1: CausalConv3d::load(vb.pp("conv1"), n_in, n_out, (3, 3))?,
            norm2: RmsNorm::load(vb.pp("norm2"), n_out, false)?,
            conv2: CausalConv3d::load(vb.pp("conv2"), n_out, n_out, (3, 3))?,
            shortcut: (n_in != n_out).then(shortcut).transpose()?,
        })
    }

    pub fn forward(&self, x: &Tensor, stream: &mut Stream) -> Result<Tensor> {
        // Drop each tensor as early as possible: at full resolution they are the largest ones.
        let y = self.norm2.silu(&self.conv1.forward(&self.norm1.silu(x)?, stream)?)?;
        let shortcut = self.shortcut.as_ref().map(|shortcut| shortcut.forward(x, stream)).transpose()?;
        self.conv2.forward_residual(&y, stream, Some(shortcut.as_ref().unwrap_or(x)))
    }
}

/// Single-head attention over the pixels of each frame: `WanAttentionBlock`.
#[derive(Clone, Debug)]
struct Attention {
    layout: ChannelLayout,
    norm: RmsNorm,
    to_qkv: Conv2d,
    proj: Conv2d,
}

impl Attention {
    fn load(vb: VarBuilder, n: usize) -> Result<Self> {
        Ok(Self {
            layout: ChannelLayout::new(vb.dtype(), vb.device()),
            norm: RmsNorm::load(vb.pp("norm"), n, true)?,
            to_qkv: Conv2d::point(vb.pp("to_qkv"), n, 3 * n)?,
            proj: Conv2d::point(vb.pp("proj"), n, n)?,
        })
    }

    fn forward(&self, x: &Tensor, stream: &Stream) -> Result<Tensor> {
        let qkv = self.to_qkv.forward(&self.norm.forward(x)?)?;
        // [T, pixels, 3 × n]
        let qkv = match self.layout {
            ChannelLayout::First => qkv.flatten_from(2)?.transpose(1, 2)?,
            ChannelLayout::Last => qkv.flatten(1, 2)?,
        };
        let n = qkv.dim(2)? / 3;
        let part = |i: usize| qkv.narrow(2, i * n, n);
        let q = (part(0)? * (n as f64).powf(-0.5))?.contiguous()?;
        let (k, v) = (part(1)?.transpose(1, 2)?.contiguous()?, part(2)?.contiguous()?);
        let y = attend(&q, &k, &v, MAX_SCORES, stream.cancel)?;
        let y = match self.layout {
            ChannelLayout::First => y.transpose(1, 2)?.contiguous()?,
            ChannelLayout::Last => y,
        };
        let y = y.reshape(x.shape())?;
        Ok((self.proj.forward(&y)? + x)?)
    }
}

/// Attends from queries `[T, pixels, n]` to keys `[T, n, pixels]` and values `[T, pixels, n]`, with at most `max_scores`
/// scores at a time, but at least one query.
fn attend(q: &Tensor, k: &Tensor, v: &Tensor, max_scores: usize, cancel: &Cancel) -> Result<Tensor> {
    let (frames, pixels, _) = q.dims3()?;
    let rows = (max_scores / (frames * pixels)).clamp(1, pixels);
    let attended = (0..pixels).step_by(rows).map(|row| {
        cancel.check()?;
        let q = q.narrow(1, row, rows.min(pixels - row))?.contiguous()?;
        let scores = softmax_last_dim(&matmul(&q, k)?.to_dtype(DType::F32)?)?.to_dtype(v.dtype())?;
        Ok(matmul(&scores, v)?)
    });
    Ok(Tensor::cat(&attended.collect::<Result<Vec<_>>>()?, 1)?)
}

/// The middle block of the encoder and the decoder: `WanMidBlock`.
#[derive(Clone, Debug)]
pub struct MidBlock {
    before: ResidualBlock,
    attention: Attention,
    after: ResidualBlock,
}

impl MidBlock {
    pub fn load(vb: VarBuilder, n: usize) -> Result<Self> {
        Ok(Self {
            before: ResidualBlock::load(vb.pp("resnets.0"), n, n)?,
            attention: Attention::load(vb.pp("attentions.0"), n)?,
            after: ResidualBlock::load(vb.pp("resnets.1"), n, n)?,
        })
    }

    pub fn forward(&self, x: &Tensor, stream: &mut Stream) -> Result<Tensor> {
        let x = self.before.forward(x, stream)?;
        let x = self.attention.forward(&x, stream)?;
        self.after.forward(&x, stream)
    }
}

/// Halves the size, and with a temporal convolution the number of frames: `WanResample`, downsampling.
#[derive(Clone, Debug)]
pub struct Downsample {
    conv: Conv2d,
    time_conv: Option<CausalConv3d>,
}

impl Downsample {
    pub fn load(vb: VarBuilder, n: usize, temporal: bool) -> Result<Self> {
        let conv = vb.pp("resample.1");
        let weight = conv.get((n, n, 3, 3), "weight")?;
        let time_conv = || CausalConv3d::load(vb.pp("time_conv"), n, n, (3, 1));
        Ok(Self {
            conv: Conv2d::new(weight, Some(conv.get(n, "bias")?), 2, (0, 1))?,
            time_conv: temporal.then(time_conv).transpose()?,
        })
    }

    pub fn forward(&self, x: &Tensor, stream: &mut Stream) -> Result<Tensor> {
        stream.cancel.check()?;
        let x = self.conv.forward(x)?;
        let Some(time_conv) = &self.time_conv else { return Ok(x) };
        let slot = stream.slot();
        let before = slot.replace(last_frames(&x, 1)?);
        match before {
            // The first frame is not merged with another.
            None => Ok(x),
            Some(before) => Ok(time_conv.valid(&Tensor::cat(&[&before, &x], 0)?, 2)?),
        }
    }
}

/// Doubles the size, and with a temporal convolution the number of frames: `WanResample`, upsampling.
#[derive(Clone, Debug)]
pub struct Upsample {
    layout: ChannelLayout,
    conv: Conv2d,
    time_conv: Option<CausalConv3d>,
}

impl Upsample {
    pub fn load(vb: VarBuilder, n_in: usize, n_out: usize, temporal: bool) -> Result<Self> {
        let time_conv = || CausalConv3d::load(vb.pp("time_conv"), n_in, 2 * n_in, (3, 1));
        Ok(Self {
            layout: ChannelLayout::new(vb.dtype(), vb.device()),
            conv: Conv2d::upsampled(vb.pp("resample.1"), n_in, n_out)?,
            time_conv: temporal.then(time_conv).transpose()?,
        })
    }

    pub fn forward(&self, x: &Tensor, stream: &mut Stream) -> Result<Tensor> {
        stream.cancel.check()?;
        let x = match &self.time_conv {
            None => x.clone(),
            Some(time_conv) => {
                let first = stream.first();
                let slot = stream.slot();
                if first {
                    // The first frame is not doubled, and later frames do not read it.
                    *slot = None;
                    x.clone()
                } else {
                    let x = match slot.take() {
                        Some(before) => Tensor::cat(&[&before, x], 0)?,
                        None => pad_before(x, 2)?,
                    };
                    *slot = Some(last_frames(&x, 2)?);
                    self.channels_to_frames(&time_conv.valid(&x, 1)?)?
                }
            }
        };
        Ok(self.conv.forward(&x)?)
    }

    /// Splits frames with twice the channels into twice the frames.
    fn channels_to_frames(&self, x: &Tensor) -> Result<Tensor> {
        let (frames, a, b, c) = x.dims4()?;
        Ok(match self.layout {
            ChannelLayout::First => x.reshape((2 * frames, a / 2, b, c))?,
            ChannelLayout::Last => {
                let halves = x.reshape((frames, a * b, 2, c / 2))?.transpose(1, 2)?.contiguous()?;
                halves.reshape((2 * frames, a, b, c / 2))?
            }
        })
    }
}

/// `AvgDown3D`: averages neighbours in time and space of `[T, C, H, W]`, to `n_out` channels.
pub fn average_down(x: &Tensor, n_out: usize, (time, space): (usize, usize)) -> Result<Tensor> {
    let frames = x.dim(0)?;
    let x = pad_before(x, (time - frames % time) % time)?;
    let (frames, n, height, width) = x.dims4()?;
    let (frames, height, width) = (frames / time, height / space, width / space);
    let x = x.reshape(vec![frames, time, n, height, space, width, space])?;
    let x = x.permute(vec![0, 2, 1, 4, 6, 3, 5])?.contiguous()?;
    Ok(x.reshape((frames, n_out, (), height, width))?.mean(2)?)
}

/// `DupUp3D`: repeats `[T, C, H, W]` in time and space, to `n_out` channels. The `first` frame is not repeated in time.
pub fn repeat_up(x: &Tensor, n_out: usize, (time, space): (usize, usize), first: bool) -> Result<Tensor> {
    let (frames, n, height, width) = x.dims4()?;
    let repeats = n_out * time * space * space / n;
    let x = x.unsqueeze(2)?.broadcast_as((frames, n, repeats, height, width))?.contiguous()?;
    let x = x.reshape(vec![frames, n_out, time, space, space, height, width])?;
    let x = x.permute(vec![0, 2, 1, 5, 3, 6, 4])?.contiguous()?;
    let x = x.reshape((frames * time, n_out, height * space, width * space))?;
    let extra = if first { time - 1 } else { 0 };
    Ok(x.narrow(0, extra, x.dim(0)? - extra)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn values(x: Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn the_result_does_not_depend_on_the_chunk_size() {
        let random = |shape: (usize, usize, usize)| Tensor::randn(0f32, 1f32, shape, &Device::Cpu).unwrap();
        let (q, k, v) = (random((2, 7, 4)), random((2, 4, 7)), random((2, 7, 4)));
        let attend = |max_scores| attend(&q, &k, &v, max_scores, &Cancel::new()).unwrap();
        let whole = attend(MAX_SCORES);
        // 14 scores per query: three queries at a time, one, and one although it exceeds the limit.
        for max_scores in [42, 14, 1] {
            let off = (attend(max_scores) - &whole).unwrap().abs().unwrap().max_all().unwrap();
            assert!(off.to_scalar::<f32>().unwrap() < 1e-6, "{max_scores}: {off}");
        }
    }

    /// The values of a group are ordered by channel, frame, row and column. A smaller group takes the last of these first
    /// (`AvgDown3D` and `DupUp3D`).
    #[test]
    fn shortcuts_group_columns_before_rows_and_frames() {
        let x = Tensor::new(&[[[[1f32, 3.0], [5.0, 7.0]]]], &Device::Cpu).unwrap();
        assert_eq!(values(average_down(&x, 1, (1, 2)).unwrap()), [4.0]);
        assert_eq!(values(average_down(&x, 2, (1, 2)).unwrap()), [2.0, 6.0], "one channel per row");
        assert_eq!(values(average_down(&x, 1, (2, 2)).unwrap()), [2.0], "zeros before the first frame");

        let x = Tensor::new(&[[[[1f32]], [[2.0]]]], &Device::Cpu).unwrap();
        assert_eq!(
            values(repeat_up(&x, 1, (1, 2), false).unwrap()),
            [1.0, 1.0, 2.0, 2.0],
            "one row per channel"
        );
        assert_eq!(values(repeat_up(&x, 1, (2, 1), false).unwrap()), [1.0, 2.0], "one frame per channel");
        assert_eq!(values(repeat_up(&x, 1, (2, 1), true).unwrap()), [2.0], "the first frame is not repeated");
    }
}
