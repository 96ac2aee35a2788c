//! The files of a repository that the engine reads. No others are downloaded.

use serde::Deserialize;

use super::layout::{MODEL_INDEX, SECOND_TRANSFORMER, ShardIndex};
use super::name::is_plain;

/// Folders with weights, and the stem of the file names in them.
const PARTS: [(&str, &str); 5] = [
    ("text_encoder", "model"),
    ("vae", "diffusion_pytorch_model"),
    ("transformer", "diffusion_pytorch_model"),
    (SECOND_TRANSFORMER, "diffusion_pytorch_model"),
    (IMAGE_ENCODER, "model"),
];
/// CLIP's, of Wan 2.1's image-to-video models.
const IMAGE_ENCODER: &str = "image_encoder";
/// Files that not every model has.
const OPTIONAL: [&str; 6] = [
    "soragen.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer.json",
    "image_processor/preprocessor_config.json",
    "taew2_1.safetensors",
    "taew2_2.safetensors",
];

/// A repository on the hub or in the cache.
pub trait Repository {
    /// The error of a failed read.
    type Error;

    /// Whether the repository has the file `path`.
    fn has(&self, path: &str) -> bool;

    /// Reads a small file that exists.
    fn read(&mut self, path: &str) -> Result<Vec<u8>, Self::Error>;
}

/// Why the files of a model could not be listed.
pub enum ListError<E> {
    /// This required file does not exist.
    Missing(String),
    /// This index is not valid, or lists a file in another folder.
    Index(String),
    /// A file could not be read.
    Read(E),
}

/// The keys of `model_index.json` that matter here.
#[derive(Default, Deserialize)]
struct ModelIndex {
    /// Library and class; both are null if the model has one transformer.
    transformer_2: Option<(Option<String>, Option<String>)>,
    image_encoder: Option<(Option<String>, Option<String>)>,
}

/// The paths of the model in `repository`. Weights come last, so that a snapshot with weights is complete.
pub fn list<R: Repository>(repository: &mut R) -> Result<Vec<String>, ListError<R::Error>> {
    let present = |repository: &R, path: String| match repository.has(&path) {
        true => Ok(path),
        false => Err(ListError::Missing(path)),
    };
    let mut paths = vec![present(repository, MODEL_INDEX.into())?];
    let index: ModelIndex = json(repository, MODEL_INDEX)?;
    let is_listed = |part: &str| {
        let entry = match part {
            SECOND_TRANSFORMER => &index.transformer_2,
            IMAGE_ENCODER => &index.image_encoder,
            _ => return true,
        };
        matches!(entry, Some((_, Some(_))))
    };
    let parts: Vec<_> = PARTS.into_iter().filter(|(part, _)| is_listed(part)).collect();
    paths.extend(OPTIONAL.into_iter().filter(|path| repository.has(path)).map(String::from));
    for (part, _) in &parts {
        paths.push(present(repository, format!("{part}/config.json"))?);
    }
    for (part, stem) in parts {
        let index = format!("{part}/{stem}.safetensors.index.json");
        if !repository.has(&index) {
            paths.push(present(repository, format!("{part}/{stem}.safetensors"))?);
            continue;
        }
        let shards: ShardIndex = json(repository, &index)?;
        paths.push(index.clone());
        for name in shards.files() {
            if !is_plain(&name) || !name.ends_with(".safetensors") {
                return Err(ListError::Index(index));
            }
            paths.push(present(repository, format!("{part}/{name}"))?);
        }
    }
    Ok(paths)
}

fn json<R: Repository, T: serde::de::DeserializeOwned>(
    repository: &mut R,
    path: &str,
) -> Result<T, ListError<R::Error>> {
    let bytes = repository.read(path).map_err(ListError::Read)?;
    serde_json::from_slice(&bytes).map_err(|_| ListError::Index(path.into()))
}
