//! Tokenizers.

use std::panic::{AssertUnwindSafe, catch_unwind};

use candle_core::{Device, Tensor};
use serde::de::IgnoredAny;
use tokenizers::{Tokenizer, TruncationParams};

use crate::checkpoint::Source;
use crate::{Error, Result, Setting};

/// The file of the tokenizer in diffusers' layout.
pub const TOKENIZER: &str = "tokenizer/tokenizer.json";

/// Opens the tokenizer of `source`. It truncates prompts at `max_tokens`.
pub fn open_tokenizer(source: &Source, max_tokens: usize) -> Result<Tokenizer> {
    let bytes = source.read(TOKENIZER)?;
    let invalid = |reason: String| source.invalid(TOKENIZER, reason);
    serde_json::from_slice::<IgnoredAny>(&bytes).map_err(|e| invalid(format!("not valid JSON: {e}")))?;
    // The crate panics on some invalid values.
    let tokenizer = catch_unwind(|| Tokenizer::from_bytes(&bytes));
    let mut tokenizer = tokenizer
        .map_err(|_| invalid("not a valid tokenizer".into()))?
        .map_err(|e| invalid(e.to_string()))?;
    let truncation = TruncationParams { max_length: max_tokens, ..Default::default() };
    tokenizer.with_padding(None).with_truncation(Some(truncation)).map_err(|e| invalid(e.to_string()))?;
    Ok(tokenizer)
}

/// The token ids of `prompt`.
///
/// # Errors
/// [`Error::Request`], also for a tokenizer that refers to missing tokens, which the crate detects only here.
pub fn tokenize(tokenizer: &Tokenizer, prompt: &str) -> Result<Vec<u32>> {
    let refuse =
        |reason: String| Error::Request(Setting::Prompt, format!("the prompt cannot be tokenized: {reason}"));
    let tokens = catch_unwind(AssertUnwindSafe(|| tokenizer.encode(prompt, true)));
    let tokens = tokens.map_err(|_| refuse(format!("{TOKENIZER} is damaged; download it again")))?;
    Ok(tokens.map_err(|e| refuse(e.to_string()))?.get_ids().to_vec())
}

/// The token ids as a tensor, u32 `[tokens]`.
///
/// # Errors
/// As [`check_tokens`].
pub fn token_ids(tokens: &[u32], vocabulary: usize, device: &Device) -> Result<Tensor> {
    check_tokens(tokens, vocabulary)?;
    Ok(Tensor::new(tokens, device)?)
}

/// Checks that there are tokens, all below `vocabulary`. Other ids are out-of-bounds reads on a GPU.
///
/// # Errors
/// [`Error::Request`].
pub fn check_tokens(tokens: &[u32], vocabulary: usize) -> Result<()> {
    if tokens.is_empty() || tokens.iter().any(|&token| token as usize >= vocabulary) {
        return Err(Error::Request(
            Setting::Model,
            "the tokenizer does not fit the text encoder: it gives no tokens, or unknown ones; use the tokenizer.json \
             of this model"
                .into(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_tokens_are_an_error() {
        let ids = |tokens: &[u32]| token_ids(tokens, 3, &Device::Cpu);
        assert_eq!(ids(&[0, 2]).unwrap().dims(), [2]);
        assert!(matches!(ids(&[]), Err(Error::Request(..))));
        assert!(matches!(ids(&[0, 3]), Err(Error::Request(..))));
    }
}
