//! Weights in a GGUF file (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>).
//!
//! This module reads the header itself: candle accepts at most four dimensions, and convolutions of video models have
//! five.

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};
use std::sync::{Mutex, PoisonError};

use candle_core::quantized::ggml_file::qtensor_from_ggml;
use candle_core::quantized::gguf_file::TensorInfo;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Result, Tensor, bail};

use super::stored::StoredTensor;

/// The bytes of a GGUF file: a file or memory.
pub trait Reader: Read + Seek + Send {}

impl<T: Read + Seek + Send> Reader for T {}

/// An opened GGUF file.
pub struct Gguf {
    tensors: HashMap<String, TensorInfo>,
    /// Offset of the tensors' data.
    data: u64,
    reader: Mutex<Box<dyn Reader>>,
}

/// Limits far above those of real files, so that a damaged header cannot allocate much.
const MAX_NAME: u64 = 1 << 16;
const MAX_DIMS: u32 = 8;
const MAX_ENTRIES: u64 = 1 << 20;

impl Gguf {
    pub fn open(mut reader: impl Reader + 'static) -> Result<Self> {
        let length = reader.seek(SeekFrom::End(0))?;
        reader.seek(SeekFrom::Start(0))?;
        let mut header = Header { reader: &mut reader, length };
        let (magic, version) = (header.bytes::<4>()?, header.u32()?);
        if magic != *b"GGUF" || !(2..=3).contains(&version) {
            bail!("GGUF version {version} is not supported; 2 and 3 are");
        }
        let (tensors, entries) = (header.u64()?, header.u64()?);
        if tensors > MAX_ENTRIES || entries > MAX_ENTRIES {
            bail!("the file is damaged: its header lists {tensors} tensors and {entries} entries");
        }
        let mut alignment = 32;
        for _ in 0..entries {
            let name = header.name()?;
            let kind = header.u32()?;
            match (name.as_str(), kind) {
                ("general.alignment", U32) => alignment = u64::from(header.u32()?),
                _ => header.skip(kind, 0)?,
            }
        }
        let tensors = (0..tensors).map(|_| header.tensor()).collect::<Result<_>>()?;
        let end = reader.stream_position()?;
        if !alignment.is_power_of_two() {
            bail!("the file is damaged: an alignment of {alignment} bytes");
        }
        let Some(data) = end.checked_next_multiple_of(alignment) else { bail!("the file is damaged") };
        let gguf = Self { tensors, data, reader: Mutex::new(Box::new(reader)) };
        gguf.check(length)?;
        Ok(gguf)
    }

    /// Checks that every tensor lies within the file, so that no memory is allocated for missing data, and that none is
    /// empty: candle would dereference a null pointer.
    fn check(&self, length: u64) -> Result<()> {
        for (name, TensorInfo { shape, offset, ggml_dtype }) in &self.tensors {
            if shape.dims().contains(&0) {
                bail!("{name} of {shape:?} is empty: the file is damaged");
            }
            let elements = shape.dims().iter().try_fold(1_u64, |n, &dim| n.checked_mul(dim as u64));
            let block = ggml_dtype.block_size() as u64;
            let end = elements.filter(|n| n.is_multiple_of(block)).and_then(|n| {
                let bytes = (n / block).checked_mul(ggml_dtype.type_size() as u64)?;
                self.data.checked_add(*offset)?.checked_add(bytes)
            });
            if end.is_none_or(|end| end > length) {
                bail!("{name} of {shape:?} is incomplete: the file is damaged or truncated");
            }
        }
        Ok(())
    }

    /// All tensors. Some writers flatten a tensor of more than four dimensions, others keep all dimensions.
    pub fn tensors(&self) -> impl Iterator<Item = (String, StoredTensor)> {
        self.tensors.iter().map(|(name, info)| {
            let shape = info.shape.dims().to_vec();
            let bytes = bytes(info.shape.elem_count(), info.ggml_dtype);
            let quantized = is_quantized(info);
            (name.clone(), StoredTensor { shape, bytes: bytes as u64, quantized, mappable: false })
        })
    }

