//! Prompts to embeddings.

mod clean;
mod minilm;
mod umt5;

pub use clean::clean;
pub use minilm::MiniLm;
pub use umt5::{MAX_TOKENS, Umt5, Umt5Config, Umt5Encoder};
