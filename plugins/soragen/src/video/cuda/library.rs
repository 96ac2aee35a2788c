// SPDX-License-Identifier: MPL-2.0

//! The functions of `libgstcuda`, with the signatures that they have in all versions from 1.22 on.
//!
//! `gst_cuda_allocator_alloc` is not among them: its arguments changed, but not its name.
#![allow(unsafe_code, reason = "opens a C library")]

use std::ffi::{c_int, c_uint, c_void};
use std::sync::LazyLock;

use gst::{ffi, glib};

/// A `GstCudaContext`, which is a `GstObject`.
pub type RawContext = ffi::GstObject;

/// A copy of rows: `CUDA_MEMCPY2D`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Copy2d {
    pub from: Rows,
    pub to: Rows,
    /// Bytes of a row.
    pub width: usize,
    pub height: usize,
}

/// One side of a copy.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Rows {
    x: usize,
    y: usize,
    kind: c_uint,
    host: u64,
    device: u64,
    array: u64,
    pitch: usize,
}

impl Rows {
    /// Rows in the memory of the process.
    pub fn host(address: u64, pitch: usize) -> Self {
        Self { x: 0, y: 0, kind: 1, host: address, device: 0, array: 0, pitch }
    }

    /// Rows in the memory of a GPU.
    pub fn device(address: u64, pitch: usize) -> Self {
        Self { x: 0, y: 0, kind: 2, host: 0, device: address, array: 0, pitch }
    }
}

/// Defines a struct with a field for each function, which has its name.
macro_rules! functions {
    ($($name:ident: $type:ty,)*) => {
        /// The functions of the library.
        #[allow(non_snake_case, reason = "names of C functions")]
        pub struct Library {
            $(pub $name: $type,)*
        }

        impl Library {
            /// Finds the functions in `library`, which stays open.
            fn of(library: libloading::Library) -> Option<Self> {
                let library = std::mem::ManuallyDrop::new(library);
                Some(Self {
                    // SAFETY: the headers of the library declare it with this type.
                    $($name: *unsafe { library.get::<$type>(stringify!($name).as_bytes()) }.ok()?,)*
                })
            }
        }
    };
}

functions! {
    gst_cuda_load_library: unsafe extern "C" fn() -> glib::ffi::gboolean,
    gst_cuda_memory_init_once: unsafe extern "C" fn(),
    gst_cuda_context_new_wrapped: unsafe extern "C" fn(*mut c_void, c_int) -> *mut RawContext,
    gst_cuda_context_get_handle: unsafe extern "C" fn(*mut RawContext) -> *mut c_void,
    gst_cuda_context_push: unsafe extern "C" fn(*mut RawContext) -> glib::ffi::gboolean,
    gst_cuda_context_pop: unsafe extern "C" fn(*mut *mut c_void) -> glib::ffi::gboolean,
    gst_cuda_handle_context_query:
        unsafe extern "C" fn(*mut ffi::GstElement, *mut ffi::GstQuery, *mut RawContext) -> glib::ffi::gboolean,
    gst_cuda_handle_set_context: unsafe extern "C" fn(
        *mut ffi::GstElement, *mut ffi::GstContext, c_int, *mut *mut RawContext,
    ) -> glib::ffi::gboolean,
    gst_cuda_buffer_pool_new: unsafe extern "C" fn(*mut RawContext) -> *mut ffi::GstBufferPool,
    gst_cuda_buffer_pool_get_type: unsafe extern "C" fn() -> glib::ffi::GType,
    gst_is_cuda_memory: unsafe extern "C" fn(*mut ffi::GstMemory) -> glib::ffi::gboolean,
    CuStreamCreate: unsafe extern "C" fn(*mut *mut c_void, c_uint) -> c_int,
    CuStreamDestroy: unsafe extern "C" fn(*mut c_void) -> c_int,
    CuStreamSynchronize: unsafe extern "C" fn(*mut c_void) -> c_int,
    CuMemcpy2DAsync: unsafe extern "C" fn(*const Copy2d, *mut c_void) -> c_int,
}

/// The library with the driver that it needs; `None` where one of them is missing. It is looked for once.
pub fn library() -> Option<&'static Library> {
    static LIBRARY: LazyLock<Option<Library>> = LazyLock::new(|| {
        // SAFETY: it is a library of GStreamer, whose plugins open it in the same way.
        let library = unsafe { libloading::Library::new("libgstcuda-1.0.so.0") }.ok()?;
        let library = Library::of(library)?;
        // SAFETY: both functions can be called at any time after `gst_init`, which the caller of an element has called.
        unsafe {
            if (library.gst_cuda_load_library)() == glib::ffi::GFALSE {
                return None;
            }
            (library.gst_cuda_memory_init_once)();
        }
        Some(library)
    });
    LIBRARY.as_ref()
}
