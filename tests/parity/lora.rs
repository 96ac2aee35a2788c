//! LoRAs as other tools write them: frames equal those of weights that were merged by hand.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use soragen::checkpoint::{Lora, Parts};
use soragen::{Cancel, Model, OpenOptions};
use soragen_tests::fixtures::{assert_close, json, path};
use soragen_tests::with;

use crate::layouts::{Case, Tensors, frames, open_error, random, save};

fn parts(lora: &Path) -> Parts {
    Parts { loras: vec![Lora { path: lora.into(), scale: 1.0, expert: None }], ..Default::default() }
}

fn case_file(name: &str) -> PathBuf {
    path(&format!("cases/lora/{name}"))
}

/// The transformer's weights as f32, with diffusers' names.
fn weights(case: &Case) -> Tensors {
    let f32 = |(name, tensor): (String, Tensor)| (name, tensor.to_dtype(DType::F32).unwrap());
    case.tensors("transformer", None).into_iter().map(f32).collect()
}

/// Adds `change` to the tensor `name`.
fn add(weights: &mut Tensors, name: &str, change: &Tensor) {
    let tensor = weights.get_mut(name).unwrap_or_else(|| panic!("{name}"));
    *tensor = (&*tensor + change.reshape(tensor.shape()).unwrap()).unwrap();
}

/// Frames of the base model with `weights` in place of its own.
fn merged(case: &Case, weights: &Tensors) -> Tensor {
    let file = case.at("merged.safetensors");
    save(weights, &file);
    frames(&case.original(), Parts { transformer: Some(file), ..Default::default() })
}

/// The weights with the low-rank products and differences of the LoRA at `file` added, each product `scale` times. Its names
/// are Wan's or diffusers'.
fn merge(case: &Case, file: &Path, scale: f64) -> Tensors {
    let names: Vec<(String, String)> =
        serde_json::from_value(json("names.json")["transformer"].clone()).unwrap();
    let names: HashMap<_, _> = names.into_iter().collect();
    let diffusers = |name: String| names.get(&name).cloned().unwrap_or(name);
    let lora = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    let mut weights = weights(case);
    for (stored, tensor) in &lora {
        let name = stored.trim_start_matches("diffusion_model.").trim_start_matches("base_model.model.");
        for (down, up) in [(".lora_down.weight", ".lora_up.weight"), (".lora_A.weight", ".lora_B.weight")] {
            if let Some(layer) = name.strip_suffix(down) {
                let product = lora[&stored.replace(down, up)].matmul(tensor).unwrap();
                add(&mut weights, &diffusers(format!("{layer}.weight")), &(product * scale).unwrap());
            }
        }
        for (ending, changed) in [
            (".diff_m", ".modulation"),
            (".modulation.diff", ".modulation"),
            (".diff_b", ".bias"),
            (".diff", ".weight"),
        ] {
            if let Some(layer) = name.strip_suffix(ending) {
                add(&mut weights, &diffusers(format!("{layer}{changed}")), tensor);
                break;
            }
        }
    }
    weights
}

#[test]
fn loras_of_other_tools_are_applied() {
    let case = Case::new("wan-2.1");
    let plain = frames(&case.original(), Parts::default());
    for (name, scale) in [
        ("diff_m.safetensors", 1.0),
        ("cross_attn_only.safetensors", 1.0),
        // alpha = 4 r.
        ("peft_adapter_config/adapter_model.safetensors", 4.0),
    ] {
        let file = case_file(name);
        let expected = merged(&case, &merge(&case, &file, scale));
        assert_close(name, &frames(&case.original(), parts(&file)), &expected, 1e-5);
        let changed = (&expected - &plain).unwrap().abs().unwrap().max_all().unwrap();
        assert!(changed.to_scalar::<f32>().unwrap() > 1e-3, "{name} has no effect");
    }
}

