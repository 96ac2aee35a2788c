//! The default model, compiled in.

/// Its files, by their paths in the model folder.
#[cfg(feature = "builtin")]
pub static FILES: &[(&str, &[u8])] = {
    macro_rules! files {
        ($($path:literal),* $(,)?) => {
            &[$(($path, include_bytes!(concat!("../../models/builtin/", $path)))),*]
        };
    }
    files![
        "model_index.json",
        "soragen.json",
        "text_encoder/config.json",
        "text_encoder/model.gguf",
        "tokenizer/tokenizer.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]
};

/// A build without the feature `builtin` has none.
#[cfg(not(feature = "builtin"))]
pub static FILES: &[(&str, &[u8])] = &[];

/// The bytes of one of its files.
pub fn file(path: &str) -> Option<&'static [u8]> {
    FILES.iter().find(|(name, _)| *name == path).map(|(_, bytes)| *bytes)
}
