// SPDX-License-Identifier: MPL-2.0

//! Frames of a model into buffers in the memory of a GPU.
#![allow(unsafe_code, reason = "calls the functions of libgstcuda with addresses of frames and buffers")]

use std::ffi::c_void;
use std::marker::PhantomData;

use gst::glib::translate::from_glib;
use gst::{ffi, glib};
use soragen::{FrameAddress, Nv12Frame, PlaneRows};

use super::CudaContext;
use super::library::{Copy2d, Rows};

/// `GST_MAP_CUDA`: the address of a mapping is one of the GPU.
const MAP_CUDA: ffi::GstMapFlags = ffi::GST_MAP_FLAG_LAST << 1;
/// `CU_STREAM_NON_BLOCKING`: the stream waits for no other one, such as that of a model.
const NON_BLOCKING: u32 = 1;

/// Copies frames into buffers. It has a stream of its own, so that a copy does not wait for what the model computes.
pub struct FrameCopier {
    /// In the context of the frames.
    source: Stream,
    /// In the context of the buffers, if that is another one.
    target: Option<Stream>,
}

/// A stream in a context.
struct Stream {
    context: CudaContext,
    /// The `CUstream`.
    handle: usize,
}

impl FrameCopier {
    /// For frames in `context`.
    pub fn new(context: CudaContext) -> Result<Self, glib::BoolError> {
        Ok(Self { source: Stream::new(context)?, target: None })
    }

    /// Copies `frame` into `buffer`, a frame of the same size in NV12. Between two contexts it is copied through system memory.
    ///
    /// # Errors
    /// If the buffer is no frame in the memory of a GPU, is too small, or the driver refuses.
    pub fn copy(&mut self, frame: &Nv12Frame, buffer: &mut gst::BufferRef) -> Result<(), glib::BoolError> {
        let memory = (buffer.n_memory() == 1).then(|| buffer.peek_memory(0));
        let context = memory.and_then(|memory| self.source.context.of_memory(memory));
        let context = context.ok_or_else(|| glib::bool_error!("the buffer is not in the memory of a GPU"))?;
        let is_same = context.handle() == self.source.context.handle();
        let address = frame.address().map_err(|e| glib::bool_error!("{e}"))?;
        let places = places(buffer)?;
        let mapping = Mapping::new(buffer)?;
        for (plane, (offset, pitch)) in frame.planes().iter().zip(places) {
            let end = offset + pitch * (plane.rows - 1) + plane.width;
            if pitch < plane.width || end > mapping.info.size {
                return Err(glib::bool_error!("the buffer is smaller than the frame"));
            }
        }
        let to = places.map(|(offset, pitch)| Rows::device(mapping.address() + offset as u64, pitch));
        let rows = |kind: fn(u64, usize) -> Rows, start: u64| {
            frame.planes().map(|plane| kind(start + plane.offset as u64, frame.pitch()))
        };
        match (address, is_same) {
            (FrameAddress::Gpu(start), true) => {
                self.source.copy(rows(Rows::device, start), to, frame.planes())
            }
            (FrameAddress::Host(start), true) => {
                self.source.copy(rows(Rows::host, start), to, frame.planes())
            }
            (FrameAddress::Host(start), false) => {
                self.target(context)?.copy(rows(Rows::host, start), to, frame.planes())
            }
            (FrameAddress::Gpu(start), false) => {
                let mut host = vec![0u8; frame.bytes()];
                let between = rows(Rows::host, host.as_mut_ptr() as u64);
                self.source.copy(rows(Rows::device, start), between, frame.planes())?;
                self.target(context)?.copy(between, to, frame.planes())
            }
        }
    }

    /// The stream in `context`.
    fn target(&mut self, context: CudaContext) -> Result<&Stream, glib::BoolError> {
        let target = self.target.take().filter(|target| target.context.handle() == context.handle());
        let target = target.map_or_else(|| Stream::new(context), Ok)?;
        Ok(self.target.insert(target))
    }
}

