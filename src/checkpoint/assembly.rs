//! A model that is assembled from Wan's own folder, from single files, or from a folder with replaced parts. The result
//! looks like a folder in diffusers' layout.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::lora::Lora;
use super::names::Part;
use super::recipe::{RECIPE, Recipe};
use super::weights::Weights;
use super::{files, shapes};
use crate::error::plain;
use crate::hub::layout::MODEL_INDEX;
use crate::{Error, Result};

const TRANSFORMER: &str = "transformer/config.json";

/// Files or folders that replace parts of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Parts {
    /// The transformer.
    pub transformer: Option<PathBuf>,
    /// The text encoder, with `tokenizer.json` beside it unless the model has one.
    pub text_encoder: Option<PathBuf>,
    /// The autoencoder: Wan's or TAEHV.
    pub autoencoder: Option<PathBuf>,
    /// CLIP's image encoder, of Wan 2.1's image-to-video models.
    pub image_encoder: Option<PathBuf>,
    /// A VACE transformer, whose control branch is added to the transformer.
    pub vace: Option<PathBuf>,
    /// The recipe of a causal transformer: a known name (`self-forcing` …), or the path of a `soragen.json`. Default:
    /// the one beside the transformer.
    pub recipe: Option<String>,
    /// LoRAs of the transformer.
    pub loras: Vec<Lora>,
}

/// Where the parts of an assembled model are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Assembly {
    /// The folder or file that the caller named.
    pub(super) path: PathBuf,
    /// A folder in diffusers' layout with the files that are not listed below.
    pub(super) base: Option<PathBuf>,
    /// Generated configurations, by path in diffusers' layout.
    pub(super) texts: BTreeMap<String, Vec<u8>>,
    /// Other files, by path in diffusers' layout.
    pub(super) files: BTreeMap<String, PathBuf>,
    /// Weight files, by folder of the part.
    pub(super) weights: BTreeMap<&'static str, Vec<PathBuf>>,
    /// Weight files with the control branch.
    pub(super) branch: Option<Vec<PathBuf>>,
    /// LoRAs of the transformer.
    pub(super) loras: Vec<Lora>,
}

impl Assembly {
    /// The location of `path` in diffusers' layout; for a missing file, where it should be.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        if let Some(file) = self.files.get(path) {
            return file.clone();
        }
        let folder = path.split('/').next().unwrap_or(path);
        match (self.weights.get(folder).and_then(|files| files.first()), &self.base) {
            (Some(file), _) if path == folder || self.texts.contains_key(path) => file.clone(),
            (_, Some(base)) => base.join(path),
            (_, None) => self.path.join(path),
        }
    }

    /// Adds the control branch of the VACE transformer at `path`.
    fn add_branch(&mut self, path: &Path) -> Result<()> {
        let (found, shapes) = shapes_of(Part::Transformer, path)?;
        let mut config = self.transformer_config()?;
        shapes::add_branch(&mut config, &shapes)
            .map_err(|reason| Error::Invalid { path: path.into(), reason })?;
        self.texts.insert(TRANSFORMER.into(), config.to_string().into_bytes());
        self.branch = Some(found);
        Ok(())
    }

    /// The configuration of the transformer so far.
    fn transformer_config(&self) -> Result<Value> {
        let path = self.path(TRANSFORMER);
        let text = match self.texts.get(TRANSFORMER) {
            Some(text) => text.clone(),
            None => std::fs::read(&path).map_err(|source| Error::Io { path: path.clone(), source })?,
        };
        serde_json::from_slice(&text)
            .map_err(|e| Error::Invalid { path, reason: format!("{TRANSFORMER} cannot be parsed: {e}") })
    }

    /// Adds the weights of `part` at `path`, with their configuration.
    fn add(&mut self, part: Part, path: &Path) -> Result<()> {
        let (found, shapes) = shapes_of(part, path)?;
        let folder = part.folder();
        let beside = found.first().and_then(|file| file.parent()).unwrap_or(path);
        let stated = config_beside(beside).or_else(|| config_beside(&self.base.as_ref()?.join(folder)));
        let config = shapes::config(part, &shapes, stated.as_ref())
            .map_err(|reason| Error::Invalid { path: path.into(), reason })?;
        self.texts.insert(format!("{folder}/config.json"), config.to_string().into_bytes());
        if part == Part::TextEncoder {
            match tokenizer(beside) {
                Some(file) => drop(self.files.insert("tokenizer/tokenizer.json".into(), file)),
                None if self.base.is_some() => {}
                None => {
                    return Err(Error::NotFound {
                        path: beside.join("tokenizer.json"),
                        hint: "put the tokenizer.json of google/umt5-xxl beside the text encoder".into(),
                    });
                }
            }
        }
        self.weights.insert(folder, found);
        Ok(())
    }
}

