//! Published checkpoint layouts: frames equal those of the same weights in diffusers' layout.
//!
//! `make_layouts.py` generates the models; `make_names.py` generates the names of their tensors in other layouts, from
//! Wan's code, diffusers' converter and llama.cpp.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{DType, Device, Tensor};
use soragen::checkpoint::{Lora, Parts};
use soragen::{
    Cancel, Length, Model, ModelInfo, OpenOptions, Precision, Request, Session, Size, part_sizes,
    weights_bytes,
};
use soragen_tests::fixtures::{assert_close, copy, json, path, values};
use soragen_tests::with;

pub type Tensors = HashMap<String, Tensor>;

const PARTS: [(&str, &str); 3] = [
    ("transformer", "diffusion_pytorch_model"),
    ("text_encoder", "model"),
    ("vae", "diffusion_pytorch_model"),
];

/// A model of `make_layouts.py`, and a folder for it in another layout.
pub struct Case {
    name: &'static str,
    folder: tempfile::TempDir,
}

impl Case {
    /// Asserts that the student generates chunks of `chunks` frames in place of the base transformer.
    fn assert_student(&self, student: &Path, recipe: &str, chunks: [usize; 2]) {
        let base = self.original();
        let parts = |recipe: &str| Parts {
            transformer: Some(student.into()),
            recipe: Some(recipe.into()),
            ..Default::default()
        };
        let info = ModelInfo::read(&base.to_string_lossy(), &parts(recipe)).unwrap();
        assert!(info.causal && info.steps <= 4 && info.guidance_scale == 1.0, "{recipe}");
        // The same at a small size, to save time.
        let file = path(&format!("../../src/checkpoint/recipes/{recipe}.json"));
        let mut small: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        small["sizes"] = serde_json::json!([[64, 64]]);
        let file = self.at(&format!("{recipe}.json"));
        std::fs::write(&file, small.to_string()).unwrap();
        let options = with!(OpenOptions::default(); parts: parts(file.to_str().unwrap()));
        let model = Model::open(&base.to_string_lossy(), &options, &Cancel::new()).unwrap();
        let request = with!(Request::default(); prompt: "a cat".into(), length: Length::Frames(80));
        let mut session = Session::new(model, request).unwrap();
        for expected in chunks {
            let frames = session.next_raw_chunk(&Cancel::new(), &mut |_| {}).unwrap().unwrap();
            assert_eq!(frames.len(), expected, "{recipe}");
            assert!(frames.data.iter().all(|x| x.is_finite()));
        }
    }

    pub fn new(name: &'static str) -> Self {
        Self { name, folder: tempfile::tempdir().unwrap() }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        let file = self.folder.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        file
    }

    /// The model in diffusers' layout.
    pub fn original(&self) -> PathBuf {
        path(&format!("layouts/{}", self.name))
    }

    /// The tensors of a part, with their names in the layout `kind`.
    pub fn tensors(&self, part: &str, kind: Option<&str>) -> Tensors {
        let (_, stem) = PARTS.iter().find(|(folder, _)| *folder == part).unwrap();
        let file = self.original().join(part).join(format!("{stem}.safetensors"));
        let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        let Some(kind) = kind else { return tensors };
        let pairs: Vec<(String, String)> = serde_json::from_value(json("names.json")[kind].clone()).unwrap();
        let file_name: HashMap<_, _> =
            pairs.into_iter().map(|(file_name, engine_name)| (engine_name, file_name)).collect();
        tensors
            .into_iter()
            .map(|(name, tensor)| {
                (file_name.get(&name).unwrap_or_else(|| panic!("{kind}: {name}")).clone(), tensor)
            })
            .collect()
    }

    fn tokenizer(&self, name: &str) {
        std::fs::copy(self.original().join("tokenizer/tokenizer.json"), self.at(name)).unwrap();
    }

    /// PSNR of the frames of `model` with `parts` and of the same weights in diffusers' layout.
    fn psnr(&self, model: &Path, parts: Parts) -> f64 {
        psnr(&frames(model, parts), &frames(&self.original(), Parts::default()))
    }

    #[track_caller]
    fn assert_same(&self, model: &Path, parts: Parts) {
        let expected = frames(&self.original(), Parts::default());
        assert_close(self.name, &frames(model, parts), &expected, 0.0);
    }
}

