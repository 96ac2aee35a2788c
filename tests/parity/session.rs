//! Requests become the frames that the reference makes of them (`make_pipelines.py`, `make_session.py`).

use candle_core::{Device, Tensor};
use soragen::checkpoint::Parts;
use soragen::{
    Cancel, Decoder, Error, Length, Model, ModelInfo, OpenOptions, Precision, Request, Session, Size, Sizes,
};
use soragen_tests::fixtures::{PIPELINES, assert_close, json, path, raw_frames, tensors, values};
use soragen_tests::with;

fn folder(name: &str) -> String {
    path(&format!("pipelines/{name}")).to_string_lossy().into_owned()
}

fn request(name: &str) -> Request {
    let asked = json(&format!("pipelines/{name}/request.json"));
    let number = |key: &str| asked[key].as_u64().unwrap();
    with!(
        Request::default();
        prompt: asked["prompt"].as_str().unwrap().into(),
        negative_prompt: Some(asked["negative"].as_str().unwrap_or_default().into()),
        image: asked["image"]
            .as_str()
            .map(|file| image::open(path(&format!("pipelines/{name}/{file}"))).unwrap().into_rgb8()),
        size: Some(Size { width: number("width") as u32, height: number("height") as u32 }),
        length: Length::Frames(number("frames")),
        steps: Some(number("steps") as u32),
        guidance_scale: asked["guidance"].as_f64(),
        initial_latents: Some(tensors(&format!("pipelines/{name}/expected.safetensors"))["latents"].clone()),
    )
}

fn start(model: &str, request: Request) -> Session {
    Session::new(Model::open(model, &OpenOptions::default(), &Cancel::new()).unwrap(), request).unwrap()
}

/// All frames, `[T, H, W, 3]`.
fn frames(model: &str, request: Request) -> Tensor {
    raw_frames(start(model, request))
}

#[test]
fn frames_of_one_tile_are_those_of_none() {
    // Several latent frames, of which the first is one frame and the others are four.
    let name = "t2v-unipc";
    let tiled = with!(OpenOptions::default(); decoder: Decoder::Tiled);
    let tiled =
        Session::new(Model::open(&folder(name), &tiled, &Cancel::new()).unwrap(), request(name)).unwrap();
    assert_close(name, &raw_frames(tiled), &frames(&folder(name), request(name)), 0.0);
}

#[test]
fn frames_are_the_references() {
    for name in PIPELINES {
        let expected = &tensors(&format!("pipelines/{name}/expected.safetensors"))["frames"];
        let generated = frames(&folder(name), request(name));
        assert_close(name, &generated, expected, 2e-3);
        let mean =
            (&generated - expected).unwrap().abs().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(mean <= 1e-4, "{name}: off by {mean:e} in the mean");
    }
}

#[test]
fn eight_bits_are_near() {
    let int8 = with!(OpenOptions::default(); precision: Precision::Int8);
    let psnr = |name: &str, model: &str, request: Request, expected: &Tensor| {
        let generated =
            raw_frames(Session::new(Model::open(model, &int8, &Cancel::new()).unwrap(), request).unwrap());
        let square =
            (generated - expected).unwrap().sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
        let psnr = -10.0 * square.log10();
        assert!(psnr >= 35.0, "{name}: {psnr:.1} dB");
        // Without kernels the CPU computes in f32.
        let rounds = std::env::var("SORAGEN_KERNELS").map_or(true, |kernels| kernels != "plain");
        assert!(!rounds || psnr < 90.0, "{name}: {psnr:.1} dB, nothing was rounded");
    };
    for name in PIPELINES {
        let expected = &tensors(&format!("pipelines/{name}/expected.safetensors"))["frames"];
        psnr(name, &folder(name), request(name), expected);
    }
    let (model, request, expected) = causal();
    psnr("causal", &model, request, &expected["text"]);
}

/// A request of the causal model in miniature.
fn causal() -> (String, Request, std::collections::HashMap<String, Tensor>) {
    let expected = tensors("miniature/session.safetensors");
    let request = with!(
        Request::default();
        prompt: "the red fox runs over snow".into(),
        initial_latents: Some(expected["latents"].clone()),
    );
    (path("miniature").to_string_lossy().into_owned(), request, expected)
}

