//! The built-in model, as the engine sees it.

use candle_core::{DType, Device, Tensor};
use soragen::checkpoint::Parts;
use soragen::policy::{Policy, Verdict};
use soragen::{
    Cancel, Length, Model, MotionPath, OpenOptions, Precision, Reference, Request, Session, part_sizes,
    weights_bytes,
};
use soragen_tests::fixtures::{tensors, values};
use soragen_tests::with;

/// Drawings that stand, come in, rise and turn round, compared with the training code (`make_builtin.py`).
#[test]
fn the_engine_draws_what_the_training_code_draws() {
    soragen_builtin::register();
    let cancel = Cancel::new();
    let model = Model::open("builtin", &OpenOptions::default(), &cancel).unwrap();
    for (case, expected) in tensors("builtin.safetensors") {
        let [drawing, prompt, path] = case.splitn(3, " | ").collect::<Vec<_>>().try_into().unwrap();
        let request = with!(
            Request::default();
            prompt: prompt.into(),
            references: vec![Reference::Bank(drawing.into())],
            motion_path: Some(MotionPath::parse(path).unwrap()),
            length: Length::Frames(33),
            initial_latents: Some(Tensor::zeros((1, 24, 9, 24, 40), DType::F32, &Device::Cpu).unwrap())
        );
        let mut session = Session::new(model.clone(), request).unwrap();
        let mut frames = Vec::new();
        while let Some(chunk) = session.next_raw_chunk(&cancel, &mut |_| {}).unwrap() {
            frames.extend(chunk.data);
        }
        // Every fourth frame, each value the mean of 8 × 8 pixels.
        let frames = Tensor::from_vec(frames, (33, 24, 8, 40, 8, 3), &Device::Cpu).unwrap();
        let found: Vec<f32> =
            (0..33).step_by(4).flat_map(|i| values(&frames.get(i).unwrap().mean((1, 3)).unwrap())).collect();
        let expected = values(&expected);
        let square = found.iter().zip(&expected).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
        let decibels = -10.0 * (square / expected.len() as f32).log10();
        assert!(found.len() == expected.len() && decibels > 45.0, "{case}: {decibels:.1} dB");
    }
}

#[test]
fn the_built_in_model_is_counted() {
    soragen_builtin::register();
    let sizes = part_sizes("builtin", &Parts::default()).unwrap();
    let [transformer, vae, text] = sizes.as_slice() else { panic!("{sizes:?}") };
    assert!((9_000_000..10_000_000).contains(&transformer.parameters), "{transformer:?}");
    assert!((3_000_000..4_000_000).contains(&vae.parameters), "{vae:?}");
    assert!(!text.by_layer && text.parameters > 20_000_000, "{text:?}");
    let bytes = |precision, offload| weights_bytes(&sizes, precision, offload, &Device::Cpu);
    let all = transformer.parameters + vae.parameters + text.parameters;
    assert_eq!(bytes(Precision::F32, false), 4 * all);
    // All of eight blocks but one.
    let away = 4 * all - bytes(Precision::F32, true);
    assert!((3 * transformer.parameters..4 * transformer.parameters).contains(&away), "{away}");
    let rounded = 4 * all - bytes(Precision::Int8, false);
    assert!((2 * transformer.parameters..3 * transformer.parameters).contains(&rounded), "{rounded}");
}

/// A policy that refuses what is like a storm at sea.
#[test]
fn meanings_are_found_in_other_words() {
    let policy = "name = \"t\"\n[[category]]\nname = \"storms\"\naction = \"block\"\nlike = [\"a violent storm at sea\"]";
    soragen_builtin::register();
    let policy = Policy::parse(policy).unwrap();
    for prompt in [
        "a violent storm at sea",
        "a ship in a raging tempest on the ocean",
        "huge waves and thunder over the stormy ocean",
        "a cat sleeps in the sun, then a terrible hurricane at sea, then flowers in a vase",
    ] {
        assert_eq!(policy.check(prompt), Verdict::Block("storms".into()), "{prompt}");
    }
    // One of them is about a storm at sea.
    let harmless =
        include_str!("../../src/policy/harmless.txt").lines().filter(|prompt| !prompt.contains("storm"));
    let refused: Vec<_> = harmless.filter(|prompt| policy.check(prompt) != Verdict::Pass).collect();
    assert!(refused.is_empty(), "{refused:?}");
}
