//! File names in diffusers' layout of a model.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// The file that marks a folder in diffusers' layout.
pub(crate) const MODEL_INDEX: &str = "model_index.json";
/// The folder of the second transformer (Wan 2.2 A14B).
pub(crate) const SECOND_TRANSFORMER: &str = "transformer_2";

/// `*.safetensors.index.json`: the file of each tensor.
#[derive(Deserialize)]
pub(crate) struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

impl ShardIndex {
    /// The names of the shard files.
    pub fn files(self) -> BTreeSet<String> {
        self.weight_map.into_values().collect()
    }
}
