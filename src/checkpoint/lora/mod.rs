//! LoRA files (<https://arxiv.org/abs/2106.09685>): products of two low-rank matrices, or whole differences, that are
//! added to the weights of a transformer. They are added when a tensor is loaded. For a layer that stays quantized,
//! they are separate layers.
//!
//! Tools write different [names](key), and different [scales](peft).

#[allow(unsafe_code, reason = "weights are mapped into memory")]
mod changes;
mod key;
mod peft;

use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

pub use changes::Changes;
pub use peft::CONFIG as PEFT_CONFIG;

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
