//! Where a model's files come from.

mod builtin;
mod gguf;
mod source;

pub use source::Source;
