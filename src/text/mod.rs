//! Text encoders: prompts to embeddings.

mod clean;
mod minilm;
mod tokens;
mod umt5;
pub(crate) mod weighted;

pub use clean::clean;
pub use minilm::MiniLm;
pub use umt5::{MAX_TOKENS, Umt5, Umt5Config, Umt5Encoder};

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};
use once_cell::sync::OnceCell;
use serde::Deserialize;

use crate::cache::{self, Cache};
use crate::cancel::CancellableMutex;
use crate::checkpoint::Source;
use crate::digest::Digest;
use crate::testing::{self, Event};
use crate::{Cancel, Result};

const CONFIG: &str = "text_encoder/config.json";

/// Embeddings that stay in memory, enough for a storyboard. Each takes 8 MB at most.
const REMEMBERED: usize = 16;

/// The text encoder of a model, with the embeddings of the last prompts.
pub struct TextEncoder {
    source: Source,
    /// One thread encodes at a time: two UMT5 encoders would not fit into memory.
    encoder: CancellableMutex<Encoder>,
    /// Has its own lock, so that a remembered prompt does not wait for a running encoder.
    remembered: Mutex<VecDeque<(String, Tensor)>>,
}

enum Encoder {
    /// Small: it stays in memory.
    MiniLm(Box<MiniLm>),
    /// Larger than the rest of the model: it is opened for each prompt.
    Umt5(Box<UnloadedUmt5>),
}

/// A UMT5 encoder that is not in memory.
struct UnloadedUmt5 {
    source: Source,
    dtype: DType,
    device: Device,
    /// Digest of the files; `None` if they cannot be read.
    digest: OnceCell<Option<Digest>>,
}

impl TextEncoder {
    /// Opens the encoder in `text_encoder/`: MiniLM if its configuration says BERT, otherwise UMT5. MiniLM truncates
    /// prompts at `max_tokens`, UMT5 at 512 tokens.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound) and [`Error::Invalid`](crate::Error::Invalid) for missing or damaged
    /// files of MiniLM, [`Error::Cancelled`](crate::Error::Cancelled). UMT5 is opened with the first prompt.
    pub fn open(
        source: &Source,
        max_tokens: usize,
        dtype: DType,
        device: &Device,
        cancel: &Cancel,
    ) -> Result<Self> {
        #[derive(Deserialize)]
        struct Config {
            model_type: Option<String>,
        }
        // A missing file is an error when the encoder is opened.
        let config = source.exists(CONFIG).then(|| source.json::<Config>(CONFIG)).transpose()?;
        match config.and_then(|config| config.model_type).as_deref() {
            Some("bert") => Self::minilm(source, max_tokens, device, cancel),
            _ => Ok(Self::umt5(source, dtype, device)),
        }
    }

    fn minilm(source: &Source, max_tokens: usize, device: &Device, cancel: &Cancel) -> Result<Self> {
        let encoder = MiniLm::open(source, max_tokens, device, cancel)?;
        Ok(Self::new(source, Encoder::MiniLm(Box::new(encoder))))
    }

    fn umt5(source: &Source, dtype: DType, device: &Device) -> Self {
        let unloaded =
            UnloadedUmt5 { source: source.clone(), dtype, device: device.clone(), digest: OnceCell::new() };
        Self::new(source, Encoder::Umt5(Box::new(unloaded)))
    }

    fn new(source: &Source, encoder: Encoder) -> Self {
        let encoder = CancellableMutex::new(encoder);
        Self { source: source.clone(), encoder, remembered: Mutex::default() }
    }

    /// The embeddings of `prompt`: `[1, tokens, dim]`, zero after the last token of the prompt.
    ///
    /// `cache` keeps what UMT5 encodes; a cached prompt does not load UMT5.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::Error::Cancelled), also while another thread encodes; the errors of the encoder.
    pub fn encode(&self, prompt: &str, cache: Option<&Cache>, cancel: &Cancel) -> Result<Tensor> {
        if let Some(embeds) = self.recall(prompt) {
            return Ok(embeds);
        }
        let encoder = self.encoder.lock(cancel)?;
        // Another thread may have encoded the prompt meanwhile.
        if let Some(embeds) = self.recall(prompt) {
            return Ok(embeds);
        }
        let embeds = match &*encoder {
            Encoder::MiniLm(encoder) => {
                testing::call(&self.source, Event::Encode, cancel)?;
                encoder.encode(prompt)?
            }
            Encoder::Umt5(encoder) => encoder.encode(prompt, cache, cancel)?,
        };
        let mut remembered = self.remembered();
        if remembered.len() == REMEMBERED {
            remembered.pop_front();
        }
        remembered.push_back((prompt.to_string(), embeds.clone()));
        Ok(embeds)
    }

    fn recall(&self, prompt: &str) -> Option<Tensor> {
        self.remembered().iter().find(|(text, _)| text == prompt).map(|(_, embeds)| embeds.clone())
    }

    fn remembered(&self) -> MutexGuard<'_, VecDeque<(String, Tensor)>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnloadedUmt5 {
    fn encode(&self, prompt: &str, cache: Option<&Cache>, cancel: &Cancel) -> Result<Tensor> {
        let entry = cache.and_then(|cache| Some((cache, self.key(prompt)?)));
        if let Some((cache, key)) = &entry
            && let Some(hidden) = cache.get(cache::Kind::Prompt, key, &self.device)
        {
            return Umt5::pad(&hidden);
        }
        testing::call(&self.source, Event::Encode, cancel)?;
        let encoder = Umt5::open(&self.source, self.dtype, &self.device, cancel)?;
        let hidden = encoder.encode_unpadded(prompt, cancel)?;
        if let Some((cache, key)) = &entry {
            cache.put(cache::Kind::Prompt, key, &hidden);
        }
        Umt5::pad(&hidden)
    }

    /// The cache key of `prompt`; `None` if the files of the encoder cannot be read.
    fn key(&self, prompt: &str) -> Option<Digest> {
        let files = self.digest.get_or_init(|| self.source.digest(&["text_encoder", "tokenizer"]).ok());
        let key = Digest::engine().with("text encoder", (*files)?.hex().as_bytes());
        Some(key.with("prompt", prompt.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::Error;

    #[test]
    fn a_thread_that_waits_for_the_encoder_can_be_cancelled() {
        let source = Source::Folder("no/such/folder".into());
        let encoder = TextEncoder::umt5(&source, DType::F32, &Device::Cpu);
        let embeds = Tensor::zeros((1, 1, 1), DType::F32, &Device::Cpu).unwrap();
        encoder.remembered().push_back(("a fox".into(), embeds));
        let (running, cancel) = (encoder.encoder.lock(&Cancel::new()).unwrap(), Cancel::new());
        std::thread::scope(|scope| {
            let (sender, started) = mpsc::channel();
            let (encoder, cancel) = (&encoder, &cancel);
            let waiting = scope.spawn(move || {
                sender.send(()).unwrap();
                encoder.encode("a bird", None, cancel)
            });
            started.recv().unwrap();
            assert!(encoder.encode("a fox", None, &Cancel::new()).is_ok(), "a remembered prompt never waits");
            assert!(!waiting.is_finished());
            cancel.cancel();
            assert!(matches!(waiting.join().unwrap(), Err(Error::Cancelled)));
        });
        drop(running);
        assert!(matches!(encoder.encode("a bird", None, &Cancel::new()), Err(Error::NotFound { .. })));
    }
}
