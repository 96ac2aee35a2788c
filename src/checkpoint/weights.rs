//! The tensors of a part of a model, under the engine's names, whichever way its file has them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Cursor, Read};
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::safetensors::{Load, MmapedSafetensors, SliceSafetensors};
use candle_core::{DType, Device, Error, Result, Shape, Tensor, bail};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;
use safetensors::tensor::TensorView;

use super::gguf::Gguf;
use super::lora::{self, Changes, Lora};
use super::mapped::{Mapped, WeightFormat};
use super::names::{self, Part};

/// What a scaled fp8 weight is multiplied with stands beside it: ComfyUI's name, and that of others.
const SCALES: [&str; 2] = ["scale_weight", "weight_scale"];

/// Opened files of weights. Clones share them.
#[derive(Clone)]
pub struct Weights {
    files: Arc<Files>,
    /// From the engine's names to those in the files.
    names: Arc<HashMap<String, String>>,
    /// What is added to them.
    changes: Arc<[Changes]>,
}

/// A tensor as its file has it.
#[derive(Clone, Debug)]
pub struct Stored {
    pub shape: Vec<usize>,
    pub bytes: u64,
    /// Whether it is in blocks of a GGUF file, which can be computed with.
    pub quantised: bool,
    /// Whether it is a matrix that can stay where it is: [`Mapped`].
    pub mapped: bool,
}

/// A matrix that stays in blocks.
pub struct Blocks {
    pub weight: QTensor,
    /// Pairs of matrices, `[rank, n_in]` and `[n_out, rank]`, whose products are added to it.
    pub added: Vec<(Tensor, Tensor)>,
}

