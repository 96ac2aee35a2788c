//! Convolutions over frames `[T, C, H, W]`, and over time with what a stream remembers.

use candle_core::{DType, Module, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::stream::Stream;
use crate::kernels;
use crate::kernels::conv2d::{Epilogue, Sources, Weights};
use crate::ops::{MAX_UNFOLDED, conv2d, index_select};

/// A convolution over single frames, with a square kernel and zeros around.
#[derive(Clone, Debug)]
pub enum Conv2d {
    /// As candle computes it.
    Plain(PlainConv2d),
    /// Made for this CPU.
    Packed(PackedConv),
}

impl Conv2d {
    /// `weight` is `[out, in, kernel, kernel]`; `padding`, zeros before and after, of rows as of columns.
    pub fn new(weight: Tensor, bias: Option<Tensor>, stride: usize, padding: (usize, usize)) -> Result<Self> {
        Ok(match kernels::arch(weight.dtype(), weight.device()) {
            Some(arch) => Self::Packed(PackedConv::new(arch, &weight.unsqueeze(2)?, bias, stride, padding)?),
            None => Self::Plain(PlainConv2d::new(weight, bias, stride, padding)?),
        })
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
}

impl Module for Conv2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Plain(conv) => conv.forward(x),
            Self::Packed(conv) => conv.forward(x, x.dim(0)?, |frame, _| Some(frame)),
        }
    }
}

/// The same over one frame or several, by [`kernels::conv2d`].
#[derive(Clone, Debug)]
pub struct PackedConv {
    conv: kernels::conv2d::Conv2d,
    /// Frames that make one.
    taps: usize,
    kernel: usize,
    stride: usize,
    padding: (usize, usize),
}

impl PackedConv {
    /// `weight` is `[out, in, time, kernel, kernel]`.
    fn new(
        arch: kernels::Arch,
        weight: &Tensor,
        bias: Option<Tensor>,
        stride: usize,
        padding: (usize, usize),
    ) -> Result<Self> {
        let (n_out, n_in, sources, kernel, _) = weight.dims5()?;
        let weight = kernels::numbers(&weight.transpose(1, 2)?)?;
        let bias = bias.as_ref().map(kernels::numbers).transpose()?;
        let weights = Weights { weight: &weight, bias: bias.as_deref(), n_out, n_in, sources, kernel };
        let conv = kernels::conv2d::Conv2d::new(arch, weights, stride, padding.0);
        Ok(Self { conv, taps: sources, kernel, stride, padding })
    }

    /// `[T, C, H, W]` to so many `frames`, of which tap `t` of frame `i` reads `place(i, t)`; `None` is zeros.
    fn forward(
        &self,
        x: &Tensor,
        frames: usize,
        place: impl Fn(usize, usize) -> Option<usize>,
    ) -> Result<Tensor> {
        let (count, channels, height, width) = x.dims4()?;
        let around = self.padding.0 + self.padding.1;
        if x.elem_count() == 0
            || channels != self.conv.n_in()
            || height + around < self.kernel
            || width + around < self.kernel
        {
            bail!("a convolution of {} channels and a kernel of {} of {x:?}", self.conv.n_in(), self.kernel);
        }
        let side = |length: usize| (length + around - self.kernel) / self.stride + 1;
        let (rows, columns, n_out) = (side(height), side(width), self.conv.n_out());
        let images = kernels::layout::transposed(&kernels::numbers(x)?, (channels, height * width));
        let images: Vec<_> = images.chunks_exact(channels * height * width).collect();
        let image = |frame, tap| place(frame, tap).filter(|&at| at < count).map_or(&[][..], |at| images[at]);
        let sources: Vec<Sources> =
            (0..frames).map(|frame| (0..self.taps).map(|tap| image(frame, tap)).collect()).collect();
        let mut out = vec![0.0; frames * rows * columns * n_out];
        self.conv.run(&sources, (height, width), (rows, columns), &mut out, Epilogue::default());
        let out = kernels::layout::transposed(&out, (rows * columns, n_out));
        Tensor::from_vec(out, (frames, n_out, rows, columns), x.device())
    }
}

/// The same by candle, which unfolds its input.
#[derive(Clone, Debug)]
pub struct PlainConv2d {
    weight: Tensor,
    /// `[1, C, 1, 1]`.
    bias: Option<Tensor>,
    stride: usize,
    /// Zeros before and after, of rows as of columns.
    padding: (usize, usize),
}

