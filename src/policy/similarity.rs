//! Semantic similarity of a prompt and the sentences of a policy, by all-MiniLM-L6-v2, the text encoder of the built-in
//! model: the cosine between embeddings (<https://www.sbert.net>).

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use candle_core::{DType, Device};

use super::normalize::variants;
use crate::checkpoint::Source;
use crate::text::MiniLm;
use crate::{Cancel, Result};

/// Tokens of a sentence; longer text is split into parts.
const MAX_TOKENS: usize = 128;
/// Words of a part. Short parts give a few words in a long text enough weight.
const WINDOW: usize = 24;
/// Words of a prompt that are compared. A model reads at most 512 tokens, and a word is at least one token.
const MAX_WORDS: usize = 512;

/// A vector of length 1.
type Embedding = Vec<f32>;

/// The encoder of the sentences. Policies share it; it is dropped with the last one.
#[derive(Clone)]
pub struct SentenceEncoder(Arc<MiniLm>);

impl SentenceEncoder {
    /// Opens the encoder of the built-in model, unless another policy has it.
    ///
    /// # Errors
    /// Those of [`MiniLm::open`]; also if this program has no built-in model.
    pub fn open() -> Result<Self> {
        static SHARED: Mutex<Weak<MiniLm>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(encoder) = shared.upgrade() {
            return Ok(Self(encoder));
        }
        let encoder = MiniLm::open(&Source::Builtin, MAX_TOKENS, &Device::Cpu, &Cancel::new())?;
        let encoder = Arc::new(encoder);
        *shared = Arc::downgrade(&encoder);
        Ok(Self(encoder))
    }

    /// The normalized mean of the last hidden states.
    fn embed(&self, text: &str) -> Result<Embedding> {
        // The hidden states are zero after the last token, so the sum has the direction of the mean.
        let sum = self.0.encode(text)?.to_dtype(DType::F32)?.sum(1)?.flatten_all()?.to_vec1::<f32>()?;
        let length = sum.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        Ok(sum.into_iter().map(|x| x / length).collect())
    }

    /// The embeddings of a prompt and of its parts.
    pub fn embed_prompt(&self, prompt: &str) -> Result<Vec<Embedding>> {
        let mut texts: Vec<String> = Vec::new();
        for part in variants(prompt).iter().flat_map(|text| parts(text)) {
            if !texts.contains(&part) {
                texts.push(part);
            }
        }
        texts.iter().map(|text| self.embed(text)).collect()
    }
}

/// Sentences that a category is like.
#[derive(Clone)]
pub struct Similarity {
    pub encoder: SentenceEncoder,
    sentences: Vec<Embedding>,
    /// The least cosine of a match.
    threshold: f32,
}

impl Similarity {
    /// # Errors
    /// If this program has no built-in model, or if a sentence cannot be encoded.
    pub fn new(sentences: &[String], threshold: f32) -> Result<Self> {
        let encoder = SentenceEncoder::open()?;
        let sentences = sentences.iter().map(|sentence| encoder.embed(sentence)).collect::<Result<_>>()?;
        Ok(Self { encoder, sentences, threshold })
    }

    /// Whether a part of a prompt is similar to a sentence.
    pub fn matches(&self, parts: &[Embedding]) -> bool {
        parts.iter().any(|part| self.highest_cosine(part) >= self.threshold)
    }

    fn highest_cosine(&self, part: &Embedding) -> f32 {
        let cosine = |sentence: &Embedding| sentence.iter().zip(part).map(|(a, b)| a * b).sum::<f32>();
        self.sentences.iter().map(cosine).fold(-1.0, f32::max)
    }
}

impl fmt::Debug for Similarity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Similarity").field("threshold", &self.threshold).finish_non_exhaustive()
    }
}

/// The whole prompt, its sentences and clauses, and windows of long ones.
fn parts(prompt: &str) -> Vec<String> {
    let mut parts = vec![prompt.to_owned()];
    let mut left = MAX_WORDS;
    for clause in prompt.split(['.', '!', '?', ';', ':', ',', '\n', '|', '(', ')']) {
        let words: Vec<&str> = clause.split_whitespace().take(left).collect();
        left -= words.len();
        for start in (0..words.len()).step_by(WINDOW / 2) {
            let end = words.len().min(start + WINDOW);
            let part = words[start..end].join(" ");
            if !parts.contains(&part) {
                parts.push(part);
            }
            if end == words.len() {
                break;
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_prompt_is_split_into_windows() {
        let long = vec!["word"; 100].join(" ") + " end";
        let found = parts(&format!("{long}. a cat, a dog"));
        assert!(found.iter().any(|part| part == "a dog"), "{found:?}");
        assert!(found.iter().skip(1).all(|part| part.split(' ').count() <= WINDOW));
        assert!(found.iter().any(|part| part.ends_with("word end")), "{found:?}");
        let many: String = (0..100).map(|i| format!("a{i}, ")).collect();
        assert!(parts(&format!("{many} a dog")).iter().any(|part| part == "a dog"));
        let many: String = (0..10_000).map(|i| format!("a{i}, ")).collect();
        assert!(parts(&many).len() <= 1 + MAX_WORDS);
        assert!(parts(&many.replace(',', "")).len() <= 1 + MAX_WORDS);
    }
}
