//! Changes to a transformer's weights that come in a file of their own (<https://arxiv.org/abs/2106.09685>): products of two
//! narrow matrices, or differences as such. They are added when a tensor is loaded; to weights that stay in blocks, where they
//! are multiplied.
//!
//! The same thing is written in many ways: PEFT's and diffusers' `lora_A` and `lora_B`, ComfyUI's and lightx2v's `lora_down`
//! and `lora_up` with `alpha`, `diff` and `diff_b`, kohya's names with underscores; over diffusers' or Wan's own names.

use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use candle_core::safetensors::{Load, MmapedSafetensors};
use candle_core::{DType, Device, Result, Tensor, bail};
use safetensors::tensor::TensorView;

use super::names::{self, Part};

/// Which of two transformers: that of the steps with much noise, or that of those with little (Wan 2.2 A14B).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Noise {
    /// Much.
    High,
    /// Little.
    Low,
}

/// A file of changes, and how much of them is added.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// Safetensors.
    pub path: PathBuf,
    /// 1 is what it was made for.
    pub scale: f32,
    /// Of two transformers the one that it is for; `None` is for all there are.
    pub noise: Option<Noise>,
}

impl Lora {
    /// `PATH` or `PATH:SCALE`, and before it `high:` or `low:` for one of two transformers.
    pub fn parse(text: &str) -> Self {
        let (noise, text) = match text.split_once(':') {
            Some(("high", rest)) => (Some(Noise::High), rest),
            Some(("low", rest)) => (Some(Noise::Low), rest),
            _ => (None, text),
        };
        let scaled = text.rsplit_once(':').and_then(|(path, scale)| Some((path, scale.trim().parse().ok()?)));
        let (path, scale) = scaled.unwrap_or((text, 1.0));
        Self { path: path.into(), scale, noise }
    }
}

// A scale that is not a number is refused when the file is opened.
impl Eq for Lora {}

impl Hash for Lora {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.path.hash(state);
        self.scale.to_bits().hash(state);
        self.noise.hash(state);
    }
}

/// What an opened file changes.
pub struct Changes {
    file: MmapedSafetensors,
    scale: f64,
    /// By the engine's name of the tensor that is changed.
    of: HashMap<String, Change>,
}

/// The names in the file of what makes up one tensor's change.
#[derive(Default)]
struct Change {
    down: Option<String>,
    up: Option<String>,
    alpha: Option<String>,
    difference: Option<String>,
}

