//! Frames of causal models are those of the latents that the original inference code makes with the same weights and noise
//! (`make_original.py`): prompt changes of LongLive 1.0, schedules of Causal-Forcing, and an image.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use soragen::checkpoint::Parts;
use soragen::{Cancel, Error, Length, Model, ModelInfo, OpenOptions, Request, Session, Shot, Transition};
use soragen_tests::fixtures::{decoded, miniature, path, tensors};
use soragen_tests::with;

/// Sums of f32 in another order, through up to 30 latents.
const TOLERANCE: f32 = 2e-4;

/// Positions of the original, more than the miniature has.
const POSITIONS: usize = 1024;

fn cases() -> serde_json::Map<String, Value> {
    soragen_tests::fixtures::json("original.json").as_object().unwrap().clone()
}

/// A recipe of `src/checkpoint/recipes`.
fn recipe(name: &str) -> Value {
    let file = path(&format!("../../src/checkpoint/recipes/{name}.json"));
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// The miniature with the recipe of `case`.
fn model(case: &Value) -> tempfile::TempDir {
    let folder = miniature(|config| {
        config["causal"] = recipe(case["recipe"].as_str().unwrap())["causal"].clone();
        for (key, value) in case.get("causal").and_then(Value::as_object).into_iter().flatten() {
            config["causal"][key] = value.clone();
        }
        config["guidance_scale"] = json!(1.0);
    });
    let file = folder.path().join("transformer/config.json");
    let mut transformer: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    transformer["rope_max_seq_len"] = json!(POSITIONS);
    std::fs::write(file, transformer.to_string()).unwrap();
    folder
}

fn open(folder: &Path) -> std::sync::Arc<Model> {
    Model::open(&folder.to_string_lossy(), &OpenOptions::default(), &Cancel::new()).unwrap()
}

/// The first frame of latent frame `latent`.
fn frame(latent: u64) -> u64 {
    if latent == 0 { 0 } else { 4 * latent - 3 }
}

fn request(case: &Value) -> Request {
    let shots = case["prompts"].as_array().unwrap().iter().map(|shot| {
        // 16 frames a second.
        let start = Duration::from_nanos(frame(shot[0].as_u64().unwrap()) * 1_000_000_000 / 16);
        with!(Shot::new(start, shot[1].as_str().unwrap()); transition: Transition::Continue)
    });
    let mut shots: Vec<_> = shots.collect();
    if case.get("image").is_some() {
        shots[0].image = Some(image::open(path("miniature/image.png")).unwrap().into_rgb8());
    }
    with!(Request::default(); shots, seed: 7, length: Length::Frames(frame(case["latents"].as_u64().unwrap())))
}

#[test]
fn frames_are_those_of_the_original_s_latents() {
    let expected = tensors("original.safetensors");
    for (name, case) in cases() {
        let folder = model(&case);
        let mut session = Session::new(open(folder.path()), request(&case)).unwrap();
        let mut samples = Vec::new();
        while let Some(frames) = session.next_raw_chunk(&Cancel::new(), &mut |_| {}).unwrap() {
            samples.extend_from_slice(&frames.data);
        }
        let expected = decoded(&expected[&name]);
        assert_eq!(samples.len(), expected.len(), "{name}");
        let furthest = samples.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(furthest <= TOLERANCE, "{name}: off by {furthest:e}");
    }
}

#[test]
fn a_recipe_states_the_shift_of_its_timesteps() {
    // Level 1 is noise: 1000 × 5 s / (1 + 4 s).
    let shifted = |level: f64| 5000.0 * level / (1.0 + 4.0 * level);
    for (name, levels) in [
        ("self-forcing", &[1.0, 0.75, 0.5, 0.25][..]),
        ("causal-forcing", &[1.0, 0.75, 0.5, 0.25]),
        ("causal-forcing-framewise-1", &[1.0]),
        ("causal-forcing-framewise-2", &[1.0, 0.5]),
        ("causal-forcing-framewise-4", &[1.0, 0.75, 0.5, 0.25]),
        ("longlive", &[1.0, 0.75, 0.5, 0.25]),
        ("longlive-absolute", &[1.0, 0.75, 0.5, 0.25]),
    ] {
        let causal = &recipe(name)["causal"];
        let timesteps = causal["timesteps"].as_array().unwrap();
        assert_eq!(timesteps.len(), levels.len(), "{name}");
        for (timestep, level) in timesteps.iter().zip(levels) {
            assert!((timestep.as_f64().unwrap() - shifted(*level)).abs() < 1e-6, "{name}");
        }
        let parts = Parts { recipe: Some(name.into()), ..Parts::default() };
        let info = ModelInfo::read(&path("layouts/wan-2.1").to_string_lossy(), &parts).unwrap();
        assert_eq!((info.shift, info.steps as usize), (5.0, levels.len()), "{name}");
    }
}

#[test]
fn absolute_positions_limit_the_length_of_a_scene() {
    let folder = model(&json!({ "recipe": "longlive-absolute" }));
    let info = ModelInfo::read(&folder.path().to_string_lossy(), &Parts::default()).unwrap();
    // The last chunk of 3 ends at the last position at the latest.
    let latents = POSITIONS as u64 - 2;
    assert_eq!(info.max_frames, Some(4 * latents - 3));
    let start = |length| {
        let request = with!(Request::default(); prompt: "the red fox".into(), length);
        Session::new(open(folder.path()), request)
    };
    assert!(start(Length::Frames(4 * latents - 3)).is_ok());
    for (length, reason) in
        [(Length::Frames(4 * latents - 2), "at most 4085 frames"), (Length::Endless, "set a duration")]
    {
        match start(length).err() {
            Some(Error::Request(_, message)) => assert!(message.contains(reason), "{message}"),
            other => panic!("{other:?}"),
        }
    }
    let folder = model(&json!({ "recipe": "longlive" }));
    let info = ModelInfo::read(&folder.path().to_string_lossy(), &Parts::default()).unwrap();
    assert_eq!(info.max_frames, None);
}
