//! The default model of soragen, compiled in: nothing to download.
//!
//! A program that calls [`register`] can open the model source `builtin`.

/// The files of the model folder, by their paths in it.
static FILES: &[(&str, &[u8])] = {
    macro_rules! files {
        ($($path:literal),* $(,)?) => {
            &[$(($path, include_bytes!($path))),*]
        };
    }
    files![
        "bank/drawings.bin",
        "bank/features.bin",
        "bank/index.json",
        "model_index.json",
        "soragen.json",
        "text_encoder/config.json",
        "text_encoder/model.gguf",
        "tokenizer/tokenizer.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.gguf",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "world.json",
    ]
};

/// Makes the model source `builtin` known to the engine. Loads nothing; may be called more than once.
pub fn register() {
    soragen::checkpoint::register_builtin(FILES);
}
