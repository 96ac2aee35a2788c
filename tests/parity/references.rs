//! References compared with the training code (`make_references.py`).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use candle_core::{Device, Tensor};
use image::{Rgba, RgbaImage};
use soragen::checkpoint::{Parts, Source};
use soragen::policy::Policy;
use soragen::transformer::{KvCache, KvCacheConfig, Placement, Positions, WanTransformer};
use soragen::{
    Cache, Cancel, Error, Length, Model, MotionPath, OpenOptions, Precision, Reference, ReferencePicture,
    Request, Session, Setting, Shot, Storyboard,
};
use soragen_tests::fixtures::{assert_close, path, puppets, tensors};
use soragen_tests::with;

/// f32 sums in another order.
const TOLERANCE: f32 = 3e-5;

fn open(folder: &Path) -> WanTransformer {
    let source = Source::parse(folder.to_str().unwrap(), &Parts::default()).unwrap();
    WanTransformer::open(&source, "transformer", Precision::F32, false, &Device::Cpu, &Cancel::new()).unwrap()
}

fn empty_cache() -> KvCache {
    KvCache::new(KvCacheConfig {
        chunk: 1,
        window: 2,
        sink: 1,
        shots: None,
        positions: Positions::Relative,
        ring: None,
    })
}

/// Row and column of latents where a frame shows the reference.
#[derive(Clone, Copy)]
enum Place {
    At(f64, f64),
    Free,
    Hidden,
}

const PLACES: [Place; 5] =
    [Place::At(0.0, 0.0), Place::At(1.0, 3.0), Place::Hidden, Place::At(-1.0, 5.0), Place::At(0.0, -1.0)];

/// Where the camera is, in columns of tokens.
const CAMERA: [f64; 5] = [0.0, 1.0, 1.5, 2.5, 5.5];

/// The predictions for all latent frames, with picture `picture` at these places, in f32 or in another precision.
fn run(picture: usize, places: [Place; 5], camera: [f64; 5], precision: Precision) -> Tensor {
    run_with(picture, places, camera, precision, None)
}

/// As [`run`], with the overlays `[1, C + 4, 5, H, W]`.
fn run_with(
    picture: usize,
    places: [Place; 5],
    camera: [f64; 5],
    precision: Precision,
    overlays: Option<&Tensor>,
) -> Tensor {
    let (folder, cancel) = (puppets(), Cancel::new());
    let source = Source::parse(folder.path().to_str().unwrap(), &Parts::default()).unwrap();
    let transformer =
        WanTransformer::open(&source, "transformer", precision, false, &Device::Cpu, &cancel).unwrap();
    let expected = tensors("references/chunks.safetensors");
    let context = transformer.context(&expected["text"], &cancel).unwrap();
    let part = |name: &str, i| expected[name].narrow(0, i, 1).unwrap();
    let reference = |shift| {
        let (latents, alpha) = (part("pictures", picture), part("alpha", picture));
        transformer.reference(&latents, &alpha, shift, &context, &cancel).unwrap()
    };
    let mut cache = empty_cache();
    let chunks = places.into_iter().enumerate().map(|(i, place)| {
        let shown = match place {
            Place::At(row, column) => {
                let (shift, placement) = transformer.placement(row, column);
                vec![(reference(shift), placement)]
            }
            Place::Free => vec![(reference([0, 0]), Placement::Free)],
            Place::Hidden => vec![],
        };
        cache.set_references(&shown).unwrap();
        cache.set_camera(camera[i]);
        cache.set_overlay(overlays.map(|overlays| overlays.narrow(2, i, 1).unwrap()));
        let chunk = expected["video"].narrow(2, i, 1).unwrap();
        let made = transformer.forward_chunk(&chunk, &[600.0], &context, &cache, &cancel).unwrap();
        transformer.cache_chunk(&chunk, &[0.0], &context, &mut cache, &cancel).unwrap();
        made
    });
    Tensor::cat(&chunks.collect::<Vec<_>>(), 2).unwrap()
}

