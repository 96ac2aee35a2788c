//! The built-in model, as the engine sees it.

use candle_core::Device;
use soragen::checkpoint::Parts;
use soragen::policy::{Policy, Verdict};
use soragen::{Precision, part_sizes, weights_bytes};

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
