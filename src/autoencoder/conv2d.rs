//! Convolutions of single frames, and the packed form of convolutions over several frames.

use candle_core::{Module, Result, Tensor, bail};
use candle_nn::VarBuilder;

use crate::kernels::conv2d::{ConvEpilogue, Sources, Weights};
use crate::kernels::{self, Arch, StorageGuard, lock_storage};
use crate::ops::{conv2d, max_unfolded};

/// A convolution of single frames with a square kernel and zero padding.
#[derive(Clone, Debug)]
pub enum Conv2d {
    /// candle's operations.
    Plain(PlainConv2d),
    /// candle's operations on the frame upsampled by 2 (nearest neighbour).
    PlainUpsampled(PlainConv2d),
    /// The CPU kernel.
    Packed(PackedConv),
}

impl Conv2d {
    /// `weight` is `[out, in, kernel, kernel]`; `padding` is the number of zeros before and after, for rows and columns.
    pub fn new(weight: Tensor, bias: Option<Tensor>, stride: usize, padding: (usize, usize)) -> Result<Self> {
        Ok(match kernels::arch(weight.dtype(), weight.device()) {
            Some(arch) => Self::Packed(PackedConv::new(arch, &weight.unsqueeze(2)?, bias, stride, padding)?),
            None => Self::Plain(PlainConv2d::new(weight, bias, stride, padding)?),
        })
    }

    /// A 3×3 convolution of the input upsampled by 2, with the size of the upsampled frame.
    pub fn upsampled(vb: VarBuilder, n_in: usize, n_out: usize) -> Result<Self> {
        let (weight, bias) = (vb.get((n_out, n_in, 3, 3), "weight")?, vb.get(n_out, "bias")?);
        Ok(match kernels::arch(weight.dtype(), weight.device()) {
            Some(arch) => Self::Packed(PackedConv::upsampled(arch, &weight, &bias)?),
            None => Self::PlainUpsampled(PlainConv2d::new(weight, Some(bias), 1, (1, 1))?),
        })
    }

    /// A 1×1 convolution.
    pub fn point(vb: VarBuilder, n_in: usize, n_out: usize) -> Result<Self> {
        Self::new(vb.get((n_out, n_in, 1, 1), "weight")?, Some(vb.get(n_out, "bias")?), 1, (0, 0))
    }
}

impl Module for Conv2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Plain(conv) => conv.forward(x),
            Self::PlainUpsampled(conv) => {
                let (_, _, height, width) = x.dims4()?;
                conv.forward(&x.upsample_nearest2d(2 * height, 2 * width)?)
            }
            Self::Packed(conv) => conv.forward(None, x, x.dim(0)?, |frame, _| Some(frame), None),
        }
    }
}

/// A convolution over one or several frames with [`kernels::conv2d`].
#[derive(Clone, Debug)]
pub struct PackedConv {
    conv: kernels::conv2d::Conv2d,
    /// Number of input frames per output frame.
    taps: usize,
    kernel: usize,
    stride: usize,
    padding: (usize, usize),
    /// Upsampling factor.
    scale: usize,
}

impl PackedConv {
    /// Packs `weight` `[out, in, time, kernel, kernel]`.
    pub fn new(
        arch: Arch,
        weight: &Tensor,
        bias: Option<Tensor>,
        stride: usize,
        padding: (usize, usize),
    ) -> Result<Self> {
        let (n_out, n_in, sources, kernel, _) = weight.dims5()?;
        let weight = kernels::to_vec(&weight.transpose(1, 2)?)?;
        let bias = bias.as_ref().map(kernels::to_vec).transpose()?;
        let weights = Weights { weight: &weight, bias: bias.as_deref(), n_out, n_in, sources, kernel };
        let conv = kernels::conv2d::Conv2d::new(arch, weights, stride, padding.0);
        Ok(Self { conv, taps: sources, kernel, stride, padding, scale: 1 })
    }

    /// Packs `weight` `[out, in, 3, 3]` for an upsampled input.
    fn upsampled(arch: Arch, weight: &Tensor, bias: &Tensor) -> Result<Self> {
        let (n_out, n_in, kernel, _) = weight.dims4()?;
        let (weight, bias) = (kernels::to_vec(weight)?, kernels::to_vec(bias)?);
        let weights = Weights { weight: &weight, bias: Some(&bias), n_out, n_in, sources: 1, kernel };
        let conv = kernels::conv2d::Conv2d::upsampled(arch, weights);
        Ok(Self { conv, taps: 1, kernel, stride: 1, padding: (1, 1), scale: 2 })
    }

