//! Names of tensors. The engine uses diffusers' and transformers' names; these are the tables of all other names.

use std::collections::HashMap;

use once_cell::sync::Lazy;

use crate::hub::layout::SECOND_TRANSFORMER;

/// A part of a model whose weights exist with several sets of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// diffusers' `WanTransformer3DModel`.
    Transformer,
    /// transformers' `UMT5EncoderModel`.
    TextEncoder,
    /// diffusers' `AutoencoderKLWan`.
    Autoencoder,
    /// transformers' `CLIPVisionModel`.
    ImageEncoder,
}

impl Part {
    /// The part in `folder` of diffusers' layout.
    pub fn of_folder(folder: &str) -> Option<Self> {
        // Both transformers have the same names.
        let folder = if folder == SECOND_TRANSFORMER { Self::Transformer.folder() } else { folder };
        [Self::Transformer, Self::TextEncoder, Self::Autoencoder, Self::ImageEncoder]
            .into_iter()
            .find(|part| part.folder() == folder)
    }

    /// Its folder in diffusers' layout.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Transformer => "transformer",
            Self::TextEncoder => "text_encoder",
            Self::Autoencoder => "vae",
            Self::ImageEncoder => "image_encoder",
        }
    }
}

/// Pairs of the engine's name and another name, up to a dot. `*` is any number, the same in both.
type Table = Vec<(String, String)>;

/// Parts that training tools insert anywhere in a name.
const WRAPPERS: [&str; 3] = ["_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod."];

/// Prefixes of training and packaging tools: Self-Forcing's `generator`, ComfyUI's `model.diffusion_model`, lightning's
/// `state_dict`, PEFT's `base_model` …
const PREFIXES: [&str; 10] = [
    "base_model.model.",
    "model.",
    "diffusion_model.",
    "generator.",
    "generator_ema.",
    "module.",
    "state_dict.",
    "transformer.",
    "text_encoder.",
    "vae.",
];

/// Parts of names that only Wan's own names have. A LoRA may change any of the layers. The affine norm of a block is `norm3`
/// there, and `norm2` in diffusers.
const WAN: [&str; 10] = [
    ".self_attn.",
    ".cross_attn.",
    ".ffn.0",
    ".ffn.2",
    ".norm3",
    ".modulation",
    "head.",
    "time_embedding.",
    "text_embedding.",
    "time_projection.",
];

