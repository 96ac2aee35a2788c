//! Recipes: how the causal students of Wan sample, as `soragen.json`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{Error, Result};

/// The known causal students of Wan: <https://github.com/guandeh17/Self-Forcing>,
/// <https://github.com/thu-ml/Causal-Forcing>, <https://github.com/NVlabs/LongLive>,
/// <https://github.com/chenfengxu714/StreamDiffusionV2>. `causal-forcing-framewise` is the name that the 2-step recipe had first.
const RECIPES: [(&str, &str); 10] = [
    ("self-forcing", include_str!("recipes/self-forcing.json")),
    ("causal-forcing", include_str!("recipes/causal-forcing.json")),
    ("causal-forcing-framewise", include_str!("recipes/causal-forcing-framewise-2.json")),
    ("causal-forcing-framewise-1", include_str!("recipes/causal-forcing-framewise-1.json")),
    ("causal-forcing-framewise-2", include_str!("recipes/causal-forcing-framewise-2.json")),
    ("causal-forcing-framewise-4", include_str!("recipes/causal-forcing-framewise-4.json")),
    ("longlive", include_str!("recipes/longlive.json")),
    ("longlive-absolute", include_str!("recipes/longlive-absolute.json")),
    ("longlive-2", include_str!("recipes/longlive-2.json")),
    ("streamdiffusion-v2", include_str!("recipes/streamdiffusion-v2.json")),
];

/// The file with the recipe of a causal model.
pub(super) const RECIPE: &str = "soragen.json";

/// Limit of the bytes that are read from a recipe.
const MAX_BYTES: u64 = 1 << 20;

/// The recipe of a causal transformer.
pub(super) enum Recipe {
    Known(&'static str),
    File(PathBuf),
}

impl Recipe {
    /// The recipe `name`: a known one, or the path of a `soragen.json`.
    ///
    /// # Errors
    /// [`Error::NotFound`] lists the known recipes.
    pub(super) fn named(name: &str) -> Result<Self> {
        if let Some((_, text)) = RECIPES.iter().find(|(known, _)| *known == name) {
            return Ok(Self::Known(text));
        }
        let path = PathBuf::from(name);
        if path.is_file() {
            return Ok(Self::File(path));
        }
        let hint = format!("a recipe is one of {}, or the path of a soragen.json", names().join(", "));
        Err(Error::NotFound { path, hint })
    }

    /// The recipe in the folder of the transformer.
    pub(super) fn beside(transformer: &Path) -> Option<Self> {
        let folder =
            if transformer.is_dir() { transformer } else { transformer.parent().unwrap_or(transformer) };
        Some(folder.join(RECIPE)).filter(|file| file.is_file()).map(Self::File)
    }

    /// The object in a training checkpoint that the original inference code loads: `generator`, or `generator_ema`, the averaged
    /// weights. `None` if the recipe does not say.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Invalid`] for a file that cannot be read.
    pub(super) fn checkpoint_key(&self) -> Result<Option<String>> {
        #[derive(Deserialize)]
        struct Keys {
            checkpoint_key: Option<String>,
        }
        let (path, text) = match self {
            Self::Known(text) => (Path::new(RECIPE), text.as_bytes().to_vec()),
            Self::File(path) => {
                let mut text = Vec::new();
                File::open(path)
                    .and_then(|file| file.take(MAX_BYTES).read_to_end(&mut text))
                    .map_err(|source| Error::Io { path: path.clone(), source })?;
                (path.as_path(), text)
            }
        };
        let keys: Keys = serde_json::from_slice(&text)
            .map_err(|e| Error::Invalid { path: path.into(), reason: format!("not a recipe: {e}") })?;
        Ok(keys.checkpoint_key)
    }
}

/// The names of the known recipes.
pub(super) fn names() -> Vec<&'static str> {
    RECIPES.iter().map(|(name, _)| *name).collect()
}