/// Assembles the model at `path`, which exists, with `parts`.
pub fn assemble(path: &Path, parts: &Parts) -> Result<Assembly> {
    let base = path.join(MODEL_INDEX).is_file().then(|| path.to_path_buf());
    let (texts, files, weights) = Default::default();
    let loras = parts.loras.clone();
    if let Some(lora) = loras.iter().find(|lora| !lora.path.is_file()) {
        let hint = "name an existing file, PATH or PATH:SCALE".into();
        return Err(Error::NotFound { path: lora.path.clone(), hint });
    }
    for lora in &loras {
        refuse_pickle(&lora.path)?;
    }
    let mut assembly = Assembly { path: path.into(), base, texts, files, weights, branch: None, loras };
    let mut selected = parts.clone();
    if assembly.base.is_none() {
        if path.is_dir() {
            find_wan_files(path, &mut selected)?;
        } else if selected.transformer.replace(path.into()).is_some() {
            return Err(Error::Request(crate::Setting::Parts,
                "the model is a transformer file, and `transformer` is set too; set the model to a folder, or remove one of them".into(),
            ));
        }
    }
    for (part, option, file) in [
        (Part::Transformer, "transformer", &selected.transformer),
        (Part::TextEncoder, "text-encoder", &selected.text_encoder),
        (Part::Autoencoder, "autoencoder", &selected.autoencoder),
    ] {
        match file {
            Some(file) => assembly.add(part, file)?,
            None if assembly.base.is_some() => {}
            None => {
                let hint =
                    format!("the model is a transformer file; set `{option}` to the {option} of the model");
                return Err(Error::NotFound { path: path.join(part.folder()), hint });
            }
        }
    }
    if let Some(file) = &selected.image_encoder {
        assembly.add(Part::ImageEncoder, file)?;
        if !assembly.transformer_config()?["image_dim"].is_u64() {
            return Err(Error::Request(
                crate::Setting::Parts,
                "the transformer reads no images; remove `image-encoder`, or use one of Wan 2.1's image-to-video models".into(),
            ));
        }
    }
    if let Some(file) = &parts.vace {
        assembly.add_branch(file)?;
    }
    if assembly.base.is_none() {
        let config = assembly.transformer_config()?;
        if config["image_dim"].is_u64() && selected.image_encoder.is_none() {
            return Err(Error::NotFound {
                path: path.join(Part::ImageEncoder.folder()),
                hint: "the transformer reads images; set `image-encoder` to CLIP's, such as clip_vision_h.safetensors"
                    .into(),
            });
        }
        for (name, text) in default_configs(&config) {
            assembly.texts.insert(name.into(), text.to_string().into_bytes());
        }
    }
    let recipe = match &parts.recipe {
        Some(name) => Some(Recipe::named(name)?),
        None => selected.transformer.as_deref().and_then(Recipe::beside),
    };
    match recipe {
        Some(Recipe::Known(text)) => drop(assembly.texts.insert(RECIPE.into(), text.into())),
        Some(Recipe::File(file)) => drop(assembly.files.insert(RECIPE.into(), file)),
        None => {}
    }
    Ok(assembly)
}

