//! The transformer compared with diffusers (`make_pipelines.py`, `make_causal.py`).

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use soragen::checkpoint::Source;
use soragen::transformer::{Config, Context, KvCache, KvCacheConfig, Positions, WanTransformer};
use soragen::{Cancel, Error, Precision};
use soragen_tests::fixtures::{PIPELINES, Pipeline, assert_close, json, tensors, values};

/// f32 sums in another order.
const TOLERANCE: f32 = 3e-5;

fn open(pipeline: &Pipeline) -> WanTransformer {
    WanTransformer::open(&pipeline.source, "transformer", Precision::F32, false, &Device::Cpu, &Cancel::new())
        .unwrap()
}

#[test]
fn a_step_equals_diffusers() {
    for name in PIPELINES {
        let pipeline = Pipeline::open(name);
        let transformer = open(&pipeline);
        let expected = &pipeline.expected;
        let input = &expected["step_input"];
        // The reference may have one timestep per token; the engine has one per frame.
        let timesteps = values(&expected["step_timestep"]);
        let frames = input.dim(2).unwrap();
        let per_frame = (timesteps.len() / frames).max(1);
        let timesteps: Vec<f64> = timesteps.into_iter().step_by(per_frame).map(f64::from).collect();

        let context = transformer.context(&expected["prompt_embeds"], &Cancel::new()).unwrap();
        let velocity = transformer.forward(input, &timesteps, &context, &Cancel::new()).unwrap();
        assert_close(name, &velocity, &expected["step_output"], TOLERANCE);
    }
}

fn config(chunk: usize, window: usize, sink: usize) -> KvCacheConfig {
    KvCacheConfig { chunk, window, sink, shots: None, positions: Positions::Relative, ring: None }
}

struct Causal {
    transformer: WanTransformer,
    context: Context,
    expected: HashMap<String, Tensor>,
    timesteps: Vec<f64>,
}

impl Causal {
    fn open() -> Self {
        let transformer = open(&Pipeline::open("t2v-unipc"));
        let expected = tensors("causal.safetensors");
        let timesteps = values(&expected["timesteps"]).into_iter().map(f64::from).collect();
        Self {
            context: transformer.context(&expected["prompt_embeds"], &Cancel::new()).unwrap(),
            transformer,
            expected,
            timesteps,
        }
    }

    /// Runs the whole video chunk by chunk.
    fn run(&self, config: KvCacheConfig) -> Tensor {
        let cancel = Cancel::new();
        let latents = &self.expected["latents"];
        let mut cache = KvCache::new(config);
        let chunks: Vec<_> = (0..latents.dim(2).unwrap())
            .step_by(config.chunk)
            .map(|first| {
                assert_eq!(cache.frames(), first.min(config.window + config.sink));
                let chunk = latents.narrow(2, first, config.chunk).unwrap();
                let timesteps = &self.timesteps[first..first + config.chunk];
                let velocity =
                    self.transformer.forward_chunk(&chunk, timesteps, &self.context, &cache, &cancel);
                self.transformer.cache_chunk(&chunk, timesteps, &self.context, &mut cache, &cancel).unwrap();
                velocity.unwrap()
            })
            .collect();
        Tensor::cat(&chunks, 2).unwrap()
    }
}

#[test]
fn chunk_by_chunk_equals_one_masked_pass() {
    let causal = Causal::open();
    for (case, window, sink) in [("all", 8, 0), ("rolling", 3, 0), ("sink", 3, 1)] {
        let velocity = causal.run(config(2, window, sink));
        assert_close(case, &velocity, &causal.expected[case], TOLERANCE);
    }
}

#[test]
fn a_chunk_of_all_frames_equals_the_whole_clip() {
    let causal = Causal::open();
    let (latents, cancel) = (&causal.expected["latents"], Cancel::new());
    let whole = causal.transformer.forward(latents, &causal.timesteps, &causal.context, &cancel).unwrap();
    assert_close("whole", &whole, &causal.expected["bidirectional"], TOLERANCE);
    let chunk = causal.run(config(8, 8, 0));
    assert_close("chunk", &chunk, &whole, 0.0);
}

#[test]
fn a_cleared_cache_accepts_frames_of_another_size() {
    let causal = Causal::open();
    let (latents, cancel) = (&causal.expected["latents"], Cancel::new());
    let mut cache = KvCache::new(config(2, 4, 0));
    let chunk = latents.narrow(2, 0, 2).unwrap();
    let step = |chunk: &Tensor, cache: &KvCache| {
        causal.transformer.forward_chunk(chunk, &[500.0], &causal.context, cache, &cancel)
    };
    let first = step(&chunk, &cache).unwrap();
    causal.transformer.cache_chunk(&chunk, &[0.0], &causal.context, &mut cache, &cancel).unwrap();

    let smaller = chunk.narrow(3, 0, 2).unwrap();
    assert!(matches!(step(&smaller, &cache), Err(Error::Request(..))), "the size changed within a shot");
    cache.clear();
    step(&smaller, &cache).unwrap();
    assert_close("after clear", &step(&chunk, &cache).unwrap(), &first, 0.0);
}

#[test]
fn a_cancel_leaves_the_cache_unchanged() {
    let causal = Causal::open();
    let cancel = Cancel::new();
    cancel.cancel();
    let mut cache = KvCache::new(config(2, 4, 0));
    let chunk = causal.expected["latents"].narrow(2, 0, 2).unwrap();
    let velocity = causal.transformer.forward(&chunk, &[0.0], &causal.context, &cancel);
    assert!(matches!(velocity, Err(Error::Cancelled)));
    let cached = causal.transformer.cache_chunk(&chunk, &[0.0], &causal.context, &mut cache, &cancel);
    assert!(matches!(cached, Err(Error::Cancelled)));
    assert_eq!(cache.frames(), 0);
}

