//! Pictures of subjects that the frames of a video show (`reference_alpha` in the config).
//!
//! The tokens of a reference attend only to themselves and to the prompt, at timestep 0, so their keys and values are computed once
//! per prompt. Each chunk rotates these keys anew: to the time before the chunk, and to the place where it shows the subject.
//!
//! A token has several latents. A picture is shifted in its tokens, so that they are at whole tokens of the frame wherever the
//! picture is: the model then copies whole tokens.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{Device, Tensor};

use super::attention::KeyValue;
use super::rope::{Rope, Rotation};
use crate::Result;
use crate::kernels::attention::PackedKv;

/// Latents from the upper left corner of a token to that of a picture: down and to the right, less than a token.
pub type Shift = [usize; 2];

/// A reference in one prompt, with one shift: its keys before rotation and its values, in every block.
#[derive(Clone, Debug)]
pub struct ReferenceKv {
    pub(super) blocks: Vec<KeyValue>,
    /// Rows and columns of tokens.
    pub(super) grid: [usize; 2],
}

/// Where a chunk shows a reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Placement {
    /// The upper left corner of its first token is here, in tokens; places outside the frame are possible.
    At {
        /// Rows from the top.
        row: f64,
        /// Columns from the left.
        column: f64,
    },
    /// Where the model likes.
    Free,
}

impl Placement {
    /// For a picture whose upper left corner is at this row and column of latents, in tokens of `patch` latents.
    pub(super) fn of_corner(corner: [f64; 2], patch: [usize; 2]) -> (Shift, Self) {
        let shift = |axis: usize| (corner[axis].floor() as i64).rem_euclid(patch[axis] as i64) as usize;
        let shift = [shift(0), shift(1)];
        let token = |axis: usize| (corner[axis] - shift[axis] as f64) / patch[axis] as f64;
        (shift, Self::At { row: token(0), column: token(1) })
    }

    /// Time before the chunk, row and column of the upper left corner. Those of [`Free`](Self::Free) are what the model was trained
    /// with.
    fn position(self) -> [f64; 3] {
        match self {
            Self::At { row, column } => [1.0, row, column],
            Self::Free => [2.0, 2.5, 3.0],
        }
    }
}

/// The picture `[1, channels, 1, H, W]`, shifted, among zeros: a token larger in both directions.
pub(super) fn shifted(picture: &Tensor, [down, right]: Shift, [rows, columns]: [usize; 2]) -> Result<Tensor> {
    Ok(picture.pad_with_zeros(3, down, rows - down)?.pad_with_zeros(4, right, columns - right)?)
}

/// The references that the next chunk attends to, one after the other.
#[derive(Debug, Default)]
pub(super) struct ChunkReferences {
    /// Of these references at these places; 0 without references.
    id: u64,
    blocks: Vec<KeyValue>,
    places: Vec<(Placement, [usize; 2])>,
    /// `blocks` rotated and in the layout of the [`packed`](super::packed) blocks, computed on first use.
    pub(super) packed: OnceLock<Vec<PackedKv>>,
}

impl ChunkReferences {
    pub(super) fn new(references: &[(ReferenceKv, Placement)]) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mut placed = Self { id: NEXT.fetch_add(1, Ordering::Relaxed), ..Self::default() };
        for (reference, placement) in references {
            placed.places.push((*placement, reference.grid));
            placed.blocks = match placed.blocks.as_slice() {
                [] => reference.blocks.clone(),
                before => {
                    before.iter().zip(&reference.blocks).map(|(a, b)| a.concat(b)).collect::<Result<_>>()?
                }
            };
        }
        Ok(placed)
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Number of tokens.
    pub(super) fn tokens(&self) -> Result<usize> {
        self.blocks.first().map_or(Ok(0), KeyValue::tokens)
    }

    /// Keys before rotation and values of all references in every block.
    pub(super) fn blocks(&self) -> &[KeyValue] {
        &self.blocks
    }

    /// The angles of the tokens for a chunk at the temporal position `time`.
    pub(super) fn rotation(&self, rope: &Rope, time: usize, device: &Device) -> Result<Rotation> {
        let tokens = self.places.iter().flat_map(|(placement, [rows, columns])| {
            let [before, top, left] = placement.position();
            let time = time as f64 - before;
            (0..*rows).flat_map(move |row| {
                (0..*columns).map(move |column| [time, top + row as f64, left + column as f64])
            })
        });
        rope.angles(tokens, 1, device)
    }

    /// The same references; the next chunk has another time.
    pub(super) fn invalidate_packed(&mut self) {
        self.packed = OnceLock::new();
    }
}
