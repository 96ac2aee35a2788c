//! The hot loops on the CPU, each beside the plain candle form that it must equal.

mod arch;
pub(crate) mod attention;
#[cfg(feature = "bench")]
pub mod bench;
pub(crate) mod conv2d;
pub(crate) mod expanded;
mod gelu;
pub(crate) mod layout;
pub(crate) mod linear;
mod linear8;
pub(crate) mod norm;
mod pairs;
mod panels;

pub(crate) use arch::Arch;
pub(crate) use gelu::gelu;

use std::ops::Deref;
use std::sync::LazyLock;

use candle_core::{CpuStorage, DType, Device, Layout, Result, Storage, Tensor, bail};

/// The widest vectors of this CPU, or those that `SORAGEN_KERNELS` names, as tests do: `avx2`, `scalar`; `plain` has no
/// kernels at all, and what this CPU lacks is as if it were not named.
static ARCH: LazyLock<Option<Arch>> = LazyLock::new(|| {
    let named = std::env::var("SORAGEN_KERNELS").unwrap_or_default();
    let mut all = Arch::all();
    match all.iter().position(|arch| arch.name() == named) {
        _ if named == "plain" => None,
        Some(place) => Some(all.swap_remove(place)),
        None => all.pop(),
    }
});

/// What the kernels are to be packed for, where they compute with `dtype` on `device`.
pub(crate) fn arch(dtype: DType, device: &Device) -> Option<Arch> {
    (*ARCH).filter(|_| device.is_cpu() && dtype == DType::F32)
}

/// Whether products in 8 bits are much faster here than those in f32.
pub(crate) fn int8_is_fast() -> bool {
    #[cfg(target_arch = "x86_64")]
    return (*ARCH).is_some_and(linear8::vnni);
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// The numbers of a contiguous f32 tensor on the CPU.
pub(crate) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((first, end)) => Ok(&storage.as_slice::<f32>()?[first..end]),
        None => bail!("a kernel needs its operand without gaps, not {layout:?}"),
    }
}

/// A copy of the numbers of an f32 tensor on the CPU, in their order.
pub(crate) fn numbers(x: &Tensor) -> Result<Vec<f32>> {
    let x = x.contiguous()?;
    Ok(borrowed(&x).numbers()?.to_vec())
}

/// A tensor that is read where it is.
pub(crate) struct Borrowed<'a, S> {
    storage: S,
    layout: &'a Layout,
}

/// `x`, to be read where it is.
pub(crate) fn borrowed(x: &Tensor) -> Borrowed<'_, impl Deref<Target = Storage> + '_> {
    let (storage, layout) = x.storage_and_layout();
    Borrowed { storage, layout }
}

impl<S: Deref<Target = Storage>> Borrowed<'_, S> {
    /// Its numbers: f32, contiguous, on the CPU.
    pub(crate) fn numbers(&self) -> Result<&[f32]> {
        match &*self.storage {
            Storage::Cpu(storage) => slice(storage, self.layout),
            _ => bail!("a kernel needs its operand on the CPU"),
        }
    }
}

/// So many numbers from −1 to 1 that look like nothing in particular.
#[cfg(test)]
fn random(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
