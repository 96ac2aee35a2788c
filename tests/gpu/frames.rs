//! The frames of a GPU compared with those of the CPU. On a machine with a GPU:
//!
//!     cargo test -p soragen-tests --features cuda --test gpu frames

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};
use soragen::{Cancel, Decoder, Error, Length, Model, OpenOptions, Precision, Request, Session, Size};
use soragen_tests::fixtures::{PIPELINES, path};
use soragen_tests::with;

const GPU: &str = "cuda:0";

/// Serialises the tests: one of them allocates all of the GPU memory.
static EXCLUSIVE: Mutex<()> = Mutex::new(());

fn exclusive() -> MutexGuard<'static, ()> {
    EXCLUSIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every kind of model: whole clip, image to video, two transformers, and causal with a cache.
fn models() -> impl Iterator<Item = String> {
    let pipelines = PIPELINES.iter().map(|name| format!("pipelines/{name}"));
    pipelines.chain(["experts/t2v".into(), "miniature".into()])
}

fn options(device: &str, precision: Precision) -> OpenOptions {
    with!(OpenOptions::default(); device: device.into(), precision)
}

fn request(model: &str) -> Request {
    let whole_clip = model != "miniature";
    with!(
        Request::default();
        prompt: "the red fox runs over snow".into(),
        length: Length::Frames(9),
        size: whole_clip.then_some(Size { width: 64, height: 64 }),
        image: model.contains("i2v").then(|| image::open(path("miniature/image.png")).unwrap().into_rgb8()),
        guidance_scale: Some(3.0),
        steps: Some(3),
    )
}

fn frames(model: &str, options: &OpenOptions) -> Result<Vec<f32>, Error> {
    rendered(&path(model).to_string_lossy(), options, request(model))
}

fn rendered(model: &str, options: &OpenOptions, request: Request) -> Result<Vec<f32>, Error> {
    let mut session = Session::new(Model::open(model, options, &Cancel::new())?, request)?;
    let mut samples = Vec::new();
    while let Some(frames) = session.next_raw_chunk(&Cancel::new(), &mut |_| {})? {
        samples.extend(frames.data);
    }
    Ok(samples)
}

fn psnr(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let square = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / a.len() as f64;
    (-10.0 * square.log10()) as f32
}

#[track_caller]
fn assert_near(what: &str, actual: &[f32], expected: &[f32], min_psnr: f32) {
    let psnr = psnr(actual, expected);
    println!("{what}: {psnr:.1} dB");
    assert!(psnr >= min_psnr, "{what}: {psnr:.1} dB, expected at least {min_psnr}");
}

#[test]
fn frames_are_close_to_those_of_the_cpu() {
    let _guard = exclusive();
    for model in models() {
        let expected = frames(&model, &options("cpu", Precision::F32)).unwrap();
        for (precision, min_psnr) in [(Precision::F32, 70.0), (Precision::Bf16, 30.0), (Precision::F16, 40.0)]
        {
            let actual = frames(&model, &options(GPU, precision)).unwrap();
            assert_near(&format!("{model} in {precision:?}"), &actual, &expected, min_psnr);
        }
    }
}

#[test]
fn auto_selects_the_gpu_and_bf16() {
    let _guard = exclusive();
    let auto = frames("miniature", &OpenOptions::default()).unwrap();
    let expected = frames("miniature", &options(GPU, Precision::Bf16)).unwrap();
    assert!(auto == expected);
}

#[test]
fn the_builtin_model_generates_the_same_video() {
    let _guard = exclusive();
    let folder = path("../../models/builtin");
    let request = || {
        with!(
            Request::default();
            prompt: "a red fox runs over the snow".into(),
            length: Length::Frames(33),
        )
    };
    let generate = |options: &OpenOptions| rendered(&folder.to_string_lossy(), options, request()).unwrap();
    let expected = generate(&options("cpu", Precision::F32));
    assert_near("f32", &generate(&options(GPU, Precision::F32)), &expected, 45.0);
    assert_near("bf16", &generate(&options(GPU, Precision::Bf16)), &expected, 25.0);
}

#[test]
fn the_same_seed_gives_the_same_frames() {
    let _guard = exclusive();
    for model in ["pipelines/t2v-unipc", "miniature"] {
        let generate = || frames(model, &options(GPU, Precision::Bf16)).unwrap();
        assert!(generate() == generate(), "{model}");
    }
}

#[test]
fn offloading_does_not_change_the_frames() {
    let _guard = exclusive();
    for model in ["pipelines/t2v-euler", "experts/t2v", "miniature"] {
        let offload = with!(options(GPU, Precision::Bf16); offload: true);
        assert!(
            frames(model, &offload).unwrap() == frames(model, &options(GPU, Precision::Bf16)).unwrap(),
            "{model}"
        );
    }
}

#[test]
fn one_tile_equals_the_whole_picture() {
    let _guard = exclusive();
    let tiled = with!(options(GPU, Precision::F32); decoder: Decoder::Tiled);
    let whole = frames("pipelines/t2v-unipc", &options(GPU, Precision::F32)).unwrap();
    assert_near("one tile", &frames("pipelines/t2v-unipc", &tiled).unwrap(), &whole, 90.0);
}

#[test]
fn int8_on_a_gpu_is_an_error() {
    let _guard = exclusive();
    let error = frames("miniature", &options(GPU, Precision::Int8)).unwrap_err();
    assert!(matches!(&error, Error::Device(text) if text.contains("bf16")), "{error}");
}

#[test]
fn out_of_gpu_memory_is_an_error_and_the_next_run_succeeds() {
    let _guard = exclusive();
    let expected = frames("miniature", &options(GPU, Precision::F32)).unwrap();
    let device = Device::new_cuda(0).unwrap();
    let mut allocations: Vec<Tensor> = Vec::new();
    for bytes in [1_usize << 32, 1 << 28, 1 << 24, 1 << 20, 1 << 16, 1 << 12] {
        // SAFETY: the uninitialised tensor is never read.
        while let Ok(tensor) = unsafe { Tensor::empty(bytes, DType::U8, &device) } {
            allocations.push(tensor);
        }
    }
    let error = frames("miniature", &options(GPU, Precision::F32)).unwrap_err();
    assert!(matches!(error, Error::Memory(_)), "{error:?}");
    drop(allocations);
    assert!(frames("miniature", &options(GPU, Precision::F32)).unwrap() == expected);
}
