//! Which files of a repository make a model. Only these are ever asked for.

use serde::Deserialize;

use super::name::is_plain;
use crate::checkpoint::SECOND_TRANSFORMER as SECOND;
use crate::checkpoint::{INDEX, ShardIndex};

/// The folders with weights and what the files in them are called.
const PARTS: [(&str, &str); 4] = [
    ("text_encoder", "model"),
    ("vae", "diffusion_pytorch_model"),
    ("transformer", "diffusion_pytorch_model"),
    (SECOND, "diffusion_pytorch_model"),
];
/// What not every model has.
const OPTIONAL: [&str; 5] = [
    "soragen.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer.json",
    "taew2_1.safetensors",
    "taew2_2.safetensors",
];

/// A repository, here or there.
pub trait Repository {
    /// What goes wrong in reading.
    type Error;

    /// Whether there is a file at `path`.
    fn has(&self, path: &str) -> bool;

    /// A small file that there is.
    fn read(&mut self, path: &str) -> Result<Vec<u8>, Self::Error>;
}

/// Why there is no list.
pub enum Unlisted<E> {
    /// This file is needed and not there.
    Missing(String),
    /// This index is no index, or names what is not a file beside it.
    Index(String),
    /// A file cannot be read.
    Read(E),
}

/// The part that matters of `model_index.json`.
#[derive(Default, Deserialize)]
struct ModelIndex {
    /// Library and class, both null where there is none.
    transformer_2: Option<(Option<String>, Option<String>)>,
}

/// The paths of the model in `repository`, those of weights last: where they are, everything is.
pub fn list<R: Repository>(repository: &mut R) -> Result<Vec<String>, Unlisted<R::Error>> {
    let present = |repository: &R, path: String| match repository.has(&path) {
        true => Ok(path),
        false => Err(Unlisted::Missing(path)),
    };
    let mut paths = vec![present(repository, INDEX.into())?];
    let index: ModelIndex = json(repository, INDEX)?;
    let two = matches!(index.transformer_2, Some((_, Some(_))));
    let parts: Vec<_> = PARTS.into_iter().filter(|(part, _)| *part != SECOND || two).collect();
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
                return Err(Unlisted::Index(index));
            }
            paths.push(present(repository, format!("{part}/{name}"))?);
        }
    }
    Ok(paths)
}

fn json<R: Repository, T: serde::de::DeserializeOwned>(
    repository: &mut R,
    path: &str,
) -> Result<T, Unlisted<R::Error>> {
    let bytes = repository.read(path).map_err(Unlisted::Read)?;
    serde_json::from_slice(&bytes).map_err(|_| Unlisted::Index(path.into()))
}
