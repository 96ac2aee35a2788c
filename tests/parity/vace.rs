//! Control videos, masks, references, and the first and last image with a VACE model, compared with diffusers (`make_vace.py`).

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use soragen::checkpoint::Parts;
use soragen::transformer::{self, KvCache, KvCacheConfig, Positions, WanTransformer};
use soragen::{
    Cancel, Control, Error, GrayImage, Length, Model, OpenOptions, Precision, Reference, Request, RgbImage,
    Session, Setting, Size,
};
use soragen_tests::fixtures::{assert_close, control_branch, json, path, raw_frames, tensors};
use soragen_tests::with;

fn open(folder: &Path) -> Arc<Model> {
    Model::open(folder.to_str().unwrap(), &OpenOptions::default(), &Cancel::new()).unwrap()
}

fn picture(name: &str) -> RgbImage {
    image::open(path(&format!("vace/{name}"))).unwrap().into_rgb8()
}

fn reference(name: &str) -> Reference {
    Reference::open(path(&format!("vace/{name}")).to_str().unwrap()).unwrap()
}

/// The request of one of the cases, and the frames of diffusers.
fn case(name: &str) -> (Request, Tensor) {
    let (all, cases) = (tensors("vace/expected.safetensors"), json("vace/cases.json"));
    let case = &cases["cases"][name];
    let number = |value: &serde_json::Value| value.as_u64().unwrap() as u32;
    let (width, height) = (number(&case["size"][0]), number(&case["size"][1]));
    let stored = |part: &str| all.get(&format!("{name}.{part}"));
    let frames_of = |part: &str, samples: usize| -> Vec<Vec<u8>> {
        let samples = width as usize * height as usize * samples;
        let data: Vec<u8> = stored(part).map_or(Vec::new(), |t| t.flatten_all().unwrap().to_vec1().unwrap());
        data.chunks_exact(samples).map(<[u8]>::to_vec).collect()
    };
    let frames =
        frames_of("control", 3).into_iter().map(|data| RgbImage::from_raw(width, height, data).unwrap());
    let mask = frames_of("mask", 1).into_iter().map(|data| GrayImage::from_raw(width, height, data).unwrap());
    let control = Control { frames: frames.collect(), mask: mask.collect() };
    let names = |key: &str| -> Vec<String> {
        case[key].as_array().into_iter().flatten().map(|name| name.as_str().unwrap().into()).collect()
    };
    let ends = names("ends");
    let request = with!(
        Request::default();
        prompt: cases["prompt"].as_str().unwrap().into(),
        negative_prompt: Some(cases["negative"].as_str().unwrap().into()),
        size: Some(Size { width, height }),
        length: Length::Frames(case["frames"].as_u64().unwrap()),
        steps: Some(number(&cases["steps"])),
        guidance_scale: case["guidance"].as_f64(),
        control: (!control.frames.is_empty()).then_some(control),
        control_scale: case["scale"].as_f64().unwrap_or(1.0),
        references: names("references").iter().map(|name| reference(name)).collect(),
        image: ends.first().map(|name| picture(name)),
        last_image: ends.get(1).map(|name| picture(name)),
        initial_latents: stored("latents").cloned(),
    );
    (request, stored("frames").unwrap().clone())
}

fn frames(model: &Arc<Model>, request: Request) -> Tensor {
    raw_frames(Session::new(model.clone(), request).unwrap())
}

fn mean_difference(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().mean_all().unwrap().to_scalar().unwrap()
}

#[test]
fn frames_equal_those_of_diffusers() {
    let model = open(&path("vace"));
    for name in ["text", "control", "scale", "mask", "reference", "references", "first-last"] {
        let (request, expected) = case(name);
        let actual = frames(&model, request);
        assert_close(name, &actual, &expected, 2e-3);
        let mean = mean_difference(&actual, &expected);
        assert!(mean <= 1e-4, "{name}: the mean error is {mean:e}");
    }
}

#[test]
fn blocks_that_stay_in_their_file_give_the_same_frames() {
    let options = with!(OpenOptions::default(); offload: true);
    let offloaded = Model::open(path("vace").to_str().unwrap(), &options, &Cancel::new()).unwrap();
    let (request, _) = case("control");
    assert_close(
        "offload",
        &frames(&offloaded, request.clone()),
        &frames(&open(&path("vace")), request),
        0.0,
    );
}