#[test]
fn a_causal_model_makes_the_references_frames() {
    const TOLERANCE: f32 = 1e-4;
    let (model, request, expected) = causal();
    assert_close("text", &frames(&model, request.clone()), &expected["text"], TOLERANCE);

    let image = image::open(path("miniature/image.png")).unwrap().into_rgb8();
    let asked = with!(request.clone(); image: Some(image));
    assert_close("image", &frames(&model, asked), &expected["image"], TOLERANCE);

    let mut session = start(&model, request);
    let first = session.next_raw_chunk(&Cancel::new(), &mut |_| {}).unwrap().unwrap().len();
    session.set_prompt("a blue bird and the green cat in the sea of snow and the slow dog").unwrap();
    let later = raw_frames(session);
    let expected = expected["switched"].narrow(0, first, later.dim(0).unwrap()).unwrap();
    assert_close("another prompt", &later, &expected, TOLERANCE);
}

#[test]
fn no_prompt_has_a_nul_in_it() {
    let (model, request, _) = causal();
    let hidden = "a fish\0 and what nobody is asked about";
    let model = Model::open(&model, &OpenOptions::default(), &Cancel::new()).unwrap();
    for request in [
        with!(request.clone(); prompt: hidden.into()),
        with!(request.clone(); negative_prompt: Some(hidden.into())),
    ] {
        let error = Session::new(model.clone(), request).err().unwrap();
        assert!(matches!(&error, Error::Request(_, text) if text.contains("NUL")), "{error}");
    }
    let mut session = Session::new(model, request).unwrap();
    assert!(session.set_prompt(hidden).is_err());
}

#[test]
fn a_negative_prompt_may_change_between_chunks() {
    let (model, request, expected) = causal();
    let negative = |text: &str| with!(request.clone(); negative_prompt: Some(text.into()));
    let bird = frames(&model, negative("a blue bird"));
    let own = &expected["text"];

    // Before the first chunk it is as if it had been asked for, and taken back there is the model's own again.
    let mut session = start(&model, request.clone());
    session.set_negative_prompt(Some("a blue bird")).unwrap();
    assert_close("at once", &raw_frames(session), &bird, 0.0);
    let mut session = start(&model, negative("a blue bird"));
    session.set_negative_prompt(None).unwrap();
    assert_close("taken back", &raw_frames(session), own, 1e-4);

    let mut session = start(&model, request.clone());
    let first = session.next_raw_chunk(&Cancel::new(), &mut |_| {}).unwrap().unwrap().len();
    session.set_negative_prompt(Some("a blue bird")).unwrap();
    let later = raw_frames(session);
    let difference = (later - own.narrow(0, first, own.dim(0).unwrap() - first).unwrap()).unwrap();
    assert!(difference.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() > 0.01);
}

#[test]
fn a_causal_model_goes_on_for_ever() {
    let (model, request, expected) = causal();
    let endless = with!(request; length: Length::Endless, initial_latents: None);
    let mut session = start(&model, endless.clone());
    assert_eq!(session.total_frames(), None);
    let mut chunk = || session.next_raw_chunk(&Cancel::new(), &mut |_| {}).unwrap().unwrap();
    // Longer than the model's positions reach, and each chunk another.
    let chunks: Vec<_> = (0..12).map(|_| chunk()).collect();
    let firsts: Vec<_> = chunks.iter().map(|frames| frames.first).collect();
    assert_eq!(firsts[..3], [0, 5, 13]);
    for (i, chunk) in chunks.iter().enumerate().skip(1) {
        assert_ne!(chunk.data, chunks[i - 1].data, "chunk {i}");
    }
    // The beginning is that of a video with an end.
    let count = expected["text"].dim(0).unwrap();
    let ended = frames(&model, with!(endless; length: Length::Frames(count as u64)));
    let began: Vec<f32> = chunks.iter().flat_map(|frames| frames.data.iter().copied()).collect();
    assert_eq!(values(&ended), began[..ended.elem_count()]);
}

#[test]
fn the_same_request_gives_the_same_frames() {
    let seeded = || with!(request("t2v-unipc"); initial_latents: None, seed: 7);
    let folder = folder("t2v-unipc");
    let first = frames(&folder, seeded());

    // After one that was cancelled in the middle, too.
    let model = Model::open(&folder, &OpenOptions::default(), &Cancel::new()).unwrap();
    let mut session = Session::new(model, seeded()).unwrap();
    let cancel = Cancel::new();
    let cancelled = session.next_raw_chunk(&cancel, &mut |progress| {
        if progress.step == 1 {
            cancel.cancel();
        }
    });
    assert!(matches!(cancelled, Err(Error::Cancelled)));
    let on = session.next_raw_chunk(&Cancel::new(), &mut |_| {});
    assert!(matches!(on, Err(Error::Generation(_))), "it does not go on from the middle");

    assert_close("again", &frames(&folder, seeded()), &first, 0.0);
    let other = frames(&folder, with!(seeded(); seed: 8));
    let difference = (other - first).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(difference > 0.01, "another seed gives another video");
}

