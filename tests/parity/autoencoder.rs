//! The autoencoders decode as a stream what diffusers decodes in one go, and ask for the real models' tensors.

use candle_core::{DType, Device, Tensor};
use soragen::Cancel;
use soragen::autoencoder::{Autoencoder, AutoencoderKlWan, WanConfig};
use soragen_tests::fixtures::{PIPELINES, Pipeline, assert_close};
use soragen_tests::recording::assert_loads;

use crate::shapes::model;

fn open(pipeline: &Pipeline) -> Autoencoder {
    Autoencoder::open(&pipeline.source, DType::F32, &Device::Cpu).unwrap()
}

/// The latents decoded so many latent frames at a time, `[T, H, W, 3]`.
fn decode(autoencoder: &Autoencoder, latents: &Tensor, chunks: &[usize]) -> Tensor {
    let mut state = autoencoder.decoder_state();
    let mut at = 0;
    let frames: Vec<_> = chunks
        .iter()
        .map(|&count| {
            let chunk = latents.narrow(2, at, count).unwrap();
            at += count;
            autoencoder.decode(&chunk, &mut state, &Cancel::new()).unwrap()
        })
        .collect();
    assert_eq!(at, latents.dim(2).unwrap(), "all latents are decoded");
    Tensor::cat(&frames, 0).unwrap().permute((0, 2, 3, 1)).unwrap()
}

#[test]
fn latents_become_the_references_frames() {
    for name in PIPELINES {
        let pipeline = Pipeline::open(name);
        let autoencoder = open(&pipeline);
        let latents = &pipeline.expected["sampled_latents"];
        let count = latents.dim(2).unwrap();
        let at_once = decode(&autoencoder, latents, &[count]);
        assert_close(name, &at_once, &pipeline.expected["frames"], 1e-4);

        let one_by_one = decode(&autoencoder, latents, &vec![1; count]);
        assert_close(name, &one_by_one, &at_once, 0.0);
        let unevenly = decode(&autoencoder, latents, &[1, count - 1]);
        assert_close(name, &unevenly, &at_once, 0.0);
    }
}

#[test]
fn a_cancelled_decode_stops() {
    let pipeline = Pipeline::open("t2v-unipc");
    let autoencoder = open(&pipeline);
    let cancel = Cancel::new();
    cancel.cancel();
    let latents = &pipeline.expected["sampled_latents"];
    let decoded = autoencoder.decode(latents, &mut autoencoder.decoder_state(), &cancel);
    assert!(matches!(decoded, Err(soragen::Error::Cancelled)));
}

#[test]
fn real_sizes() {
    for name in ["wan2.1-vae", "wan2.2-vae"] {
        let (config, tensors) = model::<WanConfig>(name);
        assert_loads(name, &tensors, |vb| drop(AutoencoderKlWan::load(vb, &config).unwrap()));
    }
}
