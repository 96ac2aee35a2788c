//! Rotary position embedding on three axes: latent frame, row and column.
//!
//! <https://arxiv.org/abs/2104.09864>; diffusers' `WanRotaryPosEmbed`. The channels of a head are split among the axes. In
//! the part of an axis, the pairs (2i, 2i + 1) are rotated by position × 10000^(−2i / channels).
//!
//! When the camera moves (`camera_depths` in the config), each head follows a layer of the picture at its own depth. A head sees
//! earlier frames where that layer of them is now: moved by columns.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Tensor};

use super::Config;
use crate::cuda::{self, Angles};
use crate::{Error, Result, kernels};

const THETA: f64 = 10_000.0;

/// Tables that are kept. While the window of a causal model is full, a chunk needs the same two again: of the cached frames and of
/// its own.
const TABLES: usize = 8;

/// The split of a head's channels among the axes. Clones share the tables.
#[derive(Clone, Debug)]
pub(super) struct Rope {
    channels: [usize; 3],
    /// Of the layer that each head follows; empty for a model that is not told where the camera is.
    depths: Vec<f64>,
    max_positions: usize,
    /// The last tables, the newest last.
    tables: Arc<Mutex<VecDeque<(Grid, Rotation)>>>,
}

/// A latent frame in a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct FramePosition {
    /// Its temporal position.
    pub(super) time: usize,
    /// Columns that the camera has moved since.
    pub(super) moved: f64,
}

/// The tokens of a table: latent frames of rows and columns.
#[derive(Clone, Debug, PartialEq)]
struct Grid {
    frames: Vec<FramePosition>,
    rows: usize,
    columns: usize,
}

/// The rotation angles of the tokens of a grid.
#[derive(Clone, Debug)]
pub(super) struct Rotation {
    /// f32 `[tokens, head_dim / 2]`, or `[tokens, heads × head_dim / 2]` if the heads differ.
    cos: Tensor,
    sin: Tensor,
}

impl Rope {
    pub(super) fn new(config: &Config) -> Self {
        let side = 2 * (config.attention_head_dim / 6);
        Self {
            channels: [config.attention_head_dim - 2 * side, side, side],
            depths: config.camera_depths.clone().unwrap_or_default(),
            max_positions: config.rope_max_seq_len,
            tables: Arc::default(),
        }
    }

    /// Whether the camera decides the angles of earlier frames.
    pub(super) fn follows_camera(&self) -> bool {
        !self.depths.is_empty()
    }

    /// The angles of latent frames, each with `rows` × `columns` tokens in row-major order. The last tables stay on the device.
    ///
    /// # Errors
    /// [`Error::Request`] if an axis exceeds the positions of the model.
    pub(super) fn rotation(
        &self,
        frames: &[FramePosition],
        rows: usize,
        columns: usize,
        device: &Device,
    ) -> Result<Rotation> {
        let length = frames.last().map_or(0, |last| last.time.saturating_add(1));
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
        let grid = Grid { frames: frames.to_vec(), rows, columns };
        let find = |tables: &VecDeque<(Grid, Rotation)>| {
            tables.iter().find(|(other, _)| *other == grid).map(|(_, rotation)| rotation.clone())
        };
        if let Some(rotation) = find(&self.tables.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(rotation);
        }
        let rotation = self.table(&grid, device)?;
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.push_back((grid, rotation.clone()));
        if tables.len() > TABLES {
            tables.pop_front();
        }
        Ok(rotation)
    }

    fn table(&self, Grid { frames, rows, columns }: &Grid, device: &Device) -> Result<Rotation> {
        let (rows, columns) = (*rows, *columns);
        let rest = frames.iter().all(|frame| frame.moved == 0.0) || self.depths.is_empty();
        let depths: &[f64] = if rest { &[0.0] } else { &self.depths };
        // Trained up to here: what was a frame away stays at its edge.
        let farthest = columns as f64;
        let tokens = frames.iter().flat_map(|&FramePosition { time, moved }| {
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
        #[cfg(test)]
        counts::add(&counts::TABLES, 1);
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

    /// Copies of the cosines and sines, `[tokens, head_dim / 2]` each, or `[tokens, heads × head_dim / 2]`.
    pub(super) fn to_vecs(&self) -> Result<(Vec<f32>, Vec<f32>)> {
        Ok((kernels::to_vec(&self.cos)?, kernels::to_vec(&self.sin)?))
    }

    /// The angles of `length` tokens from index `first`.
    pub(super) fn narrow(&self, first: usize, length: usize) -> Result<Self> {
        let part = |angles: &Tensor| angles.narrow(0, first, length);
        Ok(Self { cos: part(&self.cos)?, sin: part(&self.sin)? })
    }

    /// For the kernels that rotate queries and keys.
    pub(super) fn angles(&self) -> Angles<'_> {
        #[cfg(test)]
        counts::add(&counts::ROTATED, self.cos.dims()[0]);
        Angles { cosines: &self.cos, sines: &self.sin }
    }

    /// Rotates keys `[tokens, heads, head_dim]`, computed in f32, into the rows from `first` on of `out`.
    pub(super) fn rotate_into(&self, keys: &Tensor, out: &Tensor, first: usize) -> Result<()> {
        let (tokens, heads, dim) = keys.dims3()?;
        let rows = keys.reshape((tokens, heads * dim))?;
        Ok(cuda::normalise_rotate_into(&rows, None, Some(self.angles()), heads, 0.0, out, first)?)
    }
}

/// What a test counts on its own thread.
#[cfg(test)]
pub(super) mod counts {
    use std::cell::Cell;
    use std::thread::LocalKey;

    thread_local! {
        /// Tables of angles computed.
        pub static TABLES: Cell<usize> = const { Cell::new(0) };
        /// Tokens whose queries or keys were rotated.
        pub static ROTATED: Cell<usize> = const { Cell::new(0) };
    }

    pub fn add(count: &'static LocalKey<Cell<usize>>, more: usize) {
        count.with(|count| count.set(count.get() + more));
    }

    pub fn take(count: &'static LocalKey<Cell<usize>>) -> usize {
        count.with(|count| count.replace(0))
    }
}