fn psnr(frames: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(frames.dims(), expected.dims());
    let (frames, expected) = (values(frames), values(expected));
    let spread = expected.iter().fold(0.0_f32, |m, x| m.max((x - expected[0]).abs()));
    assert!(spread > 0.1, "the picture is flat");
    let square: f64 = frames.iter().zip(&expected).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    -10.0 * (square / frames.len() as f64).log10()
}

pub fn frames(model: &Path, parts: Parts) -> Tensor {
    frames_with(model, &with!(OpenOptions::default(); parts))
}

fn frames_with(model: &Path, options: &OpenOptions) -> Tensor {
    let request = with!(
        Request::default();
        prompt: "a red fox runs over the snow".into(),
        negative_prompt: Some("slow".into()),
        size: Some(Size { width: 64, height: 64 }),
        length: Length::Frames(5),
        steps: Some(2),
        seed: 3,
    );
    let mut session =
        Session::new(Model::open(&model.to_string_lossy(), options, &Cancel::new()).unwrap(), request)
            .unwrap();
    let (mut data, mut count) = (Vec::new(), 0);
    while let Some(frames) = session.next_raw_chunk(&Cancel::new(), &mut |_| {}).unwrap() {
        count += frames.len();
        data.extend_from_slice(&frames.data);
    }
    Tensor::from_vec(data, (count, 64, 64, 3), &Device::Cpu).unwrap()
}

pub fn save(tensors: &Tensors, file: &Path) {
    candle_core::safetensors::save(tensors, file).unwrap();
}

fn prefixed(tensors: Tensors, prefix: &str) -> Tensors {
    tensors.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect()
}

pub fn open_error(model: &Path, parts: Parts) -> String {
    let options = with!(OpenOptions::default(); parts);
    Model::open(&model.to_string_lossy(), &options, &Cancel::new()).unwrap_err().to_string()
}

const VAE: [(&str, &str); 2] = [("wan-2.1", "vae-2.1"), ("wan-2.2", "vae-2.2")];

#[test]
fn a_diffusers_folder_may_have_other_tensor_names() {
    for (name, vae) in VAE {
        let case = Case::new(name);
        copy(&case.original(), case.folder.path());
        let comfy = prefixed(case.tensors("transformer", Some("transformer")), "model.diffusion_model.");
        save(&comfy, &case.at("transformer/diffusion_pytorch_model.safetensors"));
        save(&case.tensors("text_encoder", Some("umt5")), &case.at("text_encoder/model.safetensors"));
        save(&case.tensors("vae", Some(vae)), &case.at("vae/diffusion_pytorch_model.safetensors"));
        case.assert_same(case.folder.path(), Parts::default());
    }
}

#[test]
fn wans_own_folder_is_a_model() {
    for (name, vae) in VAE {
        let case = Case::new(name);
        let config =
            serde_json::json!({ "_class_name": "WanModel", "model_type": "t2v", "dim": 128, "num_heads": 1 });
        std::fs::write(case.at("config.json"), config.to_string()).unwrap();
        // In two shards, as large models.
        let (mut first, mut second) = (Tensors::new(), Tensors::new());
        for (name, tensor) in case.tensors("transformer", Some("transformer")) {
            if name.starts_with("blocks.0.") { &mut first } else { &mut second }.insert(name, tensor);
        }
        save(&first, &case.at("diffusion_pytorch_model-00001-of-00002.safetensors"));
        save(&second, &case.at("diffusion_pytorch_model-00002-of-00002.safetensors"));
        save(
            &case.tensors("text_encoder", Some("umt5")),
            &case.at("models_t5_umt5-xxl-enc-bf16.safetensors"),
        );
        let file = if name == "wan-2.1" { "Wan2.1_VAE.safetensors" } else { "Wan2.2_VAE.safetensors" };
        save(&case.tensors("vae", Some(vae)), &case.at(file));
        case.tokenizer("google/umt5-xxl/tokenizer.json");
        case.assert_same(case.folder.path(), Parts::default());
        let info = ModelInfo::read(&case.folder.path().to_string_lossy(), &Parts::default()).unwrap();
        assert_eq!(info.image_to_video, name == "wan-2.2");

        // As downloaded, two of the files are pickles.
        std::fs::remove_file(case.at(file)).unwrap();
        let pickle = case.at(file).with_extension("pth");
        std::fs::write(&pickle, b"PK\x03\x04 and so on").unwrap();
        let error = open_error(case.folder.path(), Parts::default());
        assert!(error.contains(&format!("soragen convert {}", pickle.display())), "{error}");
    }
}

