//! The text encoder of the built-in model: all-MiniLM-L6-v2 (<https://arxiv.org/abs/2002.10957>), a BERT with six
//! layers.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use tokenizers::Tokenizer;

use super::CONFIG;
use super::tokens::{open_tokenizer, token_ids, tokenize};
use crate::checkpoint::Source;
use crate::{Cancel, Result};

/// MiniLM with its tokenizer.
pub struct MiniLm {
    tokenizer: Tokenizer,
    model: BertModel,
    device: Device,
    vocabulary: usize,
    max_tokens: usize,
}

impl MiniLm {
    /// Opens `text_encoder/` and `tokenizer/` of `source`. Prompts are truncated at `max_tokens`.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound) and [`Error::Invalid`](crate::Error::Invalid) for missing or damaged
    /// files; [`Error::Cancelled`](crate::Error::Cancelled) within one tensor of a cancel.
    pub fn open(source: &Source, max_tokens: usize, device: &Device, cancel: &Cancel) -> Result<Self> {
        let tokenizer = open_tokenizer(source, max_tokens)?;
        let config: Config = source.json(CONFIG)?;
        if max_tokens > config.max_position_embeddings {
            let most = config.max_position_embeddings;
            return Err(
                source.invalid(CONFIG, format!("the encoder has {most} positions; {max_tokens} are needed"))
            );
        }
        let weights: VarBuilder = source.weights("text_encoder", "model", DType::F32, device, cancel)?;
        let model = BertModel::load(weights, &config);
        // A cancel is an error of candle above.
        cancel.check()?;
        let model = model.map_err(|e| source.mismatch("text_encoder", e.into()))?;
        Ok(Self { tokenizer, model, device: device.clone(), vocabulary: config.vocab_size, max_tokens })
    }

    /// The last hidden state, f32 `[1, max_tokens, 384]`, zero after the last token of the prompt.
    pub fn encode(&self, prompt: &str) -> Result<Tensor> {
        let tokens = tokenize(&self.tokenizer, prompt)?;
        let ids = token_ids(&tokens, self.vocabulary, &self.device)?.unsqueeze(0)?;
        let hidden = self.model.forward(&ids, &ids.zeros_like()?, None)?;
        Ok(hidden.pad_with_zeros(1, 0, self.max_tokens.saturating_sub(hidden.dim(1)?))?)
    }
}
