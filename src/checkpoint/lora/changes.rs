//! The changes in an opened LoRA file.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Result, Tensor, bail};
use safetensors::tensor::TensorView;

use super::Lora;
use super::key::{Key, Role, is_image};
use super::peft::LoraConfig;
use crate::checkpoint::files;
use crate::checkpoint::names::{self, Part};
use crate::hub::pointer;

/// The changes in an opened LoRA file.
pub struct Changes {
    path: PathBuf,
    file: MmapedSafetensors,
    scale: f64,
    /// By the engine's name of the changed tensor.
    changes: HashMap<String, Change>,
    note: Option<String>,
}

/// The tensors in the file that change one tensor, by name.
#[derive(Default)]
struct Change {
    /// The name of the layer in the file.
    layer: String,
    down: Option<String>,
    up: Option<String>,
    alpha: Option<String>,
    difference: Option<String>,
    /// The factor of the low-rank product that PEFT stores apart from it.
    peft_scale: Option<f64>,
}

impl Change {
    fn set(&mut self, role: Role, name: String) {
        let part = match role {
            Role::Down => &mut self.down,
            Role::Up => &mut self.up,
            Role::Alpha => &mut self.alpha,
            Role::Difference | Role::BiasDifference => &mut self.difference,
        };
        *part = Some(name);
    }
}

/// The tensors of a file that are not applied.
#[derive(Default)]
struct Skipped {
    text_encoder: usize,
    image: usize,
    unknown: Vec<String>,
}

impl Skipped {
    /// How many of `total` tensors are not applied, and why. `nothing`: no tensor is applied.
    fn note(mut self, total: usize, nothing: bool) -> Result<Option<String>> {
        self.unknown.sort();
        if let [first, ..] = self.unknown.as_slice() {
            bail!(
                "{} of its {total} tensors belong to no layer of this transformer, for example {first}: the LoRA is for another model",
                self.unknown.len(),
            );
        }
        let count = self.text_encoder + self.image;
        let reasons = [
            (self.text_encoder, "change a text encoder, which stays as it is"),
            (self.image, "are for an image encoder, which this model does not have"),
        ];
        let reasons = reasons.into_iter().filter(|(count, _)| *count > 0);
        let reasons =
            reasons.map(|(count, reason)| format!("{count} {reason}")).collect::<Vec<_>>().join(", ");
        match (nothing, count) {
            (true, 0) => bail!("the file has no tensors"),
            (true, _) => bail!("none of its {total} tensors can be applied: {reasons}"),
            (false, 0) => Ok(None),
            (false, _) => Ok(Some(format!("{count} of its {total} tensors are not applied: {reasons}"))),
        }
    }
}

impl Changes {
    /// Opens the file for `part`. `tensors` are the names of its tensors, as in [`names::by_engine_names`].
    pub fn open(lora: &Lora, part: Part, tensors: &HashMap<String, String>) -> Result<Self> {
        if !lora.scale.is_finite() {
            bail!("the scale is {}", lora.scale);
        }
        pointer::refuse(&lora.path)?;
        // SAFETY: the file is only read, as in `WeightFiles::open`.
        let file = unsafe { MmapedSafetensors::multi(&[&lora.path])? };
        let stored = file.tensors();
        let mut layers: BTreeMap<String, Vec<(Role, String)>> = BTreeMap::new();
        let mut skipped = Skipped::default();
        for (name, _) in &stored {
            match Key::parse(name) {
                Key::Change(layer, role) => layers.entry(layer).or_default().push((role, name.clone())),
                Key::TextEncoder => skipped.text_encoder += 1,
                Key::Method(method) => {
                    bail!("it uses {method} ({name}), which is not supported; use a plain LoRA")
                }
                Key::Unknown => skipped.unknown.push(name.clone()),
            }
        }
        let engine = engine_names(part, layers.keys(), tensors);
        let mut changes: HashMap<String, Change> = HashMap::new();
        for (layer, parts) in layers {
            for (role, name) in parts {
                // Another name of the same layer may have replaced this one.
                match engine.get(&layer).and_then(|engine_name| changed_tensor(engine_name, role, tensors)) {
                    Some(tensor) => {
                        let change = changes.entry(tensor).or_default();
                        change.layer.clone_from(&layer);
                        change.set(role, name);
                    }
                    None if is_image(&layer) => skipped.image += 1,
                    None => skipped.unknown.push(name),
                }
            }
        }
        if let Some((tensor, _)) =
            changes.iter().find(|(_, change)| change.down.is_some() != change.up.is_some())
        {
            bail!("one of the two matrices for {tensor} is missing");
        }
        let note = skipped.note(stored.len(), changes.is_empty())?;
        let (path, scale) = (lora.path.clone(), f64::from(lora.scale));
        let mut opened = Self { path, file, scale, changes, note };
        if let Some(config) = LoraConfig::read(&lora.path)? {
            opened.set_scales(&config)?;
        }
        Ok(opened)
    }

    /// How much of the file is not applied, and why; `None` if all is applied.
    pub fn note(&self) -> Option<String> {
        self.note.as_ref().map(|note| format!("the LoRA {}: {note}", self.path.display()))
    }

    /// Sets the scales of the low-rank changes without a tensor `alpha`.
    fn set_scales(&mut self, config: &LoraConfig) -> Result<()> {
        for change in self.changes.values_mut().filter(|change| change.alpha.is_none()) {
            let Some(down) = &change.down else { continue };
            let rank = self.file.get(down)?.shape().first().copied().unwrap_or(0);
            change.peft_scale = Some(config.scale(&names::unwrapped(&change.layer), rank)?);
        }
        Ok(())
    }