    /// Convolves the frames `[T, H, W, C]` of `before` followed by those of `x` to `frames` output frames. Tap `t` of output
    /// frame `i` reads input frame `place(i, t)`; `None` stands for zeros. Adds `residual`.
    pub fn forward(
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
                "invalid input {x:?} after {before:?} for a convolution of {} channels with a kernel of {}",
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
        let parts: Vec<_> = parts.iter().map(lock_storage).collect();
        let parts = parts.iter().map(StorageGuard::values).collect::<Result<Vec<_>>>()?;
        let images: Vec<_> =
            parts.iter().flat_map(|part| part.chunks_exact(height * width * channels)).collect();
        let image =
            |frame, tap| place(frame, tap).and_then(|at| images.get(at)).map_or(&[][..], |image| image);
        let sources: Vec<Sources> =
            (0..frames).map(|frame| (0..self.taps).map(|tap| image(frame, tap)).collect()).collect();
        let residual = residual.map(Tensor::contiguous).transpose()?;
        let residual = residual.as_ref().map(lock_storage);
        let residual = residual.as_ref().map(StorageGuard::values).transpose()?;
        let mut out = vec![0.0; frames * shape.1 * shape.2 * n_out];
        self.conv.run(
            &sources,
            (height, width),
            (rows, columns),
            &mut out,
            ConvEpilogue { residual, relu: false },
        );
        Tensor::from_vec(out, shape, x.device())
    }
}

/// A convolution with candle's operation, which unfolds its input on CUDA.
#[derive(Clone, Debug)]
pub struct PlainConv2d {
    weight: Tensor,
    /// `[1, C, 1, 1]`.
    bias: Option<Tensor>,
    stride: usize,
    /// Number of zeros before and after, for rows and columns.
    padding: (usize, usize),
}

impl PlainConv2d {
    /// See [`Conv2d::new`].
    pub fn new(weight: Tensor, bias: Option<Tensor>, stride: usize, padding: (usize, usize)) -> Result<Self> {
        let bias = bias.map(|b| b.reshape((1, (), 1, 1))).transpose()?;
        Ok(Self { weight: weight.contiguous()?, bias, stride, padding })
    }

    /// The weight `[out, in, kernel, kernel]` and the bias `[1, out, 1, 1]`.
    pub fn weights(&self) -> (&Tensor, Option<&Tensor>) {
        (&self.weight, self.bias.as_ref())
    }

    /// The stride in pixels.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Convolves in bands of rows that unfold to at most `max_unfolded` elements, but at least one row.
    fn convolve(&self, x: &Tensor, max_unfolded: usize) -> Result<Tensor> {
        let (frames, channels, height, width) = x.dims4()?;
        let kernel = self.weight.dim(2)?;
        let (before, after) = self.padding;
        let rows = (height + before + after - kernel) / self.stride + 1;
        let columns = (width + before + after - kernel) / self.stride + 1;
        let unfolded_row = channels * kernel * kernel * columns;
        let is_whole = frames * rows * unfolded_row <= max_unfolded;
        let y = if is_whole && before == after {
            conv2d(&x.contiguous()?, &self.weight, self.stride, before)?
        } else if is_whole {
            let x = x.pad_with_zeros(2, before, after)?.pad_with_zeros(3, before, after)?;
            conv2d(&x.contiguous()?, &self.weight, self.stride, 0)?
        } else {
            let x = x.pad_with_zeros(2, before, after)?.pad_with_zeros(3, before, after)?;
            // Split each frame into bands of rows.
            let band = (max_unfolded / unfolded_row).clamp(1, rows);
            let frame = |t: usize| -> Result<Tensor> {
                let x = x.narrow(0, t, 1)?;
                let bands = (0..rows).step_by(band).map(|row| {
                    let count = band.min(rows - row);
                    let x = x.narrow(2, row * self.stride, (count - 1) * self.stride + kernel)?;
                    conv2d(&x.contiguous()?, &self.weight, self.stride, 0)
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
        self.convolve(x, max_unfolded(x.device()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::autoencoder::layout::ChannelLayout;

    #[test]
    fn the_result_does_not_depend_on_the_band_size() {
        let random =
            |shape: (usize, usize, usize, usize)| Tensor::randn(0f32, 1f32, shape, &Device::Cpu).unwrap();
        let x = random((2, 3, 9, 6));
        for (kernel, stride, padding) in [(3, 1, (1, 1)), (3, 2, (0, 1)), (1, 1, (0, 0))] {
            let bias = Tensor::new(&[1f32, -2.0], &Device::Cpu).unwrap();
            let weight = random((2, 3, kernel, kernel));
            let conv = PlainConv2d::new(weight.clone(), Some(bias.clone()), stride, padding).unwrap();
            let whole = conv.forward(&x).unwrap();
            let packed = Conv2d::new(weight, Some(bias), stride, padding).unwrap();
            let layout = ChannelLayout::new(DType::F32, &Device::Cpu);
            let packed = packed.forward(&layout.arrange(&x).unwrap()).unwrap();
            let packed = layout.to_channels_first(&packed).unwrap();
            let off = (packed - &whole).unwrap().abs().unwrap().max_all().unwrap();
            assert!(off.to_scalar::<f32>().unwrap() < 1e-5, "{kernel} {stride}, packed: {off}");
            // A row unfolds to at most 162 elements: two rows at a time, one, and one although it exceeds the limit.
            for max_unfolded in [400, 162, 1] {
                let banded = conv.convolve(&x, max_unfolded).unwrap();
                assert_eq!(banded.dims(), whole.dims());
                let off = (banded - &whole).unwrap().abs().unwrap().max_all().unwrap();
                assert!(off.to_scalar::<f32>().unwrap() < 1e-5, "{kernel} {stride} {max_unfolded}: {off}");
            }
        }
    }
}
