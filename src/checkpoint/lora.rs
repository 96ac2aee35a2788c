//! LoRA files (<https://arxiv.org/abs/2106.09685>): products of two low-rank matrices, or whole differences, that are
//! added to the weights of a transformer. They are added when a tensor is loaded. For a layer that stays quantized,
//! they are separate layers.
//!
//! Tools write different names: PEFT and diffusers `lora_A` and `lora_B`; ComfyUI and lightx2v `lora_down`, `lora_up`,
//! `alpha`, `diff` and `diff_b`; kohya names with underscores. The layers have diffusers' or Wan's names.

use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use candle_core::safetensors::{Load, MmapedSafetensors};
use candle_core::{DType, Device, Result, Tensor, bail};
use safetensors::tensor::TensorView;

use super::names::{self, Part};

/// One of the two transformers of a model such as Wan 2.2 A14B.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expert {
    /// For high-noise steps. A model with one transformer has only this.
    High,
    /// For low-noise steps.
    Low,
}

/// A LoRA file and its scale.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// A safetensors file.
    pub path: PathBuf,
    /// Factor of the change; 1 is the strength that it was trained with.
    pub scale: f32,
    /// The transformer that it changes; `None` for all.
    pub expert: Option<Expert>,
}

impl Lora {
    /// Parses `PATH` or `PATH:SCALE`, with the prefix `high:` or `low:` for one of two transformers.
    pub fn parse(text: &str) -> Self {
        let (expert, text) = match text.split_once(':') {
            Some(("high", rest)) => (Some(Expert::High), rest),
            Some(("low", rest)) => (Some(Expert::Low), rest),
            _ => (None, text),
        };
        let scaled = text.rsplit_once(':').and_then(|(path, scale)| Some((path, scale.trim().parse().ok()?)));
        let (path, scale) = scaled.unwrap_or((text, 1.0));
        Self { path: path.into(), scale, expert }
    }
}

// NaN is an error when the file is opened.
impl Eq for Lora {}

impl Hash for Lora {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.path.hash(state);
        self.scale.to_bits().hash(state);
        self.expert.hash(state);
    }
}

/// The changes in an opened LoRA file.
pub struct Changes {
    file: MmapedSafetensors,
    scale: f64,
    /// By the engine's name of the changed tensor.
    changes: HashMap<String, Change>,
}

/// The tensors in the file that change one tensor, by name.
#[derive(Default)]
struct Change {
    down: Option<String>,
    up: Option<String>,
    alpha: Option<String>,
    difference: Option<String>,
}

/// Endings of names and their roles. `diff_b` changes the bias of the layer, the others its weight.
const ENDINGS: [(&str, Role); 9] = [
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_A.default.weight", Role::Down),
    (".lora_B.default.weight", Role::Up),
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".alpha", Role::Alpha),
    (".diff", Role::Weight),
    (".diff_b", Role::Bias),
];

#[derive(Clone, Copy)]
enum Role {
    Down,
    Up,
    Alpha,
    Weight,
    Bias,
}

impl Changes {
    /// Opens the file for `part`. `tensors` are the names of its tensors, as in [`names::by_engine_names`].
    pub fn open(lora: &Lora, part: Part, tensors: &HashMap<String, String>) -> Result<Self> {
        if !lora.scale.is_finite() {
            bail!("the scale is {}", lora.scale);
        }
        // SAFETY: the file is only read, as in `WeightFiles::open`.
        let file = unsafe { MmapedSafetensors::multi(&[&lora.path])? };
        let stored = file.tensors();
        let mut layers: BTreeMap<String, Vec<(Role, String)>> = BTreeMap::new();
        let mut unknown = Vec::new();
        for (name, _) in &stored {
            match ENDINGS.iter().find_map(|(ending, role)| Some((name.strip_suffix(ending)?, *role))) {
                Some((layer, role)) => layers.entry(layer.into()).or_default().push((role, name.clone())),
                None => unknown.push(name.clone()),
            }
        }
        let engine = engine_names(part, layers.keys(), tensors);
        let mut changes: HashMap<String, Change> = HashMap::new();
        for (layer, parts) in layers {
            // Another name of the same layer replaced this one.
            let Some(engine_name) = engine.get(&layer) else {
                unknown.extend(parts.into_iter().map(|(_, name)| name));
                continue;
            };
            for (role, name) in parts {
                let kind = if matches!(role, Role::Bias) { "bias" } else { "weight" };
                let tensor = format!("{engine_name}.{kind}");
                if !tensors.contains_key(&tensor) {
                    unknown.push(name);
                    continue;
                }
                let change = changes.entry(tensor).or_default();
                match role {
                    Role::Down => change.down = Some(name),
                    Role::Up => change.up = Some(name),
                    Role::Alpha => change.alpha = Some(name),
                    Role::Weight | Role::Bias => change.difference = Some(name),
                }
            }
        }
        if let Some((tensor, _)) =
            changes.iter().find(|(_, change)| change.down.is_some() != change.up.is_some())
        {
            bail!("one of the two matrices for {tensor} is missing");
        }
        unknown.sort();
        match unknown.as_slice() {
            [] if changes.is_empty() => bail!("the file has no tensors"),
            [] => Ok(Self { file, scale: f64::from(lora.scale), changes }),
            [first, ..] => bail!(
                "{} of its {} tensors belong to no layer of this transformer, for example {first}: the LoRA is for another model",
                unknown.len(),
                stored.len()
            ),
        }
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
        let alpha = match &change.alpha {
            Some(alpha) => {
                let alpha = self.load(alpha, device)?.flatten_all()?.to_vec1::<f32>()?;
                f64::from(alpha.first().copied().unwrap_or(1.0))
            }
            None => rank as f64,
        };
        Ok(Some((down, (up * (alpha / rank as f64))?)))
    }

    fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        self.file.get(name)?.load(device)?.to_dtype(DType::F32)
    }

    fn add(&self, name: &str, tensor: Tensor, change: &Tensor) -> Result<Tensor> {
        if tensor.elem_count() != change.elem_count() {
            bail!("a LoRA changes {name} of shape {:?} by {:?}", tensor.shape(), change.shape());
        }
        &tensor + (change.reshape(tensor.shape())? * self.scale)?
    }
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

/// The error for the LoRA file at `path`.
pub fn invalid(path: &Path, error: &candle_core::Error) -> crate::Error {
    crate::Error::Invalid { path: path.into(), reason: crate::error::plain(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lora_is_parsed_from_path_scale_and_transformer() {
        for (text, path, scale, expert) in [
            ("a.safetensors", "a.safetensors", 1.0, None),
            ("a.safetensors:0.5", "a.safetensors", 0.5, None),
            ("c:/x.safetensors", "c:/x.safetensors", 1.0, None),
            ("a:b: -2", "a:b", -2.0, None),
            ("high:a.safetensors:0.5", "a.safetensors", 0.5, Some(Expert::High)),
            ("low:c:/x.safetensors", "c:/x.safetensors", 1.0, Some(Expert::Low)),
            ("highest:1", "highest", 1.0, None),
        ] {
            assert_eq!(Lora::parse(text), Lora { path: path.into(), scale, expert }, "{text}");
        }
    }
}
