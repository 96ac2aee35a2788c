//! Errors of the engine.

use std::path::PathBuf;

/// An error of the engine. The message is for the person who runs the program: what is wrong and what to change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
    /// A setting of the request has a value that this model or this build cannot fulfil. The text says what it can.
    #[error("{1}")]
    Request(Setting, String),
    /// The policy refuses the prompt.
    #[error("the prompt is refused: `{category}` in the policy `{policy}`; ask for something else")]
    Refused {
        /// The category of the policy that matched.
        category: String,
        /// The name of the policy.
        policy: String,
    },
    /// A file or folder is missing.
    #[error("{}: not found; {hint}", path.display())]
    NotFound {
        /// The missing file.
        path: PathBuf,
        /// What to do.
        hint: String,
    },
    /// A file cannot be used.
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
    /// A model of the hub is not on this machine, and cannot be downloaded.
    #[error("{model}: {reason}")]
    Download {
        /// Name of the model on the hub.
        model: String,
        /// Why, and what to do.
        reason: String,
    },
    /// This build or this machine cannot use the device.
    #[error("{0}")]
    Device(String),
    /// The model needs more memory than there is.
    #[error("{0}")]
    Memory(String),
    /// The generation failed, for example because the model computed values that are not finite.
    #[error("{0}")]
    Generation(String),
    /// The computation failed: a driver error, or tensors whose shapes do not match.
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
    /// The random seed.
    Seed,
    /// One of the guidance scales.
    GuidanceScale,
    /// Shift of the noise schedule.
    Shift,
    /// Shots, their order and transitions; a storyboard.
    Shots,
    /// The image to start from.
    Image,
    /// The image to end with.
    LastImage,
    /// A video that ends where it begins.
    Loop,
    /// The video that goes in.
    Video,
    /// A control video, its mask or its scale.
    Control,
    /// How much a video that goes in is changed.
    Strength,
    /// How much less where it moves.
    MotionNoise,
    /// Pictures of subjects that the video shows.
    Reference,
    /// Where the references are shown.
    MotionPath,
    /// The noise to start from.
    InitialLatents,
    /// The model source.
    Model,
    /// Files in place of parts of the model.
    Parts,
    /// A LoRA.
    Lora,
    /// The data type of the weights.
    Precision,
    /// The decoder.
    Decoder,
    /// The visible label.
    Label,
    /// The key of the watermark.
    WatermarkKey,
    /// The strength of the watermark.
    WatermarkStrength,
    /// The time code of the first frame.
    Timecode,
    /// What a live source shows while there is no video.
    Slate,
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
            Self::Seed => "seed",
            Self::GuidanceScale => "guidance-scale",
            Self::Shift => "shift",
            Self::Shots => "storyboard",
            Self::Image => "image",
            Self::LastImage => "last-image",
            Self::Loop => "loop",
            Self::Video => "video",
            Self::Control => "control",
            Self::Strength => "strength",
            Self::MotionNoise => "motion-noise",
            Self::Reference => "reference",
            Self::MotionPath => "motion-path",
            Self::InitialLatents => "initial-latents",
            Self::Model => "model",
            Self::Parts => "parts",
            Self::Lora => "lora",
            Self::Precision => "precision",
            Self::Decoder => "decoder",
            Self::Label => "label",
            Self::WatermarkKey => "watermark-key",
            Self::WatermarkStrength => "watermark-strength",
            Self::Timecode => "timecode",
            Self::Slate => "slate",
            Self::Shape => "shape",
        })
    }
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        // A GPU reports lack of memory only as text, when an allocation fails.
        let text = plain(&error).to_ascii_lowercase().replace('_', " ");
        if ["out of memory", "alloc failed", "allocation failed"].iter().any(|words| text.contains(words)) {
            return Self::Memory(
                "the device has no memory left; use offload, decoder=tiny or decoder=tiled, a smaller size or fewer \
                 frames"
                    .into(),
            );
        }
        Self::Compute(error)
    }
}

/// An [`Error::Request`] about `setting`.
pub(crate) fn refuse<T>(setting: Setting, reason: String) -> Result<T> {
    Err(Error::Request(setting, reason))
}

/// The message of candle, without the backtrace that it adds if `RUST_BACKTRACE` is set.
pub(crate) fn plain(error: &candle_core::Error) -> String {
    use candle_core::Error::{Context, WithBacktrace, WithPath};
    match error {
        WithBacktrace { inner, .. } => plain(inner),
        WithPath { inner, path } => format!("{}: {}", path.display(), plain(inner)),
        Context { inner, context } => format!("{context}: {}", plain(inner)),
        other => other.to_string(),
    }
}

/// A result of the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_device_is_distinguished_from_a_failed_computation() {
        let of = |text: &str| Error::from(candle_core::Error::Msg(text.into()).context("matmul"));
        // Messages of cudarc, for the driver and its libraries, and of Metal.
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
