//! The default model's text encoder: all-MiniLM-L6-v2 (<https://arxiv.org/abs/2002.10957>), a BERT of six layers.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use tokenizers::Tokenizer;

use super::{cut, token_ids, tokenizer};
use crate::Result;
use crate::checkpoint::Source;

/// MiniLM with its tokenizer.
pub struct MiniLm {
    tokenizer: Tokenizer,
    model: BertModel,
    device: Device,
    vocabulary: usize,
    max_tokens: usize,
}

impl MiniLm {
    /// Opens `text_encoder/` and `tokenizer/` of `source`. A prompt is cut at `max_tokens`.
    pub fn open(source: &Source, max_tokens: usize, device: &Device) -> Result<Self> {
        let tokenizer = tokenizer(source, max_tokens)?;

        const CONFIG: &str = "text_encoder/config.json";
        let config: Config = source.json(CONFIG)?;
        if max_tokens > config.max_position_embeddings {
            let most = config.max_position_embeddings;
            return Err(source.invalid(CONFIG, format!("it reads {most} tokens, not {max_tokens}")));
        }
        let weights: VarBuilder = source.weights("text_encoder", "model", DType::F32, device)?;
        let model = BertModel::load(weights, &config).map_err(|e| source.unfit("text_encoder", e.into()))?;
        Ok(Self { tokenizer, model, device: device.clone(), vocabulary: config.vocab_size, max_tokens })
    }

    /// The last hidden state, f32 `[1, max_tokens, 384]`, zero after the prompt's last token.
    pub fn encode(&self, prompt: &str) -> Result<Tensor> {
        let tokens = cut(&self.tokenizer, prompt)?;
        let ids = token_ids(&tokens, self.vocabulary, &self.device)?.unsqueeze(0)?;
        let hidden = self.model.forward(&ids, &ids.zeros_like()?, None)?;
        Ok(hidden.pad_with_zeros(1, 0, self.max_tokens.saturating_sub(hidden.dim(1)?))?)
    }
}
