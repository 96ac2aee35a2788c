//! What was made before is not made again, and is the same.

use soragen::{Cache, Cancel, Effort, Length, Model, OpenOptions, Request, Session, Shot, Size, Transition};
use soragen_tests::fixtures::path;
use std::time::Duration;

const SIZE: u64 = 1 << 20;

fn request() -> Request {
    Request { prompt: "the red fox runs over snow".into(), length: Length::Frames(25), ..Default::default() }
}

fn start(model: &str, request: Request, cache: Option<&Cache>) -> Session {
    let model = Model::open(&path(model).to_string_lossy(), &OpenOptions::default()).unwrap();
    match cache {
        Some(cache) => Session::with_cache(model, request, cache.clone()).unwrap(),
        None => Session::new(model, request).unwrap(),
    }
}

/// The samples of up to `chunks` more chunks.
fn some(session: &mut Session, chunks: usize) -> Vec<f32> {
    let mut samples = Vec::new();
    for _ in 0..chunks {
        match session.next_chunk(&Cancel::new(), &mut |_| {}).unwrap() {
            Some(frames) => samples.extend(frames.data),
            None => break,
        }
    }
    samples
}

fn all(session: &mut Session) -> Vec<f32> {
    some(session, usize::MAX)
}

#[test]
fn the_same_video_is_only_decoded() {
    for (model, prompt) in [("miniature", "the red fox runs over snow"), ("pipelines/t2v-unipc", "a red fox")]
    {
        let folder = tempfile::tempdir().unwrap();
        let asked = || Request {
            prompt: prompt.into(),
            length: Length::Frames(9),
            size: Some(Size { width: 48, height: if model == "miniature" { 16 } else { 32 } }),
            steps: Some(2),
            ..Default::default()
        };
        let plain = all(&mut start(model, asked(), None));
        let mut first = start(model, asked(), Some(&Cache::new(folder.path(), SIZE)));
        assert!(all(&mut first) == plain, "{model}: while it is kept");
        let effort = first.effort();
        assert!(effort.forwards > 0 && effort.recalled == 0, "{model}: {effort:?}");

        // As another process would find it.
        let mut second = start(model, asked(), Some(&Cache::new(folder.path(), SIZE)));
        assert!(all(&mut second) == plain, "{model}: again");
        assert_eq!(second.effort(), Effort { forwards: 0, recalled: 9 }, "{model}");
    }
}

#[test]
fn it_goes_on_from_where_it_was_left() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path(), SIZE);
    let plain = all(&mut start("miniature", request(), None));
    let begun = some(&mut start("miniature", request(), Some(&cache)), 2);
    assert!(plain.starts_with(&begun));
    let mut on = start("miniature", request(), Some(&cache));
    assert!(all(&mut on) == plain, "from the third chunk on");
    assert!(on.effort().recalled > 0 && on.effort().forwards > 0, "{:?}", on.effort());

    // Nor does it matter which are missing.
    let entries = |folder: &std::path::Path| -> Vec<_> {
        let folders = std::fs::read_dir(folder.join("latents")).unwrap().map(|entry| entry.unwrap().path());
        folders
            .flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()))
            .collect()
    };
    let kept = entries(folder.path());
    assert!(kept.len() >= 3);
    for entry in kept {
        std::fs::remove_file(entry).unwrap();
        assert!(all(&mut start("miniature", request(), Some(&cache))) == plain);
    }
}

#[test]
fn another_prompt_on_the_way_is_another_video() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path(), SIZE);
    let switched = |cache: Option<&Cache>, after: usize, prompt: &str, negative: Option<&str>| {
        let mut session = start("miniature", request(), cache);
        let mut made = some(&mut session, after);
        session.set_prompt(prompt).unwrap();
        session.set_negative_prompt(negative).unwrap();
        made.extend(all(&mut session));
        (made, session.effort())
    };
    let ways = [
        (1, "a blue bird", None),
        (2, "a blue bird", None),
        (2, "a green cat", None),
        (2, "a green cat", Some("snow")),
    ];
    for (after, prompt, negative) in ways {
        let plain = switched(None, after, prompt, negative).0;
        let (kept, effort) = switched(Some(&cache), after, prompt, negative);
        assert!(kept == plain && effort.forwards > 0, "{prompt} after {after}: {effort:?}");
        let (again, effort) = switched(Some(&cache), after, prompt, negative);
        assert!(again == plain && effort.forwards == 0, "{prompt} after {after} again: {effort:?}");
    }
}

#[test]
fn everything_that_decides_the_frames_counts() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path(), SIZE);
    let cut = |seconds: f32, prompt: &str, transition| Shot {
        start: Duration::from_secs_f32(seconds),
        prompt: prompt.into(),
        seed: None,
        image: None,
        transition,
    };
    let shots =
        |second: &str, transition| vec![cut(0.0, "fox", Transition::Cut), cut(0.5, second, transition)];
    let image = image::open(path("miniature/image.png")).unwrap().into_rgb8();
    let mut dark = image.clone();
    dark.pixels_mut().for_each(|pixel| pixel.0[0] /= 2);
    for (i, asked) in [
        request(),
        Request { seed: 1, ..request() },
        Request { steps: Some(2), ..request() },
        Request { guidance_scale: Some(2.0), ..request() },
        Request { shift: Some(2.0), ..request() },
        Request { negative_prompt: Some("snow".into()), ..request() },
        Request { image: Some(image), ..request() },
        Request { image: Some(dark), ..request() },
        Request { shots: shots("bird", Transition::Continue), ..request() },
        Request { shots: shots("cat", Transition::Continue), ..request() },
        Request { shots: shots("cat", Transition::Continue), blend_chunks: 2, ..request() },
        Request { shots: shots("cat", Transition::Cut), ..request() },
    ]
    .into_iter()
    .enumerate()
    {
        let plain = all(&mut start("miniature", asked.clone(), None));
        assert!(all(&mut start("miniature", asked.clone(), Some(&cache))) == plain, "request {i}");
        let mut again = start("miniature", asked, Some(&cache));
        assert!(all(&mut again) == plain && again.effort().forwards == 0, "request {i} again");
    }
}
