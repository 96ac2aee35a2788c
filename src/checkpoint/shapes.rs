//! Derives the `config.json` of diffusers or transformers from the shapes of tensors, for weight files without a
//! configuration.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::names::Part;

pub type Shapes = HashMap<String, Vec<usize>>;
type Result<T> = std::result::Result<T, String>;

/// Head size of all Wan models. Shapes do not contain it.
const HEAD_DIM: usize = 128;

/// Mean and standard deviation of the latents of Wan 2.2's autoencoder (`wan/modules/vae2_2.py`).
const LATENTS_22: [[f64; 48]; 2] = [
    [
        -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891,
        0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158,
        0.2502, -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649,
        0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548,
        -0.1681, -0.0667,
    ],
    [
        0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
        0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
        0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
        0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
    ],
];

/// The configuration of `part` with tensors of these shapes. A `stated` configuration of diffusers or transformers
/// replaces it; Wan's own configuration only adds what shapes do not contain.
pub fn config(part: Part, shapes: &Shapes, stated: Option<&Value>) -> Result<Value> {
    let stated = stated.unwrap_or(&Value::Null);
    // Keys that diffusers and transformers always write, and Wan does not.
    let is_diffusers = match part {
        Part::Transformer => stated["num_attention_heads"].is_u64(),
        Part::TextEncoder => stated["d_model"].is_u64() || stated["model_type"] == "bert",
        Part::Autoencoder => {
            stated["_class_name"].as_str().is_some_and(|name| name.starts_with("Autoencoder"))
        }
        Part::ImageEncoder => stated["num_hidden_layers"].is_u64(),
    };
    if is_diffusers {
        return Ok(stated.clone());
    }
    match part {
        Part::Transformer => transformer(shapes, stated["num_heads"].as_u64()),
        Part::TextEncoder => umt5(shapes),
        Part::Autoencoder => autoencoder(shapes),
        Part::ImageEncoder => clip_vision(shapes),
    }
}

/// The pipeline of diffusers for a transformer with this configuration, and whether it expands timesteps.
pub fn pipeline(transformer: &Value) -> (&'static str, bool) {
    let channels = |name: &str| transformer[name].as_u64();
    match channels("in_channels") {
        _ if transformer["vace_layers"].is_array() => ("WanVACEPipeline", false),
        // Only Wan 2.2 TI2V-5B has 48 latent channels.
        Some(48) => ("WanPipeline", true),
        // A mask and an image beside the latents.
        Some(given) if channels("out_channels").is_some_and(|made| given > made) => {
            ("WanImageToVideoPipeline", false)
        }
        _ => ("WanPipeline", false),
    }
}

fn transformer(shapes: &Shapes, heads: Option<u64>) -> Result<Value> {
    let model = "a Wan transformer";
    let patch = get(shapes, model, "patch_embedding.weight")?;
    // GGUF has at most four dimensions: some writers flatten the convolution.
    let (dim, channels, size) = match *patch.as_slice() {
        [dim, channels, t, h, w] => (dim, channels, [t, h, w]),
        [dim, ref rest @ ..] => (dim, rest.iter().product::<usize>() / 4, [1, 2, 2]),
        [] => return Err(format!("not {model}: patch_embedding.weight is a scalar")),
    };
    let heads = heads.map_or(dim / HEAD_DIM, |heads| heads as usize);
    if heads == 0 || !dim.is_multiple_of(heads) {
        return Err(format!(
            "{model} of width {dim} cannot have heads of {HEAD_DIM}; put its config.json beside it"
        ));
    }
    Ok(json!({
        "_class_name": "WanTransformer3DModel",
        "patch_size": size,
        "num_attention_heads": heads,
        "attention_head_dim": dim / heads,
        "in_channels": channels,
        "out_channels": dimension(shapes, model, "proj_out.weight", 0)? / size.iter().product::<usize>().max(1),
        "text_dim": dimension(shapes, model, "condition_embedder.text_embedder.linear_1.weight", 1)?,
        "freq_dim": dimension(shapes, model, "condition_embedder.time_embedder.linear_1.weight", 1)?,
        "ffn_dim": dimension(shapes, model, "blocks.0.ffn.net.0.proj.weight", 0)?,
        "num_layers": count(shapes, "blocks."),
        "cross_attn_norm": shapes.contains_key("blocks.0.norm2.weight"),
        "added_kv_proj_dim": shapes.get("blocks.0.attn2.add_k_proj.weight").and_then(|shape| shape.last()),
        "image_dim": shapes.get("condition_embedder.image_embedder.norm1.weight").and_then(|shape| shape.first()),
        "pos_embed_seq_len": shapes.get("condition_embedder.image_embedder.pos_embed").and_then(|shape| shape.get(1)),
        "vace_layers": vace_layers(count(shapes, "blocks."), count(shapes, "vace_blocks.")),
        "vace_in_channels": shapes.get("vace_patch_embedding.weight").map(|patch| vace_channels(patch)),
    }))
}

