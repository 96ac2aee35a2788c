//! The default model, compiled in.

/// The bytes of one of its files, by its path in the model folder.
#[cfg(feature = "builtin")]
pub fn file(path: &str) -> Option<&'static [u8]> {
    macro_rules! files {
        ($($path:literal),* $(,)?) => {
            match path {
                $($path => Some(include_bytes!(concat!("../../models/builtin/", $path)).as_slice()),)*
                _ => None,
            }
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
}

/// A build without the feature `builtin` has none.
#[cfg(not(feature = "builtin"))]
pub fn file(_path: &str) -> Option<&'static [u8]> {
    None
}
