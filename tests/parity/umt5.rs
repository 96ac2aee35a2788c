//! Parity of prompt cleaning, tokens and embeddings with diffusers and transformers (`make_pipelines.py`,
//! `make_text.py`).

use candle_core::{DType, Device, Tensor};
use soragen::text::{MAX_TOKENS, Umt5, Umt5Config, clean};
use soragen::{Cancel, Error};
use soragen_tests::fixtures::{PIPELINES, Pipeline, assert_close, json, tensors};

/// f32 sums in another order.
const TOLERANCE: f32 = 2e-5;

fn open(pipeline: &Pipeline, dtype: DType) -> Umt5 {
    Umt5::open(&pipeline.source, dtype, &Device::Cpu, &Cancel::new()).unwrap()
}

fn encode(umt5: &Umt5, prompt: &str) -> Tensor {
    umt5.encode(prompt, &Cancel::new()).unwrap()
}

#[test]
fn prompts_are_cleaned_and_tokenized_as_in_diffusers() {
    let umt5 = open(&Pipeline::open("t2v-unipc"), DType::F32);
    for case in json("prompts.json")["cases"].as_array().unwrap() {
        let prompt = case["prompt"].as_str().unwrap();
        assert_eq!(clean(prompt), case["clean"].as_str().unwrap(), "{prompt:?}");
        let tokens: Vec<u32> = serde_json::from_value(case["tokens"].clone()).unwrap();
        assert_eq!(umt5.tokens(prompt).unwrap(), tokens, "{prompt:?}");
    }
}

#[test]
fn the_embeddings_of_a_pipeline_equal_diffusers() {
    for name in PIPELINES {
        let pipeline = Pipeline::open(name);
        let umt5 = open(&pipeline, DType::F32);
        for (prompt, expected) in [("prompt", "prompt_embeds"), ("negative", "negative_prompt_embeds")] {
            if let Some(expected) = pipeline.expected.get(expected) {
                let embeds = encode(&umt5, pipeline.request[prompt].as_str().unwrap());
                assert_close(&format!("{name}: {prompt}"), &embeds, expected, TOLERANCE);
            }
        }
    }
}

#[test]
fn a_long_prompt_is_truncated() {
    let (prompts, expected) = (json("prompts.json"), tensors("umt5.safetensors"));
    for name in ["t2v-unipc", "t2v-euler"] {
        let umt5 = open(&Pipeline::open(name), DType::F32);
        for key in ["long", "longer"] {
            let embeds = encode(&umt5, prompts[key].as_str().unwrap());
            assert_eq!(embeds.dim(1).unwrap(), MAX_TOKENS);
            let expected = &expected[&format!("{name}.{key}")];
            let length = expected.dim(1).unwrap();
            assert_close(key, &embeds.narrow(1, 0, length).unwrap(), expected, TOLERANCE);
            if length < MAX_TOKENS {
                let rest = embeds.narrow(1, length, MAX_TOKENS - length).unwrap();
                assert_close("padding", &rest, &rest.zeros_like().unwrap(), 0.0);
            }
        }
    }
}

#[test]
fn embeddings_in_half_precision_are_close() {
    let pipeline = Pipeline::open("t2v-euler");
    for (dtype, tolerance) in [(DType::F16, 0.02), (DType::BF16, 0.1)] {
        let embeds = encode(&open(&pipeline, dtype), pipeline.request["prompt"].as_str().unwrap());
        assert_eq!(embeds.dtype(), dtype);
        assert_close(&format!("{dtype:?}"), &embeds, &pipeline.expected["prompt_embeds"], tolerance);
    }
}

#[test]
fn encoding_can_be_cancelled() {
    let cancel = Cancel::new();
    cancel.cancel();
    let umt5 = open(&Pipeline::open("t2v-unipc"), DType::F32);
    assert!(matches!(umt5.encode("a fox", &cancel), Err(Error::Cancelled)));
}

#[test]
fn the_error_for_an_invalid_config_names_the_setting() {
    let valid = Umt5Config::default();
    let invalid = [
        (Umt5Config { d_model: 0, ..valid.clone() }, "d_model"),
        (Umt5Config { num_layers: usize::MAX, ..valid.clone() }, "num_layers"),
        (Umt5Config { num_heads: 1 << 20, ..valid.clone() }, "×"),
        (Umt5Config { relative_attention_num_buckets: 3, ..valid.clone() }, "buckets"),
        (Umt5Config { relative_attention_max_distance: 8, ..valid.clone() }, "distance"),
        (Umt5Config { feed_forward_proj: "relu".into(), ..valid.clone() }, "relu"),
    ];
    assert!(valid.check().is_ok());
    for (config, word) in invalid {
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains(word), "{word}: {error}");
    }
}
