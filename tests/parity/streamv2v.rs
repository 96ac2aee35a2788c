//! Frames of the recipe `streamdiffusion-v2` are those of the latents that the original inference code makes of a video, with the same
//! weights and noise (`make_streamv2v.py`).

use std::sync::Arc;

use serde_json::{Value, json};
use soragen::{Cancel, Length, Model, OpenOptions, Request, Restyle, Session};
use soragen_tests::fixtures::{decoded, miniature, path, tensors};
use soragen_tests::with;

/// Sums of f32 in another order, through 14 latents.
const TOLERANCE: f32 = 2e-4;

fn model(change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let recipe = path("../../src/checkpoint/recipes/streamdiffusion-v2.json");
    let recipe: Value = serde_json::from_slice(&std::fs::read(recipe).unwrap()).unwrap();
    let folder = miniature(|config| {
        config["causal"] = recipe["causal"].clone();
        config["guidance_scale"] = json!(1.0);
        change(config);
    });
    let file = folder.path().join("transformer/config.json");
    let mut transformer: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    transformer["rope_max_seq_len"] = json!(1024);
    std::fs::write(file, transformer.to_string()).unwrap();
    folder
}

fn open(folder: &tempfile::TempDir) -> Arc<Model> {
    Model::open(&folder.path().to_string_lossy(), &OpenOptions::default(), &Cancel::new()).unwrap()
}

fn request() -> Request {
    with!(
        Request::new("the red fox runs over snow");
        seed: 7,
        length: Length::Endless,
        restyle: Some(Restyle { strength: 0.8, motion_noise: 0.1 }),
    )
}

fn video() -> Vec<u8> {
    tensors("streamv2v.safetensors")["video"].flatten_all().unwrap().to_vec1().unwrap()
}

/// The frames that the model makes of the video, and the forward passes.
fn restyled(folder: &tempfile::TempDir) -> (Vec<f32>, u64) {
    let mut session = Session::new(open(folder), request()).unwrap();
    session.push_frames(&video()).unwrap();
    session.end_video();
    let mut samples = Vec::new();
    while let Some(frames) = session.next_raw_chunk(&Cancel::new(), &mut |_| {}).unwrap() {
        samples.extend_from_slice(&frames.data);
    }
    (samples, session.stats().forwards)
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn frames_are_those_of_the_original_s_latents() {
    let (samples, forwards) = restyled(&model(|_| ()));
    let expected = decoded(&tensors("streamv2v.safetensors")["latents"]);
    let off = furthest(&samples, &expected);
    assert!(off <= TOLERANCE, "off by {off:e}");
    // Four steps for each of 13 chunks, and no pass for the cache.
    assert_eq!(forwards, 4 * 13);
}

#[test]
fn a_sink_that_stays_gives_another_video() {
    let (samples, _) = restyled(&model(|config| config["causal"]["ring"]["adaptive_sink"] = json!(-2.0)));
    let expected = decoded(&tensors("streamv2v.safetensors")["latents"]);
    assert!(furthest(&samples, &expected) > 10.0 * TOLERANCE);
}

#[test]
fn a_video_can_be_longer_than_the_positions() {
    // Positions go back behind the ring.
    let folder = model(|config| config["causal"]["ring"]["last_position"] = json!(8));
    let file = folder.path().join("transformer/config.json");
    let mut transformer: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    transformer["rope_max_seq_len"] = json!(8);
    std::fs::write(file, transformer.to_string()).unwrap();
    let (samples, _) = restyled(&folder);
    assert_eq!(samples.len(), video().len());
}

#[test]
fn a_ring_that_does_not_fit_is_an_error() {
    for (key, value) in [("chunk", json!(3)), ("recache", json!(true)), ("positions", json!("absolute"))] {
        let folder = model(|config| config["causal"][key] = value);
        let error = Model::open(&folder.path().to_string_lossy(), &OpenOptions::default(), &Cancel::new());
        let error = error.err().unwrap().to_string();
        assert!(error.contains("`ring`"), "{key}: {error}");
    }
}
