//! Settings that change while a session runs.

use std::time::Duration;

use soragen::label::Label;
use soragen::{
    Cache, Cancel, Error, Length, Model, OpenOptions, Request, Session, Setting, Shot, Transition,
};
use soragen_tests::fixtures::path;
use soragen_tests::with;

const PROMPT: &str = "the red fox runs over snow";

fn request() -> Request {
    with!(Request::new(PROMPT); length: Length::Frames(21), watermark: None)
}

fn open(model: &str) -> std::sync::Arc<Model> {
    Model::open(&path(model).to_string_lossy(), &OpenOptions::default(), &Cancel::new()).unwrap()
}

fn start(request: Request) -> Session {
    Session::new(open("miniature"), request).unwrap()
}

fn chunk(session: &mut Session) -> Option<Vec<u8>> {
    session
        .next_chunk(&Cancel::new(), &mut |_| {})
        .unwrap()
        .map(|frames| frames.iter().flatten().copied().collect())
}

fn rest(session: &mut Session) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| chunk(session)).collect()
}

type Change = fn(&mut Session);

/// A change, and the request that has the setting from the beginning.
fn changes() -> Vec<(&'static str, Change, Request)> {
    let request = request();
    vec![
        ("steps", |s| s.set_steps(Some(2)).unwrap(), with!(request.clone(); steps: Some(2))),
        (
            "guidance",
            |s| s.set_guidance_scale(Some(6.5)).unwrap(),
            with!(request.clone(); guidance_scale: Some(6.5)),
        ),
        ("shift", |s| s.set_shift(Some(9.0)).unwrap(), with!(request.clone(); shift: Some(9.0))),
        ("seed", |s| s.set_seed(7).unwrap(), with!(request.clone(); seed: 7)),
        ("label", |s| s.set_label(Label::Ai), with!(request.clone(); label: Label::Ai)),
    ]
}

#[test]
fn a_setting_from_the_first_chunk_is_that_of_the_request() {
    let unchanged = rest(&mut start(request()));
    for (name, change, request) in changes() {
        let mut session = start(self::request());
        change(&mut session);
        let frames = rest(&mut session);
        assert!(frames == rest(&mut start(request)), "{name}");
        assert!(frames != unchanged, "{name} has no effect");
    }
}

#[test]
fn a_change_counts_from_the_next_chunk_and_is_part_of_the_cache_key() {
    let unchanged = rest(&mut start(request()));
    for (name, change, _) in changes() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path(), 1 << 24);
        let run = |changed: bool| {
            let mut session = Session::with_cache(open("miniature"), request(), cache.clone()).unwrap();
            let mut frames = vec![chunk(&mut session).unwrap()];
            if changed {
                change(&mut session);
            }
            frames.extend(rest(&mut session));
            (frames, session.stats())
        };
        let (plain, _) = run(false);
        assert!(plain == unchanged, "{name}");
        let (first, _) = run(true);
        assert!(first[0] == plain[0] && first[1] != plain[1], "{name}");
        let (again, effort) = run(true);
        assert!(again == first, "{name}: from the cache");
        assert_eq!(effort.forwards, 0, "{name}");
    }
}

#[test]
fn guidance_that_is_turned_on_has_seen_the_chunks_before() {
    let unguided = with!(request(); guidance_scale: Some(1.0));
    let plain = rest(&mut start(unguided.clone()));
    let mut session = start(unguided);
    let first = chunk(&mut session).unwrap();
    let second = chunk(&mut session).unwrap();
    // With the same negative prompt guidance changes nothing, if it has seen the same.
    session.set_negative_prompt(Some(PROMPT)).unwrap();
    session.set_guidance_scale(Some(5.0)).unwrap();
    let rest = rest(&mut session);
    assert!(plain[0] == first && plain[1] == second && plain.len() == 2 + rest.len());
    for (a, b) in plain[2..].iter().flatten().zip(rest.iter().flatten()) {
        assert!(a.abs_diff(*b) <= 1, "{a} {b}");
    }
}

