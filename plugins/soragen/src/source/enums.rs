// SPDX-License-Identifier: MPL-2.0

//! The element's enum types. Their nicks equal the engine's names of the same values.

use gst::glib;

/// Converts an enum to the engine's enum of the same variants.
macro_rules! convert_variants {
    ($from:ident to $to:path { $($variant:ident),+ $(,)? }) => {
        impl From<$from> for $to {
            fn from(value: $from) -> Self {
                match value {
                    $($from::$variant => Self::$variant),+
                }
            }
        }
    };
}

/// Data type of the weights and of the arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstSoraGenPrecision")]
#[non_exhaustive]
pub enum Precision {
    /// The fastest on the device.
    #[default]
    #[enum_value(
        name = "Auto: on a GPU bf16, or gguf for a GGUF file; on a CPU int8 for transformers of Wan's sizes if the CPU has \
                AVX2, AVX-512 VNNI or NEON dot products, otherwise gguf for a GGUF file, otherwise f32",
        nick = "auto"
    )]
    Auto,
    /// 32-bit floating point.
    #[enum_value(name = "F32: 32-bit floating point", nick = "f32")]
    F32,
    /// 16-bit floating point with the range of f32.
    #[enum_value(name = "Bf16: 16-bit floating point with the range of f32, for a GPU", nick = "bf16")]
    Bf16,
    /// 16-bit floating point.
    #[enum_value(name = "F16: 16-bit floating point, for a GPU", nick = "f16")]
    F16,
    /// 8-bit integer matrix products in the transformer, for a CPU.
    #[enum_value(name = "Int8: 8-bit integer matrix products in the transformer, for a CPU", nick = "int8")]
    Int8,
    /// The quantized blocks of a GGUF file.
    #[enum_value(name = "Gguf: the transformer keeps the quantized blocks of its GGUF file", nick = "gguf")]
    Gguf,
}

convert_variants!(Precision to soragen::Precision { Auto, F32, Bf16, F16, Int8, Gguf });

/// The decoder from latents to frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstSoraGenDecoder")]
#[non_exhaustive]
pub enum Decoder {
    /// TAEHV for causal models if the model has it, otherwise the model's own decoder, in tiles if memory is short.
    #[default]
    #[enum_value(
        name = "Auto: TAEHV for causal models if the model has it, otherwise the model's own decoder, in tiles if memory is \
                short",
        nick = "auto"
    )]
    Auto,
    /// The model's own decoder.
    #[enum_value(name = "Full: the model's own decoder", nick = "full")]
    Full,
    /// TAEHV.
    #[enum_value(name = "Tiny: TAEHV, many times faster and slightly less sharp", nick = "tiny")]
    Tiny,
    /// The model's own decoder, tile by tile.
    #[enum_value(name = "Tiled: the model's own decoder, tile by tile, to use less memory", nick = "tiled")]
    Tiled,
}

convert_variants!(Decoder to soragen::Decoder { Auto, Full, Tiny, Tiled });

/// The visible label that marks frames as generated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstSoraGenLabel")]
#[non_exhaustive]
pub enum Label {
    /// No label.
    #[default]
    #[enum_value(name = "None: no label", nick = "none")]
    None,
    /// The letters AI.
    #[enum_value(name = "Ai: the letters AI", nick = "ai")]
    Ai,
    /// AI GENERATED.
    #[enum_value(name = "AiGenerated: AI GENERATED, larger in the first two seconds", nick = "ai-generated")]
    AiGenerated,
    /// AI生成.
    #[enum_value(name = "Cn: AI生成, larger in the first two seconds", nick = "cn")]
    Cn,
}

convert_variants!(Label to soragen::label::Label { None, Ai, AiGenerated, Cn });

/// What a live source shows in place of a frame that is late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstSoraGenLatePolicy")]
#[non_exhaustive]
pub enum LatePolicy {
    /// The last frame again.
    #[default]
    #[enum_value(name = "Hold: the last frame again", nick = "hold")]
    Hold,
    /// The slate.
    #[enum_value(name = "Slate: the slate", nick = "slate")]
    Slate,
    /// Nothing.
    #[enum_value(name = "Drop: nothing, and a GAP event", nick = "drop")]
    Drop,
}

/// How a prompt that is set while playing begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstSoraGenTransition")]
#[non_exhaustive]
pub enum Transition {
    /// The video goes on with it.
    #[default]
    #[enum_value(name = "Continue: the video goes on with it", nick = "continue")]
    Continue,
    /// After a cut.
    #[enum_value(
        name = "Cut: after a cut; only a model that remembers shots keeps something of the frames before",
        nick = "cut"
    )]
    Cut,
}

#[cfg(test)]
mod tests {
    use gst::glib::prelude::*;

    use super::*;

    fn nicks(class: glib::Type) -> Vec<String> {
        let class = glib::EnumClass::with_type(class).unwrap();
        class.values().iter().map(|value| value.nick().to_string()).collect()
    }

    #[test]
    fn nicks_equal_the_names_of_the_engine() {
        let names: Vec<_> = soragen::Precision::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(nicks(Precision::static_type()), names);
        let names: Vec<_> = soragen::Decoder::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(nicks(Decoder::static_type()), names);
        let names: Vec<_> = soragen::label::Label::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(nicks(Label::static_type()), names);
    }
}
