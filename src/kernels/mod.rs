//! The hot loops on the CPU, each beside the plain candle form that it must equal.

pub(crate) mod conv2d;
mod gelu;
mod panels;

pub(crate) use gelu::gelu;

use std::sync::LazyLock;

use candle_core::{DType, Device};
use pulp::Arch;

/// The vector instructions that this CPU has; `None` where the plain forms are asked for with
/// `SORAGEN_KERNELS=plain`, as tests do.
static ARCH: LazyLock<Option<Arch>> =
    LazyLock::new(|| (std::env::var_os("SORAGEN_KERNELS").is_none_or(|v| v != "plain")).then(Arch::new));

/// What the kernels are to be packed for, where they compute with `dtype` on `device`.
pub(crate) fn arch(dtype: DType, device: &Device) -> Option<Arch> {
    (*ARCH).filter(|_| device.is_cpu() && dtype == DType::F32)
}

/// All that this CPU can run, from the plainest.
#[cfg(test)]
fn archs() -> Vec<Arch> {
    let mut archs = vec![Arch::Scalar];
    #[cfg(target_arch = "x86_64")]
    {
        archs.extend(pulp::x86::V3::try_new().map(Arch::V3));
        archs.extend(pulp::x86::V4::try_new().map(Arch::V4));
    }
    #[cfg(target_arch = "aarch64")]
    archs.push(Arch::new());
    archs
}
