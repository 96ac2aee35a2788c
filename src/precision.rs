//! The data type of weights and arithmetic.

use candle_core::{DType, Device};

use crate::text_enum::text_enum;

/// The data type of the weights and of the arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Precision {
    /// The fastest that the device and the checkpoint allow: on a CPU f32, or int8 for wide transformers where the CPU
    /// has vector products of 8-bit values; on a GPU bf16. A GGUF checkpoint keeps its own blocks on a GPU, and on a CPU
    /// that is slow at int8.
    #[default]
    Auto,
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point with the range of f32. GPU only.
    Bf16,
    /// 16-bit floating point. GPU only.
    F16,
    /// f32, but the linear layers of the transformer multiply 8-bit integers: a quarter of the memory. CPU only.
    Int8,
    /// The linear layers of the transformer keep the quantized blocks of a GGUF file; the rest is f32 on a CPU and bf16 on
    /// a GPU.
    Gguf,
}

text_enum!(Precision, Precision, {
    Auto => "auto",
    F32 => "f32",
    Bf16 => "bf16",
    F16 => "f16",
    Int8 => "int8",
    Gguf => "gguf",
});

impl Precision {
    /// The data type of tensors on `device`.
    pub(crate) fn dtype(self, device: &Device) -> DType {
        match self {
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
            Self::Gguf if !device.is_cpu() => DType::BF16,
            Self::F32 | Self::Int8 | Self::Gguf | Self::Auto => DType::F32,
        }
    }
}
