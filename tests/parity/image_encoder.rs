//! Models that read their images with CLIP, as Wan 2.1 I2V-14B and FLF2V-14B, compared with diffusers (`make_image_encoder.py`).

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use soragen::checkpoint::Parts;
use soragen::{
    Cancel, Error, Length, Model, ModelInfo, OpenOptions, Request, Session, Setting, Size, part_sizes,
};
use soragen_tests::fixtures::{assert_close, copy, json, path, raw_frames, tensors};
use soragen_tests::with;

fn open(folder: &Path, parts: Parts) -> soragen::Result<Arc<Model>> {
    let options = with!(OpenOptions::default(); parts: parts);
    Model::open(folder.to_str().unwrap(), &options, &Cancel::new())
}

fn request(name: &str) -> Request {
    let request = json(&format!("image_encoder/{name}/request.json"));
    let number = |key: &str| request[key].as_u64().unwrap();
    let image = |key: &str| {
        let file = path(&format!("image_encoder/{name}/{}", request[key].as_str()?));
        Some(image::open(file).unwrap().into_rgb8())
    };
    let expected = tensors(&format!("image_encoder/{name}/expected.safetensors"));
    with!(
        Request::default();
        prompt: request["prompt"].as_str().unwrap().into(),
        negative_prompt: Some(request["negative"].as_str().unwrap().into()),
        image: image("image"),
        last_image: image("last_image"),
        size: Some(Size { width: number("width") as u32, height: number("height") as u32 }),
        length: Length::Frames(number("frames")),
        steps: Some(number("steps") as u32),
        guidance_scale: request["guidance"].as_f64(),
        initial_latents: Some(expected["latents"].clone()),
    )
}

fn frames(model: &Arc<Model>, request: Request) -> Tensor {
    raw_frames(Session::new(model.clone(), request).unwrap())
}

#[test]
fn frames_equal_those_of_diffusers() {
    for name in ["i2v", "flf2v"] {
        let expected = &tensors(&format!("image_encoder/{name}/expected.safetensors"))["frames"];
        let model = open(&path(&format!("image_encoder/{name}")), Parts::default()).unwrap();
        let actual = frames(&model, request(name));
        assert_close(name, &actual, expected, 2e-3);
        let off = (&actual - expected).unwrap().abs().unwrap().mean_all().unwrap();
        let mean: f32 = off.to_scalar().unwrap();
        assert!(mean <= 1e-4, "{name}: the mean error is {mean:e}");
    }
}

#[test]
fn weights_with_the_names_of_the_hub_are_the_same() {
    // Files of transformers before 5 have a prefix; ComfyUI's clip_vision_h.safetensors too.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("clip_vision.safetensors");
    let named: std::collections::HashMap<_, _> = tensors("image_encoder/i2v/image_encoder/model.safetensors")
        .into_iter()
        .map(|(name, tensor)| (format!("vision_model.{name}"), tensor))
        .collect();
    candle_core::safetensors::save(&named, &file).unwrap();
    let model = path("image_encoder/i2v");
    let parts = Parts { image_encoder: Some(file), ..Parts::default() };
    let replaced = open(&model, parts.clone()).unwrap();
    let own = open(&model, Parts::default()).unwrap();
    assert_close("frames", &frames(&replaced, request("i2v")), &frames(&own, request("i2v")), 0.0);
    let sizes = part_sizes(model.to_str().unwrap(), &parts).unwrap();
    let encoder = sizes.iter().find(|size| size.part == "image_encoder").unwrap();
    assert!(encoder.by_layer && encoder.parameters > 0, "{encoder:?}");
}

#[test]
fn images_are_required() {
    let info = |name: &str| {
        let folder = path(&format!("image_encoder/{name}"));
        ModelInfo::read(folder.to_str().unwrap(), &Parts::default()).unwrap()
    };
    let (i2v, flf2v) = (info("i2v"), info("flf2v"));
    assert!(i2v.needs_image && !i2v.last_image && flf2v.needs_image && flf2v.needs_last_image);
    let error = |name: &str, request| {
        let model = open(&path(&format!("image_encoder/{name}")), Parts::default()).unwrap();
        match Session::new(model, request) {
            Err(Error::Request(setting, _)) => setting,
            other => panic!("{:?}", other.err()),
        }
    };
    assert_eq!(error("i2v", with!(request("i2v"); image: None)), Setting::Image);
    assert_eq!(error("flf2v", with!(request("flf2v"); last_image: None)), Setting::LastImage);
    // It has learned one image.
    let with_last = with!(request("i2v"); last_image: request("i2v").image);
    assert_eq!(error("i2v", with_last), Setting::LastImage);
    // Its mask has the last frame of a latent frame only.
    assert_eq!(error("flf2v", with!(request("flf2v"); length: Length::Frames(8))), Setting::LastImage);
}

#[test]
fn a_transformer_that_reads_no_images_refuses_an_image_encoder() {
    let file = path("image_encoder/i2v/image_encoder/model.safetensors");
    let parts = Parts { image_encoder: Some(file), ..Parts::default() };
    let refused = open(&path("pipelines/t2v-unipc"), parts);
    assert!(matches!(&refused, Err(Error::Request(Setting::Parts, _))), "{:?}", refused.err());
}

#[test]
fn a_damaged_image_encoder_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    copy(&path("image_encoder/i2v"), folder.path());
    let config = folder.path().join("image_encoder/config.json");
    let good = json("image_encoder/i2v/image_encoder/config.json");
    for (key, value) in [
        ("hidden_size", serde_json::json!(25)),
        ("hidden_act", serde_json::json!("relu")),
        ("num_attention_heads", serde_json::json!(0)),
        ("patch_size", serde_json::json!(0)),
        ("num_hidden_layers", serde_json::json!(1)),
    ] {
        let mut changed = good.clone();
        changed[key] = value;
        std::fs::write(&config, changed.to_string()).unwrap();
        let error = open(folder.path(), Parts::default()).err().map(|error| error.to_string());
        assert!(error.as_ref().is_some_and(|error| error.contains("config.json")), "{key}: {error:?}");
    }
    // Another number of layers is noticed when they are loaded.
    let mut changed = good.clone();
    changed["num_hidden_layers"] = serde_json::json!(5);
    std::fs::write(&config, changed.to_string()).unwrap();
    let model = open(folder.path(), Parts::default()).unwrap();
    let mut session = Session::new(model, request("i2v")).unwrap();
    let error = session.next_raw_chunk(&Cancel::new(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    // An open model is shared.
    drop(session);
    std::fs::write(&config, good.to_string()).unwrap();
    std::fs::remove_file(folder.path().join("image_encoder/model.safetensors")).unwrap();
    assert!(matches!(open(folder.path(), Parts::default()), Err(Error::NotFound { .. })));
}
