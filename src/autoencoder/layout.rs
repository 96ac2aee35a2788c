//! The layout of frames: channels-first for candle's operations, channels-last for the CPU kernels.

use candle_core::{DType, Device, Result, Tensor};

use crate::kernels::{self, layout, lock_storage};

/// The position of the channel dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelLayout {
    /// `[T, C, H, W]`.
    First,
    /// `[T, H, W, C]`.
    Last,
}

impl ChannelLayout {
    /// The layout that layers of this data type use on this device.
    pub fn new(dtype: DType, device: &Device) -> Self {
        if kernels::arch(dtype, device).is_some() { Self::Last } else { Self::First }
    }

    /// Converts from `[T, C, H, W]` to this layout.
    pub fn arrange(self, x: &Tensor) -> Result<Tensor> {
        let (frames, channels, height, width) = x.dims4()?;
        match self {
            Self::First => Ok(x.clone()),
            Self::Last => {
                transposed(x, (channels, height * width))?.reshape((frames, height, width, channels))
            }
        }
    }

    /// Converts from this layout to `[T, C, H, W]`.
    pub fn to_channels_first(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::First => Ok(x.clone()),
            Self::Last => {
                let (frames, height, width, channels) = x.dims4()?;
                transposed(x, (height * width, channels))?.reshape((frames, channels, height, width))
            }
        }
    }
}

/// Transposes the matrices of `size` that `x` consists of.
fn transposed(x: &Tensor, size: (usize, usize)) -> Result<Tensor> {
    let x = x.contiguous()?;
    let values = layout::transposed(lock_storage(&x).values()?, size);
    Tensor::from_vec(values, x.elem_count(), x.device())
}
