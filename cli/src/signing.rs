//! The signature of a C2PA manifest.

use std::path::PathBuf;

use soragen::watermark::GenerationId;

/// The options of the signature.
pub struct SigningOptions {
    pub certificate: PathBuf,
    pub private_key: Option<PathBuf>,
    pub sign_command: Option<String>,
    pub embed_prompt: bool,
    pub provider: Option<String>,
}

/// The options of the signature, and what the manifest declares about the video.
pub struct Signing {
    pub options: SigningOptions,
    /// Name of the model.
    pub model: String,
    /// The id in the watermark; `None` without a watermark.
    pub generation_id: Option<GenerationId>,
    /// Whether a video goes in.
    pub restyled: bool,
    /// The file of that video.
    pub ingredient: Option<String>,
    /// Paths of the images that the video starts from.
    pub images: Vec<String>,
}
