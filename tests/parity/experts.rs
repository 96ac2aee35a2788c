//! Models with two transformers compared with diffusers (`make_experts.py`).

use candle_core::{Device, Tensor};
use soragen::checkpoint::{Lora, Parts};
use soragen::{
    Cancel, Length, Model, ModelInfo, OpenOptions, Precision, Request, Session, Size, part_sizes,
    weights_bytes,
};
use soragen_tests::fixtures::{assert_close, copy, json, path, raw_frames, tensors, values};
use soragen_tests::with;

fn folder(name: &str) -> String {
    path(&format!("experts/{name}")).to_string_lossy().into_owned()
}

fn request(name: &str) -> Request {
    let request = json(&format!("experts/{name}/request.json"));
    let number = |key: &str| request[key].as_u64().unwrap();
    let image = request["image"].as_str();
    with!(
        Request::default();
        prompt: request["prompt"].as_str().unwrap().into(),
        negative_prompt: Some(request["negative"].as_str().unwrap().into()),
        image: image.map(|file| image::open(path(&format!("experts/{name}/{file}"))).unwrap().into_rgb8()),
        size: Some(Size { width: number("width") as u32, height: number("height") as u32 }),
        length: Length::Frames(number("frames")),
        steps: Some(number("steps") as u32),
        guidance_scale: request["guidance"].as_f64(),
        guidance_scale_2: request["guidance_2"].as_f64(),
        initial_latents: Some(tensors(&format!("experts/{name}/expected.safetensors"))["latents"].clone()),
    )
}

fn frames(model: &str, request: Request) -> Tensor {
    frames_with_loras(model, request, &[])
}

fn frames_with_loras(model: &str, request: Request, loras: &[String]) -> Tensor {
    let loras = loras.iter().map(|text| Lora::parse(text)).collect();
    let options = with!(OpenOptions::default(); parts: Parts { loras, ..Default::default() });
    raw_frames(Session::new(Model::open(model, &options, &Cancel::new()).unwrap(), request).unwrap())
}

#[test]
fn frames_equal_the_reference() {
    for name in ["t2v", "i2v"] {
        let expected = &tensors(&format!("experts/{name}/expected.safetensors"))["frames"];
        // In the second run, the other transformer is in memory at the start.
        for _ in 0..2 {
            let actual = frames(&folder(name), request(name));
            assert_close(name, &actual, expected, 2e-3);
            let mean =
                (&actual - expected).unwrap().abs().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(mean <= 1e-4, "{name}: the mean error is {mean:e}");
        }
    }
}

#[test]
fn a_single_guidance_scale_applies_to_both_transformers() {
    let with_scale_2 = |scale_2| with!(request("t2v"); guidance_scale_2: scale_2);
    let default = values(&frames(&folder("t2v"), with_scale_2(None)));
    assert!(default == values(&frames(&folder("t2v"), with_scale_2(Some(4.0)))));
    assert!(default != values(&frames(&folder("t2v"), with_scale_2(Some(3.0)))));
}

#[test]
fn a_transformer_without_guidance_runs_once_per_step() {
    let forwards = |scale, scale_2| {
        let request = with!(request("t2v"); guidance_scale: Some(scale), guidance_scale_2: Some(scale_2));
        let model = Model::open(&folder("t2v"), &OpenOptions::default(), &Cancel::new()).unwrap();
        let mut session = Session::new(model, request).unwrap();
        while session.next_raw_chunk(&Cancel::new(), &mut |_| {}).unwrap().is_some() {}
        session.stats().forwards
    };
    let (both, first, neither) = (forwards(4.0, 3.0), forwards(4.0, 1.0), forwards(1.0, 1.0));
    assert!(both > first && first > neither, "{both}, {first}, {neither}");
    assert_eq!(both, 2 * neither);
}

