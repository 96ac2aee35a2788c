// SPDX-License-Identifier: MPL-2.0

//! Buffers in the memory of a GPU.
#![allow(unsafe_code, reason = "calls the functions of libgstcuda")]

use gst::glib;
use gst::glib::translate::{FromGlib, from_glib_full, from_glib_none};
use gst::prelude::*;

use super::CudaContext;

/// A pool of buffers in `context`, which `config` makes usable.
pub fn new_pool(context: &CudaContext) -> Option<gst::BufferPool> {
    // SAFETY: the context lives; the pool is null, or a reference that is given away.
    unsafe {
        let pool = (context.library().gst_cuda_buffer_pool_new)(context.as_ptr());
        if pool.is_null() {
            return None;
        }
        Some(match glib::gobject_ffi::g_object_is_floating(pool.cast()) {
            glib::ffi::GFALSE => from_glib_full(pool),
            _ => from_glib_none(pool),
        })
    }
}

/// Whether the buffers of `pool` are in the memory of a GPU.
pub fn is_cuda_pool(context: &CudaContext, pool: &gst::BufferPool) -> bool {
    // SAFETY: the function registers the type, and returns it.
    let kind = unsafe { glib::Type::from_glib((context.library().gst_cuda_buffer_pool_get_type)()) };
    pool.type_().is_a(kind)
}