/// The blocks that are followed by one of the control branch, at equal distances: every second one of VACE 1.3B, every fifth one of
/// VACE 14B.
fn vace_layers(blocks: usize, branch: usize) -> Option<Vec<usize>> {
    let distance = blocks.checked_div(branch)?.max(1);
    Some((0..blocks).step_by(distance).take(branch).collect())
}

/// Adds the control branch with tensors of these shapes to the configuration of a transformer.
pub fn add_branch(config: &mut Value, shapes: &Shapes) -> Result<()> {
    let model = "a VACE transformer";
    let patch = get(shapes, model, "vace_patch_embedding.weight")?;
    let blocks = config["num_layers"].as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
    let layers = vace_layers(blocks, count(shapes, "vace_blocks."));
    if layers.as_ref().is_none_or(Vec::is_empty) || count(shapes, "blocks.") != blocks {
        return Err(format!("{model} with {blocks} blocks is needed for this transformer"));
    }
    config["vace_layers"] = json!(layers);
    config["vace_in_channels"] = json!(vace_channels(patch));
    Ok(())
}

/// Channels of the control video. GGUF flattens a convolution to four dimensions.
fn vace_channels(patch: &[usize]) -> usize {
    match *patch {
        [_, channels, _, _, _] => channels,
        ref flat => flat.iter().skip(1).product::<usize>() / 4,
    }
}

fn clip_vision(shapes: &Shapes) -> Result<Value> {
    let model = "a CLIP image encoder";
    let prefix =
        if shapes.keys().any(|name| name.starts_with("vision_model.")) { "vision_model." } else { "" };
    let of = |name: &str, index| dimension(shapes, model, &format!("{prefix}{name}"), index);
    let (width, patch) = (of("embeddings.class_embedding", 0)?, of("embeddings.patch_embedding.weight", 2)?);
    let positions = of("embeddings.position_embedding.weight", 0)?.saturating_sub(1);
    // ViT-H, of open_clip, is the one of Wan; shapes do not contain heads and activation.
    let is_huge = width == 1280;
    Ok(json!({
        "hidden_size": width,
        "intermediate_size": of("encoder.layers.0.mlp.fc1.weight", 0)?,
        "num_hidden_layers": count(shapes, &format!("{prefix}encoder.layers.")),
        "num_attention_heads": width / if is_huge { 80 } else { 64 },
        "image_size": positions.isqrt() * patch,
        "patch_size": patch,
        "hidden_act": if is_huge { "gelu" } else { "quick_gelu" },
    }))
}

fn umt5(shapes: &Shapes) -> Result<Value> {
    let model = "a UMT5 encoder";
    let shared =
        if shapes.contains_key("shared.weight") { "shared.weight" } else { "encoder.embed_tokens.weight" };
    let attention = |name: &str| format!("encoder.block.0.layer.0.SelfAttention.{name}.weight");
    let bias = attention("relative_attention_bias");
    let heads = dimension(shapes, model, &bias, 1)?.max(1);
    if count(shapes, "encoder.block.") > 1 && !shapes.contains_key(&bias.replacen(".0.", ".1.", 1)) {
        return Err(format!("{model} has a position bias in every layer; this is a T5"));
    }
    Ok(json!({
        "model_type": "umt5",
        "vocab_size": dimension(shapes, model, shared, 0)?,
        "d_model": dimension(shapes, model, shared, 1)?,
        "d_kv": dimension(shapes, model, &attention("q"), 0)? / heads,
        "d_ff": dimension(shapes, model, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 0)?,
        "num_layers": count(shapes, "encoder.block."),
        "num_heads": heads,
        "relative_attention_num_buckets": dimension(shapes, model, &bias, 0)?,
    }))
}

fn autoencoder(shapes: &Shapes) -> Result<Value> {
    // TAEHV names its layers by number; the first layer of the decoder has no weights.
    if let (Some([width, pixels, ..]), Some([_, latents, ..])) =
        (shapes.get("encoder.0.weight").map(Vec::as_slice), shapes.get("decoder.1.weight").map(Vec::as_slice))
    {
        return Ok(json!({
            "_class_name": "AutoencoderTAEHV",
            "patch_size": (pixels / 3).isqrt(),
            "latent_channels": latents,
            "encoder_width": width,
            "decoder_widths": [256, 128, 64, 64],
            "temporal_downscale": [true, true, false],
            "temporal_upscale": [false, true, true],
            "spatial_upscale": [true, true, true],
        }));
    }
    let model = "an autoencoder of Wan";
    let z = dimension(shapes, model, "post_quant_conv.weight", 0)?;
    let base = dimension(shapes, model, "encoder.conv_in.weight", 0)?;
    let channels = dimension(shapes, model, "encoder.conv_in.weight", 1)?;
    let residual = shapes.contains_key("encoder.down_blocks.0.resnets.0.conv1.weight");
    // A decoder stage has one block more than an encoder stage.
    let blocks = count(shapes, "decoder.up_blocks.0.resnets.").saturating_sub(1);
    let mut config = json!({
        "_class_name": "AutoencoderKLWan",
        "num_res_blocks": blocks,
        "base_dim": base,
        "decoder_base_dim": dimension(shapes, model, "decoder.conv_out.weight", 1)?,
        "z_dim": z,
        "is_residual": residual,
        "in_channels": channels,
        "out_channels": dimension(shapes, model, "decoder.conv_out.weight", 0)?,
    });
    if residual {
        let patch = (channels / 3).isqrt();
        config["patch_size"] = json!(patch);
        config["scale_factor_spatial"] = json!(8 * patch);
    }
    // Other channel counts are not Wan's; such latents are not normalized.
    let [mean, std] = match z {
        16 => return Ok(config),
        48 => LATENTS_22.map(|values| values.to_vec()),
        _ => [vec![0.0; z], vec![1.0; z]],
    };
    config["latents_mean"] = json!(mean);
    config["latents_std"] = json!(std);
    Ok(config)
}