/// Finds the parts in Wan's own folder: `config.json`, `diffusion_pytorch_model*.safetensors`, and the converted text
/// encoder and autoencoder.
fn find_wan_files(folder: &Path, selected: &mut Parts) -> Result<()> {
    let has = |prefix: &str| {
        let mut names: Vec<_> =
            std::fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
        names.retain(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)) && path.is_file()
        });
        // A converted file stands beside its pickle, and is preferred.
        names.sort_by_key(|path| path.extension().is_none_or(|e| e != "safetensors" && e != "gguf"));
        names.into_iter().next()
    };
    if has("diffusion_pytorch_model").is_none() {
        return Err(Error::NotFound {
            path: folder.join(MODEL_INDEX),
            hint: "the folder is neither in diffusers' layout (with model_index.json; the repositories of Wan whose \
                   name ends in -Diffusers) nor in Wan's own (with diffusion_pytorch_model.safetensors)"
                .into(),
        });
    }
    selected.transformer.get_or_insert_with(|| folder.into());
    selected.text_encoder = selected.text_encoder.take().or_else(|| has("models_t5"));
    selected.autoencoder =
        selected.autoencoder.take().or_else(|| has("Wan2.1_VAE").or_else(|| has("Wan2.2_VAE")));
    Ok(())
}

/// The weight files of `part` at `path`, and the shapes of their tensors.
fn shapes_of(part: Part, path: &Path) -> Result<(Vec<PathBuf>, shapes::Shapes)> {
    let found = files_of(part, path)?;
    let weights = Weights::open(Some(part), &found)
        .map_err(|e| Error::Invalid { path: path.into(), reason: plain(&e) })?;
    Ok((found, weights.shapes()))
}

/// The weight files at `path`: the file itself, or the files in the folder.
fn files_of(part: Part, path: &Path) -> Result<Vec<PathBuf>> {
    let none = |hint: &str| Error::NotFound { path: path.into(), hint: hint.into() };
    if path.is_file() {
        refuse_pickle(path)?;
        return Ok(vec![path.into()]);
    }
    let inside = path.join(part.folder());
    let folder = if inside.is_dir() { &inside } else { path };
    let entries =
        std::fs::read_dir(folder).map_err(|_| none("name an existing file or folder with weights"))?;
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files
        .retain(|file| file.extension().is_some_and(|e| e == "safetensors" || e == "gguf") && file.is_file());
    files.sort();
    // Wan's own folder has other parts beside the transformer.
    let named = |file: &PathBuf| {
        file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("diffusion_pytorch_model"))
    };
    if files.iter().any(named) {
        files.retain(named);
    }
    match files.is_empty() {
        true => Err(none("the folder has no weights: no .safetensors and no .gguf")),
        false => Ok(files),
    }
}

/// Refuses PyTorch files: a pickle can run any program. `soragen convert` reads them without running anything.
fn refuse_pickle(path: &Path) -> Result<()> {
    let io = |source| Error::Io { path: path.into(), source };
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read(&mut magic)).map_err(io)?;
    if !files::is_gguf(path).map_err(io)?
        && read == 4
        && (magic == *b"PK\x03\x04" || magic[0] == 0x80 && magic[1] < 6)
    {
        let reason = format!(
            "a PyTorch pickle can run programs and is not opened; convert it: soragen convert {} {}",
            path.display(),
            path.with_extension("safetensors").display()
        );
        return Err(Error::Invalid { path: path.into(), reason });
    }
    Ok(())
}

/// `config.json` in `folder`, if it can be read.
fn config_beside(folder: &Path) -> Option<Value> {
    const MAX_BYTES: u64 = 1 << 20;
    let path = folder.join("config.json");
    let fits = path.metadata().ok()?.len() <= MAX_BYTES;
    fits.then(|| serde_json::from_slice(&std::fs::read(&path).ok()?).ok()).flatten()
}

/// `tokenizer.json` beside a text encoder, in the layouts of diffusers, of Wan and of single files.
fn tokenizer(folder: &Path) -> Option<PathBuf> {
    ["", "tokenizer", "google/umt5-xxl", "../tokenizer"]
        .iter()
        .map(|subfolder| folder.join(subfolder).join("tokenizer.json"))
        .find(|file| file.is_file())
}

/// Default configurations for a transformer of Wan.
fn default_configs(transformer: &Value) -> [(&'static str, Value); 2] {
    let (class_name, ti2v) = shapes::pipeline(transformer);
    [
        (MODEL_INDEX, json!({ "_class_name": class_name, "expand_timesteps": ti2v })),
        (
            "scheduler/scheduler_config.json",
            json!({
                "_class_name": "UniPCMultistepScheduler",
                "prediction_type": "flow_prediction",
                "use_flow_sigmas": true,
                "num_train_timesteps": 1000,
                "flow_shift": if ti2v { 5.0 } else { 3.0 },
            }),
        ),
    ]
}
