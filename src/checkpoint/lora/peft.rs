//! The scale that PEFT stores apart from the matrices of a LoRA: in `adapter_config.json` beside the file
//! (`peft/tuners/lora/config.py`), or in the metadata of the file, as diffusers does (`lora_adapter_metadata`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use candle_core::{Error, Result, bail};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The file beside the weights of a LoRA.
pub const CONFIG: &str = "adapter_config.json";
/// The key in the metadata of a safetensors file.
const METADATA: &str = "lora_adapter_metadata";
/// diffusers' prefix of the transformer's settings in the metadata.
const TRANSFORMER: &str = "transformer.";
/// The largest configuration that is read.
const MAX_BYTES: u64 = 1 << 20;
/// Characters of a regular expression; PEFT accepts one in place of a name.
const EXPRESSION: &[char] = &['*', '+', '?', '^', '$', '[', ']', '(', ')', '|', '\\', '{', '}'];

/// PEFT's `LoraConfig`, with its default values.
#[derive(Deserialize)]
#[serde(default)]
pub struct LoraConfig {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    use_rslora: bool,
    /// Ranks and alphas of layers by the end of their names.
    rank_pattern: BTreeMap<String, usize>,
    alpha_pattern: BTreeMap<String, f64>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        let (rank_pattern, alpha_pattern) = Default::default();
        Self {
            peft_type: "LORA".into(),
            r: 8,
            lora_alpha: 8.0,
            use_rslora: false,
            rank_pattern,
            alpha_pattern,
        }
    }
}

impl LoraConfig {
    /// The configuration of the LoRA file at `path`, if it has one.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let (from, value) = match in_metadata(path)? {
            Some(value) => ("the metadata of the file", value),
            None => {
                let beside = path.with_file_name(CONFIG);
                if !beside.is_file() {
                    return Ok(None);
                }
                let mut text = Vec::new();
                File::open(beside)?.take(MAX_BYTES).read_to_end(&mut text)?;
                (CONFIG, serde_json::from_slice(&text).unwrap_or_default())
            }
        };
        let config: Self = serde_json::from_value(value)
            .map_err(|e| Error::Msg(format!("{from} is not a configuration of PEFT: {e}")))?;
        if config.peft_type != "LORA" {
            bail!("{from} says that it is {}, which is not supported; use a plain LoRA", config.peft_type);
        }
        if config.r == 0 || !config.lora_alpha.is_finite() {
            bail!("{from} has the rank {} and the alpha {}", config.r, config.lora_alpha);
        }
        let patterns = || config.rank_pattern.keys().chain(config.alpha_pattern.keys());
        if let Some(pattern) = patterns().find(|pattern| pattern.contains(EXPRESSION)) {
            bail!("{from} has the regular expression {pattern:?}; only names of layers are supported");
        }
        Ok(Some(config))
    }

    /// The factor of the product of the matrices of `layer` (`peft/tuners/lora/layer.py`, `update_layer`).
    pub fn scale(&self, layer: &str, rank: usize) -> Result<f64> {
        let stated = find(&self.rank_pattern, layer).copied().unwrap_or(self.r);
        if stated != rank {
            bail!(
                "the configuration of PEFT says that {layer} has the rank {stated}, but it has {rank}; {CONFIG} of another \
                 LoRA must not be beside this one"
            );
        }
        let alpha = find(&self.alpha_pattern, layer).copied().unwrap_or(self.lora_alpha);
        let rank = rank as f64;
        Ok(alpha / if self.use_rslora { rank.sqrt() } else { rank })
    }
}

/// The value for `layer`: that of the first pattern that is the end of its name (`get_pattern_key` of PEFT).
fn find<'a, T>(patterns: &'a BTreeMap<String, T>, layer: &str) -> Option<&'a T> {
    let ends = |pattern: &str| {
        layer.strip_suffix(pattern).is_some_and(|before| before.is_empty() || before.ends_with('.'))
    };
    patterns.iter().find(|(pattern, _)| ends(pattern)).map(|(_, value)| value)
}

/// The configuration in the metadata of the safetensors file at `path`.
fn in_metadata(path: &Path) -> Result<Option<Value>> {
    #[derive(Deserialize)]
    struct Header {
        #[serde(rename = "__metadata__", default)]
        metadata: BTreeMap<String, String>,
    }
    let mut file = File::open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let mut header = Vec::new();
    file.take(u64::from_le_bytes(length)).read_to_end(&mut header)?;
    let header: Header = serde_json::from_slice(&header).map_err(Error::wrap)?;
    let Some(text) = header.metadata.get(METADATA) else { return Ok(None) };
    let all: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
    let own: Map<String, Value> = all
        .into_iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(TRANSFORMER)?.to_string(), value)))
        .collect();
    Ok((!own.is_empty()).then_some(Value::Object(own)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_the_ends_of_names() {
        // `get_pattern_key` of PEFT: `re.match(rf"(.*\.)?({key})$", name)`.
        let config: LoraConfig = serde_json::from_value(serde_json::json!({
            "r": 4, "lora_alpha": 8, "alpha_pattern": { "to_q": 2, "blocks.1.attn2.to_v": 16.0 }, "rank_pattern": { "net.2": 2 },
        }))
        .unwrap();
        for (layer, rank, scale) in [
            ("blocks.0.attn1.to_q", 4, 0.5),
            ("blocks.0.attn1.into_q", 4, 2.0),
            ("blocks.1.attn2.to_v", 4, 4.0),
            ("blocks.11.attn2.to_v", 4, 2.0),
            ("blocks.0.ffn.net.2", 2, 4.0),
        ] {
            assert_eq!(config.scale(layer, rank).unwrap(), scale, "{layer}");
        }
        assert!(config.scale("blocks.0.ffn.net.2", 4).unwrap_err().to_string().contains("the rank 2"));
        let stable = LoraConfig { use_rslora: true, r: 16, ..LoraConfig::default() };
        assert_eq!(stable.scale("x", 16).unwrap(), 2.0);
    }
}