#[test]
fn a_transformer_file_needs_its_other_parts() {
    for (name, vae) in VAE {
        let case = Case::new(name);
        let model = case.at("unet/wan.safetensors");
        save(&prefixed(case.tensors("transformer", None), "diffusion_model."), &model);
        let (text_encoder, autoencoder) = (case.at("clip/umt5.safetensors"), case.at("vae/wan.safetensors"));
        save(&case.tensors("text_encoder", None), &text_encoder);
        save(&case.tensors("vae", Some(vae)), &autoencoder);
        let parts = |text_encoder: &Path| Parts {
            text_encoder: Some(text_encoder.into()),
            autoencoder: Some(autoencoder.clone()),
            ..Default::default()
        };
        let error = open_error(&model, parts(&text_encoder));
        assert!(error.contains("tokenizer.json"), "{error}");
        case.tokenizer("clip/tokenizer.json");
        case.assert_same(&model, parts(&text_encoder));
        // A diffusers folder has the other parts too.
        case.assert_same(&model, parts(&case.original()));

        for (missing, parts) in [
            ("text-encoder", Parts { autoencoder: Some(autoencoder.clone()), ..Default::default() }),
            ("autoencoder", Parts { text_encoder: Some(text_encoder.clone()), ..Default::default() }),
        ] {
            let error = open_error(&model, parts);
            assert!(error.contains(&format!("`{missing}`")), "{error}");
        }
        let error =
            open_error(&model, Parts { autoencoder: Some(text_encoder.clone()), ..parts(&text_encoder) });
        assert!(error.contains("not an autoencoder of Wan"), "{error}");
    }
}

/// A student of Wan 2.2 TI2V-5B, as LongLive 2.
#[test]
fn a_causal_student_of_wan_2_2_generates_chunks() {
    let case = Case::new("wan-2.2");
    let student = case.at("model_bf16.safetensors");
    save(&prefixed(case.tensors("transformer", Some("transformer")), "generator.model."), &student);
    case.assert_student(&student, "longlive-2", [29, 32]);
}

#[test]
fn a_causal_student_replaces_the_transformer_of_its_base() {
    let case = Case::new("wan-2.1");
    let student = case.at("self_forcing.safetensors");
    let ema = "generator_ema.model._fsdp_wrapped_module.";
    save(&prefixed(case.tensors("transformer", Some("transformer")), ema), &student);
    let base = case.original();
    let parts = |recipe: Option<&str>| Parts {
        transformer: Some(student.clone()),
        recipe: recipe.map(Into::into),
        ..Default::default()
    };
    // Without a recipe it is an ordinary transformer.
    case.assert_same(&base, parts(None));

    for (recipe, first, next) in
        [("self-forcing", 9, 12), ("causal-forcing-framewise-2", 1, 4), ("longlive", 9, 12)]
    {
        case.assert_student(&student, recipe, [first, next]);
    }
    // A recipe file beside the transformer.
    let mut own = json("miniature/soragen.json");
    own["sizes"] = serde_json::json!([[64, 64]]);
    own["max_text_tokens"] = 512.into();
    std::fs::write(case.at("soragen.json"), own.to_string()).unwrap();
    let info = ModelInfo::read(&base.to_string_lossy(), &parts(None)).unwrap();
    assert!(info.causal && info.name == "miniature");
    // The name that the 2-step recipe had first.
    let info = ModelInfo::read(&base.to_string_lossy(), &parts(Some("causal-forcing-framewise"))).unwrap();
    assert_eq!(info.name, "causal-forcing-framewise-2");
    let error = open_error(&base, parts(Some("no-such")));
    assert!(error.contains("self-forcing, causal-forcing"), "{error}");
}