    /// `tensor`, f32, with the change for it added.
    pub fn apply(&self, name: &str, tensor: Tensor, device: &Device) -> Result<Tensor> {
        let Some(change) = self.changes.get(name) else { return Ok(tensor) };
        let mut changed = tensor;
        if let Some((down, up)) = self.load_matrices(change, device)? {
            changed = self.add(name, changed, &up.matmul(&down)?)?;
        }
        if let Some(difference) = &change.difference {
            changed = self.add(name, changed, &self.load(difference, device)?)?;
        }
        Ok(changed)
    }

    /// Whether the change of `name` includes a whole matrix.
    pub fn has_difference(&self, name: &str) -> bool {
        self.changes.get(name).is_some_and(|change| change.difference.is_some())
    }

    /// Bytes of the two low-rank matrices for `name` as f32, if it has any.
    pub fn matrix_bytes(&self, name: &str) -> u64 {
        let change = self.changes.get(name);
        let names = change.into_iter().flat_map(|change| [&change.down, &change.up]).flatten();
        let count = |view: TensorView| view.shape().iter().product::<usize>() as u64;
        names.filter_map(|name| self.file.get(name).ok()).map(|view| 4 * count(view)).sum()
    }

    /// The two scaled low-rank matrices whose product is added to `name`, if there are any: f32 `[rank, n_in]` and
    /// `[n_out, rank]`. `shape` is `[n_out, n_in]`.
    pub fn matrices(&self, name: &str, shape: &[usize], device: &Device) -> Result<Option<(Tensor, Tensor)>> {
        let change = self.changes.get(name);
        let Some((down, up)) = change.map(|change| self.load_matrices(change, device)).transpose()?.flatten()
        else {
            return Ok(None);
        };
        if [up.dim(0)?, down.dim(1)?] != shape {
            bail!("a LoRA changes {name} of shape {shape:?} by [{}, {}]", up.dim(0)?, down.dim(1)?);
        }
        Ok(Some((down, (up * self.scale)?)))
    }

    /// Both matrices with `alpha`, without the scale of the LoRA.
    fn load_matrices(&self, change: &Change, device: &Device) -> Result<Option<(Tensor, Tensor)>> {
        let (Some(down), Some(up)) = (&change.down, &change.up) else { return Ok(None) };
        let (down, up) = (self.load(down, device)?.flatten_from(1)?, self.load(up, device)?.flatten_from(1)?);
        let rank = down.dim(0)?;
        if rank == 0 || up.dim(1)? != rank {
            bail!("its two matrices of {:?} and {:?} do not fit together", down.shape(), up.shape());
        }
        let scale = match &change.alpha {
            Some(alpha) => {
                let alpha = self.load(alpha, device)?.flatten_all()?.to_vec1::<f32>()?;
                f64::from(alpha.first().copied().unwrap_or(1.0)) / rank as f64
            }
            None => change.peft_scale.unwrap_or(1.0),
        };
        Ok(Some((down, (up * scale)?)))
    }

    fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        files::load_view(&self.file.get(name)?, device)?.to_dtype(DType::F32)
    }

    fn add(&self, name: &str, tensor: Tensor, change: &Tensor) -> Result<Tensor> {
        if tensor.elem_count() != change.elem_count() {
            bail!("a LoRA changes {name} of shape {:?} by {:?}", tensor.shape(), change.shape());
        }
        &tensor + (change.reshape(tensor.shape())? * self.scale)?
    }
}

/// The engine's name of the tensor that a tensor with `role` changes: the weight or bias of a layer, or the tensor itself.
fn changed_tensor(engine_name: &str, role: Role, tensors: &HashMap<String, String>) -> Option<String> {
    let of_layer = match role {
        Role::BiasDifference => format!("{engine_name}.bias"),
        _ => format!("{engine_name}.weight"),
    };
    let itself = || (role == Role::Difference).then(|| engine_name.to_string());
    let exists = |name: &String| tensors.contains_key(name);
    Some(of_layer).filter(exists).or_else(|| itself().filter(exists))
}

/// The engine's names of the layers, by the names in the LoRA file.
fn engine_names<'a>(
    part: Part,
    layers: impl Iterator<Item = &'a String>,
    tensors: &HashMap<String, String>,
) -> HashMap<String, String> {
    // kohya's names are Wan's with underscores for dots, so they are compared after the same replacement.
    let all: Vec<&str> = tensors.keys().map(String::as_str).collect();
    let flat: HashMap<String, &str> = all
        .iter()
        .filter_map(|engine_name| engine_name.strip_suffix(".weight"))
        .map(|engine_name| {
            (names::original_name(part, engine_name, all.iter().copied()).replace('.', "_"), engine_name)
        })
        .collect();
    let layers: Vec<&str> = layers.map(String::as_str).collect();
    let by_engine = names::by_engine_names(part, layers.iter().copied());
    let mut found: HashMap<String, String> =
        by_engine.into_iter().map(|(engine_name, layer)| (layer, engine_name)).collect();
    for layer in layers {
        if let Some(engine_name) = layer.strip_prefix("lora_unet_").and_then(|layer| flat.get(layer)) {
            found.insert(layer.into(), (*engine_name).into());
        }
    }
    found
}
