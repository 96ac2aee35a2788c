//! Matrices that stay in their file: what is needed of them becomes f32 when it is needed.

use std::fmt;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::Linear;
use half::f16;
use half::slice::HalfFloatSliceExt;
use safetensors::Dtype;

use super::weights::Files;
use crate::kernels::expanded::{Rows, multiply};
use crate::kernels::{arch, borrowed};
use crate::ops;

/// A matrix in a file that is mapped into memory. Clones share the file.
#[derive(Clone)]
pub struct Mapped {
    pub(super) files: Arc<Files>,
    pub(super) name: String,
    pub(super) shape: [usize; 2],
    pub(super) numbers: WeightFormat,
    /// What the numbers are multiplied with: one for all, or one a row.
    pub(super) scale: Option<Vec<f32>>,
}

/// What the file has of it.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum WeightFormat {
    BF16,
    F16,
    F8,
}

impl WeightFormat {
    pub(super) fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::BF16 => Some(Self::BF16),
            Dtype::F16 => Some(Self::F16),
            Dtype::F8_E4M3 => Some(Self::F8),
            _ => None,
        }
    }

    fn bytes(self) -> usize {
        if self == Self::F8 { 1 } else { 2 }
    }

    /// What each byte stands for, where a number is a byte.
    fn table(self) -> Result<Vec<f32>> {
        if self != Self::F8 {
            return Ok(Vec::new());
        }
        let bytes: Vec<u8> = (0..=u8::MAX).collect();
        let all = Tensor::from_raw_buffer(&bytes, DType::F8E4M3, &[bytes.len()], &Device::Cpu)?;
        all.to_dtype(DType::F32)?.to_vec1()
    }

    /// `bytes` of the file to `out`.
    #[inline(always)]
    fn expand(self, table: &[f32], bytes: &[u8], out: &mut [f32]) {
        // What is mapped is not aligned.
        let pairs = || bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        match self {
            Self::BF16 => out
                .iter_mut()
                .zip(pairs())
                .for_each(|(out, bits)| *out = f32::from_bits(u32::from(bits) << 16)),
            Self::F16 => {
                let mut aligned = [f16::ZERO; 64];
                for (out, bytes) in out.chunks_mut(aligned.len()).zip(bytes.chunks(2 * aligned.len())) {
                    let aligned = &mut aligned[..out.len()];
                    for (number, pair) in aligned.iter_mut().zip(bytes.chunks_exact(2)) {
                        *number = f16::from_le_bytes([pair[0], pair[1]]);
                    }
                    aligned.convert_to_f32_slice(out);
                }
            }
            Self::F8 => {
                out.iter_mut().zip(bytes).for_each(|(out, &byte)| *out = table[usize::from(byte)]);
            }
        }
    }
}

impl Mapped {
    /// The layer of these weights, for the contiguous f32 `x` `[.., columns]`.
    pub(crate) fn multiply(&self, x: &Tensor) -> Result<Tensor> {
        let [rows, columns] = self.shape;
        debug_assert!(x.is_contiguous(), "strided operand {:?}", x.layout());
        debug_assert!(x.elem_count() > 0, "empty operand");
        if x.dims().last() != Some(&columns) {
            bail!("{:?} times {} of [{rows}, {columns}]", x.shape(), self.name);
        }
        ops::check_count(x.elem_count() / columns, rows)?;
        let Some(view) = self.files.view(&self.name)? else { bail!("{} is not mapped", self.name) };
        let numbers = InPlace { mapped: self, bytes: view.data(), table: self.numbers.table()? };
        let Some(arch) = arch(x.dtype(), x.device()) else {
            let mut all = vec![0.0; rows * columns];
            all.chunks_exact_mut(columns).enumerate().for_each(|(row, out)| numbers.expand(row, 0, out));
            return ops::linear(&Linear::new(Tensor::from_vec(all, (rows, columns), x.device())?, None), x);
        };
        let product = multiply(arch, borrowed(x).values()?, &numbers);
        let mut shape = x.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = rows;
        }
        Tensor::from_vec(product, shape, x.device())
    }
}

/// The matrix, and the file's bytes of it.
struct InPlace<'a> {
    mapped: &'a Mapped,
    bytes: &'a [u8],
    table: Vec<f32>,
}

impl Rows for InPlace<'_> {
    fn shape(&self) -> [usize; 2] {
        self.mapped.shape
    }

    #[inline(always)]
    fn expand(&self, row: usize, from: usize, out: &mut [f32]) {
        let Mapped { shape: [_, columns], numbers, scale, .. } = self.mapped;
        let place = (row * columns + from) * numbers.bytes();
        numbers.expand(&self.table, &self.bytes[place..place + out.len() * numbers.bytes()], out);
        if let Some(scale) = scale {
            let scale = scale.get(row).unwrap_or(&scale[0]);
            out.iter_mut().for_each(|x| *x *= scale);
        }
    }
}

impl fmt::Debug for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapped").field("name", &self.name).field("shape", &self.shape).finish_non_exhaustive()
    }
}
