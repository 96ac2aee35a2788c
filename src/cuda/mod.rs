//! Fused kernels for NVIDIA GPUs.
//!
//! candle's own operations move every tensor through memory once per operation. These kernels do what stands between two matrix
//! products in one pass, in f32, and read rows where they are. Each has a plain form of candle operations, which computes the same:
//! it is used on other devices, for GPUs before compute capability 8.0, and for shapes that the kernel does not support.
//!
//! The sources in `kernels/` are compiled at run time for the GPU that is there (`program.rs`). They include nothing but
//! `device.cuh`, which holds all inline PTX, and `values.cuh`. Tests compile the same sources with a C++ compiler and `shim.h`
//! in place of `device.cuh`, and launch them on a CPU with the same arguments and the same grid.

mod attention;
#[cfg(feature = "cuda")]
mod device;
mod gate;
mod gelu;
mod kernel;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod loader;
mod norm;
#[allow(dead_code, reason = "for a 3-D convolution in one product, which the decoders do not have yet")]
mod pad;
#[cfg(feature = "cuda")]
mod program;
mod rotate;
#[cfg(test)]
mod shim;
mod video;

pub(crate) use attention::attention;
#[cfg(feature = "cuda")]
pub(crate) use device::{context, open};
pub(crate) use gate::residual;
pub(crate) use gelu::gelu;
pub(crate) use norm::{norm_affine, norm_modulate};
#[cfg(feature = "cuda")]
pub(crate) use program::address_of;
pub(crate) use rotate::{Angles, normalise_rotate, normalise_rotate_into};
pub(crate) use video::{Video, VideoFormat, to_video};
