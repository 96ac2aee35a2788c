//! Error messages and their domains.

use gst::prelude::*;
use soragen_tests::fixtures::{copy, path};

use crate::support::{error, parse, tiny};

#[test]
fn every_error_has_its_domain_and_names_the_setting() {
    let empty = error("soragen prompt=\" \"");
    assert!(
        empty.matches(gst::LibraryError::Settings) && empty.message().contains("prompt is empty"),
        "{empty}"
    );

    let missing = error("soragen prompt=x model=/no/such/model");
    assert!(missing.matches(gst::ResourceError::NotFound), "{missing}");
    assert!(missing.message().contains("/no/such/model"), "{missing}");

    let device = error(&format!("{} device=abacus", tiny("t2v-unipc")));
    assert!(device.matches(gst::ResourceError::Settings) && device.message().contains("cuda:N"), "{device}");

    let image = error(&format!("{} image=/no/such.png", tiny("i2v-22")));
    assert!(
        image.matches(gst::ResourceError::NotFound) && image.message().contains("/no/such.png"),
        "{image}"
    );

    let unreadable = path("prompts.json");
    let image = error(&format!("{} image=\"{}\"", tiny("i2v-22"), unreadable.display()));
    assert!(image.matches(gst::ResourceError::OpenRead), "{image}");

    let size = error(&format!("{} ! video/x-raw,width=50,height=50", tiny("t2v-unipc")));
    assert!(size.matches(gst::StreamError::Failed) || size.matches(gst::CoreError::Negotiation), "{size}");
}

#[test]
fn an_error_names_the_damaged_weights_file() {
    let folder = tempfile::tempdir().unwrap();
    copy(&path("pipelines/t2v-unipc"), folder.path());
    let weights = folder.path().join("transformer/diffusion_pytorch_model.safetensors");
    std::fs::write(&weights, b"not weights").unwrap();
    let error = error(&format!("soragen prompt=x model=\"{}\"", folder.path().display()));
    assert!(error.matches(gst::ResourceError::OpenRead), "{error}");
    assert!(error.message().contains("transformer"), "{error}");
}

#[test]
fn a_model_that_cannot_be_loaded_ends_its_progress_with_an_error() {
    let pipeline = parse(&format!("{} device=abacus ! fakesink", tiny("t2v-unipc")));
    let bus = pipeline.bus().unwrap();
    // The error can occur here or later.
    let _ = pipeline.set_state(gst::State::Playing);
    let mut progress = Vec::new();
    loop {
        let message = bus.timed_pop(None).unwrap();
        match message.view() {
            gst::MessageView::Progress(message) => progress.push(message.get().0),
            gst::MessageView::Error(_) => break,
            _ => {}
        }
    }
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(progress, [gst::ProgressType::Start, gst::ProgressType::Error]);
}

#[test]
fn a_lora_that_applies_in_part_posts_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lora.safetensors");
    let tensor = |shape: (usize, usize)| {
        candle_core::Tensor::ones(shape, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap()
    };
    let tensors = std::collections::HashMap::from([
        ("blocks.0.attn1.to_q.lora_A.weight", tensor((4, 128))),
        ("blocks.0.attn1.to_q.lora_B.weight", tensor((128, 4))),
        ("text_encoder.layer.lora_A.weight", tensor((4, 4))),
    ]);
    candle_core::safetensors::save(&tensors, &file).unwrap();
    let pipeline = parse(&format!(
        "soragen prompt=x model=\"{}\" lora=\"{}\" steps=1 watermark=false ! video/x-raw,width=64,height=64 ! fakesink",
        path("layouts/wan-2.1").display(),
        file.display()
    ));
    let bus = pipeline.bus().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let message =
        bus.timed_pop_filtered(None, &[gst::MessageType::Warning, gst::MessageType::Error]).unwrap();
    pipeline.set_state(gst::State::Null).unwrap();
    let gst::MessageView::Warning(warning) = message.view() else { panic!("{message:?}") };
    let text = warning.error().message().to_string();
    assert!(text.contains("1 of its 3 tensors are not applied"), "{text}");
}
