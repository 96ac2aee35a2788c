//! What is common to the kernels: their operands, their launch, and the choice between a kernel and its plain form.

use candle_core::{CpuStorage, CustomOp1, DType, InplaceOp2, Layout, Result, Shape, Tensor, bail};

/// A source file, and how its kernels are found.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) name: &'static str,
    /// CUDA C++ without includes, to follow the common headers.
    pub(super) text: &'static str,
}

/// The headers that precede a source for a GPU.
#[cfg(feature = "cuda")]
pub(super) const HEADERS: [&str; 2] =
    [include_str!("kernels/device.cuh"), include_str!("kernels/values.cuh")];

/// A tensor as a kernel reads or writes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operand<'a> {
    /// Of the first element.
    pub(super) address: u64,
    pub(super) layout: &'a Layout,
    pub(super) dtype: DType,
}

impl Operand<'_> {
    /// The elements between two entries along `dim`.
    pub(super) fn stride(&self, dim: usize) -> i64 {
        self.layout.stride()[dim] as i64
    }

    /// Whether rows along the last dimension can be read 16 bytes at a time.
    pub(super) fn is_aligned(&self) -> bool {
        let (dims, strides) = (self.layout.dims(), self.layout.stride());
        let rows = dims.iter().zip(strides).rev().skip(1);
        let aligned = rows.filter(|(size, _)| **size > 1).all(|(_, stride)| stride.is_multiple_of(8));
        aligned && self.address.is_multiple_of(16) && dims.last().is_none_or(|size| size.is_multiple_of(8))
    }
}

/// A kernel's launch.
#[derive(Clone, Debug)]
pub(super) struct Launch<A> {
    /// The name of the kernel in the source.
    pub(super) entry: String,
    /// Blocks.
    pub(super) grid: [u32; 3],
    /// Threads per block.
    pub(super) block: u32,
    /// Bytes of dynamic shared memory.
    pub(super) shared: u32,
    /// The struct that the kernel takes.
    pub(super) arguments: A,
}

/// A kernel with its operands besides the first one, `x`.
pub(super) trait Kernel: Sized + Sync {
    /// `#[repr(C)]`, as in the source; addresses are `u64`.
    type Arguments: Copy;

    fn source(&self) -> &'static Source;

    /// The operands besides `x`.
    fn others(&self) -> Vec<&Tensor>;

    /// Whether the kernel supports these operands; otherwise the plain form is used.
    fn supports(&self, x: &Tensor) -> bool;

    /// The shape and type of the result.
    fn result(&self, x: &Layout, dtype: DType) -> Result<(Shape, DType)>;

    fn launch(&self, x: Operand, others: &[Operand], out: Operand) -> Result<Launch<Self::Arguments>>;

    /// The same with candle's operations.
    fn plain(&self, x: &Tensor) -> Result<Tensor>;
}

/// Applies `kernel` to `x`, or its plain form where there is no GPU for it.
pub(super) fn apply<K: Kernel>(kernel: &K, x: &Tensor) -> Result<Tensor> {
    if is_usable(kernel, x) { x.apply_op1_no_bwd(&Op(kernel)) } else { kernel.plain(x) }
}

/// Like [`apply`], with the result in the rows from `first` on of the contiguous `out`, which does not share memory with `x`.
pub(super) fn apply_into<K: Kernel>(kernel: &K, x: &Tensor, out: &Tensor, first: usize) -> Result<()> {
    let (shape, dtype) = kernel.result(x.layout(), x.dtype())?;
    let rows = out.narrow(0, first, shape.dim(0)?)?;
    if shape != *rows.shape() || dtype != out.dtype() {
        bail!("{} writes {shape:?} {dtype:?}, not {out:?}", kernel.source().name);
    }
    if is_usable(kernel, x) {
        return rows.inplace_op2(x, &Op(kernel));
    }
    out.slice_set(&kernel.plain(x)?.contiguous()?, 0, first)
}

fn is_usable<K: Kernel>(kernel: &K, x: &Tensor) -> bool {
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(device) = x.device() {
        return x.elem_count() > 0 && kernel.supports(x) && super::program::is_supported(device);
    }
    let _ = (kernel, x);
    false
}

/// For `apply_op1_no_bwd` and `inplace_op2`.
struct Op<'a, K>(&'a K);

impl<K: Kernel> CustomOp1 for Op<'_, K> {
    fn name(&self) -> &'static str {
        self.0.source().name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("{} runs on CUDA", self.0.source().name)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        super::program::run(self.0, x, layout)
    }
}

impl<K: Kernel> InplaceOp2 for Op<'_, K> {
    fn name(&self) -> &'static str {
        self.0.source().name
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<()> {
        bail!("{} runs on CUDA", self.0.source().name)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        out: &mut candle_core::CudaStorage,
        out_layout: &Layout,
        x: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> Result<()> {
        super::program::run_into(self.0, x, layout, out, out_layout)
    }
}

/// The name of `dtype` in the names of kernels.
pub(super) fn suffix(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("f32"),
        DType::F16 => Ok("f16"),
        DType::BF16 => Ok("bf16"),
        _ => bail!("the CUDA kernels do not support {dtype:?}"),
    }
}

pub(super) fn is_float(dtype: DType) -> bool {
    suffix(dtype).is_ok()
}

/// The greatest number of values in a row that a block keeps in registers, 16 in each thread.
pub(super) const MAX_ROW: usize = 16 * 1024;

/// The number of threads that keep a row of `dim` values, whole warps.
pub(super) fn row_threads(dim: usize) -> u32 {
    (dim.div_ceil(16).next_multiple_of(32)) as u32
}

/// The strides of `x`, seen as rows along the last dimension with the same distance between any two; `None` if it differs, or if the
/// values of a row have gaps.
pub(super) fn row_stride(x: &Layout) -> Option<usize> {
    let (dims, strides) = (x.dims(), x.stride());
    let (&last, rows) = dims.split_last()?;
    if last > 1 && strides[dims.len() - 1] != 1 {
        return None;
    }
    let mut found: Option<(usize, usize)> = None;
    for (&size, &stride) in rows.iter().zip(strides).rev().filter(|(size, _)| **size > 1) {
        found = match found {
            None => Some((stride, stride * size)),
            Some((row, next)) if stride == next => Some((row, stride * size)),
            Some(_) => return None,
        };
    }
    Some(found.map_or(last, |(row, _)| row))
}

/// The number of rows along the last dimension.
pub(super) fn rows(x: &Layout) -> usize {
    x.dims().iter().rev().skip(1).product()
}

/// A grid of at least `count` threads in blocks of `block`.
pub(super) fn blocks(count: usize, block: u32) -> Result<[u32; 3]> {
    match i32::try_from(count.div_ceil(block as usize)) {
        Ok(blocks) => Ok([blocks as u32, 1, 1]),
        Err(_) => bail!("{count} threads are too many"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn rows_are_found_in_views() {
        let x = Tensor::zeros((2, 3, 40), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(row_stride(x.layout()), Some(40));
        assert_eq!(row_stride(x.narrow(2, 8, 8).unwrap().layout()), Some(40));
        assert_eq!(row_stride(x.narrow(1, 1, 1).unwrap().layout()), Some(120));
        assert_eq!(row_stride(x.narrow(1, 0, 2).unwrap().layout()), None);
        assert_eq!(row_stride(x.transpose(1, 2).unwrap().layout()), None);
        assert_eq!(rows(x.layout()), 6);
        assert_eq!([16, 17 * 32, 1536, 5120].map(row_threads), [32, 64, 96, 320]);
    }
}