pub(super) enum Files {
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
        let all = files.stored();
        let names = match part {
            Some(part) => names::by_engine_names(part, all.iter().map(|(name, _)| name.as_str())),
            None => all.into_iter().map(|(name, _)| (name.clone(), name)).collect(),
        };
        Self { files: Arc::new(files), names: Arc::new(names), changes: Arc::new([]) }
    }

    /// Adds what the files of `loras` have for them.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for one with something that none of the tensors here can be.
    pub fn change(&mut self, part: Part, loras: &[Lora]) -> crate::Result<()> {
        let open = |lora| Changes::open(lora, part, &self.names).map_err(|e| lora::about(&lora.path, &e));
        self.changes = loras.iter().map(open).collect::<crate::Result<_>>()?;
        Ok(())
    }

    /// The tensors by the engine's names; nothing is loaded. What has to be added to blocks counts with them, and blocks
    /// that something else is added to do not stay any.
    pub fn stored(&self) -> HashMap<String, Stored> {
        let in_file: HashMap<_, _> = self.files.stored().into_iter().collect();
        let stored = |(name, theirs): (&String, &String)| {
            let mut stored = in_file.get(theirs)?.clone();
            if stored.quantised {
                stored.quantised = !self.changes.iter().any(|changes| changes.is_wide(name));
                stored.bytes += self.changes.iter().map(|changes| changes.narrow_bytes(name)).sum::<u64>();
            }
            stored.mapped &= self.changes.is_empty();
            Some((name.clone(), stored))
        };
        self.names.iter().filter_map(stored).collect()
    }

    /// Their shapes alone.
    pub fn shapes(&self) -> HashMap<String, Vec<usize>> {
        self.stored().into_iter().map(|(name, stored)| (name, stored.shape)).collect()
    }

    /// The matrix `name` in the blocks that the file has of it, and what is added to it; `None` if it has numbers, or whole
    /// matrices are added to them.
    pub fn quantised(&self, name: &str, device: &Device) -> Result<Option<Blocks>> {
        let (Files::Gguf(file), Some(in_file)) = (&*self.files, self.names.get(name)) else {
            return Ok(None);
        };
        if self.changes.iter().any(|changes| changes.is_wide(name)) {
            return Ok(None);
        }
        let Some(weight) = file.quantised(in_file, device)? else { return Ok(None) };
        let narrow = |changes: &Changes| changes.narrow(name, weight.shape().dims(), device).transpose();
        let added = self.changes.iter().filter_map(narrow).collect::<Result<_>>()?;
        Ok(Some(Blocks { weight, added }))
    }

    /// The matrix `name` where the file has it; `None` if it is in blocks or in numbers of another kind there, or something
    /// is added to it.
    pub fn mapped(&self, name: &str, shape: [usize; 2]) -> Result<Option<Mapped>> {
        let Some(in_file) = self.names.get(name).filter(|_| self.changes.is_empty()) else { return Ok(None) };
        let Some(view) = self.files.view(in_file)? else { return Ok(None) };
        let Some(numbers) = WeightFormat::of(view.dtype()) else { return Ok(None) };
        if view.shape() != shape || shape.contains(&0) {
            bail!("{in_file} is of {:?}, not of {shape:?}", view.shape());
        }
        let scale = if numbers == WeightFormat::F8 { self.scale(name, &Device::Cpu)? } else { None };
        let scale = scale.map(|scale| scale.flatten_all()?.to_vec1()).transpose()?;
        if scale.as_ref().is_some_and(|scale| ![1, shape[0]].contains(&scale.len())) {
            bail!("the scales of {in_file} are neither one nor one a row");
        }
        Ok(Some(Mapped { files: self.files.clone(), name: in_file.clone(), shape, numbers, scale }))
    }

    /// Some rows of the matrix `name`, which is of `shape`: f32 `[places, width]`, on the CPU. Nothing else of it is read.
    pub fn rows(&self, name: &str, shape: (usize, usize), places: &[u32]) -> Result<Tensor> {
        let (rows, width) = shape;
        let in_file = self.names.get(name).ok_or_else(|| Error::CannotFindTensor { path: name.into() })?;
        if let Some(place) = places.iter().find(|&&place| place as usize >= rows) {
            bail!("{in_file} has no row {place}");
        }
        let view = match &*self.files {
            Files::Gguf(file) => return file.rows(in_file, shape, places),
            Files::Mapped(files) => files.get(in_file)?,
            Files::Compiled(file) => file.get(in_file)?,
        };
        if view.shape() != [rows, width] {
            bail!("{in_file} is of {:?}, not of {shape:?}", view.shape());
        }
        let row = view.data().len() / rows;
        let chosen: Vec<u8> =
            places.iter().flat_map(|&place| &view.data()[place as usize * row..][..row]).copied().collect();
        let chosen =
            TensorView::new(view.dtype(), vec![places.len(), width], &chosen).map_err(Error::wrap)?;
        let chosen = chosen.load(&Device::Cpu)?.to_dtype(DType::F32)?;
        match self.scale(name, &Device::Cpu)? {
            None => Ok(chosen),
            Some(scale) if scale.rank() == 0 => chosen.broadcast_mul(&scale),
            Some(scale) => chosen.broadcast_mul(&scale.index_select(&Tensor::new(places, &Device::Cpu)?, 0)?),
        }
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
            for changes in self.changes.iter() {
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
    /// The tensor `name` where it is; `None` of a GGUF.
    pub(super) fn view(&self, name: &str) -> Result<Option<TensorView<'_>>> {
        match self {
            Self::Mapped(files) => files.get(name).map(Some),
            Self::Compiled(file) => file.get(name).map(Some),
            Self::Gguf(_) => Ok(None),
        }
    }

    fn stored(&self) -> Vec<(String, Stored)> {
        let plain = |(name, view): (String, TensorView)| {
            let (shape, bytes) = (view.shape().to_vec(), view.data().len() as u64);
            let mapped = shape.len() == 2 && WeightFormat::of(view.dtype()).is_some();
            (name, Stored { shape, bytes, quantised: false, mapped })
        };
        match self {
            Self::Mapped(files) => files.tensors().into_iter().map(plain).collect(),
            Self::Compiled(file) => file.tensors().into_iter().map(plain).collect(),
            Self::Gguf(file) => file.tensors().collect(),
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
        if matches!(*self.files, Files::Gguf(_)) && tensor.elem_count() == shape.elem_count() {
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