#[test]
fn a_causal_student_is_steered_by_the_branch_of_its_base() {
    let folder = tempfile::tempdir().unwrap();
    let parts = Parts { vace: Some(control_branch(folder.path())), ..Parts::default() };
    let options = with!(OpenOptions::default(); parts: parts);
    let model = Model::open(path("miniature").to_str().unwrap(), &options, &Cancel::new()).unwrap();
    assert!(model.info().control && model.info().causal);
    // The same in the first chunk of 5 frames, and another one after it.
    let frame = |t: u32, level: u8| {
        RgbImage::from_fn(48, 16, |x, y| image::Rgb([(4 * x + t) as u8, (9 * y) as u8, level]))
    };
    let control = |later: u8| Control {
        frames: (0..21).map(|t| frame(t, if t < 5 { 90 } else { later })).collect(),
        mask: Vec::new(),
    };
    let made = |control: Option<Control>, control_scale| {
        let request = with!(Request::new("the red fox"); length: Length::Frames(21), control, control_scale);
        frames(&model, request)
    };
    let (dark, light) = (made(Some(control(0)), 1.0), made(Some(control(250)), 1.0));
    let part = |video: &Tensor, first, count| video.narrow(0, first, count).unwrap();
    assert_close("before", &part(&dark, 0, 5), &part(&light, 0, 5), 0.0);
    assert!(mean_difference(&part(&dark, 5, 16), &part(&light, 5, 16)) > 1e-4);
    let free = made(None, 1.0);
    assert!(mean_difference(&dark, &free) > 1e-4);
    assert_close("without weight", &made(Some(control(0)), 0.0), &free, 1e-6);
    // The branch of another base.
    let other = Parts { vace: Some(path("vace/transformer")), ..Parts::default() };
    let options = with!(OpenOptions::default(); parts: other);
    let error = Model::open(path("miniature").to_str().unwrap(), &options, &Cancel::new()).err().unwrap();
    assert!(matches!(error, Error::Invalid { .. }) && error.to_string().contains("2 blocks"), "{error}");
}

#[test]
fn a_controlled_chunk_without_a_past_equals_a_clip() {
    let (source, cancel) = (soragen::checkpoint::Source::Folder(path("vace")), Cancel::new());
    let transformer =
        WanTransformer::open(&source, "transformer", Precision::F32, false, &Device::Cpu, &cancel).unwrap();
    let config = transformer.config().clone();
    let random = |channels: usize| Tensor::randn(0_f32, 1.0, (1, channels, 3, 4, 6), &Device::Cpu).unwrap();
    let latents = random(config.in_channels);
    let control = transformer::Control { latents: random(config.vace_in_channels.unwrap()), scale: 0.7 };
    let text = Tensor::randn(0_f32, 1.0, (1, 8, config.text_dim), &Device::Cpu).unwrap();
    let context = transformer.context(&text.to_dtype(DType::F32).unwrap(), &cancel).unwrap();
    let clip = transformer.forward_controlled(&latents, &[500.0], &context, &control, &cancel).unwrap();
    let mut cache = KvCache::new(KvCacheConfig {
        chunk: 3,
        window: 3,
        sink: 0,
        shots: None,
        positions: Positions::Relative,
        ring: None,
    });
    cache.set_control(Some(control));
    let chunk = transformer.forward_chunk(&latents, &[500.0], &context, &cache, &cancel).unwrap();
    assert_close("chunk", &chunk, &clip, 1e-5);
    // After a past the branch sees the chunk alone.
    transformer.cache_chunk(&latents, &[0.0], &context, &mut cache, &cancel).unwrap();
    let later = transformer.forward_chunk(&latents, &[500.0], &context, &cache, &cancel).unwrap();
    assert!(mean_difference(&later, &clip) > 1e-4);
}

#[test]
fn the_length_is_that_of_the_control_video() {
    let (mut request, _) = case("control");
    request.length = Length::Natural;
    request.initial_latents = None;
    let session = Session::new(open(&path("vace")), request).unwrap();
    assert_eq!(session.total_frames(), Some(9));
}

#[test]
fn a_video_is_continued_from_its_last_frames() {
    let model = open(&path("vace"));
    let shown = case("control").0.control.unwrap().frames;
    let request = with!(
        Request::new("a red fox");
        size: Some(Size { width: 48, height: 32 }),
        length: Length::Frames(6),
        steps: Some(2),
        guidance_scale: Some(1.0),
        past: shown.clone(),
    );
    let made = frames(&model, request.clone());
    assert_eq!(made.dim(0).unwrap(), 6);
    // A whole clip in which the same frames are known begins with them.
    let mut control = Control { frames: shown.clone(), mask: Vec::new() };
    control.mask = shown.iter().map(|frame| GrayImage::new(frame.width(), frame.height())).collect();
    let clip = with!(request; past: Vec::new(), control: Some(control), length: Length::Frames(15));
    let whole = frames(&model, clip);
    assert_close("the rest of the clip", &made, &whole.narrow(0, 9, 6).unwrap(), 1e-5);
}

