//! Runs the kernels on a CPU: the sources compiled with `shim.h` by the C++ compiler, launched as on a GPU.
#![allow(unsafe_code, reason = "calls a shared library with the addresses of tensors")]

use std::cell::Cell;
use std::collections::HashMap;
use std::process::Command;
use std::sync::{LazyLock, Mutex};

use candle_core::{CpuStorage, DType, Device, Layout, Shape, Storage, Tensor};

use super::kernel::{Kernel, Launch, Operand, Source};

pub(super) const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// A compiled source.
struct Program {
    library: libloading::Library,
    /// Holds the library until the process ends.
    _folder: tempfile::TempDir,
}

static PROGRAMS: LazyLock<Mutex<HashMap<&'static str, &'static Program>>> = LazyLock::new(Mutex::default);

fn program(source: &Source) -> &'static Program {
    let mut programs = PROGRAMS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    programs.entry(source.name).or_insert_with(|| Box::leak(Box::new(compile(source))))
}

fn compile(source: &Source) -> Program {
    let folder = tempfile::tempdir().unwrap();
    let files = [
        ("shim.h", include_str!("kernels/shim.h")),
        ("values.cuh", include_str!("kernels/values.cuh")),
        ("kernel.cpp", source.text),
    ];
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    // Products and sums are rounded one by one, and memory is read as values of several types.
    let flags = "-std=c++17 -O2 -shared -fPIC -ffp-contract=off -fno-strict-aliasing -w";
    let output = Command::new(&compiler)
        .current_dir(folder.path())
        .args(flags.split(' '))
        .args(["-include", "shim.h", "-include", "values.cuh", "kernel.cpp", "-o", "kernel.so"])
        .output()
        .unwrap_or_else(|e| panic!("{compiler}: {e}; scripts/setup.sh installs a C++ compiler"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // SAFETY: the library has no constructors beyond those of the C++ runtime.
    let library = unsafe { libloading::Library::new(folder.path().join("kernel.so")) }.unwrap();
    Program { library, _folder: folder }
}

/// Memory with an address as of an allocation on a GPU, with `0xff` around the contents.
struct Memory {
    bytes: Vec<u8>,
    first: usize,
    length: usize,
}

impl Memory {
    const GUARD: usize = 1024;

    fn new(contents: &[u8]) -> Self {
        let mut bytes = vec![u8::MAX; contents.len() + 2 * Self::GUARD + 256];
        let first = Self::GUARD + bytes.as_ptr().wrapping_add(Self::GUARD).align_offset(256);
        bytes[first..][..contents.len()].copy_from_slice(contents);
        Self { bytes, first, length: contents.len() }
    }

    fn address(&self) -> u64 {
        self.bytes[self.first..].as_ptr() as u64
    }

    fn contents(&self) -> &[u8] {
        &self.bytes[self.first..][..self.length]
    }

    fn check(&self, what: &str) {
        let around = self.bytes[..self.first].iter().chain(&self.bytes[self.first + self.length..]);
        assert!(around.copied().all(|byte| byte == u8::MAX), "{what}: written beyond the end");
    }
}

/// The bytes of the whole storage of `x`.
fn bytes(x: &Tensor) -> Vec<u8> {
    let (storage, _) = x.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { panic!("a tensor on the CPU") };
    match storage {
        CpuStorage::F32(x) => x.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        CpuStorage::F16(x) => x.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        CpuStorage::BF16(x) => x.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        CpuStorage::U8(x) => x.clone(),
        _ => panic!("{:?}", x.dtype()),
    }
}

fn tensor(bytes: &[u8], dtype: DType, shape: &Shape) -> Tensor {
    Tensor::from_raw_buffer(bytes, dtype, shape.dims(), &Device::Cpu).unwrap()
}

/// Launches `launch` in both orders of the fibers.
fn start<A: Copy>(source: &Source, launch: &Launch<A>, backward: bool) {
    let library = &program(source).library;
    // SAFETY: `ENTRY` in shim.h defines these functions for every kernel.
    unsafe {
        let size: libloading::Symbol<unsafe extern "C" fn() -> u32> =
            library.get(format!("{}_size", launch.entry).as_bytes()).unwrap();
        assert_eq!(size(), size_of::<A>() as u32, "the arguments of {}", launch.entry);
        type Entry<A> = unsafe extern "C" fn(*const u32, u32, u32, i32, *const A) -> i32;
        let entry: libloading::Symbol<Entry<A>> = library.get(launch.entry.as_bytes()).unwrap();
        let Launch { grid, block, shared, arguments, .. } = launch;
        let status = entry(grid.as_ptr(), *block, *shared, backward.into(), arguments);
        assert_eq!(status, 0, "1: too many threads; 2: written beyond the shared memory");
    }
}

/// The kernel's result, the same in both orders of the fibers.
pub(super) fn run<K: Kernel>(kernel: &K, x: &Tensor) -> Tensor {
    let (shape, dtype) = kernel.result(x.layout(), x.dtype()).unwrap();
    let empty = vec![u8::MAX; shape.elem_count() * dtype.size_in_bytes()];
    let layout = Layout::contiguous(&shape);
    tensor(&run_into_bytes(kernel, x, &empty, &layout, dtype), dtype, &shape)
}

/// The tensor of which `out` is a view, after the kernel has written to that view.
pub(super) fn run_into<K: Kernel>(kernel: &K, x: &Tensor, whole: &Tensor, out: &Tensor) -> Tensor {
    let written = run_into_bytes(kernel, x, &bytes(whole), out.layout(), out.dtype());
    tensor(&written, whole.dtype(), whole.shape())
}

fn run_into_bytes<K: Kernel>(kernel: &K, x: &Tensor, out: &[u8], layout: &Layout, dtype: DType) -> Vec<u8> {
    let others = kernel.others();
    let inputs: Vec<_> = std::iter::once(x).chain(others).map(|x| (Memory::new(&bytes(x)), x)).collect();
    let results = [false, true].map(|backward| {
        let out = Memory::new(out);
        let operand = |memory: &Memory, layout, dtype: DType| {
            let first = Layout::start_offset(layout) * dtype.size_in_bytes();
            Operand { address: memory.address() + first as u64, layout, dtype }
        };
        let operands: Vec<_> =
            inputs.iter().map(|(memory, x)| operand(memory, x.layout(), x.dtype())).collect();
        let launch = kernel.launch(operands[0], &operands[1..], operand(&out, layout, dtype)).unwrap();
        start(kernel.source(), &launch, backward);
        out.check(&launch.entry);
        out.contents().to_vec()
    });
    let [forward, backward] = results;
    assert!(forward == backward, "{}: the result depends on the order of the threads", kernel.source().name);
    forward
}

/// Normally distributed values, the same ones in every run: a test has a thread of its own.
pub(super) fn random(shape: impl Into<Shape>, dtype: DType) -> Tensor {
    thread_local!(static NEXT: Cell<u64> = const { Cell::new(0) });
    // SplitMix64.
    let uniform = || {
        let next = NEXT.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        NEXT.set(next);
        let bits = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    };
    let shape = shape.into();
    let normal = || (-2.0 * (1.0 - uniform()).ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
    let values: Vec<f32> = (0..shape.elem_count()).map(|_| normal() as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

pub(super) fn values(x: &Tensor) -> Vec<f32> {
    x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The distance between `x` and the next greater number of `dtype`.
pub(super) fn ulp(x: f32, dtype: DType) -> f32 {
    let (bits, least) = match dtype {
        DType::BF16 => (7, -126),
        DType::F16 => (10, -14),
        _ => (23, -126),
    };
    let exponent = if x == 0.0 { least } else { (x.abs().log2().floor() as i32).max(least) };
    2f32.powi(exponent - bits)
}

/// The error of a kernel in f32, relative to the largest value.
pub(super) const KERNEL: f32 = 1e-6;

/// That of candle's operations, which sum thousands of values one after another.
pub(super) const PLAIN: f32 = 4e-6;

/// Checks that `a` equals `b` up to `error` × the largest value; in 16 bits up to one unit in the last place more.
pub(super) fn compare(a: &Tensor, b: &Tensor, error: f32, what: &str) {
    assert_eq!((a.shape(), a.dtype()), (b.shape(), b.dtype()), "{what}");
    let (dtype, a, b) = (a.dtype(), values(a), values(b));
    let largest = b.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        let unit = if dtype == DType::F32 { 0.0 } else { ulp(a.abs().max(b.abs()), dtype) };
        // Not `>`: false for NaN.
        let equal = (a - b).abs() <= error * largest + unit;
        assert!(equal, "{what}, {dtype:?}, {i}: {a} instead of {b} (largest {largest})");
    }
}