/// How names end, and what of a change that is; the last is of the layer's bias.
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
    /// Opens the file for a part with these tensors.
    pub fn open(lora: &Lora, part: Part, tensors: &HashMap<String, String>) -> Result<Self> {
        if !lora.scale.is_finite() {
            bail!("the scale is {}", lora.scale);
        }
        // SAFETY: as for other weights, the file is only read.
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
        let mut of: HashMap<String, Change> = HashMap::new();
        for (layer, parts) in layers {
            // Of two names for one layer the first has none.
            let Some(ours) = engine.get(&layer) else {
                unknown.extend(parts.into_iter().map(|(_, name)| name));
                continue;
            };
            for (role, name) in parts {
                let kind = if matches!(role, Role::Bias) { "bias" } else { "weight" };
                let tensor = format!("{ours}.{kind}");
                if !tensors.contains_key(&tensor) {
                    unknown.push(name);
                    continue;
                }
                let change = of.entry(tensor).or_default();
                match role {
                    Role::Down => change.down = Some(name),
                    Role::Up => change.up = Some(name),
                    Role::Alpha => change.alpha = Some(name),
                    Role::Weight | Role::Bias => change.difference = Some(name),
                }
            }
        }
        if let Some((tensor, _)) = of.iter().find(|(_, change)| change.down.is_some() != change.up.is_some())
        {
            bail!("of the two matrices for {tensor} there is one");
        }
        unknown.sort();
        match unknown.as_slice() {
            [] if of.is_empty() => bail!("there is nothing in it"),
            [] => Ok(Self { file, scale: f64::from(lora.scale), of }),
            [first, ..] => bail!(
                "{} of its {} tensors belong to nothing in this transformer, {first} for one: it was made for another model",
                unknown.len(),
                stored.len()
            ),
        }
    }

    /// `tensor`, f32, with what is added to it, if anything is.
    pub fn apply(&self, name: &str, tensor: Tensor, device: &Device) -> Result<Tensor> {
        let Some(change) = self.of.get(name) else { return Ok(tensor) };
        let mut changed = tensor;
        if let Some((down, up)) = self.matrices(change, device)? {
            changed = self.add(name, changed, &up.matmul(&down)?)?;
        }
        if let Some(difference) = &change.difference {
            changed = self.add(name, changed, &self.load(difference, device)?)?;
        }
        Ok(changed)
    }

    /// Whether `name` is changed in another way than by two narrow matrices.
    pub fn is_wide(&self, name: &str) -> bool {
        self.of.get(name).is_some_and(|change| change.difference.is_some())
    }

    /// Bytes of the two matrices for `name`, in f32, if there are any.
    pub fn narrow_bytes(&self, name: &str) -> u64 {
        let change = self.of.get(name);
        let names = change.into_iter().flat_map(|change| [&change.down, &change.up]).flatten();
        let numbers = |view: TensorView| view.shape().iter().product::<usize>() as u64;
        names.filter_map(|name| self.file.get(name).ok()).map(|view| 4 * numbers(view)).sum()
    }

    /// The two matrices whose product is added to `name`, `[n_out, n_in]`, if there are any: `[rank, n_in]` and
    /// `[n_out, rank]`, f32.
    pub fn narrow(&self, name: &str, sides: &[usize], device: &Device) -> Result<Option<(Tensor, Tensor)>> {
        let change = self.of.get(name);
        let Some((down, up)) = change.map(|change| self.matrices(change, device)).transpose()?.flatten()
        else {
            return Ok(None);
        };
        if [up.dim(0)?, down.dim(1)?] != sides {
            bail!("a LoRA changes {name} by [{}, {}], which is of {sides:?}", up.dim(0)?, down.dim(1)?);
        }
        Ok(Some((down, (up * self.scale)?)))
    }

    /// Both matrices, as they are multiplied; not scaled yet.
    fn matrices(&self, change: &Change, device: &Device) -> Result<Option<(Tensor, Tensor)>> {
        let (Some(down), Some(up)) = (&change.down, &change.up) else { return Ok(None) };
        let (down, up) = (self.load(down, device)?.flatten_from(1)?, self.load(up, device)?.flatten_from(1)?);
        let rank = down.dim(0)?;
        if rank == 0 || up.dim(1)? != rank {
            bail!(
                "its two matrices are of {:?} and {:?}, which do not fit together",
                down.shape(),
                up.shape()
            );
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
            bail!("a LoRA changes {name} by {:?}, which is of {:?}", change.shape(), tensor.shape());
        }
        &tensor + (change.reshape(tensor.shape())? * self.scale)?
    }
}

/// The engine's names of the layers, without the last part.
fn engine_names<'a>(
    part: Part,
    layers: impl Iterator<Item = &'a String>,
    tensors: &HashMap<String, String>,
) -> HashMap<String, String> {
    // kohya's names are Wan's with underscores, which cannot be told from those within a name.
    let all: Vec<&str> = tensors.keys().map(String::as_str).collect();
    let flat: HashMap<String, &str> = all
        .iter()
        .filter_map(|ours| ours.strip_suffix(".weight"))
        .map(|ours| (names::original_name(part, ours, all.iter().copied()).replace('.', "_"), ours))
        .collect();
    let layers: Vec<&str> = layers.map(String::as_str).collect();
    let by_engine = names::by_engine_names(part, layers.iter().copied());
    let mut found: HashMap<String, String> =
        by_engine.into_iter().map(|(ours, layer)| (layer, ours)).collect();
    for layer in layers {
        if let Some(ours) = layer.strip_prefix("lora_unet_").and_then(|layer| flat.get(layer)) {
            found.insert(layer.into(), (*ours).into());
        }
    }
    found
}

/// What is wrong with the file at `path`, for whoever named it.
pub fn about(path: &Path, error: &candle_core::Error) -> crate::Error {
    crate::Error::Invalid { path: path.into(), reason: crate::error::plain(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_may_follow_the_path() {
        for (text, path, scale, noise) in [
            ("a.safetensors", "a.safetensors", 1.0, None),
            ("a.safetensors:0.5", "a.safetensors", 0.5, None),
            ("c:/x.safetensors", "c:/x.safetensors", 1.0, None),
            ("a:b: -2", "a:b", -2.0, None),
            ("high:a.safetensors:0.5", "a.safetensors", 0.5, Some(Noise::High)),
            ("low:c:/x.safetensors", "c:/x.safetensors", 1.0, Some(Noise::Low)),
            ("highest:1", "highest", 1.0, None),
        ] {
            assert_eq!(Lora::parse(text), Lora { path: path.into(), scale, noise }, "{text}");
        }
    }
}
