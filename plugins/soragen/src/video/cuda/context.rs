// SPDX-License-Identifier: MPL-2.0

//! A `GstCudaContext`, which elements that share memory of a GPU agree on.
#![allow(unsafe_code, reason = "calls the functions of libgstcuda")]

use gst::glib::translate::{ToGlibPtr, from_glib, from_glib_full, from_glib_none};
use gst::prelude::*;
use gst::{ffi, glib};
use soragen::GpuContext;

use super::library::{Library, RawContext, library};

/// The type of contexts and of the queries for them.
pub const CONTEXT_TYPE: &str = "gst.cuda.context";

#[derive(Clone)]
pub struct CudaContext {
    object: gst::Object,
    library: &'static Library,
    /// Keeps the `CUcontext`; `None` for one of another element.
    _gpu: Option<GpuContext>,
}

/// The context is current on this thread while this exists.
pub struct Current<'a>(&'a Library);

impl CudaContext {
    /// That of the models of `device`, as in the property; `None` for a device that is no NVIDIA GPU, and without the library.
    pub fn of_device(device: &str) -> Option<Self> {
        let gpu = GpuContext::open(device)?;
        let library = library()?;
        // SAFETY: the context lives as long as `_gpu`.
        let object = unsafe { (library.gst_cuda_context_new_wrapped)(gpu.handle() as *mut _, gpu.device()) };
        // SAFETY: the function returns a new reference, or null.
        unsafe { Self::from_full(object, library, Some(gpu)) }
    }

    /// The one in `context`, which the application or another element has set on `element`; `None` if it is another kind of context.
    pub fn of_gst(element: &gst::Element, context: &gst::Context) -> Option<Self> {
        if context.context_type() != CONTEXT_TYPE {
            return None;
        }
        let library = library()?;
        let mut object = std::ptr::null_mut();
        // SAFETY: both pointers are of living objects; −1 accepts any GPU.
        let found = unsafe {
            let set = library.gst_cuda_handle_set_context;
            set(element.to_glib_none().0, context.to_glib_none().0, -1, &mut object)
        };
        if found == glib::ffi::GFALSE {
            return None;
        }
        // SAFETY: the function has set a reference.
        unsafe { Self::from_full(object, library, None) }
    }

    /// # Safety
    /// `object` is null or a reference that is given away.
    unsafe fn from_full(
        object: *mut RawContext,
        library: &'static Library,
        gpu: Option<GpuContext>,
    ) -> Option<Self> {
        if object.is_null() {
            return None;
        }
        // SAFETY: as above; a floating reference becomes one that is owned.
        let object = unsafe {
            match from_glib(glib::gobject_ffi::g_object_is_floating(object.cast())) {
                true => from_glib_none(object),
                false => from_glib_full(object),
            }
        };
        Some(Self { object, library, _gpu: gpu })
    }

    /// The one that `memory` belongs to; `None` if it is not memory of a GPU.
    pub fn of_memory(&self, memory: &gst::MemoryRef) -> Option<Self> {
        /// The first fields of a `GstCudaMemory`.
        #[repr(C)]
        struct CudaMemory {
            memory: ffi::GstMemory,
            context: *mut RawContext,
        }
        let memory = memory.as_ptr().cast_mut();
        // SAFETY: the memory lives, and is a `GstCudaMemory` if the function says so.
        let object = unsafe {
            if (self.library.gst_is_cuda_memory)(memory) == glib::ffi::GFALSE {
                return None;
            }
            (*memory.cast::<CudaMemory>()).context
        };
        if object.is_null() {
            return None;
        }
        // SAFETY: the memory has a reference to its context.
        Some(Self { object: unsafe { from_glib_none(object) }, library: self.library, _gpu: None })
    }

    /// The `CUcontext`.
    pub fn handle(&self) -> usize {
        // SAFETY: the object lives.
        unsafe { (self.library.gst_cuda_context_get_handle)(self.as_ptr()) as usize }
    }

    /// Answers `query` of a neighbour of `element`, if it is for a context of this kind.
    pub fn answer(&self, element: &gst::Element, query: &mut gst::QueryRef) -> bool {
        // SAFETY: all pointers are of living objects.
        unsafe {
            let answer = self.library.gst_cuda_handle_context_query;
            from_glib(answer(element.to_glib_none().0, query.as_mut_ptr(), self.as_ptr()))
        }
    }

    /// Makes it current on this thread; `None` if the driver refuses.
    pub fn enter(&self) -> Option<Current<'_>> {
        // SAFETY: the object lives; `Current` takes the context from the stack again.
        let entered = unsafe { (self.library.gst_cuda_context_push)(self.as_ptr()) };
        (entered != glib::ffi::GFALSE).then_some(Current(self.library))
    }

    pub(super) fn library(&self) -> &'static Library {
        self.library
    }

    pub(super) fn as_ptr(&self) -> *mut RawContext {
        self.object.as_ptr()
    }
}

impl Drop for Current<'_> {
    fn drop(&mut self) {
        // SAFETY: this thread has pushed the context; null ignores which one it was.
        unsafe { (self.0.gst_cuda_context_pop)(std::ptr::null_mut()) };
    }
}