#[test]
fn frames_beyond_a_latent_frame_are_cut() {
    let shorter = with!(request("t2v-unipc"); length: Length::Frames(6), initial_latents: None);
    assert_eq!(frames(&folder("t2v-unipc"), shorter).dim(0).unwrap(), 6);
}

#[test]
fn a_picture_gives_the_video_its_shape() {
    let size = |change: &dyn Fn(&mut Request)| {
        let mut asked = with!(request("i2v-21"); initial_latents: None, size: None);
        change(&mut asked);
        let model = Model::open(&folder("i2v-21"), &OpenOptions::default(), &Cancel::new()).unwrap();
        let Size { width, height } = Session::new(model, asked).unwrap().size();
        (width, height)
    };
    let (width, height) = size(&|r| r.image = None);
    assert!(width > height);
    // The picture is twice as wide as high.
    let (width, height) = size(&|_| {});
    assert!(width.abs_diff(2 * height) <= 32, "{width}x{height}");
    assert_eq!(size(&|r| r.size = Some(Size { width: 48, height: 64 })), (48, 64));
}

#[test]
fn sizes_are_of_whole_tokens() {
    let copy = tempfile::tempdir().unwrap();
    for file in ["model_index.json", "vae/config.json", "scheduler/scheduler_config.json"] {
        let to = copy.path().join(file);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(path("pipelines/t2v-unipc").join(file), to).unwrap();
    }
    std::fs::create_dir(copy.path().join("transformer")).unwrap();
    let info = |patch: [u64; 3]| {
        let mut config = json("pipelines/t2v-unipc/transformer/config.json");
        config["patch_size"] = patch.as_slice().into();
        std::fs::write(copy.path().join("transformer/config.json"), config.to_string()).unwrap();
        ModelInfo::read(&copy.path().to_string_lossy(), &Parts::default())
    };
    // The autoencoder makes 8 pixels of a latent.
    for (patch, wanted) in [([1, 1, 1], 8), ([1, 1, 2], 16), ([1, 4, 2], 32), ([1, 2, 3], 48)] {
        let sizes = info(patch).unwrap().sizes;
        assert!(matches!(sizes, Sizes::Multiple { step, .. } if step == wanted), "{patch:?}: {sizes}");
        assert!(sizes.contains(sizes.default_size()));
    }
    for patch in [[1, 1000, 1], [1, 1023, 1024], [1, 1 << 20, 1 << 20]] {
        let error = info(patch).unwrap_err().to_string();
        assert!(error.contains("patch_size"), "{patch:?}: {error}");
    }
}

#[test]
fn what_the_model_cannot_do_is_refused() {
    let refused = |change: &dyn Fn(&mut Request)| {
        let mut asked = with!(request("t2v-unipc"); initial_latents: None);
        change(&mut asked);
        let model = Model::open(&folder("t2v-unipc"), &OpenOptions::default(), &Cancel::new()).unwrap();
        match Session::new(model, asked).err() {
            Some(Error::Request(_, reason)) => reason,
            other => panic!("{other:?}"),
        }
    };
    assert!(refused(&|r| r.prompt = "  ".into()).contains("prompt is empty"));
    assert!(refused(&|r| r.size = Some(Size { width: 50, height: 32 })).contains("multiple of 16"));
    assert!(refused(&|r| r.length = Length::Endless).contains("needs an end"));
    assert!(refused(&|r| r.length = Length::Frames(0)).contains("at least one"));
    assert!(refused(&|r| r.length = Length::Frames(u64::MAX)).contains("at most"));
    assert!(refused(&|r| r.steps = Some(0)).contains("steps"));
    assert!(refused(&|r| r.guidance_scale = Some(f64::NAN)).contains("guidance"));
    assert!(refused(&|r| r.shift = Some(0.0)).contains("shift"));
    assert!(refused(&|r| r.image = Some(Default::default())).contains("cannot start from an image"));
    let latents = Tensor::zeros((1, 1, 1, 1, 1), candle_core::DType::F32, &Device::Cpu).unwrap();
    assert!(refused(&|r| r.initial_latents = Some(latents.clone())).contains("initial latents"));
}

#[test]
fn an_open_model_is_shared() {
    let open = || Model::open(&folder("t2v-euler"), &OpenOptions::default(), &Cancel::new()).unwrap();
    assert!(
        std::sync::Arc::ptr_eq(&open(), &open()) || {
            // The first was gone before the second came; held, it is the same.
            let held = open();
            std::sync::Arc::ptr_eq(&held, &open())
        }
    );
    let held = open();
    let other = Model::open(&folder("i2v-21"), &OpenOptions::default(), &Cancel::new()).unwrap();
    assert_eq!([&held.info().name, &other.info().name], ["t2v-euler", "i2v-21"]);
}
