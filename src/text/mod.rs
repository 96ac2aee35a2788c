//! Prompts to embeddings.

mod minilm;

pub use minilm::MiniLm;