    /// Loads a tensor as f32.
    pub fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        self.read(self.info(name)?, device)?.dequantize(device)
    }

    /// Loads a tensor in its quantized blocks; `None` if it is not quantized.
    pub fn quantized(&self, name: &str, device: &Device) -> Result<Option<QTensor>> {
        let info = self.info(name)?;
        is_quantized(info).then(|| self.read(info, device)).transpose()
    }

    /// The rows `indices` of a matrix of `rows` × `width`: f32 `[indices, width]`.
    pub fn rows(&self, name: &str, (rows, width): (usize, usize), indices: &[u32]) -> Result<Tensor> {
        let info = self.info(name)?;
        if info.shape.dims() != [rows, width] || !width.is_multiple_of(info.ggml_dtype.block_size()) {
            bail!("{name} has the shape {:?}, not [{rows}, {width}]", info.shape);
        }
        let row = bytes(width, info.ggml_dtype);
        let mut blocks = vec![0; row * indices.len()];
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        for (blocks, &index) in blocks.chunks_exact_mut(row).zip(indices) {
            reader.seek(SeekFrom::Start(self.data + info.offset + u64::from(index) * row as u64))?;
            reader.read_exact(blocks)?;
        }
        qtensor_from_ggml(info.ggml_dtype, &blocks, vec![indices.len(), width], &Device::Cpu)?
            .dequantize(&Device::Cpu)
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        match self.tensors.get(name) {
            Some(info) => Ok(info),
            None => bail!("there is no tensor {name}"),
        }
    }

    fn read(&self, info: &TensorInfo, device: &Device) -> Result<QTensor> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        info.read(&mut *reader, self.data, device)
    }
}

fn is_quantized(info: &TensorInfo) -> bool {
    !matches!(info.ggml_dtype, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16)
}

/// Bytes of `count` values.
fn bytes(count: usize, dtype: GgmlDType) -> usize {
    count / dtype.block_size() * dtype.type_size()
}

// Types of metadata values.
const U32: u32 = 4;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

struct Header<'a, R> {
    reader: &'a mut R,
    length: u64,
}

impl<R: Read + Seek> Header<'_, R> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn name(&mut self) -> Result<String> {
        let length = self.u64()?;
        if length > MAX_NAME {
            bail!("the file is damaged: a name of {length} bytes");
        }
        let mut bytes = vec![0; length as usize];
        self.reader.read_exact(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn tensor(&mut self) -> Result<(String, TensorInfo)> {
        let name = self.name()?;
        let dims = self.u32()?;
        if dims > MAX_DIMS {
            bail!("the file is damaged: {name} has {dims} dimensions");
        }
        let mut shape = (0..dims)
            .map(|_| usize::try_from(self.u64()?).map_err(candle_core::Error::wrap))
            .collect::<Result<Vec<_>>>()?;
        // GGUF lists the innermost dimension first.
        shape.reverse();
        let kind = self.u32()?;
        let Some(ggml_dtype) = dtype(kind) else {
            bail!(
                "{name} has the quantization type {kind}, which is not supported; F16, Q8_0 and Q4_K to Q6_K are"
            )
        };
        Ok((name, TensorInfo { shape: shape.into(), offset: self.u64()?, ggml_dtype }))
    }

    /// Skips a metadata value.
    fn skip(&mut self, kind: u32, depth: u32) -> Result<()> {
        let bytes = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            STRING => self.u64()?,
            ARRAY if depth < 4 => {
                let (kind, count) = (self.u32()?, self.u64()?);
                let width = match kind {
                    0 | 1 | 7 => 1,
                    2 | 3 => 2,
                    4..=6 => 4,
                    10..=12 => 8,
                    // Arrays of strings are long in tokenizers; each string takes 8 bytes or more.
                    _ if count > self.length / 8 => bail!("the file is damaged: an array of {count} values"),
                    _ => {
                        for _ in 0..count {
                            self.skip(kind, depth + 1)?;
                        }
                        0
                    }
                };
                count.saturating_mul(width)
            }
            _ => bail!("the file is damaged: a value of type {kind}"),
        };
        let position = self.reader.stream_position()?;
        match position.checked_add(bytes).filter(|end| *end <= self.length) {
            Some(end) => drop(self.reader.seek(SeekFrom::Start(end))?),
            None => bail!("the file is damaged or truncated"),
        }
        Ok(())
    }
}

/// The data type with ggml's number `kind`, if candle supports it.
fn dtype(kind: u32) -> Option<GgmlDType> {
    Some(match kind {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_tensor_is_an_error() {
        // One f32 tensor "x" of shape [0] or [1] at offset 0.
        let file = |length: u64| {
            let (one, none) = (1_u64.to_le_bytes(), 0_u64.to_le_bytes());
            let name = [&one[..], b"x"].concat();
            let shape = [&1_u32.to_le_bytes()[..], &length.to_le_bytes(), &0_u32.to_le_bytes()].concat();
            [b"GGUF\x03\0\0\0", &one[..], &none, &name, &shape, &none, &[0; 64]].concat()
        };
        assert!(Gguf::open(std::io::Cursor::new(file(1))).unwrap().load("x", &Device::Cpu).is_ok());
        let error = Gguf::open(std::io::Cursor::new(file(0))).err().unwrap().to_string();
        assert!(error.contains("x of [0] is empty"), "{error}");
    }
}
