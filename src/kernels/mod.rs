//! The CPU kernels. Each has a plain candle form that must give the same result.

mod arch;
pub(crate) mod attention;
#[cfg(feature = "bench")]
pub mod bench;
pub(crate) mod conv2d;
mod epilogue;
pub(crate) mod expanded;
mod gelu;
pub(crate) mod layout;
pub(crate) mod linear;
#[allow(unsafe_code, reason = "vector instructions")]
mod linear8;
pub(crate) mod norm;
#[allow(unsafe_code, reason = "vector instructions")]
mod pairs;
mod panels;

pub(crate) use arch::Arch;
pub(crate) use epilogue::Epilogue;
pub(crate) use gelu::gelu;

use std::ops::Deref;
use std::sync::LazyLock;

use candle_core::{CpuStorage, DType, Device, Layout, Result, Storage, Tensor, bail};

/// The instruction set of the kernels: the widest of this CPU, or the one that the environment variable `SORAGEN_KERNELS`
/// names (`avx512`, `avx2`, `neon` or `scalar`; tests use it). `plain` disables the kernels. A name that this CPU does not
/// support is ignored.
static ARCH: LazyLock<Option<Arch>> = LazyLock::new(|| {
    let named = std::env::var("SORAGEN_KERNELS").unwrap_or_default();
    let mut all = Arch::all();
    match all.iter().position(|arch| arch.name() == named) {
        _ if named == "plain" => None,
        Some(place) => Some(all.swap_remove(place)),
        None => all.pop(),
    }
});

/// The instruction set to pack weights for; `None` if the kernels do not support `dtype` on `device`.
pub(crate) fn arch(dtype: DType, device: &Device) -> Option<Arch> {
    (*ARCH).filter(|_| device.is_cpu() && dtype == DType::F32)
}

/// Whether int8 products are faster than f32 products on this CPU.
pub(crate) fn int8_is_fast() -> bool {
    (*ARCH).is_some_and(linear8::is_fast)
}

/// The elements of a contiguous f32 tensor on the CPU.
pub(crate) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((first, end)) => Ok(&storage.as_slice::<f32>()?[first..end]),
        None => bail!("a kernel needs a contiguous operand, not {layout:?}"),
    }
}

/// Copies the elements of an f32 tensor on the CPU, in row-major order.
pub(crate) fn to_vec(x: &Tensor) -> Result<Vec<f32>> {
    let x = x.contiguous()?;
    Ok(lock_storage(&x).values()?.to_vec())
}

/// A tensor whose storage is locked for reading without a copy.
pub(crate) struct StorageGuard<'a, S> {
    storage: S,
    layout: &'a Layout,
}

/// Locks the storage of `x` for reading.
pub(crate) fn lock_storage(x: &Tensor) -> StorageGuard<'_, impl Deref<Target = Storage> + '_> {
    let (storage, layout) = x.storage_and_layout();
    StorageGuard { storage, layout }
}

impl<S: Deref<Target = Storage>> StorageGuard<'_, S> {
    /// The elements.
    ///
    /// # Errors
    /// If the tensor is not f32, not contiguous or not on the CPU.
    pub(crate) fn values(&self) -> Result<&[f32]> {
        match &*self.storage {
            Storage::Cpu(storage) => slice(storage, self.layout),
            _ => bail!("a kernel needs its operand on the CPU"),
        }
    }
}

/// `count` pseudorandom values from −1 to 1.
#[cfg(test)]
fn random(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
