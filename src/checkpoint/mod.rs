//! Where a model's files come from, in whichever layout they are.

mod assembly;
mod builtin;
mod gguf;
mod layer;
mod lora;
mod mapped;
mod names;
mod pickle;
mod shapes;
mod source;
mod tensors;
mod weights;

pub use assembly::{Assembly, Parts};
pub use builtin::register_builtin;
pub(crate) use layer::Layer;
pub use lora::{Lora, Noise};
pub(crate) use mapped::Mapped;
pub(crate) use names::SECOND_TRANSFORMER;
pub use pickle::{Names, convert};
pub use source::Source;
pub(crate) use source::{INDEX, ShardIndex};
pub use tensors::Tensors;
pub(crate) use weights::{Blocks, Stored};