/// Writes city96's layout: Wan's names, large matrices quantized, small tensors f32.
fn gguf(tensors: &Tensors, dtype: GgmlDType, flat: bool, file: &Path) {
    // Sorted, so that the file is reproducible.
    let tensors: std::collections::BTreeMap<_, _> = tensors.iter().collect();
    let quantized: Vec<_> = tensors
        .into_iter()
        .map(|(name, tensor)| {
            let tensor = tensor.to_dtype(DType::F32).unwrap();
            let fits = |dtype: GgmlDType| tensor.dims().last().unwrap().is_multiple_of(dtype.block_size());
            let dtype = match tensor.rank() {
                2 if fits(dtype) => dtype,
                2 if fits(GgmlDType::Q8_0) && dtype != GgmlDType::F16 => GgmlDType::Q8_0,
                _ => GgmlDType::F32,
            };
            // GGUF has at most four dimensions.
            let tensor = if tensor.rank() == 5 && flat { tensor.flatten(1, 4).unwrap() } else { tensor };
            (name, QTensor::quantize(&tensor, dtype).unwrap())
        })
        .collect();
    let tensors: Vec<_> = quantized.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut BufWriter::new(File::create(file).unwrap()), &[], &tensors).unwrap();
}

/// Writes the transformer of the Wan 2.1 fixture as GGUF in Q8_0.
pub fn write_gguf(file: &Path) {
    gguf(&Case::new("wan-2.1").tensors("transformer", Some("transformer")), GgmlDType::Q8_0, false, file);
}

#[test]
fn frames_of_quantized_files_are_close() {
    let case = Case::new("wan-2.1");
    let (transformer, text) =
        (case.tensors("transformer", Some("transformer")), case.tensors("text_encoder", Some("umt5-gguf")));
    let (model, text_encoder) = (case.at("wan.gguf"), case.at("umt5.gguf"));
    case.tokenizer("tokenizer.json");
    // Usual quality of each type; broken weights are below 20 dB.
    for (dtype, least) in [
        (GgmlDType::F16, 90.0),
        (GgmlDType::Q8_0, 50.0),
        (GgmlDType::Q6K, 48.0),
        (GgmlDType::Q5K, 45.0),
        (GgmlDType::Q4K, 42.0),
    ] {
        gguf(&transformer, dtype, dtype == GgmlDType::F16, &model);
        gguf(&text, dtype, false, &text_encoder);
        let parts = Parts {
            text_encoder: Some(text_encoder.clone()),
            autoencoder: Some(case.original()),
            ..Default::default()
        };
        let psnr = case.psnr(&model, parts);
        println!("{dtype:?}: {psnr:.1} dB");
        assert!(psnr > least, "{dtype:?}: {psnr:.1} dB");
    }
}

/// The tensors of a GGUF file as f32.
fn dequantized(file: &Path) -> Tensors {
    let mut reader = File::open(file).unwrap();
    let content = gguf_file::Content::read(&mut reader).unwrap();
    let expand = |name: &String| {
        let tensor = content.tensor(&mut reader, name, &Device::Cpu).unwrap();
        (name.clone(), tensor.dequantize(&Device::Cpu).unwrap())
    };
    content.tensor_infos.keys().map(expand).collect()
}

