//! Causal convolutions over time, with a stream state.

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;

use super::conv2d::{PackedConv, PlainConv2d};
use super::stream::{Stream, last_frames, pad_before};
use crate::kernels;
use crate::ops::index_select;

/// A causal 3D convolution, computed as the sum of its temporal taps. Frames before the first are zeros.
#[derive(Clone, Debug)]
pub struct CausalConv3d {
    taps: Taps,
    /// Number of earlier frames that each output frame reads.
    past: usize,
}

#[derive(Clone, Debug)]
enum Taps {
    /// In temporal order; the last tap has the bias.
    Plain(Vec<PlainConv2d>),
    /// All taps in one kernel.
    Packed(PackedConv),
}

impl CausalConv3d {
    /// Loads a kernel of `(time, space, space)`, each 1 or 3.
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

    /// Convolves `x`, which follows the frames in the state of `stream`. The result has as many frames as `x`.
    pub fn forward(&self, x: &Tensor, stream: &mut Stream) -> crate::Result<Tensor> {
        self.forward_residual(x, stream, None)
    }

    /// Like [`forward`](Self::forward), and adds `residual` to the result.
    pub fn forward_residual(
        &self,
        x: &Tensor,
        stream: &mut Stream,
        residual: Option<&Tensor>,
    ) -> crate::Result<Tensor> {
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
                // Frames missing from the state are zeros.
                let zeros = self.past - before.as_ref().map_or(0, |before| before.dims()[0]);
                let place = |frame: usize, tap: usize| (frame + tap).checked_sub(zeros);
                return Ok(conv.forward(before.as_ref(), x, frames, place, residual)?);
            }
            Taps::Plain(taps) => taps,
        };
        let y = match before {
            Some(before) => self.valid(&Tensor::cat(&[&before, x], 0)?, 1)?,
            // A single first frame: the other taps read zeros.
            None if frames == 1 => taps[self.past].forward(x)?,
            None => self.valid(&pad_before(x, self.past)?, 1)?,
        };
        Ok(match residual {
            Some(residual) => (y + residual)?,
            None => y,
        })
    }

    /// Convolves without temporal padding: every `stride`th frame for which all taps are within `x`.
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

/// The last `count` frames of `before` followed by `x`, padded with zeros in front.
fn last_of_both(before: Option<&Tensor>, x: &Tensor, count: usize) -> Result<Tensor> {
    if x.dim(0)? >= count {
        return last_frames(x, count);
    }
    match before {
        Some(before) => last_frames(&Tensor::cat(&[before, x], 0)?, count),
        None => last_frames(&pad_before(x, count)?, count),
    }
}
