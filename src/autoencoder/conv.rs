//! Convolutions over frames `[T, C, H, W]`, and over time with what a stream remembers.

use candle_core::{DType, Module, Result, Tensor};
use candle_nn::VarBuilder;

use super::stream::Stream;
use crate::ops::{MAX_UNFOLDED, conv2d, index_select};

/// A convolution over single frames, with a square kernel and zeros around.
#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: Tensor,
    /// `[1, C, 1, 1]`.
    bias: Option<Tensor>,
    stride: usize,
    /// Zeros before and after, of rows as of columns.
    padding: (usize, usize),
}

impl Conv2d {
    /// `weight` is `[out, in, kernel, kernel]`.
    pub fn new(weight: Tensor, bias: Option<Tensor>, stride: usize, padding: (usize, usize)) -> Result<Self> {
        let bias = bias.map(|b| b.reshape((1, (), 1, 1))).transpose()?;
        Ok(Self { weight: weight.contiguous()?, bias, stride, padding })
    }

    /// A kernel of 3 that keeps the size.
    pub fn same(vb: VarBuilder, n_in: usize, n_out: usize, bias: bool) -> Result<Self> {
        let bias = bias.then(|| vb.get(n_out, "bias")).transpose()?;
        Self::new(vb.get((n_out, n_in, 3, 3), "weight")?, bias, 1, (1, 1))
    }

    /// A kernel of 1.
    pub fn point(vb: VarBuilder, n_in: usize, n_out: usize, bias: bool) -> Result<Self> {
        let bias = bias.then(|| vb.get(n_out, "bias")).transpose()?;
        Self::new(vb.get((n_out, n_in, 1, 1), "weight")?, bias, 1, (0, 0))
    }

    /// Unfolds no more than `max_unfolded` elements at a time, or one row.
    fn convolve(&self, x: &Tensor, max_unfolded: usize) -> Result<Tensor> {
        let (frames, channels, height, width) = x.dims4()?;
        let kernel = self.weight.dim(2)?;
        let (before, after) = self.padding;
        let x = match (kernel, before == after) {
            (1, _) => x.clone(),
            _ => x.pad_with_zeros(2, before, after)?.pad_with_zeros(3, before, after)?,
        };
        let rows = (height + before + after - kernel) / self.stride + 1;
        let columns = (width + before + after - kernel) / self.stride + 1;
        let unfolded_row = channels * kernel * kernel * columns;
        let y = if frames * rows * unfolded_row <= max_unfolded {
            conv2d(&x.contiguous()?, &self.weight, self.stride)?
        } else {
            // Frame by frame, each in bands of rows.
            let band = (max_unfolded / unfolded_row).clamp(1, rows);
            let frame = |t: usize| -> Result<Tensor> {
                let x = x.narrow(0, t, 1)?;
                let bands = (0..rows).step_by(band).map(|row| {
                    let count = band.min(rows - row);
                    let x = x.narrow(2, row * self.stride, (count - 1) * self.stride + kernel)?;
                    conv2d(&x.contiguous()?, &self.weight, self.stride)
                });
                Tensor::cat(&bands.collect::<Result<Vec<_>>>()?, 2)
            };
            Tensor::cat(&(0..frames).map(frame).collect::<Result<Vec<_>>>()?, 0)?
        };
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

impl Module for Conv2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.convolve(x, MAX_UNFOLDED)
    }
}

/// A convolution over time too, as the sum of its temporal taps. It sees the past alone: frames before the
/// first are zeros.
#[derive(Clone, Debug)]
pub struct CausalConv3d {
    /// Earliest first; the last has the bias.
    taps: Vec<Conv2d>,
}

impl CausalConv3d {
    /// A kernel of `(time, space, space)`, each 1 or 3.
    pub fn load(vb: VarBuilder, n_in: usize, n_out: usize, (time, space): (usize, usize)) -> Result<Self> {
        let weight = vb.get((n_out, n_in, time, space, space), "weight")?;
        let bias = vb.get(n_out, "bias")?;
        let taps = (0..time).map(|t| {
            let bias = (t + 1 == time).then(|| bias.clone());
            Conv2d::new(weight.narrow(2, t, 1)?.squeeze(2)?, bias, 1, (space / 2, space / 2))
        });
        Ok(Self { taps: taps.collect::<Result<_>>()? })
    }