#[test]
fn every_frame_shows_the_reference_at_its_place() {
    let expected = tensors("references/chunks.safetensors");
    let (rest, f32) = ([0.0; 5], Precision::F32);
    assert_close("placed", &run(0, PLACES, rest, f32), &expected["placed"], TOLERANCE);
    assert_close("free", &run(1, [Place::Free; 5], rest, f32), &expected["free"], TOLERANCE);
}

/// Only differences count, and nothing is farther away than a frame.
#[test]
fn the_past_is_where_the_moving_camera_sees_it() {
    let expected = &tensors("references/chunks.safetensors")["moved"];
    assert_close("moved", &run(0, PLACES, CAMERA, Precision::F32), expected, TOLERANCE);
    let elsewhere = CAMERA.map(|columns| columns - 7.0);
    assert_close("elsewhere", &run(0, PLACES, elsewhere, Precision::F32), expected, TOLERANCE);
    // In blocks of plain operations too.
    assert_close("bf16", &run(0, PLACES, CAMERA, Precision::Bf16), expected, 0.1);
}

#[test]
fn an_overlay_covers_the_frame() {
    let expected = tensors("references/chunks.safetensors");
    let overlays = Some(&expected["overlay"]);
    let covered = run_with(0, PLACES, [0.0; 5], Precision::F32, overlays);
    assert_close("covered", &covered, &expected["covered"], TOLERANCE);
    assert_close(
        "bf16",
        &run_with(0, PLACES, [0.0; 5], Precision::Bf16, overlays),
        &expected["covered"],
        0.1,
    );
}

#[test]
fn an_overlay_of_another_shape_is_an_error() {
    let (transformer, cancel) = (open(puppets().path()), Cancel::new());
    let expected = tensors("references/chunks.safetensors");
    let context = transformer.context(&expected["text"], &cancel).unwrap();
    let mut cache = empty_cache();
    cache.set_overlay(Some(expected["overlay"].narrow(1, 0, 6).unwrap().narrow(2, 0, 1).unwrap()));
    let chunk = expected["video"].narrow(2, 0, 1).unwrap();
    let error = transformer.forward_chunk(&chunk, &[600.0], &context, &cache, &cancel).unwrap_err();
    assert!(matches!(error, Error::Request(Setting::Shape, _)), "{error}");
}

#[test]
fn a_model_without_references_refuses_them() {
    let (transformer, cancel) = (open(&path("miniature")), Cancel::new());
    let expected = tensors("references/chunks.safetensors");
    let context = transformer.context(&expected["text"], &cancel).unwrap();
    let part = |name: &str| expected[name].narrow(0, 0, 1).unwrap();
    let error =
        transformer.reference(&part("pictures"), &part("alpha"), [0, 0], &context, &cancel).unwrap_err();
    assert!(matches!(error, Error::Request(Setting::Reference, _)), "{error}");
}

#[test]
fn a_reference_of_another_shape_is_an_error() {
    let (transformer, cancel) = (open(puppets().path()), Cancel::new());
    let expected = tensors("references/chunks.safetensors");
    let context = transformer.context(&expected["text"], &cancel).unwrap();
    let pictures = &expected["pictures"];
    for alpha in [pictures, &expected["alpha"].narrow(1, 0, 3).unwrap()] {
        let picture = pictures.narrow(0, 0, 1).unwrap();
        let alpha = alpha.narrow(0, 0, 1).unwrap();
        transformer.reference(&picture, &alpha, [0, 0], &context, &cancel).unwrap_err();
    }
    let [picture, alpha] = ["pictures", "alpha"].map(|name| expected[name].narrow(0, 0, 1).unwrap());
    transformer.reference(&picture, &alpha, [0, 1], &context, &cancel).unwrap();
    transformer.reference(&picture, &alpha, [1, 0], &context, &cancel).unwrap_err();
}

fn request() -> Request {
    with!(Request::default(); prompt: "a fox waits".into(), length: Length::Frames(17))
}