/// `wan/modules/model.py`: Wan's own checkpoints, ComfyUI's, city96's GGUF. norm2 and norm3 are swapped.
static TRANSFORMER: Lazy<Table> = Lazy::new(|| {
    let mut table = vec![
        pair("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
        pair("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
        pair("condition_embedder.time_proj", "time_projection.1"),
        pair("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
        pair("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
        pair("scale_shift_table", "head.modulation"),
        pair("proj_out", "head.head"),
        // The projection of images: Wan 2.1's image-to-video models.
        pair("condition_embedder.image_embedder.norm1", "img_emb.proj.0"),
        pair("condition_embedder.image_embedder.ff.net.0.proj", "img_emb.proj.1"),
        pair("condition_embedder.image_embedder.ff.net.2", "img_emb.proj.3"),
        pair("condition_embedder.image_embedder.norm2", "img_emb.proj.4"),
        pair("condition_embedder.image_embedder.pos_embed", "img_emb.emb_pos"),
        // The control branch: VACE.
        pair("vace_blocks.*.proj_in", "vace_blocks.*.before_proj"),
        pair("vace_blocks.*.proj_out", "vace_blocks.*.after_proj"),
    ];
    for blocks in ["blocks.*", "vace_blocks.*"] {
        for (engine_name, file_name) in [
            ("scale_shift_table", "modulation"),
            ("norm2", "norm3"),
            ("norm3", "norm2"),
            ("ffn.net.0.proj", "ffn.0"),
            ("ffn.net.2", "ffn.2"),
        ] {
            table.push((format!("{blocks}.{engine_name}"), format!("{blocks}.{file_name}")));
        }
        for (engine_name, file_name) in [("attn1", "self_attn"), ("attn2", "cross_attn")] {
            for (to, short) in [
                ("to_q", "q"),
                ("to_k", "k"),
                ("to_v", "v"),
                ("to_out.0", "o"),
                ("norm_q", "norm_q"),
                ("norm_k", "norm_k"),
                ("add_k_proj", "k_img"),
                ("add_v_proj", "v_img"),
                ("norm_added_k", "norm_k_img"),
            ] {
                table.push((format!("{blocks}.{engine_name}.{to}"), format!("{blocks}.{file_name}.{short}")));
            }
        }
    }
    table
});

/// `wan/modules/t5.py`.
static UMT5: Lazy<Table> = Lazy::new(|| {
    umt5(
        ("token_embedding", "norm"),
        "blocks.*",
        [
            "attn.q",
            "attn.k",
            "attn.v",
            "attn.o",
            "pos_embedding.embedding",
            "norm1",
            "norm2",
            "ffn.gate.0",
            "ffn.fc1",
            "ffn.fc2",
        ],
    )
});

/// llama.cpp's, in GGUF files.
static UMT5_GGUF: Lazy<Table> = Lazy::new(|| {
    umt5(
        ("token_embd", "enc.output_norm"),
        "enc.blk.*",
        [
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_o",
            "attn_rel_b",
            "attn_norm",
            "ffn_norm",
            "ffn_gate",
            "ffn_up",
            "ffn_down",
        ],
    )
});

fn umt5((shared, norm): (&str, &str), block: &str, file_name: [&str; 10]) -> Table {
    let engine_name = [
        "0.SelfAttention.q",
        "0.SelfAttention.k",
        "0.SelfAttention.v",
        "0.SelfAttention.o",
        "0.SelfAttention.relative_attention_bias",
        "0.layer_norm",
        "1.layer_norm",
        "1.DenseReluDense.wi_0",
        "1.DenseReluDense.wi_1",
        "1.DenseReluDense.wo",
    ];
    let blocks = engine_name.iter().zip(file_name).map(|(engine_name, file_name)| {
        (format!("encoder.block.*.layer.{engine_name}"), format!("{block}.{file_name}"))
    });
    [pair("shared", shared), pair("encoder.final_layer_norm", norm)].into_iter().chain(blocks).collect()
}

/// `wan/modules/vae.py` of Wan 2.1: one list of layers, three residual blocks and an upsampler for each stage.
static AUTOENCODER_21: Lazy<Table> = Lazy::new(|| {
    let mut table = autoencoder();
    table.extend(residual("encoder.down_blocks.*", "encoder.downsamples.*"));
    table.push(pair("encoder.down_blocks.*", "encoder.downsamples.*"));
    for stage in 0..4 {
        let engine_name = format!("decoder.up_blocks.{stage}");
        for block in 0..3 {
            let file_name = format!("decoder.upsamples.{}", 4 * stage + block);
            table.extend(residual(&format!("{engine_name}.resnets.{block}"), &file_name));
        }
        table.push((format!("{engine_name}.upsamplers.0"), format!("decoder.upsamples.{}", 4 * stage + 3)));
    }
    table
});

/// `wan/modules/vae2_2.py` of Wan 2.2.
static AUTOENCODER_22: Lazy<Table> = Lazy::new(|| {
    let mut table = autoencoder();
    table.extend(residual("encoder.down_blocks.*.resnets.*", "encoder.downsamples.*.downsamples.*"));
    table.extend(residual("decoder.up_blocks.*.resnets.*", "decoder.upsamples.*.upsamples.*"));
    table.push(pair("encoder.down_blocks.*.downsampler", "encoder.downsamples.*.downsamples.2"));
    table.push(pair("decoder.up_blocks.*.upsampler", "decoder.upsamples.*.upsamples.3"));
    table
});

/// The layers that both of Wan's autoencoders have.
fn autoencoder() -> Table {
    let mut table = vec![pair("quant_conv", "conv1"), pair("post_quant_conv", "conv2")];
    for half in ["encoder", "decoder"] {
        for (engine_name, file_name) in [
            ("conv_in", "conv1"),
            ("norm_out", "head.0"),
            ("conv_out", "head.2"),
            ("mid_block.attentions.0", "middle.1"),
        ] {
            table.push((format!("{half}.{engine_name}"), format!("{half}.{file_name}")));
        }
        for (engine_name, file_name) in [("resnets.0", "middle.0"), ("resnets.1", "middle.2")] {
            table
                .extend(residual(&format!("{half}.mid_block.{engine_name}"), &format!("{half}.{file_name}")));
        }
    }
    table
}

fn residual(engine_name: &str, file_name: &str) -> Table {
    [
        ("norm1", "residual.0"),
        ("conv1", "residual.2"),
        ("norm2", "residual.3"),
        ("conv2", "residual.6"),
        ("conv_shortcut", "shortcut"),
    ]
    .iter()
    .map(|(a, b)| (format!("{engine_name}.{a}"), format!("{file_name}.{b}")))
    .collect()
}

fn pair(engine_name: &str, file_name: &str) -> (String, String) {
    (engine_name.into(), file_name.into())
}

/// The names in a file, by the engine's names.
///
/// The names themselves decide which table applies. Names in no table are kept.
pub fn by_engine_names<'a>(part: Part, names: impl Iterator<Item = &'a str>) -> HashMap<String, String> {
    let mut names: Vec<(String, &str)> = names.map(|name| (unwrapped(name), name)).collect();
    // If a file has `generator` and `generator_ema`, the second replaces the first, because it sorts later.
    names.sort_by_key(|(_, name)| *name);
    let table = table(part, names.iter().map(|(name, _)| name.as_str()));
    names
        .into_iter()
        .map(|(name, in_file)| {
            (table.map_or_else(|| name.clone(), |t| renamed(&name, t, file_to_engine)), in_file.into())
        })
        .collect()
}

/// The name in Wan's own checkpoints for an engine name. `sample` are other engine names of the same part; they decide
/// which autoencoder it is.
pub fn original_name<'a>(part: Part, name: &str, mut sample: impl Iterator<Item = &'a str>) -> String {
    let table = match part {
        Part::Transformer => &TRANSFORMER,
        Part::TextEncoder => &UMT5,
        Part::Autoencoder if sample.any(|name| name.starts_with("encoder.down_blocks.0.resnets.")) => {
            &AUTOENCODER_22
        }
        Part::Autoencoder => &AUTOENCODER_21,
        // Its names are the engine's own.
        Part::ImageEncoder => return name.into(),
    };
    renamed(name, table, |(engine_name, file_name)| (engine_name, file_name))
}

/// The part of Wan that has tensors with these names; `None` for unknown names.
pub fn part_of<'a>(names: impl Iterator<Item = &'a str>) -> Option<Part> {
    names.map(unwrapped).find_map(|name| {
        let has = |part: &str| name.contains(part);
        if has(".mlp.fc1.") || has("patch_embedding.weight") && has("embeddings.") {
            Some(Part::ImageEncoder)
        } else if has(".self_attn.") && !has("_proj.") || has(".attn1.") {
            Some(Part::Transformer)
        } else if has(".SelfAttention.") || has(".attn_rel_b.") || has(".pos_embedding.") {
            Some(Part::TextEncoder)
        } else if has(".mid_block.") || has(".middle.") {
            Some(Part::Autoencoder)
        } else {
            None
        }
    })
}

/// The table for these names; `None` for the engine's own names.
fn table<'a>(part: Part, mut names: impl Iterator<Item = &'a str>) -> Option<&'static Table> {
    names.find_map(|name| -> Option<&'static Table> {
        match part {
            Part::Transformer if WAN.iter().any(|part| name.contains(part)) => Some(&TRANSFORMER),
            Part::TextEncoder if name.starts_with("enc.blk.") => Some(&UMT5_GGUF),
            Part::TextEncoder if name.starts_with("blocks.") && name.contains(".attn.") => Some(&UMT5),
            Part::Autoencoder if name.contains(".downsamples.0.downsamples.") => Some(&AUTOENCODER_22),
            // In Wan 2.1 the first downsampling layer is a residual block.
            Part::Autoencoder if name.starts_with("encoder.downsamples.0.residual.") => Some(&AUTOENCODER_21),
            _ => None,
        }
    })
}

