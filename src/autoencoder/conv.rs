//! Convolutions over frames, and over time with what a stream remembers.
//!
//! Frames are `[T, C, H, W]` where candle computes, and `[T, H, W, C]` from the first layer to the last where the
//! kernels for a CPU do.

use candle_core::{DType, Device, Module, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::stream::Stream;
use crate::kernels::conv2d::{Epilogue, Sources, Weights};
use crate::kernels::{self, Arch, Borrowed, borrowed, layout};
use crate::ops::{MAX_UNFOLDED, conv2d, index_select};

/// Where the channels of frames are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channels {
    /// `[T, C, H, W]`.
    First,
    /// `[T, H, W, C]`.
    Last,
}

impl Channels {
    /// Where layers of this type have them on this device.
    pub fn of(dtype: DType, device: &Device) -> Self {
        if kernels::arch(dtype, device).is_some() { Self::Last } else { Self::First }
    }

    /// `[T, C, H, W]` to this.
    pub fn of_first(self, x: &Tensor) -> Result<Tensor> {
        let (frames, channels, height, width) = x.dims4()?;
        match self {
            Self::First => Ok(x.clone()),
            Self::Last => {
                transposed(x, (channels, height * width))?.reshape((frames, height, width, channels))
            }
        }
    }

    /// This to `[T, C, H, W]`.
    pub fn to_first(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::First => Ok(x.clone()),
            Self::Last => {
                let (frames, height, width, channels) = x.dims4()?;
                transposed(x, (height * width, channels))?.reshape((frames, channels, height, width))
            }
        }
    }
}

fn transposed(x: &Tensor, size: (usize, usize)) -> Result<Tensor> {
    let x = x.contiguous()?;
    let numbers = layout::transposed(borrowed(&x).numbers()?, size);
    Tensor::from_vec(numbers, x.elem_count(), x.device())
}

/// A convolution over single frames, with a square kernel and zeros around.
#[derive(Clone, Debug)]
pub enum Conv2d {
    /// As candle computes it.
    Plain(PlainConv2d),
    /// Of frames that are first enlarged to twice their size, every pixel becoming four.
    PlainEnlarged(PlainConv2d),
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

    /// A kernel of 3 that keeps the size of what is first enlarged to twice its size.
    pub fn enlarged(vb: VarBuilder, n_in: usize, n_out: usize) -> Result<Self> {
        let (weight, bias) = (vb.get((n_out, n_in, 3, 3), "weight")?, vb.get(n_out, "bias")?);
        Ok(match kernels::arch(weight.dtype(), weight.device()) {
            Some(arch) => Self::Packed(PackedConv::enlarged(arch, &weight, &bias)?),
            None => Self::PlainEnlarged(PlainConv2d::new(weight, Some(bias), 1, (1, 1))?),
        })
    }

    /// A kernel of 1.
    pub fn point(vb: VarBuilder, n_in: usize, n_out: usize) -> Result<Self> {
        Self::new(vb.get((n_out, n_in, 1, 1), "weight")?, Some(vb.get(n_out, "bias")?), 1, (0, 0))
    }
}

impl Module for Conv2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Plain(conv) => conv.forward(x),
            Self::PlainEnlarged(conv) => {
                let (_, _, height, width) = x.dims4()?;
                conv.forward(&x.upsample_nearest2d(2 * height, 2 * width)?)
            }
            Self::Packed(conv) => conv.forward(None, x, x.dim(0)?, |frame, _| Some(frame), None),
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
    /// Pixels of an output's side for one of the input's.
    scale: usize,
}

impl PackedConv {
    /// `weight` is `[out, in, time, kernel, kernel]`.
    fn new(
        arch: Arch,
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
        Ok(Self { conv, taps: sources, kernel, stride, padding, scale: 1 })
    }

    /// `weight` is `[out, in, 3, 3]`.
    fn enlarged(arch: Arch, weight: &Tensor, bias: &Tensor) -> Result<Self> {
        let (n_out, n_in, kernel, _) = weight.dims4()?;
        let (weight, bias) = (kernels::numbers(weight)?, kernels::numbers(bias)?);
        let weights = Weights { weight: &weight, bias: Some(&bias), n_out, n_in, sources: 1, kernel };
        let conv = kernels::conv2d::Conv2d::enlarged(arch, weights);
        Ok(Self { conv, taps: 1, kernel, stride: 1, padding: (1, 1), scale: 2 })
    }

    /// The frames `[T, H, W, C]` of `before` and after them those of `x`, to so many `frames`, of which tap `t` of
    /// frame `i` reads `place(i, t)`; `None` is zeros. `residual` is added.
    fn forward(
        &self,
        before: Option<&Tensor>,
        x: &Tensor,
        frames: usize,
        place: impl Fn(usize, usize) -> Option<usize>,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (_, height, width, channels) = x.dims4()?;
        let around = self.padding.0 + self.padding.1;
        if x.elem_count() == 0
            || channels != self.conv.n_in()
            || height + around < self.kernel
            || width + around < self.kernel
            || before.is_some_and(|before| before.dims()[1..] != x.dims()[1..])
        {
            bail!(
                "a convolution of {} channels and a kernel of {} of {x:?} after {before:?}",
                self.conv.n_in(),
                self.kernel
            );
        }
        let side = |length: usize| (length + around - self.kernel) / self.stride + 1;
        let (rows, columns, n_out) = (side(height), side(width), self.conv.n_out());
        let shape = (frames, rows * self.scale, columns * self.scale, n_out);
        if residual.is_some_and(|residual| residual.dims4().ok() != Some(shape)) {
            bail!("{residual:?} cannot be added to {shape:?}");
        }
        let parts: Vec<_> = before.into_iter().chain([x]).map(Tensor::contiguous).collect::<Result<_>>()?;
        let parts: Vec<_> = parts.iter().map(borrowed).collect();
        let parts = parts.iter().map(Borrowed::numbers).collect::<Result<Vec<_>>>()?;
        let images: Vec<_> =
            parts.iter().flat_map(|part| part.chunks_exact(height * width * channels)).collect();
        let image =
            |frame, tap| place(frame, tap).and_then(|at| images.get(at)).map_or(&[][..], |image| image);
        let sources: Vec<Sources> =
            (0..frames).map(|frame| (0..self.taps).map(|tap| image(frame, tap)).collect()).collect();
        let residual = residual.map(Tensor::contiguous).transpose()?;
        let residual = residual.as_ref().map(borrowed);
        let residual = residual.as_ref().map(Borrowed::numbers).transpose()?;
        let mut out = vec![0.0; frames * shape.1 * shape.2 * n_out];
        self.conv.run(
            &sources,
            (height, width),
            (rows, columns),
            &mut out,
            Epilogue { residual, relu: false },
        );
        Tensor::from_vec(out, shape, x.device())
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
        self.onto(x, stream, None)
    }

