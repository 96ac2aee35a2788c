//! The tensors of a part of a model, under the engine's names, whichever way its file has them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Cursor, Read};
use std::path::PathBuf;

use candle_core::safetensors::{Load, MmapedSafetensors, SliceSafetensors};
use candle_core::{DType, Device, Error, Result, Shape, Tensor, bail};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;

use super::gguf::Gguf;
use super::lora::{self, Changes, Lora};
use super::names::{self, Part};

/// What a scaled fp8 weight is multiplied with stands beside it: ComfyUI's name, and that of others.
const SCALES: [&str; 2] = ["scale_weight", "weight_scale"];

/// Opened files of weights.
pub struct Weights {
    files: Files,
    /// From the engine's names to those in the files.
    names: HashMap<String, String>,
    /// What is added to them.
    changes: Vec<Changes>,
}

enum Files {
    Mapped(MmapedSafetensors),
    Compiled(SliceSafetensors<'static>),
    Gguf(Gguf),
}

impl Weights {
    /// The files at `paths`: safetensors, each with some of the tensors, or one GGUF. What it is, the first bytes tell.
    pub fn open(part: Option<Part>, paths: &[PathBuf]) -> Result<Self> {
        let files = match paths {
            [path] if is_gguf(path)? => Files::Gguf(Gguf::open(BufReader::new(File::open(path)?))?),
            // SAFETY: the files are only read. Whoever changes a weight file under a running program gets other
            // numbers, or a signal if he cuts it short, as with every mapped file.
            _ => Files::Mapped(unsafe { MmapedSafetensors::multi(paths)? }),
        };
        Ok(Self::new(part, files))
    }

    /// A file that is compiled in.
    pub fn compiled(part: Option<Part>, bytes: &'static [u8]) -> Result<Self> {
        let files = if bytes.starts_with(GGUF) {
            Files::Gguf(Gguf::open(Cursor::new(bytes))?)
        } else {
            Files::Compiled(SliceSafetensors::new(bytes)?)
        };
        Ok(Self::new(part, files))
    }

    fn new(part: Option<Part>, files: Files) -> Self {
        let all = files.shapes();
        let names = match part {
            Some(part) => names::by_engine_names(part, all.iter().map(|(name, _)| name.as_str())),
            None => all.into_iter().map(|(name, _)| (name.clone(), name)).collect(),
        };
        Self { files, names, changes: Vec::new() }
    }

    /// Adds what the files of `loras` have for them.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for one with something that none of the tensors here can be.
    pub fn change(&mut self, part: Part, loras: &[Lora]) -> crate::Result<()> {
        for lora in loras {
            let changes = Changes::open(lora, part, &self.names).map_err(|e| lora::about(&lora.path, &e))?;
            self.changes.push(changes);
        }
        Ok(())
    }

    /// The tensors' shapes by the engine's names; nothing is loaded.
    pub fn shapes(&self) -> HashMap<String, Vec<usize>> {
        let in_file: HashMap<_, _> = self.files.shapes().into_iter().collect();
        self.names
            .iter()
            .filter_map(|(name, theirs)| Some((name.clone(), in_file.get(theirs)?.clone())))
            .collect()
    }

    fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let missing = || Error::CannotFindTensor { path: name.into() };
        let in_file = self.names.get(name).ok_or_else(missing)?;
        let mut tensor = self.files.load(in_file, device)?;
        if !tensor.dtype().is_float() {
            bail!("{in_file} is of {}, which weights are not made of", tensor.dtype().as_str());
        }
        if tensor.dtype() == DType::F8E4M3 {
            tensor = tensor.to_dtype(DType::F32)?;
            if let Some(scale) = self.scale(name, device)? {
                tensor = tensor.broadcast_mul(&scale)?;
            }
        }
        if !self.changes.is_empty() {
            tensor = tensor.to_dtype(DType::F32)?;
            for changes in &self.changes {
                tensor = changes.apply(name, tensor, device)?;
            }
        }
        tensor.to_dtype(dtype)
    }

    /// One number, or one a row.
    fn scale(&self, name: &str, device: &Device) -> Result<Option<Tensor>> {
        let Some(layer) = name.strip_suffix("weight") else { return Ok(None) };
        let Some(in_file) = SCALES.iter().find_map(|scale| self.names.get(&format!("{layer}{scale}"))) else {
            return Ok(None);
        };
        let scale = self.files.load(in_file, device)?.to_dtype(DType::F32)?;
        match scale.elem_count() {
            1 => scale.reshape(()).map(Some),
            rows => scale.reshape((rows, 1)).map(Some),
        }
    }
}

impl Files {
    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        match self {
            Self::Mapped(files) => {
                files.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec())).collect()
            }
            Self::Compiled(file) => {
                file.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec())).collect()
            }
            Self::Gguf(file) => {
                file.tensors().map(|(name, shape)| (name.to_string(), shape.dims().to_vec())).collect()
            }
        }
    }

    fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        match self {
            Self::Mapped(files) => files.get(name)?.load(device),
            Self::Compiled(file) => file.get(name)?.load(device),
            Self::Gguf(file) => file.load(name, device),
        }
    }
}

impl SimpleBackend for Weights {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let tensor = self.load(name, dtype, device)?;
        if tensor.shape() == &shape {
            return Ok(tensor);
        }
        if matches!(self.files, Files::Gguf(_)) && tensor.elem_count() == shape.elem_count() {
            return tensor.reshape(shape);
        }
        Err(Error::UnexpectedShape {
            msg: format!("shape mismatch for {name}"),
            expected: shape,
            got: tensor.shape().clone(),
        }
        .bt())
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        self.load(name, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }
}

const GGUF: &[u8] = b"GGUF";

/// Whether the file at `path` begins as GGUF does.
pub fn is_gguf(path: &std::path::Path) -> std::io::Result<bool> {
    let mut magic = [0; GGUF.len()];
    match File::open(path)?.read_exact(&mut magic) {
        Ok(()) => Ok(magic == GGUF),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}
