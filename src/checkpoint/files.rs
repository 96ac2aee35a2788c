//! Opened weight files: safetensors or GGUF.

use std::fs::File;
use std::io::{BufReader, Cursor, ErrorKind, Read};
use std::path::{Path, PathBuf};

use candle_core::safetensors::{Load, MmapedSafetensors, SliceSafetensors};
use candle_core::{Device, Result, Tensor};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::gguf::Gguf;
use super::stored::{StoredFormat, StoredTensor};
use crate::Cancel;
use crate::hub::pointer;

const GGUF: &[u8] = b"GGUF";
/// Values that are converted between two checks for a cancel: 8 MiB of f32.
const PIECE: usize = 2 << 20;

/// The files of one part of a model.
pub enum WeightFiles {
    Mapped(MmapedSafetensors),
    Compiled(SliceSafetensors<'static>),
    Gguf(Gguf),
}

impl WeightFiles {
    /// Opens `paths`: safetensors files with different tensors, or one GGUF file. The first bytes decide which.
    ///
    /// # Errors
    /// Also for a Git LFS pointer in place of a file.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        paths.iter().try_for_each(|path| pointer::refuse(path))?;
        Ok(match paths {
            [path] if is_gguf(path)? => Self::Gguf(Gguf::open(BufReader::new(File::open(path)?))?),
            // SAFETY: the files are only read. If another program changes a mapped file meanwhile, the values change; if it
            // truncates the file, this process gets a signal. That holds for every mapped file.
            _ => Self::Mapped(unsafe { MmapedSafetensors::multi(paths)? }),
        })
    }

    /// Opens a file that is compiled into the program.
    pub fn compiled(bytes: &'static [u8]) -> Result<Self> {
        Ok(if bytes.starts_with(GGUF) {
            Self::Gguf(Gguf::open(Cursor::new(bytes))?)
        } else {
            Self::Compiled(SliceSafetensors::new(bytes)?)
        })
    }

    /// The bytes of a tensor in a safetensors file; `None` for GGUF.
    pub fn view(&self, name: &str) -> Result<Option<TensorView<'_>>> {
        match self {
            Self::Mapped(files) => files.get(name).map(Some),
            Self::Compiled(file) => file.get(name).map(Some),
            Self::Gguf(_) => Ok(None),
        }
    }

    /// All tensors with their names in the files.
    pub fn stored(&self) -> Vec<(String, StoredTensor)> {
        let describe = |(name, view): (String, TensorView)| {
            let (shape, bytes) = (view.shape().to_vec(), view.data().len() as u64);
            let mappable = shape.len() == 2 && StoredFormat::of(view.dtype()).is_some();
            (name, StoredTensor { shape, bytes, quantized: false, mappable })
        };
        match self {
            Self::Mapped(files) => files.tensors().into_iter().map(describe).collect(),
            Self::Compiled(file) => file.tensors().into_iter().map(describe).collect(),
            Self::Gguf(file) => file.tensors().collect(),
        }
    }

    /// Loads a tensor in the data type of the file; f32 from GGUF.
    pub fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        match self {
            Self::Mapped(files) => load_view(&files.get(name)?, device),
            Self::Compiled(file) => load_view(&file.get(name)?, device),
            Self::Gguf(file) => file.load(name, device),
        }
    }

    /// Loads a tensor as f32 on the CPU, and checks `cancel` on the way. `None` for GGUF and for other data types.
    pub fn load_f32(&self, name: &str, cancel: &Cancel) -> Result<Option<Tensor>> {
        let Some(view) = self.view(name)? else { return Ok(None) };
        let format = StoredFormat::of(view.dtype());
        if format.is_none() && view.dtype() != Dtype::F32 {
            return Ok(None);
        }
        let table = format.map(StoredFormat::table).transpose()?.unwrap_or_default();
        let width = format.map_or(size_of::<f32>(), StoredFormat::bytes);
        let mut values = vec![0.0; view.data().len() / width];
        for (out, bytes) in values.chunks_mut(PIECE).zip(view.data().chunks(PIECE * width)) {
            check(cancel)?;
            match format {
                Some(format) => format.expand(&table, bytes, out),
                None => out.iter_mut().zip(bytes.chunks_exact(width)).for_each(|(out, four)| {
                    *out = f32::from_le_bytes([four[0], four[1], four[2], four[3]]);
                }),
            }
        }
        Tensor::from_vec(values, view.shape(), &Device::Cpu).map(Some)
    }
}

/// Loads a tensor in the data type of the file; f32 if candle does not have that type.
pub fn load_view(view: &TensorView, device: &Device) -> Result<Tensor> {
    if view.dtype() != Dtype::F8_E5M2 {
        return view.load(device);
    }
    let mut values = vec![0.0; view.data().len()];
    StoredFormat::F8E5M2.expand(&StoredFormat::F8E5M2.table()?, view.data(), &mut values);
    Tensor::from_vec(values, view.shape(), device)
}

/// [`Cancel::check`] with candle's error.
pub fn check(cancel: &Cancel) -> Result<()> {
    cancel.check().map_err(|error| candle_core::Error::Msg(error.to_string()))
}

/// Whether the file at `path` begins with the magic bytes of GGUF.
pub fn is_gguf(path: &Path) -> std::io::Result<bool> {
    let mut magic = [0; GGUF.len()];
    match File::open(path)?.read_exact(&mut magic) {
        Ok(()) => Ok(magic == GGUF),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}
