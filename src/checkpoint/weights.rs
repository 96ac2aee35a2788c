//! The tensors of one part of a model by the engine's names. The files may have other names and formats.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{DType, Device, Error, Result, Tensor, bail};
use safetensors::tensor::TensorView;

use super::files::{self, WeightFiles};
use super::lora::{self, Changes, Lora};
use super::mapped::MappedMatrix;
use super::names::{self, Part};
use super::stored::{StoredFormat, StoredTensor};
use crate::Cancel;

/// The scale of an fp8 weight is a tensor beside it: ComfyUI's name, and the name of other tools.
const SCALES: [&str; 2] = ["scale_weight", "weight_scale"];

/// Opened weight files, with LoRAs. Clones share them.
#[derive(Clone)]
pub struct Weights {
    files: Arc<WeightFiles>,
    /// Names in the files, by the engine's names.
    names: Arc<HashMap<String, String>>,
    loras: Arc<[Changes]>,
    /// Weights of the control branch in other files, in place of those that the files have.
    branch: Option<Arc<Weights>>,
}

/// The prefix of the names in the control branch of VACE.
const BRANCH: &str = "vace_";

/// A matrix in the quantized blocks of a GGUF file.
pub struct QuantizedBlocks {
    pub weight: QTensor,
    /// LoRAs: pairs of matrices, `[rank, n_in]` and `[n_out, rank]`, whose products are added to the weight.
    pub loras: Vec<(Tensor, Tensor)>,
}

impl Weights {
    /// Opens `paths`: safetensors files with different tensors, or one GGUF file.
    pub fn open(part: Option<Part>, paths: &[PathBuf]) -> Result<Self> {
        Ok(Self::new(part, WeightFiles::open(paths)?))
    }

    /// Opens a file that is compiled into the program.
    pub fn compiled(part: Option<Part>, bytes: &'static [u8]) -> Result<Self> {
        Ok(Self::new(part, WeightFiles::compiled(bytes)?))
    }

    fn new(part: Option<Part>, files: WeightFiles) -> Self {
        let stored = files.stored();
        let names = match part {
            Some(part) => names::by_engine_names(part, stored.iter().map(|(name, _)| name.as_str())),
            None => stored.into_iter().map(|(name, _)| (name.clone(), name)).collect(),
        };
        Self { files: Arc::new(files), names: Arc::new(names), loras: Arc::new([]), branch: None }
    }

    /// Takes the control branch from `branch`.
    pub fn with_branch(self, branch: Self) -> Self {
        Self { branch: Some(Arc::new(branch)), ..self }
    }

    /// The weights with the tensor `name`: those of the branch, or these.
    fn of(&self, name: &str) -> &Self {
        match &self.branch {
            Some(branch) if name.starts_with(BRANCH) => branch,
            _ => self,
        }
    }

    /// Adds `loras` to the weights of `part`.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for a LoRA with tensors of another model.
    pub fn add_loras(&mut self, part: Part, loras: &[Lora]) -> crate::Result<()> {
        let open = |lora| Changes::open(lora, part, &self.names).map_err(|e| lora::invalid(&lora.path, &e));
        self.loras = loras.iter().map(open).collect::<crate::Result<_>>()?;
        Ok(())
    }

    /// What is not applied of the LoRAs, one text per LoRA.
    pub fn lora_notes(&self) -> Vec<String> {
        self.loras.iter().filter_map(Changes::note).collect()
    }

    /// Whether the files are GGUF, which stores tensors with at most four dimensions.
    pub fn is_gguf(&self) -> bool {
        matches!(*self.files, WeightFiles::Gguf(_))
    }

    pub fn contains(&self, name: &str) -> bool {
        self.of(name).names.contains_key(name)
    }

    /// All tensors; nothing is loaded. A quantized tensor counts the bytes of its LoRAs. A tensor that a LoRA changes
    /// by a whole matrix does not stay quantized.
    pub fn stored(&self) -> HashMap<String, StoredTensor> {
        let in_file: HashMap<_, _> = self.files.stored().into_iter().collect();
        let stored = |(name, file_name): (&String, &String)| {
            let mut stored = in_file.get(file_name)?.clone();
            if stored.quantized {
                stored.quantized = !self.loras.iter().any(|lora| lora.has_difference(name));
                stored.bytes += self.loras.iter().map(|lora| lora.matrix_bytes(name)).sum::<u64>();
            }
            stored.mappable &= self.loras.is_empty();
            Some((name.clone(), stored))
        };
        let own: HashMap<_, _> = self.names.iter().filter_map(stored).collect();
        let Some(branch) = &self.branch else { return own };
        let of_branch = branch.stored().into_iter().filter(|(name, _)| name.starts_with(BRANCH));
        own.into_iter().filter(|(name, _)| !name.starts_with(BRANCH)).chain(of_branch).collect()
    }

    /// The shapes of all tensors; nothing is loaded.
    pub fn shapes(&self) -> HashMap<String, Vec<usize>> {
        self.stored().into_iter().map(|(name, stored)| (name, stored.shape)).collect()
    }

