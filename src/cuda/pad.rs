//! The input of causal convolutions over frames.

use candle_core::{Layout, Result, Shape, Tensor, bail};

use super::kernel::{Kernel, Launch, Operand, Source, apply, blocks};

static SOURCE: Source = Source { name: "pad", text: include_str!("kernels/pad.cu") };

/// Rows and columns of zeros around a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Margins {
    pub(crate) top: usize,
    pub(crate) bottom: usize,
    pub(crate) left: usize,
    pub(crate) right: usize,
}

/// The order of the dimensions of a padded input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PaddedOrder {
    /// `[T, C, H, W]`: a batch of frames.
    FramesFirst,
    /// `[C, T, H, W]`: for a convolution of three dimensions.
    ChannelsFirst,
}

/// The last `past` frames of `before`, the frames of `x`, and zeros around each; frames that `before` does not have are zeros too.
///
/// `before` and `x` are contiguous, `[T, C, H, W]` in 16 or 32 bits. The result has `past` more frames than `x`.
pub(crate) fn pad_causal(
    before: Option<&Tensor>,
    x: &Tensor,
    past: usize,
    margins: Margins,
    order: PaddedOrder,
) -> Result<Tensor> {
    if let Some(before) = before
        && (before.dims4()?.1, before.dims4()?.2, before.dims4()?.3, before.dtype())
            != (x.dim(1)?, x.dim(2)?, x.dim(3)?, x.dtype())
    {
        bail!("the frames {before:?} before {x:?}");
    }
    apply(&Pad { before: before.cloned(), past, margins, order }, x)
}

#[derive(Debug)]
struct Pad {
    before: Option<Tensor>,
    past: usize,
    margins: Margins,
    order: PaddedOrder,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Arguments {
    before: u64,
    x: u64,
    out: u64,
    out_frame_stride: i64,
    out_channel_stride: i64,
    zeros: u32,
    kept: u32,
    first: u32,
    frames: u32,
    channels: u32,
    height: u32,
    width: u32,
    top: u32,
    left: u32,
    out_height: u32,
    out_width: u32,
    unused: u32,
}

impl Pad {
    /// Frames, channels, rows and columns of the result.
    fn sizes(&self, x: &Layout) -> Result<[usize; 4]> {
        let (frames, channels, height, width) = x.shape().dims4()?;
        let Margins { top, bottom, left, right } = self.margins;
        Ok([self.past + frames, channels, top + height + bottom, left + width + right])
    }
}

impl Kernel for Pad {
    type Arguments = Arguments;

    fn source(&self) -> &'static Source {
        &SOURCE
    }

    fn others(&self) -> Vec<&Tensor> {
        self.before.iter().collect()
    }

    fn supports(&self, x: &Tensor) -> bool {
        let dense = |x: &Tensor| x.is_contiguous();
        matches!(x.dtype().size_in_bytes(), 2 | 4) && dense(x) && self.before.as_ref().is_none_or(dense)
    }

    fn result(&self, x: &Layout, dtype: candle_core::DType) -> Result<(Shape, candle_core::DType)> {
        let [frames, channels, height, width] = self.sizes(x)?;
        let shape = match self.order {
            PaddedOrder::FramesFirst => (frames, channels, height, width),
            PaddedOrder::ChannelsFirst => (channels, frames, height, width),
        };
        Ok((shape.into(), dtype))
    }

    fn launch(&self, x: Operand, others: &[Operand], out: Operand) -> Result<Launch<Arguments>> {
        const BLOCK: u32 = 256;
        let (_, _, height, width) = x.layout.shape().dims4()?;
        let [frames, channels, out_height, out_width] = self.sizes(x.layout)?;
        let before = others.first();
        let given = before.map_or(0, |before| before.layout.dims()[0]);
        let kept = given.min(self.past);
        let (frame_dim, channel_dim) = match self.order {
            PaddedOrder::FramesFirst => (0, 1),
            PaddedOrder::ChannelsFirst => (1, 0),
        };
        Ok(Launch {
            entry: format!("pad_{}", 8 * x.dtype.size_in_bytes()),
            // A warp per row.
            grid: blocks(frames * channels * out_height, BLOCK / 32)?,
            block: BLOCK,
            shared: 0,
            arguments: Arguments {
                before: before.map_or(0, |before| before.address),
                x: x.address,
                out: out.address,
                out_frame_stride: out.stride(frame_dim),
                out_channel_stride: out.stride(channel_dim),
                zeros: (self.past - kept) as u32,
                kept: kept as u32,
                first: (given - kept) as u32,
                frames: frames as u32,
                channels: channels as u32,
                height: height as u32,
                width: width as u32,
                top: self.margins.top as u32,
                left: self.margins.left as u32,
                out_height: out_height as u32,
                out_width: out_width as u32,
                unused: 0,
            },
        })
    }

    fn plain(&self, x: &Tensor) -> Result<Tensor> {
        let mut all = x.clone();
        let mut missing = self.past;
        if let Some(before) = &self.before {
            let given = before.dim(0)?;
            let kept = given.min(self.past);
            if kept > 0 {
                all = Tensor::cat(&[&before.narrow(0, given - kept, kept)?, x], 0)?;
            }
            missing -= kept;
        }
        let Margins { top, bottom, left, right } = self.margins;
        let padded = all
            .pad_with_zeros(0, missing, 0)?
            .pad_with_zeros(2, top, bottom)?
            .pad_with_zeros(3, left, right)?;
        match self.order {
            PaddedOrder::FramesFirst => padded.contiguous(),
            PaddedOrder::ChannelsFirst => padded.transpose(0, 1)?.contiguous(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::shim::{DTYPES, random, run, values};

    #[test]
    fn the_kernel_equals_candle() {
        let even = |n| Margins { top: n, bottom: n, left: n, right: n };
        let behind = Margins { top: 0, bottom: 1, left: 0, right: 1 };
        for (frames, channels, height, width) in [(1, 3, 4, 5), (3, 2, 7, 40), (2, 5, 1, 1)] {
            for (given, past) in
                [(None, 2), (Some(1), 2), (Some(2), 2), (Some(4), 2), (None, 0), (Some(1), 0)]
            {
                for margins in [even(1), even(0), behind] {
                    for order in [PaddedOrder::FramesFirst, PaddedOrder::ChannelsFirst] {
                        for dtype in DTYPES {
                            let part = |frames| random((frames, channels, height, width), dtype);
                            let (before, x) = (given.map(part), part(frames));
                            let pad = Pad { before, past, margins, order };
                            assert!(pad.supports(&x));
                            let (kernel, plain) = (run(&pad, &x), pad.plain(&x).unwrap());
                            assert_eq!(kernel.dims(), plain.dims());
                            assert_eq!(values(&kernel), values(&plain), "{pad:?} {x:?}");
                        }
                    }
                }
            }
        }
        let (before, x) = (random((2, 3, 4, 5), DTYPES[0]), random((1, 3, 4, 5), DTYPES[0]));
        let padded = pad_causal(Some(&before), &x, 2, even(1), PaddedOrder::FramesFirst).unwrap();
        assert_eq!(padded.dims(), [3, 3, 6, 7]);
        let other = random((1, 3, 4, 6), DTYPES[0]);
        assert!(pad_causal(Some(&before), &other, 2, even(1), PaddedOrder::FramesFirst).is_err());
    }
}