#[test]
fn a_lora_can_apply_to_one_transformer() {
    let folder_of_lora = tempfile::tempdir().unwrap();
    let file = folder_of_lora.path().join("lora.safetensors");
    let dim = {
        let config = json("experts/t2v/transformer/config.json");
        let number = |key: &str| config[key].as_u64().unwrap() as usize;
        number("num_attention_heads") * number("attention_head_dim")
    };
    let row = |length| Tensor::arange(0_f32, length as f32, &Device::Cpu).unwrap().sin().unwrap();
    let tensors = [
        ("transformer.blocks.0.attn1.to_q.lora_A.weight", row(dim).reshape((1, dim)).unwrap()),
        ("transformer.blocks.0.attn1.to_q.lora_B.weight", row(dim).reshape((dim, 1)).unwrap()),
    ];
    candle_core::safetensors::save(&std::collections::HashMap::from(tensors), &file).unwrap();
    let with = |loras: &[&str]| {
        let loras: Vec<_> = loras.iter().map(|prefix| format!("{prefix}{}", file.display())).collect();
        values(&frames_with_loras(&folder("t2v"), request("t2v"), &loras))
    };
    let (none, both, high, low) = (with(&[]), with(&[""]), with(&["high:"]), with(&["low:"]));
    assert!(both == with(&["low:", "high:"]));
    // `high:` changes the transformer for high noise: merging the LoRA into its file gives the same frames.
    let merged = tempfile::tempdir().unwrap();
    copy(&path("experts/t2v"), merged.path());
    let weights = merged.path().join("transformer/diffusion_pytorch_model.safetensors");
    let mut stored = candle_core::safetensors::load(&weights, &Device::Cpu).unwrap();
    let query = stored.get_mut("blocks.0.attn1.to_q.weight").unwrap();
    let product = row(dim).reshape((dim, 1)).unwrap().matmul(&row(dim).reshape((1, dim)).unwrap()).unwrap();
    *query = (&query.to_dtype(product.dtype()).unwrap() + product).unwrap();
    candle_core::safetensors::save(&stored, &weights).unwrap();
    let expected = values(&frames(&merged.path().to_string_lossy(), request("t2v")));
    assert!(
        high.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-4),
        "`high:` must change the transformer for high noise"
    );
    // A LoRA that does not match the second transformer is an error at open, although that transformer is loaded later.
    let other = folder_of_lora.path().join("other.safetensors");
    let stray = [("blocks.9.attn1.to_q.lora_A.weight", row(dim).reshape((1, dim)).unwrap())];
    candle_core::safetensors::save(&std::collections::HashMap::from(stray), &other).unwrap();
    let loras = vec![Lora::parse(&format!("low:{}", other.display()))];
    let options = with!(OpenOptions::default(); parts: Parts { loras, ..Default::default() });
    let error = Model::open(&folder("t2v"), &options, &Cancel::new()).unwrap_err().to_string();
    assert!(error.contains("belong to no layer"), "{error}");

    let videos = [none, both, high, low];
    for (i, video) in videos.iter().enumerate() {
        assert!(videos[..i].iter().all(|other| other != video), "video {i} equals an earlier one");
    }
    let loras = vec![Lora::parse(&format!("low:{}", file.display()))];
    let options = with!(OpenOptions::default(); parts: Parts { loras, ..Default::default() });
    let error = Model::open(&path("pipelines/t2v-unipc").to_string_lossy(), &options, &Cancel::new())
        .unwrap_err()
        .to_string();
    assert!(error.contains("two transformers"), "{error}");
}

#[test]
fn model_info_does_not_load_the_weights() {
    let info = |name| ModelInfo::read(&folder(name), &Parts::default()).unwrap();
    let (t2v, i2v) = (info("t2v"), info("i2v"));
    assert_eq!((t2v.guidance_scale, t2v.guidance_scale_2, t2v.steps), (4.0, Some(3.0), 40));
    assert_eq!((t2v.image_to_video, i2v.image_to_video, i2v.needs_image), (false, true, true));
    let sizes = part_sizes(&folder("t2v"), &Parts::default()).unwrap();
    let [first, .., second] = sizes.as_slice() else { panic!("{sizes:?}") };
    assert_eq!((second.part, second.parameters), ("transformer_2", first.parameters));
    // Only one transformer is in memory.
    let bytes = |sizes| weights_bytes(sizes, Precision::F32, false, &Device::Cpu);
    assert_eq!(bytes(&sizes), bytes(&sizes[..3]));
}

#[test]
fn unsupported_requests_are_errors() {
    let model = |name| Model::open(&folder(name), &OpenOptions::default(), &Cancel::new()).unwrap();
    let error = |name, request| Session::new(model(name), request).err().unwrap().to_string();
    assert!(error("i2v", with!(request("i2v"); image: None)).contains("`image`"));
    assert!(error("t2v", with!(request("t2v"); image: request("i2v").image)).contains("cannot start"));
    let infinite = with!(request("t2v"); guidance_scale_2: Some(f64::INFINITY));
    assert!(error("t2v", infinite).contains("guidance"));
    let other =
        Model::open(&path("pipelines/t2v-unipc").to_string_lossy(), &OpenOptions::default(), &Cancel::new())
            .unwrap();
    let second = with!(Request::default(); guidance_scale_2: Some(2.0), prompt: "a fox".into());
    let error = Session::new(other, second).err().unwrap().to_string();
    assert!(error.contains("one transformer"), "{error}");
}

#[test]
fn transformers_that_do_not_match_are_an_error() {
    for (file, from, to, word) in [
        ("model_index.json", "0.875", "null", "boundary_ratio"),
        ("model_index.json", "0.875", "1.5", "boundary_ratio"),
        ("model_index.json", "\"WanPipeline\"", "\"WanImageToVideoPipeline\"", "in_channels"),
        ("transformer_2/config.json", "\"ffn_dim\": 32", "\"ffn_dim\": 48", "differs"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        copy(&path("experts/t2v"), folder.path());
        let at = folder.path().join(file);
        let text = std::fs::read_to_string(&at).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(&at, text.replace(from, to)).unwrap();
        let error = Model::open(&folder.path().to_string_lossy(), &OpenOptions::default(), &Cancel::new())
            .unwrap_err();
        assert!(error.to_string().contains(word), "{file}: {error}");
    }
    // A missing second transformer is an error at open, although it is loaded later.
    let folder = tempfile::tempdir().unwrap();
    copy(&path("experts/t2v"), folder.path());
    std::fs::remove_file(folder.path().join("transformer_2/diffusion_pytorch_model.safetensors")).unwrap();
    let error =
        Model::open(&folder.path().to_string_lossy(), &OpenOptions::default(), &Cancel::new()).unwrap_err();
    assert!(error.to_string().contains("transformer_2"), "{error}");
}
