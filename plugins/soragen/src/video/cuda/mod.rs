// SPDX-License-Identifier: MPL-2.0

//! Frames in the memory of a GPU: `video/x-raw(memory:CUDAMemory)`.
//!
//! The elements for NVIDIA GPUs share memory through `libgstcuda`, which has no Rust bindings. [`library`] opens it at run time; where it
//! is missing, frames stay in system memory. [`context`] is the context that elements agree on, [`pool`] allocates buffers in it, and
//! [`copy`] writes frames into them.

mod context;
mod copy;
mod library;
mod pool;

pub use context::{CONTEXT_TYPE, CudaContext};
pub use copy::FrameCopier;
pub use pool::{is_cuda_pool, new_pool};

/// The caps feature of memory of a GPU.
pub const FEATURE: &str = "memory:CUDAMemory";
