//! Finished pictures.

use crate::Size;

/// Consecutive frames of one video, RGB, f32 in \[0, 1\], as `[T, H, W, 3]` without gaps.
#[derive(Clone, Debug)]
pub struct Frames {
    /// Number of the first of them in the video, from 0.
    pub first: u64,
    /// Size of each.
    pub size: Size,
    /// The samples.
    pub data: Vec<f32>,
}

impl Frames {
    /// Samples in one frame.
    fn frame_len(&self) -> usize {
        self.size.width as usize * self.size.height as usize * 3
    }

    /// How many frames.
    pub fn len(&self) -> usize {
        self.data.len() / self.frame_len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The frames one by one, each `[H, W, 3]`.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.data.chunks_exact(self.frame_len())
    }
}

/// A sample of a picture as 8 bits, to the nearest; what is beyond black and white is black and white.
#[inline]
pub fn to_u8(sample: f32) -> u8 {
    // `round` would be a call for each sample where the CPU need not have it, and `as` saturates.
    (sample * 255.0 + 0.5) as u8
}
