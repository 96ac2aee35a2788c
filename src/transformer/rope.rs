//! Rotary position embedding on three axes: latent frame, row and column.
//!
//! <https://arxiv.org/abs/2104.09864>; diffusers' `WanRotaryPosEmbed`. The channels of a head are split among the axes. In
//! the part of an axis, the pairs (2i, 2i + 1) are rotated by position × 10000^(−2i / channels).

use candle_core::{DType, Device, Tensor};

use super::Config;
use crate::{Error, Result, kernels};

const THETA: f64 = 10_000.0;

/// The split of a head's channels among the axes.
#[derive(Clone, Debug)]
pub(super) struct Rope {
    channels: [usize; 3],
    max_positions: usize,
}

/// The rotation angles of the tokens of a grid.
#[derive(Clone, Debug)]
pub(super) struct Rotation {
    /// f32 `[tokens, head_dim / 2]`.
    cos: Tensor,
    sin: Tensor,
}

impl Rope {
    pub(super) fn new(config: &Config) -> Self {
        let side = 2 * (config.attention_head_dim / 6);
        Self {
            channels: [config.attention_head_dim - 2 * side, side, side],
            max_positions: config.rope_max_seq_len,
        }
    }

    /// The angles of latent frames at the positions `times`, each with `rows` × `columns` tokens in row-major order.
    ///
    /// # Errors
    /// [`Error::Request`] if an axis exceeds the positions of the model.
    pub(super) fn rotation(
        &self,
        times: &[usize],
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
        let tokens = times.iter().flat_map(|&time| {
            (0..rows).flat_map(move |row| {
                (0..columns).map(move |column| [time, row, column].map(|position| position as f64))
            })
        });
        self.angles(tokens, device)
    }

    /// The angles of tokens at these times, rows and columns, which may be fractions and below zero.
    pub(super) fn angles(
        &self,
        positions: impl Iterator<Item = [f64; 3]>,
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
        let tokens = cos.len() / pairs;
        Ok(Rotation {
            cos: Tensor::from_vec(cos, (tokens, pairs), device)?,
            sin: Tensor::from_vec(sin, (tokens, pairs), device)?,
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

    /// Copies of the cosines and sines, `[tokens, head_dim / 2]` each.
    pub(super) fn to_vecs(&self) -> Result<(Vec<f32>, Vec<f32>)> {
        Ok((kernels::to_vec(&self.cos)?, kernels::to_vec(&self.sin)?))
    }

    /// The angles of `self`, then those of `next`.
    pub(super) fn concat(&self, next: &Self) -> Result<Self> {
        Ok(Self {
            cos: Tensor::cat(&[&self.cos, &next.cos], 0)?,
            sin: Tensor::cat(&[&self.sin, &next.sin], 0)?,
        })
    }

    /// The angles of the last `tokens` tokens.
    pub(super) fn last(&self, tokens: usize) -> Result<Self> {
        let first = self.cos.dim(0)? - tokens;
        Ok(Self { cos: self.cos.narrow(0, first, tokens)?, sin: self.sin.narrow(0, first, tokens)? })
    }

    /// Rotates queries or keys `[1, heads, tokens, head_dim]`, computed in f32.
    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let rotated = candle_nn::rotary_emb::rope_i(&x.to_dtype(DType::F32)?, &self.cos, &self.sin)?;
        Ok(rotated.to_dtype(x.dtype())?)
    }
}