/// `name` without what training and packaging tools add.
pub fn unwrapped(name: &str) -> String {
    let mut name = WRAPPERS.iter().fold(name.to_string(), |name, wrapper| name.replace(wrapper, ""));
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)) {
        name = rest.to_string();
    }
    name
}

fn file_to_engine((engine_name, file_name): &(String, String)) -> (&String, &String) {
    (file_name, engine_name)
}

/// Replaces the beginning of `name` by the longest matching row of `table`. `direction` orders a row as (from, to).
fn renamed(name: &str, table: &Table, direction: impl Fn(&(String, String)) -> (&String, &String)) -> String {
    let mut best: Option<(usize, String)> = None;
    for row in table {
        let (from, to) = direction(row);
        if let Some((matched, numbers)) = match_prefix(name, from)
            && best.as_ref().is_none_or(|(length, _)| matched > *length)
        {
            let mut numbers = numbers.into_iter();
            let to: Vec<_> = to
                .split('.')
                .map(|part| if part == "*" { numbers.next().unwrap_or(part) } else { part })
                .collect();
            let rest = name.split('.').skip(matched);
            best = Some((matched, to.into_iter().chain(rest).collect::<Vec<_>>().join(".")));
        }
    }
    best.map_or_else(|| name.into(), |(_, name)| name)
}