#[test]
fn layers_compute_with_quantized_weights() {
    let case = Case::new("wan-2.1");
    let (transformer, text) =
        (case.tensors("transformer", Some("transformer")), case.tensors("text_encoder", Some("umt5-gguf")));
    let (model, text_encoder) = (case.at("wan.gguf"), case.at("umt5.gguf"));
    let (plain, plain_text) = (case.at("wan.safetensors"), case.at("umt5.safetensors"));
    case.tokenizer("tokenizer.json");
    let open = |text_encoder: &Path, precision, offload| {
        with!(
            OpenOptions::default();
            parts: Parts {
                text_encoder: Some(text_encoder.into()),
                autoencoder: Some(case.original()),
                ..Default::default()
            },
            precision,
            offload,
        )
    };
    // The loss: activations are rounded to 8 bits too, which gives 47 dB.
    for (dtype, least) in [(GgmlDType::Q8_0, 44.0), (GgmlDType::Q4K, 44.0)] {
        // With flattened convolutions.
        gguf(&transformer, dtype, true, &model);
        gguf(&text, dtype, false, &text_encoder);
        let mut tensors = dequantized(&model);
        let patch = tensors.get_mut("patch_embedding.weight").unwrap();
        *patch = patch.reshape(transformer["patch_embedding.weight"].shape()).unwrap();
        save(&tensors, &plain);
        save(&dequantized(&text_encoder), &plain_text);

        let quantized = frames_with(&model, &open(&text_encoder, Precision::Gguf, false));
        let psnr = psnr(&quantized, &frames_with(&plain, &open(&plain_text, Precision::F32, false)));
        println!("{dtype:?}: {psnr:.1} dB");
        assert!(psnr > least, "{dtype:?}: {psnr:.1} dB");
        // Offloading does not change the frames.
        let offloaded = frames_with(&model, &open(&text_encoder, Precision::Gguf, true));
        assert_close("offload", &offloaded, &quantized, 0.0);

        // Memory of the transformer: Q8_0 has 34 bytes for 32 values, and candle copies it.
        let parts = open(&text_encoder, Precision::Gguf, false).parts;
        let sizes = part_sizes(&model.to_string_lossy(), &parts).unwrap();
        let bytes = |precision| weights_bytes(&sizes[..1], precision, false, &Device::Cpu);
        assert!(bytes(Precision::Gguf) < bytes(Precision::F32) * 3 / 4, "{dtype:?}");
    }
    // Low-rank LoRAs are added to the output of quantized layers; whole matrices and biases are added to f32 weights.
    let lora = case.at("lora.safetensors");
    let names = [
        "0.self_attn.q.lora_down.weight",
        "0.self_attn.q.lora_up.weight",
        "1.cross_attn.o.diff",
        "1.self_attn.v.diff_b",
    ];
    let changes =
        [random(&[4, 128], 1.0), random(&[128, 4], 2.0), random(&[128, 128], 3.0), random(&[128], 4.0)];
    let stored = names.map(|name| format!("diffusion_model.blocks.{name}")).into_iter().zip(changes);
    save(&stored.collect(), &lora);
    let with = |model: &Path, text_encoder: &Path, precision| {
        let mut options = open(text_encoder, precision, false);
        options.parts.loras.push(Lora { path: lora.clone(), scale: 2.0, expert: None });
        frames_with(model, &options)
    };
    let changed = with(&model, &text_encoder, Precision::Gguf);
    let least = psnr(&changed, &with(&plain, &plain_text, Precision::F32));
    assert!(least > 44.0, "with a LoRA: {least:.1} dB");
    let without = psnr(&changed, &frames_with(&model, &open(&text_encoder, Precision::Gguf, false)));
    assert!(without < 35.0, "the LoRA has no effect: {without:.1} dB");

    let error =
        Model::open(&plain.to_string_lossy(), &open(&text_encoder, Precision::Gguf, false), &Cancel::new())
            .unwrap_err();
    assert!(error.to_string().contains("precision=gguf needs"), "{error}");
}

#[test]
fn frames_of_fp8_files_are_close_with_and_without_scales() {
    let case = Case::new("wan-2.1");
    let base = case.original();
    for scale_name in [None, Some("scale_weight"), Some("weight_scale")] {
        let mut stored = Tensors::new();
        for (name, tensor) in case.tensors("transformer", Some("transformer")) {
            let layer =
                name.strip_suffix("weight").filter(|_| tensor.rank() == 2 && name.starts_with("blocks."));
            let Some(layer) = layer else {
                stored.insert(name, tensor);
                continue;
            };
            let tensor = tensor.to_dtype(DType::F32).unwrap();
            let scale = if scale_name.is_some() { 1.0 / 64.0 } else { 1.0 };
            let tensor = (tensor / scale).unwrap().to_dtype(DType::F8E4M3).unwrap();
            if let Some(scale_name) = scale_name {
                stored
                    .insert(format!("{layer}{scale_name}"), Tensor::new(scale as f32, &Device::Cpu).unwrap());
            }
            stored.insert(name.clone(), tensor);
        }
        let file = case.at("fp8.safetensors");
        save(&stored, &file);
        let psnr = case.psnr(&base, Parts { transformer: Some(file), ..Default::default() });
        println!("{scale_name:?}: {psnr:.1} dB");
        assert!(psnr > 45.0, "{scale_name:?}: {psnr:.1} dB");
    }
}

/// Pseudo-random weights.
pub fn random(shape: &[usize], seed: f32) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| ((i as f32 + seed) * 12.9898).sin() * 0.3).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