fn get<'a>(shapes: &'a Shapes, model: &str, name: &str) -> Result<&'a Vec<usize>> {
    shapes.get(name).ok_or_else(|| format!("not {model}: {name} is missing"))
}

fn dimension(shapes: &Shapes, model: &str, name: &str, index: usize) -> Result<usize> {
    let shape = get(shapes, model, name)?;
    shape.get(index).copied().ok_or_else(|| format!("not {model}: {name} has the shape {shape:?}"))
}

/// Number of layers whose names begin with `prefix` and a number.
fn count(shapes: &Shapes, prefix: &str) -> usize {
    let number = |name: &String| name.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok();
    shapes.keys().filter_map(number).max().map_or(0, |last| last.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Configuration and shapes of a real model, from diffusers, transformers and taehv.py.
    fn real(name: &str) -> (Value, Shapes) {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/shapes/");
        let file: Value =
            serde_json::from_slice(&std::fs::read(format!("{path}{name}.json")).unwrap()).unwrap();
        (file["config"].clone(), serde_json::from_value(file["tensors"].clone()).unwrap())
    }

    #[test]
    fn configurations_of_real_models_are_derived_from_shapes() {
        for (name, part) in [
            ("wan2.1-t2v-1.3b", Part::Transformer),
            ("wan2.1-t2v-14b", Part::Transformer),
            ("wan2.2-ti2v-5b", Part::Transformer),
            ("wan2.1-i2v-14b", Part::Transformer),
            ("wan2.1-flf2v-14b", Part::Transformer),
            ("wan2.1-vace-1.3b", Part::Transformer),
            ("wan2.1-vace-14b", Part::Transformer),
            ("clip-vit-h", Part::ImageEncoder),
            ("umt5-xxl", Part::TextEncoder),
            ("wan2.1-vae", Part::Autoencoder),
            ("wan2.2-vae", Part::Autoencoder),
        ] {
            let (stated, shapes) = real(name);
            let found = config(part, &shapes, None).unwrap();
            let mut compared = 0;
            for (key, value) in found.as_object().unwrap() {
                let known = stated.get(key).filter(|known| !known.is_null() && !key.starts_with("latents_"));
                if let Some(known) = known {
                    assert_eq!(value, known, "{name}: {key}");
                    compared += 1;
                }
            }
            assert!(compared >= 5, "{name}: only {compared} settings were compared");
        }
        let (_, shapes) = real("taew2_2");
        let found = config(Part::Autoencoder, &shapes, None).unwrap();
        assert_eq!(
            (&found["patch_size"], &found["latent_channels"], &found["encoder_width"]),
            (&json!(2), &json!(48), &json!(64))
        );
    }

    #[test]
    fn the_transformer_decides_the_pipeline() {
        for (name, expected) in [
            ("wan2.1-t2v-1.3b", ("WanPipeline", false)),
            ("wan2.2-ti2v-5b", ("WanPipeline", true)),
            ("wan2.1-i2v-14b", ("WanImageToVideoPipeline", false)),
            ("wan2.1-vace-14b", ("WanVACEPipeline", false)),
        ] {
            let (_, shapes) = real(name);
            assert_eq!(pipeline(&config(Part::Transformer, &shapes, None).unwrap()), expected, "{name}");
        }
    }

    #[test]
    fn the_error_for_another_file_names_the_missing_tensor() {
        for part in [Part::Transformer, Part::TextEncoder, Part::Autoencoder, Part::ImageEncoder] {
            let error = config(part, &Shapes::from([("x".into(), vec![1])]), None).unwrap_err();
            assert!(error.contains("is missing"), "{error}");
        }
        let (_, mut t5) = real("umt5-xxl");
        t5.retain(|name, _| name.contains(".0.layer.0.") || !name.contains("relative_attention_bias"));
        assert!(config(Part::TextEncoder, &t5, None).unwrap_err().contains("this is a T5"));
    }
}
