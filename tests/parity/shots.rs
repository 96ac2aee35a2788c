//! Videos of several shots are the reference's (`make_shots.py`): cuts, other prompts, few steps, images.

use std::time::Duration;

use soragen::{Cancel, Error, Length, Model, OpenOptions, Request, Session, Shot, ShotInfo, Transition};
use soragen_tests::fixtures::{json, miniature, path, tensors, values};
use soragen_tests::with;

/// Sums of f32 in another order, through several chunks.
const TOLERANCE: f32 = 5e-4;

/// Frames of 16 a second.
fn time(frame: u64) -> Duration {
    Duration::from_nanos(frame * 1_000_000_000 / 16)
}

fn shot(frame: u64, transition: Transition, prompt: &str) -> Shot {
    with!(Shot::new(time(frame), prompt); transition)
}

fn request(case: &serde_json::Value) -> Request {
    let image = image::open(path("miniature/image.png")).unwrap().into_rgb8();
    let shots = case["shots"].as_array().unwrap().iter().map(|asked| {
        let transition = if asked["transition"] == "cut" { Transition::Cut } else { Transition::Continue };
        with!(
            shot(asked["frame"].as_u64().unwrap(), transition, asked["prompt"].as_str().unwrap());
            seed: asked["seed"].as_u64(),
            image: asked["image"].as_bool().unwrap().then(|| image.clone()),
        )
    });
    with!(
        Request::default();
        shots: shots.collect(),
        seed: 7,
        length: Length::Frames(case["frames"].as_u64().unwrap()),
        blend_chunks: case["blend_chunks"].as_u64().unwrap_or(0) as u32,
    )
}

/// All samples, and what was shown from when on.
fn make(mut session: Session) -> (Vec<f32>, Vec<ShotInfo>) {
    let (mut samples, mut shots) = (Vec::new(), Vec::new());
    while let Some(frames) = session.next_raw_chunk(&Cancel::new(), &mut |_| {}).unwrap() {
        samples.extend_from_slice(&frames.data);
        if shots.last() != Some(session.shot()) {
            assert_eq!(session.shot().frame, frames.first);
            shots.push(session.shot().clone());
        }
    }
    (samples, shots)
}

fn start(folder: &std::path::Path, request: Request) -> soragen::Result<Session> {
    Session::new(
        Model::open(&folder.to_string_lossy(), &OpenOptions::default(), &Cancel::new()).unwrap(),
        request,
    )
}

#[test]
fn every_variant_makes_the_references_frames() {
    let (cases, expected) = (json("miniature/shots.json"), tensors("miniature/shots.safetensors"));
    for (name, case) in cases.as_object().unwrap() {
        let folder = miniature(|config| {
            for (key, value) in case["causal"].as_object().into_iter().flatten() {
                config["causal"][key] = value.clone();
            }
            if let Some(scale) = case.get("guidance_scale") {
                config["guidance_scale"] = scale.clone();
            }
        });
        let (generated, _) = make(start(folder.path(), request(case)).unwrap());
        let expected = values(&expected[name]);
        assert_eq!(generated.len(), expected.len(), "{name}");
        let furthest = generated.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(furthest <= TOLERANCE, "{name}: off by {furthest:e}");
    }
}

#[test]
fn shots_start_at_their_frame_or_the_nearest_chunk() {
    let starts = |name: &str| {
        let (_, shots) =
            make(start(&path("miniature"), request(&json("miniature/shots.json")[name])).unwrap());
        shots.iter().map(|shown| (shown.index, shown.frame, shown.cut)).collect::<Vec<_>>()
    };
    assert_eq!(starts("cut"), [(0, 0, false), (1, 7, true)]);
    let wanted = [(0, 0, false), (1, 5, false), (2, 13, false), (3, 21, false), (4, 25, true)];
    assert_eq!(starts("continue"), wanted);
}

#[test]
fn a_plain_prompt_is_a_storyboard_of_one_shot() {
    let plain = with!(Request::default(); prompt: "a blue bird".into());
    let one = with!(Request::default(); shots: vec![shot(0, Transition::Continue, "a blue bird")]);
    let generated = |request| make(start(&path("miniature"), request).unwrap());
    assert!(generated(plain) == generated(one));
}

#[test]
fn a_prompt_from_outside_holds_until_the_next_shot() {
    let asked = |shots| with!(Request::default(); shots, length: Length::Frames(29));
    let written = asked(vec![
        shot(0, Transition::Cut, "the red fox"),
        shot(5, Transition::Continue, "a blue bird"),
        shot(13, Transition::Continue, "the green cat"),
    ]);
    let said =
        asked(vec![shot(0, Transition::Cut, "the red fox"), shot(13, Transition::Continue, "the green cat")]);
    let mut session = start(&path("miniature"), said).unwrap();
    let mut samples = session.next_raw_chunk(&Cancel::new(), &mut |_| {}).unwrap().unwrap().data;
    session.set_prompt("a blue bird").unwrap();
    let (rest, shots) = make(session);
    samples.extend(rest);
    assert!(samples == make(start(&path("miniature"), written).unwrap()).0);
    assert_eq!(shots.iter().map(|shown| shown.frame).collect::<Vec<_>>(), [5, 13]);
}

#[test]
fn a_bidirectional_model_makes_each_shot_by_itself() {
    let folder = path("pipelines/t2v-unipc");
    let asked = |shots, frames| {
        with!(
            Request::default();
            shots,
            size: Some(soragen::Size { width: 32, height: 32 }),
            length: Length::Frames(frames),
            steps: Some(2),
        )
    };
    let (film, shots) = make(
        start(&folder, asked(vec![shot(0, Transition::Cut, "a fox"), shot(6, Transition::Cut, "snow")], 9))
            .unwrap(),
    );
    let (first, _) = make(start(&folder, asked(vec![shot(0, Transition::Cut, "a fox")], 6)).unwrap());
    assert!(film[..first.len()] == first);
    assert_eq!(film.len(), first.len() / 6 * 9);
    assert_eq!(shots.iter().map(|shown| shown.frame).collect::<Vec<_>>(), [0, 6]);
}

#[test]
fn shots_that_make_no_video_are_refused() {
    use Transition::{Continue, Cut};
    let refused = |folder: &str, shots| match start(&path(folder), with!(Request::default(); shots)).err() {
        Some(Error::Request(_, reason)) => reason,
        other => panic!("{other:?}"),
    };
    let image = Some(image::RgbImage::new(8, 8));
    let model = "miniature";
    assert!(refused(model, vec![shot(1, Cut, "a")]).contains("must start at 0"));
    assert!(refused(model, vec![shot(0, Cut, "a"), shot(0, Cut, "b")]).contains("must start later"));
    assert!(refused(model, vec![shot(0, Cut, "a"), shot(5, Cut, " ")]).contains("prompt is empty"));
    let from_image = with!(shot(5, Continue, "b"); image: image.clone());
    assert!(refused(model, vec![shot(0, Cut, "a"), from_image]).contains("needs a cut"));
    let bidirectional = "pipelines/t2v-unipc";
    assert!(refused(bidirectional, vec![shot(0, Cut, "a"), shot(5, Continue, "b")]).contains("in one piece"));
    assert!(
        refused(bidirectional, vec![with!(shot(0, Cut, "a"); image)]).contains("cannot start from an image")
    );
}
