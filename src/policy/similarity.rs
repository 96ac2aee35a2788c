//! What a prompt means, as far as a small language model can tell: all-MiniLM-L6-v2, the text encoder of the default
//! model, compares sentences by the angle between their embeddings (<https://www.sbert.net>).

use candle_core::{DType, Device};
use once_cell::sync::OnceCell;

use super::reading::forms;
use crate::Result;
use crate::checkpoint::Source;
use crate::text::MiniLm;

/// It reads sentences; what is longer is read in parts.
const MAX_TOKENS: usize = 128;
/// Words that are read together of what is longer, so that what is hidden in a long text weighs something.
const WINDOW: usize = 24;
/// Words of a prompt that are read. A model takes 512 tokens at most, and no word is less than one.
const MAX_WORDS: usize = 512;

/// A direction: of length 1.
type Embedding = Vec<f32>;

/// Sentences, and how near to one of them a prompt has to be.
#[derive(Clone, Debug)]
pub struct Likeness {
    sentences: Vec<Embedding>,
    /// Cosine of the angle.
    least: f32,
}

impl Likeness {
    /// # Errors
    /// Where there is no default model in this build, or a sentence cannot be read.
    pub fn new(sentences: &[String], least: f32) -> Result<Self> {
        let sentences = sentences.iter().map(|sentence| embed(sentence)).collect::<Result<_>>()?;
        Ok(Self { sentences, least })
    }

    /// Whether one of a prompt's parts is near enough.
    pub fn matches(&self, parts: &[Embedding]) -> bool {
        parts.iter().any(|part| self.nearest(part) >= self.least)
    }

    fn nearest(&self, part: &Embedding) -> f32 {
        let cosine = |sentence: &Embedding| sentence.iter().zip(part).map(|(a, b)| a * b).sum::<f32>();
        self.sentences.iter().map(cosine).fold(-1.0, f32::max)
    }
}

/// The embeddings of a prompt as a whole and of its parts.
pub fn embeddings(prompt: &str) -> Result<Vec<Embedding>> {
    let mut all: Vec<String> = Vec::new();
    for part in forms(prompt).iter().flat_map(|form| parts(form)) {
        if !all.contains(&part) {
            all.push(part);
        }
    }
    all.iter().map(|part| embed(part)).collect()
}

/// The whole, its sentences and clauses, and stretches of long ones.
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

/// The mean of the last hidden states, made one long.
fn embed(text: &str) -> Result<Embedding> {
    static ENCODER: OnceCell<MiniLm> = OnceCell::new();
    let encoder = ENCODER.get_or_try_init(|| MiniLm::open(&Source::Builtin, MAX_TOKENS, &Device::Cpu))?;
    // Zero after the last token, so that the sum has the mean's direction.
    let sum = encoder.encode(text)?.to_dtype(DType::F32)?.sum(1)?.flatten_all()?.to_vec1::<f32>()?;
    let length = sum.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    Ok(sum.into_iter().map(|x| x / length).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_read_in_stretches() {
        let long = vec!["word"; 100].join(" ") + " end";
        let read = parts(&format!("{long}. a cat, a dog"));
        assert!(read.iter().any(|part| part == "a dog"), "{read:?}");
        assert!(read.iter().skip(1).all(|part| part.split(' ').count() <= WINDOW));
        assert!(read.iter().any(|part| part.ends_with("word end")), "{read:?}");
        let many: String = (0..100).map(|i| format!("a{i}, ")).collect();
        assert!(parts(&format!("{many} a dog")).iter().any(|part| part == "a dog"));
        let many: String = (0..10_000).map(|i| format!("a{i}, ")).collect();
        assert!(parts(&many).len() <= 1 + MAX_WORDS);
        assert!(parts(&many.replace(',', "")).len() <= 1 + MAX_WORDS);
    }
}