impl PlainConv2d {
    /// As [`Conv2d::new`].
    pub fn new(weight: Tensor, bias: Option<Tensor>, stride: usize, padding: (usize, usize)) -> Result<Self> {
        let bias = bias.map(|b| b.reshape((1, (), 1, 1))).transpose()?;
        Ok(Self { weight: weight.contiguous()?, bias, stride, padding })
    }

    /// `[out, in, kernel, kernel]` and `[1, out, 1, 1]`.
    pub fn weights(&self) -> (&Tensor, Option<&Tensor>) {
        (&self.weight, self.bias.as_ref())
    }

    /// Pixels of the input from one of the output to the next.
    pub fn stride(&self) -> usize {
        self.stride
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

impl Module for PlainConv2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.convolve(x, MAX_UNFOLDED)
    }
}

/// A convolution over time too, as the sum of its temporal taps. It sees the past alone: frames before the
/// first are zeros.
#[derive(Clone, Debug)]
pub struct CausalConv3d {
    taps: Taps,
    /// Frames that are seen before each.
    past: usize,
}

#[derive(Clone, Debug)]
enum Taps {
    /// Earliest first; the last has the bias.
    Plain(Vec<PlainConv2d>),
    /// All in one.
    Packed(PackedConv),
}

impl CausalConv3d {
    /// A kernel of `(time, space, space)`, each 1 or 3.
    pub fn load(vb: VarBuilder, n_in: usize, n_out: usize, (time, space): (usize, usize)) -> Result<Self> {
        let weight = vb.get((n_out, n_in, time, space, space), "weight")?;
        let bias = vb.get(n_out, "bias")?;
        let padding = (space / 2, space / 2);
        let taps = match kernels::arch(weight.dtype(), weight.device()) {
            Some(arch) => Taps::Packed(PackedConv::new(arch, &weight, Some(bias), 1, padding)?),
            None => {
                let taps = (0..time).map(|t| {
                    let bias = (t + 1 == time).then(|| bias.clone());
                    PlainConv2d::new(weight.narrow(2, t, 1)?.squeeze(2)?, bias, 1, padding)
                });
                Taps::Plain(taps.collect::<Result<_>>()?)
            }
        };
        Ok(Self { taps, past: time - 1 })
    }

    /// The frames after those that `stream` remembers; as many as `x` has.
    pub fn forward(&self, x: &Tensor, stream: &mut Stream) -> crate::Result<Tensor> {
        stream.cancel.check()?;
        let past = self.past;
        if past == 0 {
            return Ok(self.valid(x, 1)?);
        }
        let slot = stream.slot();
        let Some(before) = slot.take() else {
            *slot = Some(last(&after_zeros(x, past)?, past)?);
            return Ok(self.after_nothing(x)?);
        };
        let x = Tensor::cat(&[&before, x], 0)?;
        *slot = Some(last(&x, past)?);
        Ok(self.valid(&x, 1)?)
    }

    /// The first frames, before which there is nothing but zeros.
    fn after_nothing(&self, x: &Tensor) -> Result<Tensor> {
        let frames = x.dim(0)?;
        match &self.taps {
            Taps::Packed(conv) => conv.forward(x, frames, |frame, tap| (frame + tap).checked_sub(self.past)),
            // Of a lone frame only the last tap counts.
            Taps::Plain(taps) if frames == 1 => taps[self.past].forward(x),
            Taps::Plain(_) => self.valid(&after_zeros(x, self.past)?, 1),
        }
    }

    /// Every `stride`th frame that all taps are within `x` for.
    pub fn valid(&self, x: &Tensor, stride: usize) -> Result<Tensor> {
        let frames = (x.dim(0)? - self.past - 1) / stride + 1;
        let taps = match &self.taps {
            Taps::Packed(conv) => return conv.forward(x, frames, |frame, tap| Some(frame * stride + tap)),
            Taps::Plain(taps) => taps,
        };
        let mut sum: Option<Tensor> = None;
        for (t, tap) in taps.iter().enumerate() {
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
            let weight = random((2, 3, kernel, kernel));
            let conv = PlainConv2d::new(weight.clone(), Some(bias.clone()), stride, padding).unwrap();
            let whole = conv.forward(&x).unwrap();
            let packed = Conv2d::new(weight, Some(bias), stride, padding).unwrap().forward(&x).unwrap();
            let off = (packed - &whole).unwrap().abs().unwrap().max_all().unwrap();
            assert!(off.to_scalar::<f32>().unwrap() < 1e-5, "{kernel} {stride}, packed: {off}");
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