fn model(folder: &Path) -> Arc<Model> {
    Model::open(folder.to_str().unwrap(), &OpenOptions::default(), &Cancel::new()).unwrap()
}

/// The frames of each chunk.
fn chunks(session: &mut Session) -> Vec<Vec<f32>> {
    std::iter::from_fn(|| session.next_raw_chunk(&Cancel::new(), &mut |_| {}).unwrap())
        .map(|chunk| chunk.data)
        .collect()
}

fn red() -> Reference {
    let picture = RgbaImage::from_pixel(8, 8, Rgba([255, 0, 0, 255]));
    // With one transparent pixel, so that the colour is not taken for the ground.
    let mut picture = picture;
    picture.put_pixel(0, 0, Rgba([0; 4]));
    Reference::Picture(ReferencePicture::new("red.png", picture).unwrap())
}

#[test]
fn references_and_paths_change_the_video() {
    let folder = puppets();
    let model = model(folder.path());
    let video = |request: Request| {
        let mut session = Session::new(model.clone(), request).unwrap();
        let frames = chunks(&mut session).concat();
        (frames, session.shot().references.clone())
    };
    let (fox, names) = video(request());
    assert_eq!(names, ["bank:fox"]);
    assert!(video(request()).0 == fox, "again");
    assert!(video(with!(request(); references: vec![Reference::Bank("fox".into())])).0 == fox, "by name");
    let (owl, names) = video(with!(request(); references: vec![Reference::Bank("owl".into())]));
    assert_eq!(names, ["bank:owl"]);
    let (own, names) = video(with!(request(); references: vec![red()]));
    assert_eq!(names, ["red.png"]);
    let path = MotionPath::parse("0 left ground | 1 right up").unwrap();
    let (moved, _) = video(with!(request(); motion_path: Some(path)));
    let (nothing, names) = video(with!(request(); prompt: "on the grass".into()));
    assert!(names.is_empty());
    let all = [fox, owl, own, moved, nothing];
    for (i, frames) in all.iter().enumerate() {
        assert!(!all[..i].contains(frames), "{i} equals one before");
    }
}

#[test]
fn another_reference_is_shown_from_the_next_chunk() {
    let folder = puppets();
    let model = model(folder.path());
    let unchanged = chunks(&mut Session::new(model.clone(), request()).unwrap());
    let mut session = Session::new(model, request()).unwrap();
    let mut frames = Vec::new();
    for chunk in 0..5 {
        if chunk == 2 {
            session.set_references(vec![red()]).unwrap();
        }
        frames.push(session.next_raw_chunk(&Cancel::new(), &mut |_| {}).unwrap().unwrap().data);
        let name = if chunk < 2 { "bank:fox" } else { "red.png" };
        let shot = session.shot();
        assert_eq!(
            (shot.index, &shot.references),
            (u64::from(chunk >= 2), &vec![name.to_string()]),
            "chunk {chunk}"
        );
    }
    assert!(frames[..2] == unchanged[..2] && frames[2] != unchanged[2]);
    let error = session.set_references(vec![red(), red(), red()]).unwrap_err();
    assert!(matches!(error, Error::Request(Setting::Reference, _)), "{error}");
    // Nothing is lost.
    assert_eq!(session.shot().references, ["red.png"]);
}

#[test]
fn a_cached_video_with_references_is_continued() {
    let (folder, cached) = (puppets(), tempfile::tempdir().unwrap());
    let model = model(folder.path());
    let request = || with!(request(); prompt: "a fox goes back and forth".into());
    let cache = Cache::new(cached.path(), 1 << 20);
    let plain = chunks(&mut Session::new(model.clone(), request()).unwrap());
    let mut begun = Session::with_cache(model.clone(), request(), cache.clone()).unwrap();
    for chunk in &plain[..3] {
        assert!(begun.next_raw_chunk(&Cancel::new(), &mut |_| {}).unwrap().unwrap().data == *chunk);
    }
    let mut continued = Session::with_cache(model.clone(), request(), cache.clone()).unwrap();
    assert!(chunks(&mut continued) == plain);
    assert!(continued.stats().cached > 0 && continued.stats().forwards > 0);
    let other = with!(request(); references: vec![red()]);
    let mut other = Session::with_cache(model, other, cache).unwrap();
    assert!(chunks(&mut other) != plain);
    assert_eq!(other.stats().cached, 0);
}

