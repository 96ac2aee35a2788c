//! The files of a model: where they are, in which layout, and how tensors are loaded from them.

mod assembly;
mod builtin;
#[allow(unsafe_code, reason = "weights are mapped into memory")]
mod files;
mod gguf;
mod layer;
mod loader;
mod lora;
mod mapped;
mod names;
mod pickle;
mod recipe;
mod shapes;
mod source;
mod stored;
mod tensors;
mod weights;

pub use assembly::{Assembly, Parts};
pub use builtin::register_builtin;
pub(crate) use layer::Layer;
pub use lora::{Expert, Lora};
pub use pickle::{Conversion, Names, convert};
pub use source::Source;
pub(crate) use stored::StoredTensor;
pub use tensors::Tensors;

pub(crate) use crate::hub::layout::SECOND_TRANSFORMER;
