//! Prompts to embeddings: one submodule an encoder.

mod clean;
mod minilm;
mod umt5;

pub use clean::clean;
pub use minilm::MiniLm;
pub use umt5::{MAX_TOKENS, Umt5, Umt5Config, Umt5Encoder};

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use once_cell::sync::OnceCell;
use serde::Deserialize;
use tokenizers::{Tokenizer, TruncationParams};

use crate::cache::{self, Cache};
use crate::checkpoint::Source;
use crate::digest::Digest;
use crate::{Cancel, Error, Result};

const CONFIG: &str = "text_encoder/config.json";
const TOKENIZER: &str = "tokenizer/tokenizer.json";

/// How many prompts are remembered: those of a storyboard, say. An embedding takes 8 MB at most.
const REMEMBERED: usize = 16;

/// A model's text encoder, and the embeddings it made last.
pub struct TextEncoder {
    kind: Kind,
    made: Mutex<VecDeque<(String, Tensor)>>,
}

enum Kind {
    /// Small enough to be kept.
    MiniLm(Box<MiniLm>),
    /// Larger than the rest of the model together: opened for a prompt and let go.
    Umt5(Box<Absent>),
}

/// An encoder that is not in memory.
struct Absent {
    source: Source,
    dtype: DType,
    device: Device,
    /// Of its files.
    digest: OnceCell<Option<Digest>>,
}

impl TextEncoder {
    /// The one in `text_encoder/` of `source`: UMT5, or MiniLM where its configuration says BERT. Prompts are cut at
    /// `max_tokens`, but for UMT5, which always takes 512.
    ///
    /// # Errors
    /// [`Error::NotFound`] and [`Error::Invalid`] if the files of MiniLM are missing or damaged; those of UMT5 are
    /// opened with the first prompt.
    pub fn open(source: &Source, max_tokens: usize, dtype: DType, device: &Device) -> Result<Self> {
        #[derive(Deserialize)]
        struct Kind {
            model_type: Option<String>,
        }
        // Its absence is told when it is opened.
        let kind = source.exists(CONFIG).then(|| source.json::<Kind>(CONFIG)).transpose()?;
        match kind.and_then(|kind| kind.model_type).as_deref() {
            Some("bert") => Self::minilm(source, max_tokens, device),
            _ => Ok(Self::umt5(source, dtype, device)),
        }
    }

    /// MiniLM; prompts are cut at `max_tokens`.
    pub fn minilm(source: &Source, max_tokens: usize, device: &Device) -> Result<Self> {
        Ok(Self::new(Kind::MiniLm(Box::new(MiniLm::open(source, max_tokens, device)?))))
    }

    /// UMT5. Its weights are read when a prompt is.
    pub fn umt5(source: &Source, dtype: DType, device: &Device) -> Self {
        let (source, device) = (source.clone(), device.clone());
        Self::new(Kind::Umt5(Box::new(Absent { source, dtype, device, digest: OnceCell::new() })))
    }

    fn new(kind: Kind) -> Self {
        Self { kind, made: Mutex::default() }
    }

    /// `[1, tokens, dim]`, zero after the prompt's last token.
    ///
    /// What UMT5 reads is kept in `cache`, if there is one: of a prompt that is there it is not loaded.
    pub fn encode(&self, prompt: &str, cache: Option<&Cache>, cancel: &Cancel) -> Result<Tensor> {
        // Whoever wants another prompt meanwhile waits: two UMT5s at once would not fit.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, embeds)) = made.iter().find(|(text, _)| text == prompt) {
            return Ok(embeds.clone());
        }
        let embeds = match &self.kind {
            Kind::MiniLm(encoder) => encoder.encode(prompt)?,
            Kind::Umt5(encoder) => encoder.encode(prompt, cache, cancel)?,
        };
        if made.len() == REMEMBERED {
            made.pop_front();
        }
        made.push_back((prompt.to_string(), embeds.clone()));
        Ok(embeds)
    }
}