    /// The frames after those that `stream` remembers; as many as `x` has.
    pub fn forward(&self, x: &Tensor, stream: &mut Stream) -> crate::Result<Tensor> {
        stream.cancel.check()?;
        let past = self.taps.len() - 1;
        if past == 0 {
            return Ok(self.taps[0].forward(x)?);
        }
        let slot = stream.slot();
        let frames = x.dim(0)?;
        let Some(before) = slot.take() else {
            // Nothing but zeros before a lone first frame: only the last tap counts.
            let y = if frames == 1 {
                self.taps[past].forward(x)?
            } else {
                self.valid(&after_zeros(x, past)?, 1)?
            };
            *slot = Some(last(&after_zeros(x, past)?, past)?);
            return Ok(y);
        };
        let x = Tensor::cat(&[&before, x], 0)?;
        *slot = Some(last(&x, past)?);
        Ok(self.valid(&x, 1)?)
    }

    /// Every `stride`th frame that all taps are within `x` for.
    pub fn valid(&self, x: &Tensor, stride: usize) -> Result<Tensor> {
        let frames = (x.dim(0)? - self.taps.len()) / stride + 1;
        let mut sum: Option<Tensor> = None;
        for (t, tap) in self.taps.iter().enumerate() {
            let input = match stride {
                1 => x.narrow(0, t, frames)?,
                _ => {
                    let places: Vec<u32> = (0..frames).map(|i| (t + i * stride) as u32).collect();
                    index_select(x, &Tensor::new(places, x.device())?, 0)?
                }
            };
            let y = tap.forward(&input)?;
            sum = Some(match sum {
                Some(sum) => (sum + y)?,
                None => y,
            });
        }
        sum.ok_or_else(|| candle_core::Error::Msg("a convolution without taps".into()))
    }
}

/// `x` with `count` frames of zeros before it.
pub fn after_zeros(x: &Tensor, count: usize) -> Result<Tensor> {
    x.pad_with_zeros(0, count, 0)
}

/// The last `count` frames, or all there are, in memory of their own.
pub fn last(x: &Tensor, count: usize) -> Result<Tensor> {
    let frames = x.dim(0)?;
    let count = count.min(frames);
    x.narrow(0, frames - count, count)?.force_contiguous()
}

/// L2 norm over channels, times a weight each: `WanRMS_norm`.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    /// `[1, C, 1, 1]`, with the square root of C in it.
    gamma: Tensor,
}

impl RmsNorm {
    /// `gamma` is `[C, 1, 1, 1]`, or `[C, 1, 1]` over `images`.
    pub fn load(vb: VarBuilder, channels: usize, images: bool) -> Result<Self> {
        let gamma =
            if images { vb.get((channels, 1, 1), "gamma")? } else { vb.get((channels, 1, 1, 1), "gamma")? };
        let gamma = gamma.to_dtype(DType::F32)?.reshape((1, channels, 1, 1))?;
        Ok(Self { gamma: (gamma * (channels as f64).sqrt())? })
    }
}

impl Module for RmsNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let wide = x.to_dtype(DType::F32)?;
        // torch's normalize divides by no less than 1e-12.
        let norm = wide.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(1e-12)?;
        wide.broadcast_div(&norm)?.broadcast_mul(&self.gamma)?.to_dtype(x.dtype())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn bands_of_rows_make_no_difference() {
        let random =
            |shape: (usize, usize, usize, usize)| Tensor::randn(0f32, 1f32, shape, &Device::Cpu).unwrap();
        let x = random((2, 3, 9, 6));
        for (kernel, stride, padding) in [(3, 1, (1, 1)), (3, 2, (0, 1)), (1, 1, (0, 0))] {
            let bias = Tensor::new(&[1f32, -2.0], &Device::Cpu).unwrap();
            let conv = Conv2d::new(random((2, 3, kernel, kernel)), Some(bias), stride, padding).unwrap();
            let whole = conv.forward(&x).unwrap();
            // A row unfolds to at most 162 elements: two rows at a time, one, and one although it is too many.
            for max_unfolded in [400, 162, 1] {
                let banded = conv.convolve(&x, max_unfolded).unwrap();
                assert_eq!(banded.dims(), whole.dims());
                let off = (banded - &whole).unwrap().abs().unwrap().max_all().unwrap();
                assert!(off.to_scalar::<f32>().unwrap() < 1e-5, "{kernel} {stride} {max_unfolded}: {off}");
            }
        }
    }
}
