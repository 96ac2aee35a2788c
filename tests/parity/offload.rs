//! Offloaded blocks: the same frames with less memory.

use candle_core::Device;
use soragen::checkpoint::Parts;
use soragen::{
    Cancel, Length, Model, OpenOptions, Precision, Request, Session, SessionStats, Size, part_sizes,
    weights_bytes,
};
use soragen_tests::fixtures::path;
use soragen_tests::with;

fn frames(model: &str, precision: Precision, offload: bool) -> (Vec<f32>, SessionStats) {
    let options = with!(OpenOptions::default(); precision, offload);
    let model = Model::open(&path(model).to_string_lossy(), &options, &Cancel::new()).unwrap();
    let whole = model.info().max_frames.is_some();
    let request = with!(
        Request::default();
        prompt: "the red fox runs over snow".into(),
        length: Length::Frames(9),
        size: whole.then_some(Size { width: 64, height: 64 }),
        guidance_scale: Some(3.0),
        steps: Some(2),
    );
    let mut session = Session::new(model, request).unwrap();
    let mut samples = Vec::new();
    while let Some(frames) = session.next_raw_chunk(&Cancel::new(), &mut |_| {}).unwrap() {
        samples.extend(frames.data);
    }
    (samples, session.stats())
}

#[test]
fn offloading_does_not_change_the_frames() {
    // A whole clip, a model with two transformers, and a causal model with a cache.
    for model in ["pipelines/t2v-euler", "experts/t2v", "miniature"] {
        for precision in [Precision::F32, Precision::Int8] {
            let (resident, effort) = frames(model, precision, false);
            assert!(effort.forwards > 3);
            let (offloaded, same) = frames(model, precision, true);
            assert!(resident == offloaded, "{model} in {precision:?}");
            assert_eq!(effort, same);
        }
    }
}

#[test]
fn offloading_needs_the_memory_of_one_block() {
    for (model, blocks) in [("pipelines/t2v-euler", 3), ("miniature", 2)] {
        let sizes = part_sizes(&path(model).to_string_lossy(), &Parts::default()).unwrap();
        let bytes = |offload| weights_bytes(&sizes, Precision::F32, offload, &Device::Cpu);
        let transformer = 4 * sizes[0].parameters;
        let saved = bytes(false) - bytes(true);
        // All blocks but one; the weights outside the blocks stay in memory.
        let limit = transformer * (blocks - 1) / blocks;
        assert!((limit / 2..limit).contains(&saved), "{model}: {saved} of {transformer}");
    }
}

#[test]
fn a_damaged_offloaded_block_is_an_error_that_names_the_tensor() {
    let folder = tempfile::tempdir().unwrap();
    soragen_tests::fixtures::copy(&path("miniature"), folder.path());
    let file = folder.path().join("transformer/diffusion_pytorch_model.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    tensors.remove("blocks.1.attn1.to_q.weight").unwrap();
    candle_core::safetensors::save(&tensors, &file).unwrap();
    let options = with!(OpenOptions::default(); offload: true);
    let model = Model::open(&folder.path().to_string_lossy(), &options, &Cancel::new()).unwrap();
    let request = with!(Request::default(); prompt: "fox".into(), length: Length::Frames(1));
    let mut session = Session::new(model, request).unwrap();
    let error = session.next_raw_chunk(&Cancel::new(), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("transformer") && error.contains("blocks.1.attn1.to_q"), "{error}");
}
