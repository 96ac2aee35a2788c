//! Finished frames.

use crate::Size;

/// Consecutive frames of one video, RGB, 8 bits per sample, as `[T, H, W, 3]` without gaps. They carry the label and the
/// watermark that the request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Frames {
    /// Number of the first frame in the video, from 0.
    pub first: u64,
    /// Size of each frame.
    pub size: Size,
    /// The samples.
    pub data: Vec<u8>,
}

/// Consecutive frames of one video as the autoencoder decoded them: RGB, f32 in \[0, 1\], as `[T, H, W, 3]` without gaps,
/// without label and watermark.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RawFrames {
    /// Number of the first frame in the video, from 0.
    pub first: u64,
    /// Size of each frame.
    pub size: Size,
    /// The samples.
    pub data: Vec<f32>,
}

macro_rules! impl_frames {
    ($frames:ident, $sample:ty) => {
        impl $frames {
            /// Number of frames.
            pub fn len(&self) -> usize {
                self.data.len() / self.size.samples()
            }

            /// Whether there are no frames.
            pub fn is_empty(&self) -> bool {
                self.data.is_empty()
            }

            /// The frames one by one, each `[H, W, 3]`.
            pub fn iter(&self) -> impl ExactSizeIterator<Item = &[$sample]> {
                self.data.chunks_exact(self.size.samples())
            }
        }
    };
}

impl_frames!(Frames, u8);
impl_frames!(RawFrames, f32);

/// A sample in 8 bits, rounded to the nearest; values outside \[0, 1\] are clipped.
#[inline]
pub fn to_u8(sample: f32) -> u8 {
    // `round` would be a function call for each sample on a CPU without the instruction, and `as` saturates.
    (sample * 255.0 + 0.5) as u8
}