#[test]
fn half_precision_is_close_to_the_reference() {
    let pipeline = Pipeline::open("t2v-euler");
    let expected = &pipeline.expected;
    let timestep = f64::from(values(&expected["step_timestep"])[0]);
    // The error of diffusers in bf16 is 0.026 here.
    for (precision, tolerance) in [(Precision::Bf16, 0.05), (Precision::F16, 0.01)] {
        let transformer = WanTransformer::open(
            &pipeline.source,
            "transformer",
            precision,
            false,
            &Device::Cpu,
            &Cancel::new(),
        )
        .unwrap();
        let context = transformer.context(&expected["prompt_embeds"], &Cancel::new()).unwrap();
        let velocity =
            transformer.forward(&expected["step_input"], &[timestep], &context, &Cancel::new()).unwrap();
        assert_eq!(velocity.dtype(), DType::F32);
        assert_close(&format!("{precision:?}"), &velocity, &expected["step_output"], tolerance);
    }
}

#[test]
fn inputs_of_the_wrong_shape_are_errors() {
    let pipeline = Pipeline::open("t2v-unipc");
    let transformer = open(&pipeline);
    let context = transformer.context(&pipeline.expected["prompt_embeds"], &Cancel::new()).unwrap();
    let latents =
        |shape: (usize, usize, usize, usize, usize)| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let timesteps = [0.0, 1.0, 2.0];
    for (shape, timesteps) in [
        ((1, 4, 3, 4, 5), &timesteps[..1]),
        ((1, 5, 3, 4, 4), &timesteps[..1]),
        ((2, 4, 3, 4, 4), &timesteps[..1]),
        ((1, 4, 0, 4, 4), &timesteps[..1]),
        ((1, 4, 3, 4, 4), &timesteps[..0]),
        ((1, 4, 3, 4, 4), &timesteps[..2]),
        // More latent frames than positions.
        ((1, 4, 1025, 2, 2), &timesteps[..1]),
    ] {
        let velocity = transformer.forward(&latents(shape), timesteps, &context, &Cancel::new());
        assert!(matches!(velocity, Err(Error::Request(..))), "{shape:?} {timesteps:?}");
    }
    let narrow = Tensor::zeros((1, 512, 21), DType::F32, &Device::Cpu).unwrap();
    assert!(matches!(transformer.context(&narrow, &Cancel::new()), Err(Error::Request(..))));
}

#[test]
fn weights_that_do_not_match_the_config_are_an_error_that_names_them() {
    let pipeline = Pipeline::open("t2v-unipc");
    let original = pipeline.source.path("transformer");
    let weights = "diffusion_pytorch_model.safetensors";
    for (setting, value, word) in [
        ("num_layers", 3.into(), "blocks.2."),
        ("ffn_dim", 41.into(), "ffn"),
        ("patch_size", serde_json::json!([2, 2, 2]), "patch_size"),
        ("num_layers", "two".into(), "cannot be parsed"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let transformer = folder.path().join("transformer");
        std::fs::create_dir(&transformer).unwrap();
        std::fs::copy(original.join(weights), transformer.join(weights)).unwrap();
        let mut config = json("pipelines/t2v-unipc/transformer/config.json");
        config[setting] = value;
        std::fs::write(transformer.join("config.json"), config.to_string()).unwrap();

        let source = Source::Folder(folder.path().into());
        let error =
            WanTransformer::open(&source, "transformer", Precision::F32, false, &Device::Cpu, &Cancel::new())
                .unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::Invalid { .. }) && text.contains(word), "{setting}: {text}");
    }
}

#[test]
fn an_invalid_config_is_an_error_that_names_the_setting() {
    let good = Config::default();
    let invalid = [
        (Config { image_dim: Some(1280), ..good.clone() }, "image_dim"),
        (Config { added_kv_proj_dim: Some(5120), ..good.clone() }, "added_kv_proj_dim"),
        (Config { image_dim: Some(1280), added_kv_proj_dim: Some(512), ..good.clone() }, "5120"),
        (Config { pos_embed_seq_len: Some(514), ..good.clone() }, "pos_embed_seq_len"),
        (Config { vace_layers: Some(vec![0]), ..good.clone() }, "vace_in_channels"),
        (Config { vace_layers: Some(vec![1, 5]), vace_in_channels: Some(96), ..good.clone() }, "vace_layers"),
        (Config { vace_layers: Some(vec![0, 0]), vace_in_channels: Some(96), ..good.clone() }, "vace_layers"),
        (
            Config { vace_layers: Some(vec![0, 40]), vace_in_channels: Some(96), ..good.clone() },
            "vace_layers",
        ),
        (Config { patch_size: [2, 2, 2], ..good.clone() }, "patch_size"),
        (Config { patch_size: [1, 0, 2], ..good.clone() }, "patch_size"),
        (Config { num_attention_heads: 0, ..good.clone() }, "num_attention_heads"),
        (Config { attention_head_dim: 7, ..good.clone() }, "even"),
        (Config { freq_dim: 5, ..good.clone() }, "even"),
        (Config { num_attention_heads: 1 << 19, ..good.clone() }, "×"),
        (Config { num_attention_heads: usize::MAX, ..good.clone() }, "num_attention_heads"),
        (Config { num_layers: usize::MAX, ..good.clone() }, "num_layers"),
        (Config { eps: 0.0, ..good.clone() }, "eps"),
    ];
    assert!(good.check().is_ok());
    for (config, word) in invalid {
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains(word), "{word}: {error}");
    }
}
