//! Finished frames in NV12 on the device that made them.

use candle_core::{CpuStorage, Storage, Tensor};

use crate::cuda::{Video, VideoFormat, to_video};
use crate::yuv::YuvColours;
use crate::{Result, Size};

/// Consecutive frames of one video. They carry the label and the watermark that the request asks for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Nv12Frames {
    /// Number of the first frame in the video, from 0.
    pub first: u64,
    /// The frames.
    pub frames: Vec<Nv12Frame>,
}

/// A frame on a device: a plane of luma, then one of pairs of chroma.
#[derive(Clone, Debug)]
pub struct Nv12Frame {
    /// u8, contiguous.
    samples: Tensor,
    layout: Layout,
}

/// Rows of a plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaneRows {
    /// The first byte, from the start of the frame.
    pub offset: usize,
    /// Bytes of a row.
    pub width: usize,
    /// Number of rows.
    pub rows: usize,
}

/// The address of a frame's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameAddress {
    /// In the memory of the process.
    Host(u64),
    /// In the memory of a GPU, in the context of [`GpuContext`](crate::GpuContext).
    Gpu(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    width: usize,
    height: usize,
}

impl Layout {
    /// Bytes from one row to the next, in both planes.
    fn pitch(self) -> usize {
        self.width.next_multiple_of(2)
    }

    fn chroma_offset(self) -> usize {
        self.pitch() * self.height
    }

    fn bytes(self) -> usize {
        self.chroma_offset() + self.pitch() * self.height.div_ceil(2)
    }
}

impl Nv12Frames {
    /// Converts `frames`, f32 `[T, 3, H, W]` in \[0, 1\].
    pub(crate) fn new(frames: &Tensor, first: u64, size: Size, colours: &YuvColours) -> Result<Self> {
        let layout = Layout { width: size.width as usize, height: size.height as usize };
        let pitch = layout.pitch();
        let video = Video {
            format: VideoFormat::Nv12 { pitch, chroma_offset: layout.chroma_offset(), chroma_pitch: pitch },
            frame_size: layout.bytes(),
            matrix: colours.matrix(),
            siting: colours.siting(),
        };
        let samples = to_video(frames, video)?;
        let frame = |i| Ok(Nv12Frame { samples: samples.get(i)?, layout });
        Ok(Self { first, frames: (0..samples.dim(0)?).map(frame).collect::<Result<_>>()? })
    }
}

impl Nv12Frame {
    /// Bytes of the frame.
    pub fn bytes(&self) -> usize {
        self.layout.bytes()
    }

    /// Bytes from one row to the next, in both planes.
    pub fn pitch(&self) -> usize {
        self.layout.pitch()
    }

    /// The plane of luma, and that of chroma.
    pub fn planes(&self) -> [PlaneRows; 2] {
        let Layout { width, height } = self.layout;
        let chroma = PlaneRows {
            offset: self.layout.chroma_offset(),
            width: width.next_multiple_of(2),
            rows: height.div_ceil(2),
        };
        [PlaneRows { offset: 0, width, rows: height }, chroma]
    }

    /// The address of the frame, as long as this or a clone of it exists. The frame is complete, and does not change.
    ///
    /// # Errors
    /// On a device that gives none.
    pub fn address(&self) -> Result<FrameAddress> {
        let (storage, layout) = self.samples.storage_and_layout();
        let first = layout.start_offset();
        Ok(match &*storage {
            Storage::Cpu(CpuStorage::U8(samples)) => host_address(&samples[first..]),
            #[cfg(feature = "cuda")]
            Storage::Cuda(storage) => FrameAddress::Gpu(crate::cuda::address_of(storage)? + first as u64),
            _ => Err(unaddressable(&self.samples))?,
        })
    }
}

fn unaddressable(samples: &Tensor) -> candle_core::Error {
    candle_core::Error::msg(format!("{:?} gives no address of a frame", samples.device()))
}

fn host_address(samples: &[u8]) -> FrameAddress {
    let address = samples.as_ptr() as u64;
    #[cfg(feature = "testing")]
    if crate::testing::gpu().is_some_and(|gpu| gpu.owns_host_memory) {
        return FrameAddress::Gpu(address);
    }
    FrameAddress::Host(address)
}