#[test]
fn a_lora_may_change_only_the_modulation_or_one_kind_of_layer() {
    let case = Case::new("wan-2.1");
    let file = case.at("lora.safetensors");
    let pair = |layer: &str, n_in: usize, n_out: usize| {
        [("lora_down", [4, n_in], 1.0), ("lora_up", [n_out, 4], 2.0)]
            .map(|(end, shape, seed)| (format!("diffusion_model.{layer}.{end}.weight"), random(&shape, seed)))
    };
    let difference = |name: &str, shape: &[usize]| (format!("diffusion_model.{name}"), random(shape, 3.0));
    for stored in [
        vec![
            difference("blocks.1.modulation.diff", &[1, 6, 128]),
            difference("head.modulation.diff", &[1, 2, 128]),
        ],
        vec![difference("head.diff_m", &[1, 2, 128])],
        vec![difference("blocks.0.norm3.diff_b", &[128])],
        pair("blocks.0.ffn.0", 128, 256).into(),
        pair("head.head", 128, 64).into(),
        pair("time_embedding.0", 32, 128).into(),
    ] {
        let name = stored[0].0.clone();
        save(&stored.into_iter().collect(), &file);
        let expected = merged(&case, &merge(&case, &file, 1.0));
        assert_close(&name, &frames(&case.original(), parts(&file)), &expected, 1e-5);
    }
}

#[test]
fn the_scale_of_peft_may_be_in_the_metadata() {
    let case = Case::new("wan-2.1");
    let file = case.at("lora.safetensors");
    let names = ["blocks.0.attn1.to_q", "blocks.1.attn2.to_v"];
    let tensors: Vec<_> = names
        .iter()
        .flat_map(|name| {
            [("lora_A", [4, 128], 1.0), ("lora_B", [128, 4], 2.0)]
                .map(|(end, shape, seed)| (format!("transformer.{name}.{end}.weight"), random(&shape, seed)))
        })
        .collect();
    // As diffusers' `_pack_dict_with_prefix` writes it: two layers with different alphas.
    let config =
        r#"{"transformer.r": 4, "transformer.lora_alpha": 8, "transformer.alpha_pattern": {"to_v": 2}}"#;
    let metadata = HashMap::from([("lora_adapter_metadata".to_string(), config.to_string())]);
    safetensors::serialize_to_file(
        tensors.iter().map(|(name, tensor)| (name, tensor)),
        Some(metadata),
        &file,
    )
    .unwrap();
    let mut weights = weights(&case);
    let product = random(&[128, 4], 2.0).matmul(&random(&[4, 128], 1.0)).unwrap();
    for (name, scale) in names.iter().zip([2.0, 0.5]) {
        add(&mut weights, &format!("{name}.weight"), &(&product * scale).unwrap());
    }
    assert_close("metadata", &frames(&case.original(), parts(&file)), &merged(&case, &weights), 1e-5);
    // A configuration of another LoRA.
    save(&tensors.into_iter().collect(), &file);
    std::fs::write(case.at("adapter_config.json"), r#"{"peft_type": "LORA", "r": 16, "lora_alpha": 16}"#)
        .unwrap();
    let error = open_error(&case.original(), parts(&file));
    assert!(error.contains("the rank 16") && error.contains("adapter_config.json"), "{error}");
}

#[test]
fn what_cannot_be_applied_is_named_with_its_reason() {
    let case = Case::new("wan-2.1");
    let error = open_error(&case.original(), parts(&case_file("dora.safetensors")));
    assert!(error.contains("DoRA") && error.contains("dora.safetensors"), "{error}");
    let file = case.at("lora.safetensors");
    let tensor = || random(&[4, 128], 1.0);
    let lokr = "diffusion_model.blocks.0.self_attn.q.lokr_w1";
    let image = "diffusion_model.blocks.0.cross_attn.k_img.lora_down.weight";
    let text = "lora_te_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight";
    for (names, reason) in [
        (&[lokr][..], "it uses LoKr"),
        (
            &[text, "text_encoder.encoder.block.0.lora_A.weight"],
            "none of its 2 tensors can be applied: 2 change a text encoder",
        ),
        (&[image], "1 are for an image encoder"),
    ] {
        save(&names.iter().map(|name| ((*name).to_string(), tensor())).collect(), &file);
        let error = open_error(&case.original(), parts(&file));
        assert!(error.contains(reason), "{error}");
    }
    // One that applies in part says how much.
    let mut stored = Tensors::from([(text.to_string(), tensor()), (image.to_string(), tensor())]);
    stored.insert("blocks.0.self_attn.q.lora_down.weight".into(), tensor());
    stored.insert("blocks.0.self_attn.q.lora_up.weight".into(), random(&[128, 4], 2.0));
    save(&stored, &file);
    let options = with!(OpenOptions::default(); parts: parts(&file));
    let model = Model::open(&case.original().to_string_lossy(), &options, &Cancel::new()).unwrap();
    let [note] = model.notes() else { panic!("{:?}", model.notes()) };
    assert!(
        note.contains("2 of its 4 tensors are not applied") && note.contains("lora.safetensors"),
        "{note}"
    );
}
