//! How a tensor is stored in its file.

use candle_core::{DType, Device, Result, Tensor};
use half::f16;
use half::slice::HalfFloatSliceExt;
use safetensors::Dtype;

/// The description of a tensor in a file; nothing is loaded.
#[derive(Clone, Debug)]
pub struct StoredTensor {
    pub shape: Vec<usize>,
    pub bytes: u64,
    /// Whether it is stored in GGUF blocks, which layers can compute with.
    pub quantized: bool,
    /// Whether it is a matrix that can stay in the file as a [`MappedMatrix`](super::mapped::MappedMatrix).
    pub mappable: bool,
}

/// A data type of weights that needs fewer bytes than f32.
#[derive(Clone, Copy, PartialEq)]
pub enum StoredFormat {
    BF16,
    F16,
    F8E4M3,
    F8E5M2,
}

impl StoredFormat {
    pub fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::BF16 => Some(Self::BF16),
            Dtype::F16 => Some(Self::F16),
            Dtype::F8_E4M3 => Some(Self::F8E4M3),
            Dtype::F8_E5M2 => Some(Self::F8E5M2),
            _ => None,
        }
    }

    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        if self.is_fp8() { 1 } else { 2 }
    }

    /// Whether it has 8 bits. Such a weight may have a scale.
    pub fn is_fp8(self) -> bool {
        matches!(self, Self::F8E4M3 | Self::F8E5M2)
    }

    /// The value of each byte for a format of one byte; empty for the others.
    pub fn table(self) -> Result<Vec<f32>> {
        let bytes = 0..=u8::MAX;
        match self {
            Self::BF16 | Self::F16 => Ok(Vec::new()),
            Self::F8E4M3 => {
                let bytes: Vec<u8> = bytes.collect();
                let values = Tensor::from_raw_buffer(&bytes, DType::F8E4M3, &[bytes.len()], &Device::Cpu)?;
                values.to_dtype(DType::F32)?.to_vec1()
            }
            // The upper half of an f16.
            Self::F8E5M2 => Ok(bytes.map(|byte| f16::from_bits(u16::from(byte) << 8).to_f32()).collect()),
        }
    }

    /// Converts `bytes` of the file to f32.
    #[inline(always)]
    pub fn expand(self, table: &[f32], bytes: &[u8], out: &mut [f32]) {
        // Bytes of a mapped file are not aligned.
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
                    for (value, pair) in aligned.iter_mut().zip(bytes.chunks_exact(2)) {
                        *value = f16::from_le_bytes([pair[0], pair[1]]);
                    }
                    aligned.convert_to_f32_slice(out);
                }
            }
            Self::F8E4M3 | Self::F8E5M2 => {
                out.iter_mut().zip(bytes).for_each(|(out, &byte)| *out = table[usize::from(byte)]);
            }
        }
    }
}
