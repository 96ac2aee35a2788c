//! What can go wrong in the engine, and what to do about it.

use std::path::PathBuf;

/// The engine's error. Its text is for the person who runs it: what is wrong and what to change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller asked for it to stop.
    #[error("cancelled")]
    Cancelled,
    /// A setting of the request has a value that this model or this build cannot fulfil. The text says what it can.
    #[error("{1}")]
    Request(Setting, String),
    /// The policy does not let the prompt pass.
    #[error("the prompt is refused: `{category}` in the policy `{policy}`; ask for something else")]
    Refused {
        /// Why.
        category: String,
        /// The policy's name.
        policy: String,
    },
    /// A file or folder that is needed is not there.
    #[error("{}: not found; {hint}", path.display())]
    NotFound {
        /// What was looked for.
        path: PathBuf,
        /// What to do about it.
        hint: String,
    },
    /// A file that is there cannot be used.
    #[error("{}: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A model is not on this machine, and cannot be brought there.
    #[error("{model}: {reason}")]
    Download {
        /// Its name on the hub.
        model: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The device that was asked for cannot be used by this build or on this machine.
    #[error("{0}")]
    Device(String),
    /// There is less memory than the model needs.
    #[error("{0}")]
    Memory(String),
    /// The model computed something that is not a picture (not a number, say).
    #[error("{0}")]
    Generation(String),
    /// The computation itself failed: a driver, a shape.
    #[error("the computation failed: {}", plain(.0))]
    Compute(candle_core::Error),
}

/// The part of a request that an [`Error::Request`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Setting {
    /// The prompt or the negative prompt.
    Prompt,
    /// Width and height.
    Size,
    /// Number of frames or duration.
    Length,
    /// Number of denoising steps.
    Steps,
    /// One of the guidance scales.
    GuidanceScale,
    /// Shift of the noise schedule.
    Shift,
    /// Shots, their order and transitions; a storyboard.
    Shots,
    /// The image to start from.
    Image,
    /// The noise to start from.
    InitialLatents,
    /// The model source.
    Model,
    /// Files in place of parts of the model.
    Parts,
    /// A LoRA.
    Lora,
    /// The number format.
    Precision,
    /// The decoder.
    Decoder,
    /// The visible label.
    Label,
    /// The key of the watermark.
    WatermarkKey,
    /// The time code of the first frame.
    Timecode,
    /// The shape of a tensor.
    Shape,
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Prompt => "prompt",
            Self::Size => "size",
            Self::Length => "length",
            Self::Steps => "steps",
            Self::GuidanceScale => "guidance-scale",
            Self::Shift => "shift",
            Self::Shots => "storyboard",
            Self::Image => "image",
            Self::InitialLatents => "initial-latents",
            Self::Model => "model",
            Self::Parts => "parts",
            Self::Lora => "lora",
            Self::Precision => "precision",
            Self::Decoder => "decoder",
            Self::Label => "label",
            Self::WatermarkKey => "watermark-key",
            Self::Timecode => "timecode",
            Self::Shape => "shape",
        })
    }
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        // Of a GPU it is known only when it is too late, and the driver and its libraries say so in words alone.
        let text = plain(&error).to_ascii_lowercase().replace('_', " ");
        if ["out of memory", "alloc failed", "allocation failed"].iter().any(|words| text.contains(words)) {
            return Self::Memory(
                "the device has no memory left; take offload, decoder=tiny or decoder=tiled, a smaller size or fewer \
                 frames"
                    .into(),
            );
        }
        Self::Compute(error)
    }
}

/// What candle says, without the trace of its own calls that it adds where `RUST_BACKTRACE` is set.
pub(crate) fn plain(error: &candle_core::Error) -> String {
    use candle_core::Error::{Context, WithBacktrace, WithPath};
    match error {
        WithBacktrace { inner, .. } => plain(inner),
        WithPath { inner, path } => format!("{}: {}", path.display(), plain(inner)),
        Context { inner, context } => format!("{context}: {}", plain(inner)),
        other => other.to_string(),
    }
}

/// The engine's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_full_is_told_from_one_that_fails() {
        let of = |text: &str| Error::from(candle_core::Error::Msg(text.into()).context("matmul"));
        // What cudarc says, of the driver and of its libraries, and Metal.
        for text in [
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
            "CublasError(CUBLAS_STATUS_ALLOC_FAILED)",
            "CurandError(CURAND_STATUS_ALLOCATION_FAILED)",
            "Insufficient: Out Of Memory",
        ] {
            let error = of(text);
            assert!(matches!(&error, Error::Memory(text) if text.contains("offload")), "{error}");
        }
        assert!(matches!(of("shape mismatch"), Error::Compute(_)));
    }
}