    /// The matrix `name` in GGUF blocks with its LoRAs. `None` if it is not quantized, or if a LoRA adds a whole matrix.
    pub fn quantized(&self, name: &str, device: &Device) -> Result<Option<QuantizedBlocks>> {
        if !std::ptr::eq(self.of(name), self) {
            return self.of(name).quantized(name, device);
        }
        let (WeightFiles::Gguf(file), Some(in_file)) = (&*self.files, self.names.get(name)) else {
            return Ok(None);
        };
        if self.loras.iter().any(|lora| lora.has_difference(name)) {
            return Ok(None);
        }
        let Some(weight) = file.quantized(in_file, device)? else { return Ok(None) };
        let matrices = |lora: &Changes| lora.matrices(name, weight.shape().dims(), device).transpose();
        let loras = self.loras.iter().filter_map(matrices).collect::<Result<_>>()?;
        Ok(Some(QuantizedBlocks { weight, loras }))
    }

    /// The matrix `name`, left in its file. `None` if it is in GGUF blocks or in another data type, or if there is a LoRA.
    pub fn mapped(&self, name: &str, shape: [usize; 2]) -> Result<Option<MappedMatrix>> {
        if !std::ptr::eq(self.of(name), self) {
            return self.of(name).mapped(name, shape);
        }
        let Some(in_file) = self.names.get(name).filter(|_| self.loras.is_empty()) else { return Ok(None) };
        let Some(view) = self.files.view(in_file)? else { return Ok(None) };
        let Some(format) = StoredFormat::of(view.dtype()) else { return Ok(None) };
        if view.shape() != shape || shape.contains(&0) {
            bail!("{in_file} has the shape {:?}, not {shape:?}", view.shape());
        }
        let scale = if format.is_fp8() { self.scale(name, &Device::Cpu)? } else { None };
        let scale = scale.map(|scale| scale.flatten_all()?.to_vec1()).transpose()?;
        if scale.as_ref().is_some_and(|scale| ![1, shape[0]].contains(&scale.len())) {
            bail!("{in_file} has neither one scale nor one per row");
        }
        Ok(Some(MappedMatrix { files: self.files.clone(), name: in_file.clone(), shape, format, scale }))
    }

    /// The rows `indices` of the matrix `name` of `shape`: f32 `[indices, width]` on the CPU. Other rows are not read.
    pub fn rows(&self, name: &str, shape: (usize, usize), indices: &[u32]) -> Result<Tensor> {
        let (rows, width) = shape;
        let in_file = self.names.get(name).ok_or_else(|| Error::CannotFindTensor { path: name.into() })?;
        if let Some(index) = indices.iter().find(|&&index| index as usize >= rows) {
            bail!("{in_file} has no row {index}");
        }
        let view = match &*self.files {
            WeightFiles::Gguf(file) => return file.rows(in_file, shape, indices),
            WeightFiles::Mapped(files) => files.get(in_file)?,
            WeightFiles::Compiled(file) => file.get(in_file)?,
        };
        if view.shape() != [rows, width] {
            bail!("{in_file} has the shape {:?}, not {shape:?}", view.shape());
        }
        let row = view.data().len() / rows;
        let bytes: Vec<u8> =
            indices.iter().flat_map(|&index| &view.data()[index as usize * row..][..row]).copied().collect();
        let chosen =
            TensorView::new(view.dtype(), vec![indices.len(), width], &bytes).map_err(Error::wrap)?;
        let chosen = files::load_view(&chosen, &Device::Cpu)?.to_dtype(DType::F32)?;
        match self.scale(name, &Device::Cpu)? {
            None => Ok(chosen),
            Some(scale) if scale.rank() == 0 => chosen.broadcast_mul(&scale),
            Some(scale) => {
                chosen.broadcast_mul(&scale.index_select(&Tensor::new(indices, &Device::Cpu)?, 0)?)
            }
        }
    }

    /// Loads a tensor as `dtype`, with its scale and its LoRAs.
    pub fn load(&self, name: &str, dtype: DType, device: &Device, cancel: &Cancel) -> Result<Tensor> {
        if !std::ptr::eq(self.of(name), self) {
            return self.of(name).load(name, dtype, device, cancel);
        }
        let missing = || Error::CannotFindTensor { path: name.into() };
        let in_file = self.names.get(name).ok_or_else(missing)?;
        let in_pieces = match device.is_cpu() && dtype == DType::F32 {
            true => self.files.load_f32(in_file, cancel)?,
            false => None,
        };
        let mut tensor = match in_pieces {
            Some(tensor) => tensor,
            None => self.files.load(in_file, device)?,
        };
        if !tensor.dtype().is_float() {
            bail!("{in_file} has the data type {}; weights are floating-point", tensor.dtype().as_str());
        }
        if self
            .files
            .view(in_file)?
            .and_then(|view| StoredFormat::of(view.dtype()))
            .is_some_and(StoredFormat::is_fp8)
        {
            tensor = tensor.to_dtype(DType::F32)?;
            if let Some(scale) = self.scale(name, device)? {
                tensor = tensor.broadcast_mul(&scale)?;
            }
        }
        if !self.loras.is_empty() {
            tensor = tensor.to_dtype(DType::F32)?;
            for lora in self.loras.iter() {
                tensor = lora.apply(name, tensor, device)?;
            }
        }
        tensor.to_dtype(dtype)
    }

    /// The scale of an fp8 weight: a scalar, or `[rows, 1]`.
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