#[test]
fn loras_with_all_names_are_added_to_the_weights() {
    let case = Case::new("wan-2.1");
    let base = case.original();
    let (a, b) = (random(&[4, 128], 1.0), random(&[128, 4], 2.0));
    let product = b.matmul(&a).unwrap();
    // Layers: query of the first block, output of the cross attention of the second.
    let layers = [
        ("blocks.0.attn1.to_q", "blocks.0.self_attn.q"),
        ("blocks.1.attn2.to_out.0", "blocks.1.cross_attn.o"),
    ];
    let merged = |scale: f64, more: &dyn Fn(&mut Tensors)| {
        let mut tensors = case.tensors("transformer", None);
        for tensor in tensors.values_mut() {
            *tensor = tensor.to_dtype(DType::F32).unwrap();
        }
        for (engine_name, _) in layers {
            let weight = tensors.get_mut(&format!("{engine_name}.weight")).unwrap();
            *weight = (&*weight + (&product * scale).unwrap()).unwrap();
        }
        more(&mut tensors);
        let file = case.at(&format!("merged/{scale}.safetensors"));
        save(&tensors, &file);
        frames(&base, Parts { transformer: Some(file), ..Default::default() })
    };
    let with = |loras: &[(&Path, f32)]| {
        let loras =
            loras.iter().map(|&(path, scale)| Lora { path: path.into(), scale, expert: None }).collect();
        frames(&base, Parts { loras, ..Default::default() })
    };
    let expected = merged(1.0, &|_| {});
    let plain = frames(&base, Parts::default());
    let changed = (&expected - &plain).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(changed > 0.01, "the LoRA has no effect: {changed}");

    let file = case.at("lora.safetensors");
    for (prefix, wan, ends) in [
        ("base_model.model.", false, ["lora_A.weight", "lora_B.weight"]),
        ("transformer.", false, ["lora_A.default.weight", "lora_B.default.weight"]),
        ("diffusion_model.", true, ["lora_A.weight", "lora_B.weight"]),
        ("", true, ["lora_down.weight", "lora_up.weight"]),
        ("lora_unet_", true, ["lora_down.weight", "lora_up.weight"]),
    ] {
        let mut stored = Tensors::new();
        for (engine_name, file_name) in layers {
            let layer = if wan { file_name } else { engine_name };
            let layer = if prefix == "lora_unet_" { layer.replace('.', "_") } else { layer.into() };
            stored.insert(format!("{prefix}{layer}.{}", ends[0]), a.clone());
            stored.insert(format!("{prefix}{layer}.{}", ends[1]), b.clone());
        }
        save(&stored, &file);
        assert_close(prefix, &with(&[(&file, 1.0)]), &expected, 1e-5);
        // Twice with half the scale.
        assert_close(prefix, &with(&[(&file, 0.5), (&file, 0.5)]), &expected, 1e-5);
        let alpha = Tensor::new(2.0_f32, &Device::Cpu).unwrap();
        for name in stored
            .keys()
            .filter_map(|name| name.strip_suffix(ends[0]))
            .map(|n| format!("{n}alpha"))
            .collect::<Vec<_>>()
        {
            stored.insert(name, alpha.clone());
        }
        save(&stored, &file);
        assert_close(prefix, &with(&[(&file, 1.0)]), &merged(0.5, &|_| {}), 1e-5);
        assert_close(prefix, &with(&[(&file, 0.0)]), &plain, 0.0);
    }

    // Whole differences, as lightx2v has for norms and biases.
    let (norm, bias) = (random(&[128], 3.0), random(&[128], 4.0));
    let stored = [
        ("diffusion_model.blocks.0.norm3.diff".to_string(), norm.clone()),
        ("diffusion_model.blocks.0.self_attn.q.diff_b".to_string(), bias.clone()),
    ];
    save(&Tensors::from(stored), &file);
    let expected = merged(0.0, &|tensors| {
        for (name, more) in [("blocks.0.norm2.weight", &norm), ("blocks.0.attn1.to_q.bias", &bias)] {
            let tensor = tensors.get_mut(name).unwrap();
            *tensor = (&*tensor + more).unwrap();
        }
    });
    assert_close("differences", &with(&[(&file, 1.0)]), &expected, 1e-5);

    let loras = |path: &Path| vec![Lora { path: path.into(), scale: 1.0, expert: None }];
    for (name, reason) in [
        ("diffusion_model.blocks.7.self_attn.q.lora_down.weight", "blocks.7.self_attn.q.lora_down.weight"),
        ("text_encoder.layer.lora_A.weight", "change a text encoder"),
        ("blocks.0.attn3.to_q.lora_A.weight", "belong to no layer"),
        ("diffusion_model.blocks.0.self_attn.q.lora_down.weight", "is missing"),
    ] {
        save(&Tensors::from([(name.to_string(), a.clone())]), &file);
        let error = open_error(&base, Parts { loras: loras(&file), ..Default::default() });
        assert!(error.contains(reason) && error.contains("lora.safetensors"), "{error}");
    }
    for ranks in [(0, 0), (4, 3)] {
        let ends = [(ranks.0, 128), (128, ranks.1)]
            .map(|shape| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap());
        let names = ["lora_A", "lora_B"].map(|end| format!("transformer.blocks.0.attn1.to_q.{end}.weight"));
        save(&names.into_iter().zip(ends).collect(), &file);
        let error = open_error(&base, Parts { loras: loras(&file), ..Default::default() });
        assert!(error.contains("fit together"), "{ranks:?}: {error}");
    }
    let error = open_error(&base, Parts { loras: loras(&case.at("none.safetensors")), ..Default::default() });
    assert!(error.contains("PATH:SCALE"), "{error}");
}