impl Absent {
    fn encode(&self, prompt: &str, cache: Option<&Cache>, cancel: &Cancel) -> Result<Tensor> {
        let kept = cache.and_then(|cache| Some((cache, self.key(prompt)?)));
        if let Some((cache, key)) = &kept
            && let Some(hidden) = cache.get(cache::Kind::Prompt, key, &self.device)
        {
            return Umt5::pad(&hidden);
        }
        let hidden = Umt5::open(&self.source, self.dtype, &self.device)?.read(prompt, cancel)?;
        if let Some((cache, key)) = &kept {
            cache.put(cache::Kind::Prompt, key, &hidden);
        }
        Umt5::pad(&hidden)
    }

    /// Stands for what it makes of `prompt`; `None` if its files cannot be read.
    fn key(&self, prompt: &str) -> Option<Digest> {
        let files = self.digest.get_or_init(|| self.source.digest(&["text_encoder", "tokenizer"]).ok());
        let (device, dtype) = (format!("{:?}", self.device.location()), self.dtype.as_str());
        let key = Digest::engine().with("text encoder", (*files)?.hex().as_bytes());
        Some(
            key.with("device", device.as_bytes())
                .with("precision", dtype.as_bytes())
                .with("prompt", prompt.as_bytes()),
        )
    }
}

/// `tokenizer/tokenizer.json` of `source`, which cuts prompts at `max_tokens`.
fn tokenizer(source: &Source, max_tokens: usize) -> Result<Tokenizer> {
    let bytes = source.read(TOKENIZER)?;
    let about = |reason: String| source.invalid(TOKENIZER, reason);
    serde_json::from_slice::<serde::de::IgnoredAny>(&bytes)
        .map_err(|e| about(format!("not understood: {e}")))?;
    // The crate expects of some of its parts that they are as it writes them.
    let tokenizer = std::panic::catch_unwind(|| Tokenizer::from_bytes(&bytes));
    let mut tokenizer =
        tokenizer.map_err(|_| about("not understood".into()))?.map_err(|e| about(e.to_string()))?;
    let truncation = TruncationParams { max_length: max_tokens, ..Default::default() };
    tokenizer.with_padding(None).with_truncation(Some(truncation)).map_err(|e| about(e.to_string()))?;
    Ok(tokenizer)
}

/// The numbers of the tokens that `prompt` is cut into.
///
/// # Errors
/// [`Error::Request`], for a tokenizer that refers to tokens it does not have too: the crate finds out only here.
fn cut(tokenizer: &Tokenizer, prompt: &str) -> Result<Vec<u32>> {
    let refused = |reason: String| {
        Error::Request(crate::Setting::Prompt, format!("the prompt cannot be tokenized: {reason}"))
    };
    let cut = std::panic::catch_unwind(AssertUnwindSafe(|| tokenizer.encode(prompt, true)));
    let cut = cut.map_err(|_| refused(format!("{TOKENIZER} is damaged; get it again")))?;
    Ok(cut.map_err(|e| refused(e.to_string()))?.get_ids().to_vec())
}

/// What a tokenizer made of a prompt, u32 `[tokens]`.
///
/// # Errors
/// [`Error::Request`] for tokens that an encoder of `vocabulary` entries does not know, and for none at all:
/// CUDA faults on either.
fn token_ids(tokens: &[u32], vocabulary: usize, device: &Device) -> Result<Tensor> {
    check_tokens(tokens, vocabulary)?;
    Ok(Tensor::new(tokens, device)?)
}

/// The same, without making any of them.
fn check_tokens(tokens: &[u32], vocabulary: usize) -> Result<()> {
    if tokens.is_empty() || tokens.iter().any(|&token| token as usize >= vocabulary) {
        return Err(Error::Request(crate::Setting::Model,
            "the tokenizer gives tokens that the text encoder does not know, or none; they are not of one model"
                .into(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_that_cannot_be_looked_up_are_refused() {
        let ids = |tokens: &[u32]| token_ids(tokens, 3, &Device::Cpu);
        assert_eq!(ids(&[0, 2]).unwrap().dims(), [2]);
        assert!(matches!(ids(&[]), Err(Error::Request(..))));
        assert!(matches!(ids(&[0, 3]), Err(Error::Request(..))));
    }
}