    /// The same, added to `residual`.
    pub fn onto(&self, x: &Tensor, stream: &mut Stream, residual: Option<&Tensor>) -> crate::Result<Tensor> {
        stream.cancel.check()?;
        let before = match self.past {
            0 => None,
            past => {
                let slot = stream.slot();
                let before = slot.take();
                *slot = Some(last_of_both(before.as_ref(), x, past)?);
                before
            }
        };
        let frames = x.dim(0)?;
        let taps = match &self.taps {
            Taps::Packed(conv) => {
                // As many frames as are remembered too few are zeros.
                let zeros = self.past - before.as_ref().map_or(0, |before| before.dims()[0]);
                let place = |frame: usize, tap: usize| (frame + tap).checked_sub(zeros);
                return Ok(conv.forward(before.as_ref(), x, frames, place, residual)?);
            }
            Taps::Plain(taps) => taps,
        };
        let y = match before {
            Some(before) => self.valid(&Tensor::cat(&[&before, x], 0)?, 1)?,
            // Of a lone frame only the last tap counts.
            None if frames == 1 => taps[self.past].forward(x)?,
            None => self.valid(&after_zeros(x, self.past)?, 1)?,
        };
        Ok(match residual {
            Some(residual) => (y + residual)?,
            None => y,
        })
    }

    /// Every `stride`th frame that all taps are within `x` for.
    pub fn valid(&self, x: &Tensor, stride: usize) -> Result<Tensor> {
        let frames = (x.dim(0)? - self.past - 1) / stride + 1;
        let taps = match &self.taps {
            Taps::Packed(conv) => {
                return conv.forward(None, x, frames, |frame, tap| Some(frame * stride + tap), None);
            }
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

/// The last `count` frames of `before` and `x`; zeros are before them.
fn last_of_both(before: Option<&Tensor>, x: &Tensor, count: usize) -> Result<Tensor> {
    if x.dim(0)? >= count {
        return last(x, count);
    }
    match before {
        Some(before) => last(&Tensor::cat(&[before, x], 0)?, count),
        None => last(&after_zeros(x, count)?, count),
    }
}

/// L2 norm over channels, times a weight each: `WanRMS_norm`.
#[derive(Clone, Debug)]
pub enum RmsNorm {
    /// As candle computes it; `[1, C, 1, 1]`, with the square root of C in it.
    Plain(Tensor),
    /// Made for this CPU; a number a channel, with the same in it.
    Packed(Arch, Vec<f32>),
}

impl RmsNorm {
    /// `gamma` is `[C, 1, 1, 1]`, or `[C, 1, 1]` over `images`.
    pub fn load(vb: VarBuilder, channels: usize, images: bool) -> Result<Self> {
        let gamma =
            if images { vb.get((channels, 1, 1), "gamma")? } else { vb.get((channels, 1, 1, 1), "gamma")? };
        let weight = (gamma.to_dtype(DType::F32)?.reshape((1, channels, 1, 1))? * (channels as f64).sqrt())?;
        Ok(match kernels::arch(gamma.dtype(), gamma.device()) {
            Some(arch) => Self::Packed(arch, kernels::numbers(&weight)?),
            None => Self::Plain(weight),
        })
    }

    /// `SiLU` of the norm.
    pub fn silu(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Plain(_) => self.forward(x)?.silu(),
            Self::Packed(arch, weight) => unit_rows(*arch, x, weight, true),
        }
    }
}

impl Module for RmsNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Plain(gamma) => {
                let wide = x.to_dtype(DType::F32)?;
                // torch's normalize divides by no less than 1e-12.
                let norm = wide.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(1e-12)?;
                wide.broadcast_div(&norm)?.broadcast_mul(gamma)?.to_dtype(x.dtype())
            }
            Self::Packed(arch, weight) => unit_rows(*arch, x, weight, false),
        }
    }
}

fn unit_rows(arch: Arch, x: &Tensor, weight: &[f32], silu: bool) -> Result<Tensor> {
    if x.dims().last() != Some(&weight.len()) {
        bail!("a norm of {} channels of {x:?}", weight.len());
    }
    let x = x.contiguous()?;
    let mut out = vec![0.0; x.elem_count()];
    kernels::norm::unit_rows(arch, borrowed(&x).numbers()?, weight, silu, &mut out);
    Tensor::from_vec(out, x.shape(), x.device())
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
            let packed = Conv2d::new(weight, Some(bias), stride, padding).unwrap();
            let channels = Channels::of(DType::F32, &Device::Cpu);
            let packed = packed.forward(&channels.of_first(&x).unwrap()).unwrap();
            let packed = channels.to_first(&packed).unwrap();
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
