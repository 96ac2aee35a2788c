//! Opens a GPU.
#![allow(unsafe_code, reason = "settings of the CUDA driver")]

use std::sync::Arc;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, sys};
use candle_core::{CudaDevice, Device, Result, bail};

/// Opens the GPU with this number.
///
/// All work is on one stream of its own. candle's default is a stream for each thread, and nothing would order the threads that load
/// weights before those that compute.
pub(crate) fn open(ordinal: usize) -> Result<Device> {
    load()?;
    let device = Device::new_cuda_with_stream(ordinal)?;
    let cuda = device.as_cuda_device()?;
    // SAFETY: every tensor of the device is made, used and freed on its only stream, in the order of the calls.
    unsafe { cuda.disable_event_tracking() };
    keep_freed_memory(cuda, ordinal)?;
    Ok(device)
}

/// The primary context of the GPU with this number, in which [`open`] computes.
pub(crate) fn context(ordinal: usize) -> Result<Arc<CudaContext>> {
    load()?;
    CudaContext::new(ordinal).w()
}

/// Opens the CUDA libraries.
fn load() -> Result<()> {
    #[cfg(target_os = "linux")]
    if let Err(library) = super::loader::load() {
        bail!("{library} is missing; install the driver and the CUDA libraries");
    }
    Ok(())
}

/// The driver returns freed memory to the system at every synchronisation, unless it may keep it.
fn keep_freed_memory(cuda: &CudaDevice, ordinal: usize) -> Result<()> {
    cuda.cuda_stream().context().bind_to_thread().w()?;
    let (mut device, mut pool) = (0, std::ptr::null_mut());
    let mut threshold = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the context is bound, the pointers are those of local variables, and the attribute is a u64.
    unsafe {
        sys::cuDeviceGet(&mut device, ordinal as i32).result().w()?;
        sys::cuDeviceGetDefaultMemPool(&mut pool, device).result().w()?;
        sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut threshold).cast()).result().w()?;
    }
    Ok(())
}