#[test]
fn the_audit_log_names_the_references_of_every_prompt() {
    let (folder, logs) = (puppets(), tempfile::tempdir().unwrap());
    let log = logs.path().join("audit.log");
    let policy = Policy::open(None, Some(&log)).unwrap();
    let owl = Reference::Bank("owl".into());
    let request = with!(request(); references: vec![red()], policy: Some(policy));
    let mut session = Session::new(model(folder.path()), request).unwrap();
    session.set_prompt("an owl waits").unwrap();
    // Before the first chunk.
    session.set_references(vec![owl.clone()]).unwrap();
    session.set_prompt("a train waits").unwrap();
    session.add_shot(Shot::new(Duration::from_secs(1), "a fox jumps")).unwrap();
    let lines: Vec<serde_json::Value> = std::fs::read_to_string(&log)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let expected = [
        ("a fox waits", &red()),
        ("an owl waits", &red()),
        ("an owl waits", &owl),
        ("a train waits", &owl),
        ("a fox jumps", &owl),
    ];
    assert_eq!(lines.len(), expected.len());
    for (line, (prompt, reference)) in lines.iter().zip(expected) {
        assert_eq!(line["prompt"], blake3::hash(prompt.as_bytes()).to_string(), "{prompt}");
        assert_eq!(line["references"], serde_json::json!([reference.digest()]), "{prompt}");
    }
    soragen::policy::verify(&log).unwrap();
}

#[test]
fn an_unknown_drawing_is_refused_before_generation() {
    let folder = puppets();
    let model = model(folder.path());
    let board = "[[shot]]\nprompt = \"a fox\"\nreferences = [\"bank:unicorn\"]";
    let shots = Storyboard::parse(board).unwrap().shots().unwrap();
    let of_shot = Session::new(model.clone(), with!(Request::default(); shots: shots.clone()));
    let mut session = Session::new(model, request()).unwrap();
    let later = session.add_shot(with!(shots[0].clone(); start: Duration::from_secs(1)));
    let live = session.set_references(shots[0].references.clone());
    for refused in [of_shot.err(), later.err(), live.err()] {
        assert!(matches!(&refused, Some(Error::Request(Setting::Reference, _))), "{refused:?}");
    }
    // Nothing is lost.
    assert_eq!(chunks(&mut session).len(), 5);
}

#[test]
fn a_scene_that_starts_from_an_image_gets_no_drawing() {
    let folder = puppets();
    let image = image::RgbImage::from_pixel(96, 32, image::Rgb([90, 120, 30]));
    let request = with!(request(); image: Some(image));
    let mut session = Session::new(model(folder.path()), request).unwrap();
    session.set_prompt("an owl waits").unwrap();
    let mut names = Vec::new();
    while session.next_raw_chunk(&Cancel::new(), &mut |_| {}).unwrap().is_some() {
        names.push(session.shot().references.clone());
        if names.len() == 2 {
            session.set_references(vec![red()]).unwrap();
        }
    }
    assert_eq!(
        names,
        [vec![], vec![], vec!["red.png".to_string()], vec!["red.png".into()], vec!["red.png".into()]]
    );
}

#[test]
fn a_model_without_references_names_the_setting() {
    let model = model(&path("miniature"));
    let refused = |request: Request| match Session::new(model.clone(), request) {
        Err(Error::Request(setting, _)) => setting,
        other => panic!("{:?}", other.err()),
    };
    assert_eq!(refused(with!(request(); references: vec![red()])), Setting::Reference);
    let path = MotionPath::parse("0 left ground").unwrap();
    assert_eq!(refused(with!(request(); motion_path: Some(path))), Setting::MotionPath);
}
