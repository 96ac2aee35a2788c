//! Compiles the kernels for the GPU that is there, once per process, and launches them.
#![allow(
    unsafe_code,
    reason = "launches kernels with the addresses of tensors, and reads what NVRTC has compiled"
)]

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{CStr, CString};
use std::sync::{Arc, LazyLock, Mutex};

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaModule, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr, LaunchConfig, PushKernelArg,
    SyncOnDrop, sys,
};
use candle_core::cuda_backend::cudarc::nvrtc;
use candle_core::cuda_backend::{CudaDevice, CudaStorage, CudaStorageSlice, DeviceId, WrapErr};
use candle_core::{Layout, Result, Shape, Storage, Tensor, bail};

use super::kernel::{HEADERS, Kernel, Operand, Source};

/// Dynamic shared memory up to this needs no permission.
const DEFAULT_SHARED: u32 = 48 << 10;

/// The loaded sources, and the functions of each by name.
static LOADED: LazyLock<Mutex<HashMap<(DeviceId, &'static str), Loaded>>> = LazyLock::new(Mutex::default);

struct Loaded {
    module: Arc<CudaModule>,
    functions: HashMap<String, CudaFunction>,
}

/// Whether the GPU has the instructions of the kernels: compute capability 8.0.
pub(super) fn is_supported(device: &CudaDevice) -> bool {
    // Asked once: the question also returns errors of earlier work, which would be lost here.
    static SUPPORTED: LazyLock<Mutex<HashMap<DeviceId, bool>>> = LazyLock::new(Mutex::default);
    let mut all = SUPPORTED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    *all.entry(device.id()).or_insert_with(|| {
        device.cuda_stream().context().compute_capability().is_ok_and(|capability| capability >= (8, 0))
    })
}

/// The result of `kernel` for `x`.
pub(super) fn run<K: Kernel>(kernel: &K, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
    let (shape, dtype) = kernel.result(layout, x.dtype())?;
    // SAFETY: the kernel writes all of it, except for what is between the rows of video, which nothing reads as a value.
    let mut out = unsafe { x.device.alloc_uninit(&shape, dtype)? };
    run_into(kernel, x, layout, &mut out, &Layout::contiguous(&shape))?;
    Ok((out, shape))
}

/// Writes the result of `kernel` for `x` to `out`.
pub(super) fn run_into<K: Kernel>(
    kernel: &K,
    x: &CudaStorage,
    layout: &Layout,
    out: &mut CudaStorage,
    out_layout: &Layout,
) -> Result<()> {
    let stream = x.device.cuda_stream();
    let dtype = out.dtype();
    // Each guard orders the launch after what other streams do with the memory, and those after the launch.
    let (first, _guard) = address_to_write(out, &stream)?;
    let address = first + (out_layout.start_offset() * dtype.size_in_bytes()) as u64;
    // SAFETY: the address and the layout are those of a tensor that nothing else uses.
    unsafe { launch(kernel, x, layout, Operand { address, layout: out_layout, dtype }) }
}

/// # Safety
/// `out` is memory on the GPU that nothing else uses.
unsafe fn launch<K: Kernel>(kernel: &K, x: &CudaStorage, layout: &Layout, out: Operand) -> Result<()> {
    let stream = x.device.cuda_stream();
    let others: Vec<_> = kernel.others().into_iter().map(Tensor::storage_and_layout).collect();
    let mut inputs = vec![(x, layout)];
    for (storage, layout) in &others {
        match &**storage {
            Storage::Cuda(storage) if storage.device.same_device(&x.device) => {
                inputs.push((storage, *layout))
            }
            _ => bail!("the operands of {} are on several devices", kernel.source().name),
        }
    }
    let (mut operands, mut guards) = (Vec::new(), Vec::new());
    for (storage, layout) in inputs {
        let (first, guard) = address(storage, &stream)?;
        let dtype = storage.dtype();
        let address = first + (layout.start_offset() * dtype.size_in_bytes()) as u64;
        operands.push(Operand { address, layout, dtype });
        guards.push(guard);
    }
    let launch = kernel.launch(operands[0], &operands[1..], out)?;
    let function = function(&x.device, kernel.source(), &launch.entry, launch.shared)?;
    let [columns, rows, layers] = launch.grid;
    let config = LaunchConfig {
        grid_dim: (columns, rows, layers),
        block_dim: (launch.block, 1, 1),
        shared_mem_bytes: launch.shared,
    };
    let parameter = Parameter(launch.arguments);
    let mut builder = stream.launch_builder(&function);
    builder.arg(&parameter);
    // SAFETY: the arguments are the struct that the kernel takes, of the size that the tests check; its addresses are those of tensors
    // with these layouts, which the guards keep.
    unsafe { builder.launch(config) }.w()?;
    Ok(())
}

/// The struct that a kernel takes.
#[repr(transparent)]
struct Parameter<A>(A);

// SAFETY: every `Kernel::Arguments` is `repr(C)` and has only numbers.
unsafe impl<A: Copy> DeviceRepr for Parameter<A> {}

/// The address of a storage that is complete, for as long as it exists.
pub(crate) fn address_of(storage: &CudaStorage) -> Result<u64> {
    address(storage, &storage.device.cuda_stream()).map(|(address, _)| address)
}

/// The address of a storage on the GPU, to read.
fn address<'a>(storage: &'a CudaStorage, stream: &'a CudaStream) -> Result<(u64, SyncOnDrop<'a>)> {
    Ok(match &storage.slice {
        CudaStorageSlice::U8(slice) => slice.device_ptr(stream),
        CudaStorageSlice::F32(slice) => slice.device_ptr(stream),
        CudaStorageSlice::F16(slice) => slice.device_ptr(stream),
        CudaStorageSlice::BF16(slice) => slice.device_ptr(stream),
        _ => bail!("the CUDA kernels do not support {:?}", storage.dtype()),
    })
}