#[test]
fn a_loop_ends_before_its_first_frame() {
    let model = open(&path("vace"));
    let request = with!(
        Request::new("a red fox");
        size: Some(Size { width: 48, height: 32 }),
        steps: Some(2),
        guidance_scale: Some(1.0),
        image: Some(picture("wide.png")),
        length: Length::Frames(8),
        loops: true,
    );
    let made = frames(&model, request.clone());
    // The same clip with one frame more ends with the image that it starts from.
    let closed = with!(
        request.clone(); loops: false, length: Length::Frames(9), last_image: Some(picture("wide.png"))
    );
    assert_close("loop", &made, &frames(&model, closed).narrow(0, 0, 8).unwrap(), 1e-5);
    let error = |request| match Session::new(model.clone(), request) {
        Err(Error::Request(Setting::Loop, reason)) => reason,
        other => panic!("{:?}", other.err()),
    };
    assert!(error(with!(request.clone(); length: Length::Frames(7))).contains("multiple of 4"));
    assert!(error(with!(request; image: None)).contains("`image`"));
}

#[test]
fn the_last_image_is_the_last_frame_at_any_length() {
    let model = open(&path("vace"));
    let mask = |level| GrayImage::from_pixel(48, 32, image::Luma([level]));
    let control = Control { frames: vec![picture("tall.png"); 7], mask: vec![mask(255); 7] };
    let request = with!(
        Request::new("a red fox");
        size: Some(Size { width: 48, height: 32 }),
        steps: Some(2),
        guidance_scale: Some(1.0),
        length: Length::Frames(7),
        control: Some(control.clone()),
        last_image: Some(picture("wide.png")),
    );
    let mut masked = control;
    (masked.frames[6], masked.mask[6]) = (picture("wide.png"), mask(0));
    let by_mask = with!(request.clone(); control: Some(masked), last_image: None);
    assert_close("frames", &frames(&model, request), &frames(&model, by_mask), 0.0);
}

#[test]
fn what_a_model_cannot_do_is_refused_with_one_that_can() {
    let vace = open(&path("vace"));
    let plain = open(&path("pipelines/t2v-unipc"));
    let causal = open(&path("miniature"));
    let error = |model: &Arc<Model>, request| match Session::new(model.clone(), request) {
        Err(Error::Request(setting, reason)) => (setting, reason),
        other => panic!("{:?}", other.err()),
    };
    let control = |mask| Control { frames: vec![picture("wide.png"); 5], mask };
    let controlled = |mask| with!(Request::new("a fox"); control: Some(control(mask)));
    let ends = with!(Request::new("a fox"); last_image: Some(picture("wide.png")));
    for model in [&plain, &causal] {
        let (setting, reason) = error(model, controlled(Vec::new()));
        assert!(setting == Setting::Control && reason.contains("VACE"), "{reason}");
        let (setting, reason) = error(model, ends.clone());
        assert!(setting == Setting::LastImage && reason.contains("FLF2V"), "{reason}");
    }
    let past = with!(Request::new("a fox"); past: vec![picture("wide.png"); 5]);
    assert!(error(&plain, past).1.contains("VACE"));
    assert_eq!(error(&vace, controlled(vec![GrayImage::new(4, 4); 4])).0, Setting::Control);
    let scaled = with!(Request::new("a fox"); control_scale: f64::NAN);
    assert_eq!(error(&vace, scaled).0, Setting::Control);
    let drawing = with!(Request::new("a fox"); references: vec![Reference::open("bank:fox").unwrap()]);
    assert!(error(&vace, drawing).1.contains("no drawings"));
    let many = with!(Request::new("a fox"); references: vec![reference("wide.png"); 5]);
    assert!(error(&vace, many).1.contains("at most 4"));
    let one = vec![reference("wide.png")];
    let changed =
        with!(Request::new("a fox"); references: one.clone(), restyle: Some(soragen::Restyle::default()));
    assert_eq!(error(&vace, changed).0, Setting::Reference);
    let shot = with!(soragen::Shot::new(std::time::Duration::ZERO, "a fox"); references: one);
    let noise = Tensor::zeros((1, 4, 2, 2, 2), DType::F32, &Device::Cpu).unwrap();
    let own_noise = with!(Request::default(); shots: vec![shot], initial_latents: Some(noise));
    assert_eq!(error(&vace, own_noise).0, Setting::InitialLatents);
    let mut session = Session::new(vace.clone(), controlled(Vec::new())).unwrap();
    let later = soragen::Shot::new(std::time::Duration::from_secs(1), "a bird");
    assert!(matches!(session.add_shot(later), Err(Error::Request(Setting::Shots, _))));
}