/// The number of segments of `name` that match `pattern`, and the values of its `*`.
fn match_prefix<'a>(name: &'a str, pattern: &str) -> Option<(usize, Vec<&'a str>)> {
    let (mut segments, mut matched, mut numbers) = (name.split('.'), 0, Vec::new());
    for wanted in pattern.split('.') {
        let segment = segments.next()?;
        match wanted {
            "*" if !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_digit()) => {
                numbers.push(segment)
            }
            _ if wanted == segment => {}
            _ => return None,
        }
        matched += 1;
    }
    Some((matched, numbers))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs of a checkpoint's name and the engine's, from `tests/reference/make_names.py`.
    fn pairs(kind: &str) -> Vec<(String, String)> {
        let all: HashMap<String, Vec<(String, String)>> =
            serde_json::from_str(include_str!("../../tests/fixtures/names.json")).unwrap();
        all[kind].clone()
    }

    const KINDS: [(&str, Part); 7] = [
        ("transformer", Part::Transformer),
        ("transformer-images", Part::Transformer),
        ("transformer-vace", Part::Transformer),
        ("umt5", Part::TextEncoder),
        ("umt5-gguf", Part::TextEncoder),
        ("vae-2.1", Part::Autoencoder),
        ("vae-2.2", Part::Autoencoder),
    ];

    #[test]
    fn names_are_converted_to_diffusers_names() {
        for (kind, part) in KINDS {
            let pairs = pairs(kind);
            let found = by_engine_names(part, pairs.iter().map(|(file_name, _)| file_name.as_str()));
            assert_eq!(found.len(), pairs.len(), "{kind}");
            for (file_name, engine_name) in &pairs {
                assert_eq!(found.get(engine_name), Some(file_name), "{kind}: {engine_name}");
            }
            assert_eq!(part_of(pairs.iter().map(|(file_name, _)| file_name.as_str())), Some(part), "{kind}");
            assert_eq!(
                part_of(pairs.iter().map(|(_, engine_name)| engine_name.as_str())),
                Some(part),
                "{kind}"
            );
        }
    }

    #[test]
    fn engine_names_are_converted_to_wans_names() {
        for (kind, part) in KINDS.into_iter().filter(|(kind, _)| *kind != "umt5-gguf") {
            let pairs = pairs(kind);
            for (file_name, engine_name) in &pairs {
                let sample = pairs.iter().map(|(_, engine_name)| engine_name.as_str());
                assert_eq!(&original_name(part, engine_name, sample), file_name, "{kind}: {engine_name}");
            }
        }
    }

    #[test]
    fn engine_names_are_kept() {
        for (kind, part) in KINDS {
            let pairs = pairs(kind);
            let found = by_engine_names(part, pairs.iter().map(|(_, engine_name)| engine_name.as_str()));
            assert!(
                pairs.iter().all(|(_, engine_name)| found.get(engine_name) == Some(engine_name)),
                "{kind}"
            );
        }
    }

    #[test]
    fn prefixes_of_training_and_packaging_tools_are_removed() {
        for prefix in [
            "model.diffusion_model.",
            "diffusion_model.",
            "model.",
            "generator.model.",
            "generator_ema.model._fsdp_wrapped_module.",
        ] {
            let names: Vec<_> = pairs("transformer")
                .into_iter()
                .map(|(file_name, _)| format!("{prefix}{file_name}"))
                .collect();
            let found = by_engine_names(Part::Transformer, names.iter().map(String::as_str));
            let expected = format!("{prefix}blocks.1.self_attn.q.weight");
            assert_eq!(found.get("blocks.1.attn1.to_q.weight"), Some(&expected));
            assert_eq!(found.len(), names.len());
        }
        let both = [
            "generator.model.head.head.bias",
            "generator_ema.model.head.head.bias",
            "generator.blocks.0.self_attn.q.bias",
        ];
        let found = by_engine_names(Part::Transformer, both.into_iter());
        assert_eq!(found["proj_out.bias"], "generator_ema.model.head.head.bias");
        let inside = ["model.blocks.0._fsdp_wrapped_module.self_attn.q.bias"];
        assert_eq!(
            by_engine_names(Part::Transformer, inside.into_iter())["blocks.0.attn1.to_q.bias"],
            inside[0]
        );
    }
}