/// fp8 `e5m2` is the upper half of an f16, so its values are known exactly.
#[test]
fn fp8_e5m2_has_the_values_of_its_bits() {
    let case = Case::new("wan-2.1");
    let (narrow, wide) = (case.at("e5m2.safetensors"), case.at("f32.safetensors"));
    let (mut bytes, mut expanded) = (HashMap::new(), Tensors::new());
    for (name, tensor) in case.tensors("transformer", Some("transformer")) {
        let tensor = tensor.to_dtype(DType::F32).unwrap();
        if tensor.rank() != 2 || !name.starts_with("blocks.") {
            let stored: Vec<u8> = values(&tensor).iter().flat_map(|x| x.to_le_bytes()).collect();
            bytes.insert(name.clone(), (safetensors::Dtype::F32, tensor.dims().to_vec(), stored));
            expanded.insert(name, tensor);
            continue;
        }
        // Cut off, not rounded.
        let half = tensor.to_dtype(DType::F16).unwrap().flatten_all().unwrap();
        let stored: Vec<u8> =
            half.to_vec1::<half::f16>().unwrap().iter().map(|x| (x.to_bits() >> 8) as u8).collect();
        let exact: Vec<f32> =
            stored.iter().map(|byte| half::f16::from_bits(u16::from(*byte) << 8).to_f32()).collect();
        expanded.insert(name.clone(), Tensor::from_vec(exact, tensor.shape(), &Device::Cpu).unwrap());
        bytes.insert(name, (safetensors::Dtype::F8_E5M2, tensor.dims().to_vec(), stored));
    }
    let views = bytes.iter().map(|(name, (dtype, shape, stored))| {
        (name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), stored).unwrap())
    });
    safetensors::serialize_to_file(views, None, &narrow).unwrap();
    save(&expanded, &wide);
    let with =
        |file: PathBuf| frames(&case.original(), Parts { transformer: Some(file), ..Default::default() });
    assert_close("e5m2", &with(narrow), &with(wide), 0.0);
}

#[test]
fn a_git_lfs_pointer_is_named_as_such() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 5676070424\n";
    for file in [
        "transformer/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
        "transformer/config.json",
    ] {
        let case = Case::new("wan-2.1");
        copy(&case.original(), case.folder.path());
        std::fs::write(case.at(file), pointer).unwrap();
        let error = open_error(case.folder.path(), Parts::default());
        assert!(
            error.contains("Git LFS pointer") && error.contains(file.split('/').next().unwrap()),
            "{file}: {error}"
        );
    }
    let case = Case::new("wan-2.1");
    let lora = case.at("lora.safetensors");
    std::fs::write(&lora, pointer).unwrap();
    let loras = vec![Lora { path: lora, scale: 1.0, expert: None }];
    let error = open_error(&case.original(), Parts { loras, ..Default::default() });
    assert!(error.contains("Git LFS pointer") && error.contains("lora.safetensors"), "{error}");
}