#[test]
fn a_prompt_with_weights_is_the_mean_of_its_parts() {
    // Half of the way from one prompt to another.
    let blend = |live: &str, chunks: u32| {
        let mut session = start(request());
        let first = chunk(&mut session).unwrap();
        session.set_blend_chunks(chunks).unwrap();
        session.set_prompt(live).unwrap();
        (first, chunk(&mut session).unwrap())
    };
    let (first, blended) = blend("a blue bird", 1);
    let weighted = format!("{PROMPT} | a blue bird");
    let (same, half) = blend(&weighted, 0);
    assert!(first == same);
    assert!(blended.iter().zip(&half).all(|(a, b)| a.abs_diff(*b) <= 1));
    let (_, bird) = blend("a blue bird", 0);
    assert!(blended != bird);
    for all in ["a blue bird :: 3", "a blue bird :: 1 | the green cat :: 0", r"a blue bird"] {
        assert!(blend(all, 0).1 == bird, "{all}");
    }
    let (_, uneven) = blend(&format!("{PROMPT} :: 0.1 | a blue bird :: 0.9"), 0);
    assert!(uneven != bird && uneven != half);
    let refused = Session::new(open("miniature"), with!(request(); prompt: "a fox :: red".into()));
    assert!(matches!(refused.err(), Some(Error::Request(Setting::Prompt, _))));
}

#[test]
fn what_is_not_possible_is_refused() {
    let mut session = start(request());
    assert!(matches!(session.set_steps(Some(0)), Err(Error::Request(Setting::Steps, _))));
    assert!(matches!(session.set_shift(Some(-1.0)), Err(Error::Request(Setting::Shift, _))));
    assert!(matches!(
        session.set_guidance_scale(Some(f64::NAN)),
        Err(Error::Request(Setting::GuidanceScale, _))
    ));
    assert!(matches!(session.set_control_scale(3.0), Err(Error::Request(Setting::Control, _))));
    assert!(rest(&mut session) == rest(&mut start(request())), "nothing has changed");
    // A model that makes its video in one piece.
    let mut clip = Session::new(open("pipelines/t2v-unipc"), Request::new("a red fox")).unwrap();
    for (setting, refused) in [
        (Setting::Steps, clip.set_steps(Some(2))),
        (Setting::Shift, clip.set_shift(Some(2.0))),
        (Setting::GuidanceScale, clip.set_guidance_scale(Some(2.0))),
        (Setting::Seed, clip.set_seed(1)),
    ] {
        assert!(matches!(refused, Err(Error::Request(found, _)) if found == setting), "{setting}");
    }
}

#[test]
fn a_live_cut_is_a_scene_of_its_own() {
    let cut = |prompt: &str| {
        let mut session = start(request());
        chunk(&mut session).unwrap();
        session.cut_to(prompt).unwrap();
        let frames = chunk(&mut session).unwrap();
        let shot = session.shot();
        assert!(shot.cut && shot.frame == 5 && shot.prompt == prompt, "{shot:?}");
        frames
    };
    // The first chunk of a scene, which is shorter, and which has seen nothing.
    let frames = cut("a blue bird");
    let shots = vec![
        Shot::new(Duration::ZERO, PROMPT),
        with!(Shot::new(Duration::from_millis(313), "a blue bird"); transition: Transition::Cut),
    ];
    let mut film = start(with!(request(); shots: shots));
    chunk(&mut film).unwrap();
    assert!(frames == chunk(&mut film).unwrap());
}

#[test]
fn a_seed_and_a_prompt_before_one_chunk_both_count() {
    let mut session = start(request());
    chunk(&mut session).unwrap();
    session.set_seed(7).unwrap();
    session.set_prompt("a blue bird").unwrap();
    let both = chunk(&mut session).unwrap();
    assert_eq!((session.shot().seed, session.shot().index), (7, 1));
    let mut session = start(request());
    chunk(&mut session).unwrap();
    session.set_prompt("a blue bird").unwrap();
    assert!(chunk(&mut session).unwrap() != both);
}
