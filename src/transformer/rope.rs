//! Rotary position embedding on three axes: latent frame, row and column.
//!
//! <https://arxiv.org/abs/2104.09864>; diffusers' `WanRotaryPosEmbed`. The channels of a head are split among the axes. In
//! the part of an axis, the pairs (2i, 2i + 1) are rotated by position × 10000^(−2i / channels).
//!
//! When the camera moves (`camera_depths` in the config), each head follows a layer of the picture at its own depth. A head sees
//! earlier frames where that layer of them is now: moved by columns.

use candle_core::{DType, Device, Tensor};

use super::Config;
use crate::{Error, Result, kernels};

const THETA: f64 = 10_000.0;

/// The split of a head's channels among the axes.
#[derive(Clone, Debug)]
pub(super) struct Rope {
    channels: [usize; 3],
    /// Of the layer that each head follows; empty for a model that is not told where the camera is.
    depths: Vec<f64>,
    max_positions: usize,
}

/// The rotation angles of the tokens of a grid.
#[derive(Clone, Debug)]
pub(super) struct Rotation {
    /// f32 `[tokens, head_dim / 2]`, or `[tokens, heads × head_dim / 2]` if the heads differ.
    cos: Tensor,
    sin: Tensor,
    /// 1 if all are alike.
    heads: usize,
}

impl Rope {
    pub(super) fn new(config: &Config) -> Self {
        let side = 2 * (config.attention_head_dim / 6);
        Self {
            channels: [config.attention_head_dim - 2 * side, side, side],
            depths: config.camera_depths.clone().unwrap_or_default(),
            max_positions: config.rope_max_seq_len,
        }
    }

    /// The angles of latent frames at the positions `times`, each with `rows` × `columns` tokens in row-major order. Since each of
    /// them the camera has moved by `moved` columns, 0 where `moved` is shorter.
    ///
    /// # Errors
    /// [`Error::Request`] if an axis exceeds the positions of the model.
    pub(super) fn rotation(
        &self,
        times: &[usize],
        moved: &[f64],
        rows: usize,
        columns: usize,
        device: &Device,
    ) -> Result<Rotation> {
        let length = times.last().map_or(0, |last| last.saturating_add(1));
        for (length, name) in
            [(length, "latent frames"), (rows, "rows of tokens"), (columns, "columns of tokens")]
        {
            if length > self.max_positions {
                return Err(Error::Request(
                    crate::Setting::Size,
                    format!(
                        "{length} {name} exceed the model's limit of {}; request fewer or smaller frames",
                        self.max_positions
                    ),
                ));
            }
        }
        let rest = moved.iter().all(|columns| *columns == 0.0) || self.depths.is_empty();
        let depths: &[f64] = if rest { &[0.0] } else { &self.depths };
        // Trained up to here: what was a frame away stays at its edge.
        let farthest = columns as f64;
        let tokens = times.iter().enumerate().flat_map(|(i, &time)| {
            let moved = moved.get(i).copied().unwrap_or_default();
            (0..rows).flat_map(move |row| {
                (0..columns).flat_map(move |column| {
                    depths.iter().map(move |depth| {
                        let column = column as f64 - (depth * moved).clamp(-farthest, farthest);
                        [time as f64, row as f64, column]
                    })
                })
            })
        });
        self.angles(tokens, depths.len(), device)
    }

    /// The angles of tokens at these times, rows and columns, which may be fractions and below zero; each token has a position for
    /// each of `heads` heads.
    pub(super) fn angles(
        &self,
        positions: impl Iterator<Item = [f64; 3]>,
        heads: usize,
        device: &Device,
    ) -> Result<Rotation> {
        let axes = self.channels.map(frequencies);
        let pairs: usize = axes.iter().map(Vec::len).sum();
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for token in positions {
            for (position, axis) in token.into_iter().zip(&axes) {
                for frequency in axis {
                    let (s, c) = (position * frequency).sin_cos();
                    cos.push(c as f32);
                    sin.push(s as f32);
                }
            }
        }
        let shape = (cos.len() / (heads * pairs), heads * pairs);
        Ok(Rotation {
            cos: Tensor::from_vec(cos, shape, device)?,
            sin: Tensor::from_vec(sin, shape, device)?,
            heads,
        })
    }
}

fn frequencies(channels: usize) -> Vec<f64> {
    (0..channels / 2).map(|i| THETA.powf(-2.0 * i as f64 / channels as f64)).collect()
}

impl Rotation {
    /// Number of tokens.
    pub(super) fn tokens(&self) -> Result<usize> {
        Ok(self.cos.dim(0)?)
    }

    /// Number of heads with angles of their own, or 1.
    pub(super) fn heads(&self) -> usize {
        self.heads
    }

    /// Copies of the cosines and sines, `[tokens, head_dim / 2]` each, or `[tokens, heads × head_dim / 2]`.
    pub(super) fn to_vecs(&self) -> Result<(Vec<f32>, Vec<f32>)> {
        Ok((kernels::to_vec(&self.cos)?, kernels::to_vec(&self.sin)?))
    }

    /// The angles of `self`, then those of `next`, which has as many heads.
    pub(super) fn concat(&self, next: &Self) -> Result<Self> {
        Ok(Self {
            cos: Tensor::cat(&[&self.cos, &next.cos], 0)?,
            sin: Tensor::cat(&[&self.sin, &next.sin], 0)?,
            heads: self.heads,
        })
    }

    /// The angles of the last `tokens` tokens.
    pub(super) fn last(&self, tokens: usize) -> Result<Self> {
        let first = self.cos.dim(0)? - tokens;
        let last = |angles: &Tensor| angles.narrow(0, first, tokens);
        Ok(Self { cos: last(&self.cos)?, sin: last(&self.sin)?, heads: self.heads })
    }

    /// Rotates queries or keys `[1, heads, tokens, head_dim]`, computed in f32.
    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let full = x.to_dtype(DType::F32)?;
        let rotated = match self.heads {
            1 => candle_nn::rotary_emb::rope_i(&full, &self.cos, &self.sin)?,
            heads => {
                // As a batch of heads.
                let [cos, sin] = [&self.cos, &self.sin].map(|angles| -> Result<_> {
                    let (tokens, pairs) = angles.dims2()?;
                    Ok(angles.reshape((tokens, heads, pairs / heads))?.transpose(0, 1)?.contiguous()?)
                });
                let batch = full.transpose(0, 1)?.contiguous()?;
                candle_nn::rotary_emb::rope_i(&batch, &cos?, &sin?)?.transpose(0, 1)?.contiguous()?
            }
        };
        Ok(rotated.to_dtype(x.dtype())?)
    }
}