/// Offset and pitch of the two planes of NV12.
fn places(buffer: &gst::BufferRef) -> Result<[(usize, usize); 2], glib::BoolError> {
    let meta = buffer.meta::<gst_video::VideoMeta>();
    let places = meta.and_then(|meta| {
        let plane = |i: usize| Some((*meta.offset().get(i)?, usize::try_from(*meta.stride().get(i)?).ok()?));
        Some([plane(0)?, plane(1)?])
    });
    places.ok_or_else(|| glib::bool_error!("the buffer does not say where its planes are"))
}

impl Stream {
    fn new(context: CudaContext) -> Result<Self, glib::BoolError> {
        let mut handle = std::ptr::null_mut();
        {
            let _current = context.enter().ok_or_else(refused)?;
            // SAFETY: the context is current; the pointer is that of a local variable.
            check(unsafe { (context.library().CuStreamCreate)(&mut handle, NON_BLOCKING) })?;
        }
        Ok(Self { context, handle: handle as usize })
    }

    /// Copies both `planes`, and waits for that.
    fn copy(&self, from: [Rows; 2], to: [Rows; 2], planes: [PlaneRows; 2]) -> Result<(), glib::BoolError> {
        let library = self.context.library();
        let stream = self.handle as *mut c_void;
        let _current = self.context.enter().ok_or_else(refused)?;
        let copies = planes.iter().zip(from).zip(to).map(|((plane, from), to)| {
            let copy = Copy2d { from, to, width: plane.width, height: plane.rows };
            // SAFETY: the context is current. The rows are those of the frame, which lives, or of the buffer, whose size was checked, or of
            // memory of the frame's size.
            check(unsafe { (library.CuMemcpy2DAsync)(&copy, stream) })
        });
        let copied = copies.collect();
        // SAFETY: as above. It also waits for a first copy before the error of the second one.
        check(unsafe { (library.CuStreamSynchronize)(stream) }).and(copied)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(_current) = self.context.enter() {
            // SAFETY: the context is current, and nothing uses the stream.
            unsafe { (self.context.library().CuStreamDestroy)(self.handle as *mut c_void) };
        }
    }
}

/// A buffer that is mapped on the GPU, to write.
struct Mapping<'a> {
    buffer: *mut ffi::GstBuffer,
    info: ffi::GstMapInfo,
    _buffer: PhantomData<&'a mut gst::BufferRef>,
}

impl<'a> Mapping<'a> {
    fn new(buffer: &'a mut gst::BufferRef) -> Result<Self, glib::BoolError> {
        let buffer = buffer.as_mut_ptr();
        let mut info = std::mem::MaybeUninit::zeroed();
        // SAFETY: the buffer is writable, and the mapping ends before its borrow.
        let mapped: bool = unsafe {
            from_glib(ffi::gst_buffer_map(buffer, info.as_mut_ptr(), MAP_CUDA | ffi::GST_MAP_WRITE))
        };
        if !mapped {
            return Err(glib::bool_error!("the buffer cannot be mapped on the GPU"));
        }
        // SAFETY: the function has filled it.
        Ok(Self { buffer, info: unsafe { info.assume_init() }, _buffer: PhantomData })
    }

    /// The address on the GPU.
    fn address(&self) -> u64 {
        self.info.data as u64
    }
}

impl Drop for Mapping<'_> {
    fn drop(&mut self) {
        // SAFETY: the buffer was mapped with it.
        unsafe { ffi::gst_buffer_unmap(self.buffer, &mut self.info) };
    }
}

fn check(status: i32) -> Result<(), glib::BoolError> {
    if status == 0 { Ok(()) } else { Err(glib::bool_error!("the CUDA driver reports error {status}")) }
}

fn refused() -> glib::BoolError {
    glib::bool_error!("the CUDA driver refuses the context")
}