/// The address of a storage on the GPU, to write.
fn address_to_write<'a>(
    storage: &'a mut CudaStorage,
    stream: &'a CudaStream,
) -> Result<(u64, SyncOnDrop<'a>)> {
    Ok(match &mut storage.slice {
        CudaStorageSlice::U8(slice) => slice.device_ptr_mut(stream),
        CudaStorageSlice::F32(slice) => slice.device_ptr_mut(stream),
        CudaStorageSlice::F16(slice) => slice.device_ptr_mut(stream),
        CudaStorageSlice::BF16(slice) => slice.device_ptr_mut(stream),
        _ => bail!("the CUDA kernels do not support this type of result"),
    })
}

/// The kernel `entry` of `source`, which may use `shared` bytes of dynamic shared memory.
fn function(device: &CudaDevice, source: &'static Source, entry: &str, shared: u32) -> Result<CudaFunction> {
    // A panic leaves the map as it was.
    let mut all = LOADED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let loaded = match all.entry((device.id(), source.name)) {
        Entry::Occupied(entry) => entry.into_mut(),
        Entry::Vacant(entry) => {
            entry.insert(Loaded { module: load(device, source)?, functions: HashMap::new() })
        }
    };
    if let Some(function) = loaded.functions.get(entry) {
        return Ok(function.clone());
    }
    let function = loaded.module.load_function(entry).w()?;
    if shared > DEFAULT_SHARED {
        let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(attribute, shared as i32).w()?;
    }
    loaded.functions.insert(entry.to_owned(), function.clone());
    Ok(function)
}

/// Compiles `source` and loads it.
fn load(device: &CudaDevice, source: &Source) -> Result<Arc<CudaModule>> {
    let stream = device.cuda_stream();
    let context = stream.context();
    let (major, minor) = context.compute_capability().w()?;
    let text = [&HEADERS[..], &[source.text]].concat().concat();
    // Machine code: the driver would refuse the PTX of a newer NVRTC. An NVRTC that does not know the GPU makes PTX.
    let ptx = match machine_code(&text, source.name, &format!("sm_{major}{minor}")) {
        Ok(code) => nvrtc::Ptx::from_binary(code),
        Err(error) => {
            let options = nvrtc::CompileOptions {
                arch: Some("compute_80"),
                options: vec!["--std=c++17".into()],
                ..Default::default()
            };
            nvrtc::compile_ptx_with_opts(&text, options)
                .map_err(|e| candle_core::Error::msg(format!("{}: {error}; {e}", source.name)))?
        }
    };
    context.load_module(ptx).w()
}

/// Compiles `text` for `arch`, such as "sm_90".
fn machine_code(text: &str, name: &str, arch: &str) -> std::result::Result<Vec<u8>, String> {
    let [text, name] = [text, name].map(CString::new);
    let (text, name) = (text.map_err(|e| e.to_string())?, name.map_err(|e| e.to_string())?);
    let program = nvrtc::result::create_program(&text, Some(&name)).map_err(|e| format!("{e:?}"))?;
    let options = ["--std=c++17".to_owned(), format!("--gpu-architecture={arch}")];
    // SAFETY: `program` was created above, and is destroyed below.
    let compiled = unsafe { nvrtc::result::compile_program(program, &options) };
    let code = compiled.map_err(|e| {
        // SAFETY: as above; the log ends with a zero.
        let log = unsafe { nvrtc::result::get_program_log(program) }.unwrap_or_else(|_| vec![0]);
        // SAFETY: as above.
        let log = unsafe { CStr::from_ptr(log.as_ptr()) }.to_string_lossy().into_owned();
        format!("{e:?}: {log}")
    });
    let code = code.and_then(|()| {
        let mut size = 0;
        // SAFETY: as above; the second call writes as many bytes as the first one gives.
        unsafe {
            nvrtc::sys::nvrtcGetCUBINSize(program, &mut size).result().map_err(|e| format!("{e:?}"))?;
            let mut code = vec![0u8; size];
            nvrtc::sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast())
                .result()
                .map_err(|e| format!("{e:?}"))?;
            Ok(code)
        }
    });
    // SAFETY: as above; it is not used afterwards.
    let _ = unsafe { nvrtc::result::destroy_program(program) };
    code
}
