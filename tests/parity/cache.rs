//! Cached chunks and prompts are not computed again, and give the same frames.

use std::path::{Path, PathBuf};
use std::time::Duration;

use soragen::{Cache, Cancel, Error, Length, Model, OpenOptions, Request, Session, Shot, Size, Transition};
use soragen_tests::fixtures::{copy, path};
use soragen_tests::with;

const SIZE: u64 = 1 << 20;

fn request() -> Request {
    with!(Request::default(); prompt: "the red fox runs over snow".into(), length: Length::Frames(25))
}

fn start(model: &str, request: Request, cache: Option<&Cache>) -> Session {
    let model = Model::open(&path(model).to_string_lossy(), &OpenOptions::default(), &Cancel::new()).unwrap();
    match cache {
        Some(cache) => Session::with_cache(model, request, cache.clone()).unwrap(),
        None => Session::new(model, request).unwrap(),
    }
}

/// The frames of the next chunks, at most `chunks`.
fn next_frames(session: &mut Session, chunks: usize) -> Vec<f32> {
    let mut samples = Vec::new();
    for _ in 0..chunks {
        match session.next_raw_chunk(&Cancel::new(), &mut |_| {}).unwrap() {
            Some(frames) => samples.extend(frames.data),
            None => break,
        }
    }
    samples
}

fn all_frames(session: &mut Session) -> Vec<f32> {
    next_frames(session, usize::MAX)
}

#[test]
fn a_cached_video_is_only_decoded() {
    for (model, prompt) in [("miniature", "the red fox runs over snow"), ("pipelines/t2v-unipc", "a red fox")]
    {
        let folder = tempfile::tempdir().unwrap();
        let request = || {
            with!(
                Request::default();
                prompt: prompt.into(),
                length: Length::Frames(9),
                size: Some(Size { width: 48, height: if model == "miniature" { 16 } else { 32 } }),
                steps: Some(2),
            )
        };
        let plain = all_frames(&mut start(model, request(), None));
        let mut first = start(model, request(), Some(&Cache::new(folder.path(), SIZE)));
        assert!(all_frames(&mut first) == plain, "{model}: first run");
        let effort = first.stats();
        assert!(effort.forwards > 0 && effort.cached == 0, "{model}: {effort:?}");

        // Another cache object, as in another process.
        let mut second = start(model, request(), Some(&Cache::new(folder.path(), SIZE)));
        assert!(all_frames(&mut second) == plain, "{model}: again");
        let stats = second.stats();
        assert_eq!((stats.forwards, stats.cached), (0, 9), "{model}");
    }
}

#[test]
fn a_partly_cached_video_is_continued() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path(), SIZE);
    let plain = all_frames(&mut start("miniature", request(), None));
    let beginning = next_frames(&mut start("miniature", request(), Some(&cache)), 2);
    assert!(plain.starts_with(&beginning));
    let mut continued = start("miniature", request(), Some(&cache));
    assert!(all_frames(&mut continued) == plain, "from the third chunk on");
    assert!(continued.stats().cached > 0 && continued.stats().forwards > 0, "{:?}", continued.stats());

    // Any entry may be missing.
    let entries = files(&folder.path().join("latents"));
    assert!(entries.len() >= 3);
    for entry in entries {
        std::fs::remove_file(entry).unwrap();
        assert!(all_frames(&mut start("miniature", request(), Some(&cache))) == plain);
    }
}

#[test]
fn a_prompt_change_is_part_of_the_cache_key() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path(), SIZE);
    let switched = |cache: Option<&Cache>, after: usize, prompt: &str, negative: Option<&str>| {
        let mut session = start("miniature", request(), cache);
        let mut frames = next_frames(&mut session, after);
        session.set_prompt(prompt).unwrap();
        session.set_negative_prompt(negative).unwrap();
        frames.extend(all_frames(&mut session));
        (frames, session.stats())
    };
    let changes = [
        (1, "a blue bird", None),
        (2, "a blue bird", None),
        (2, "a green cat", None),
        (2, "a green cat", Some("snow")),
    ];
    for (after, prompt, negative) in changes {
        let plain = switched(None, after, prompt, negative).0;
        let (cached, effort) = switched(Some(&cache), after, prompt, negative);
        assert!(cached == plain && effort.forwards > 0, "{prompt} after {after}: {effort:?}");
        let (again, effort) = switched(Some(&cache), after, prompt, negative);
        assert!(again == plain && effort.forwards == 0, "{prompt} after {after} again: {effort:?}");
    }
}

#[test]
fn every_setting_that_changes_frames_is_part_of_the_cache_key() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path(), SIZE);
    let cut = |seconds: f32, prompt: &str, transition| with!(Shot::new(Duration::from_secs_f32(seconds), prompt); transition);
    let shots =
        |second: &str, transition| vec![cut(0.0, "fox", Transition::Cut), cut(0.5, second, transition)];
    let image = image::open(path("miniature/image.png")).unwrap().into_rgb8();
    let mut dark = image.clone();
    dark.pixels_mut().for_each(|pixel| pixel.0[0] /= 2);
    for (i, request) in [
        request(),
        with!(request(); seed: 1),
        with!(request(); steps: Some(2)),
        with!(request(); guidance_scale: Some(2.0)),
        with!(request(); shift: Some(2.0)),
        with!(request(); negative_prompt: Some("snow".into())),
        with!(request(); image: Some(image)),
        with!(request(); image: Some(dark)),
        with!(request(); shots: shots("bird", Transition::Continue)),
        with!(request(); shots: shots("cat", Transition::Continue)),
        with!(request(); shots: shots("cat", Transition::Continue), blend_chunks: 2),
        with!(request(); shots: shots("cat", Transition::Cut)),
    ]
    .into_iter()
    .enumerate()
    {
        let plain = all_frames(&mut start("miniature", request.clone(), None));
        assert!(all_frames(&mut start("miniature", request.clone(), Some(&cache))) == plain, "request {i}");
        let mut again = start("miniature", request, Some(&cache));
        assert!(all_frames(&mut again) == plain && again.stats().forwards == 0, "request {i} again");
    }
}

#[test]
fn shots_with_seeds_of_their_own_are_cached_apart() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path(), SIZE);
    let request = |seeds: [Option<u64>; 2]| {
        let shot =
            |second: f32, prompt: &str, seed| with!(Shot::new(Duration::from_secs_f32(second), prompt); seed);
        // Frames 0, 5 and 13: the first frames of chunks.
        let shots =
            vec![shot(0.0, "fox", None), shot(0.3125, "cat", seeds[0]), shot(0.8125, "bird", seeds[1])];
        with!(request(); shots, length: Length::Frames(21))
    };
    let requests = [[Some(2), None], [Some(3), None], [Some(2), Some(2)], [None, None]].map(request);
    let plain = requests.clone().map(|request| all_frames(&mut start("miniature", request, None)));
    assert!(
        plain[0] != plain[1] && plain[0] != plain[2] && plain[0] != plain[3],
        "the seeds make a difference"
    );
    // The first shot of the later requests comes from the cache, and in later rounds the others too.
    for round in 0..3 {
        for (i, request) in requests.iter().enumerate() {
            let frames = all_frames(&mut start("miniature", request.clone(), Some(&cache)));
            assert!(frames == plain[i], "request {i}, round {round}");
        }
    }
}

/// A model whose text encoder file is large, so that its digest covers size and time only.
fn with_a_large_text_encoder(folder: &Path) -> (String, PathBuf) {
    copy(&path("pipelines/t2v-unipc"), folder);
    let file = folder.join("text_encoder/model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header = [header, &[b' '; 1 << 20]].concat();
    std::fs::write(&file, [&(header.len() as u64).to_le_bytes()[..], &header, data].concat()).unwrap();
    (folder.to_string_lossy().into_owned(), file)
}

#[test]
fn a_cached_prompt_does_not_load_the_text_encoder() {
    let folder = tempfile::tempdir().unwrap();
    let (model, text_encoder) = with_a_large_text_encoder(&folder.path().join("model"));
    let cache = || Cache::new(folder.path().join("cache"), SIZE);
    let frames = |seed: u64, cache: Option<Cache>| {
        let request = with!(
            Request::default();
            prompt: "a red fox".into(),
            length: Length::Frames(1),
            size: Some(Size { width: 48, height: 32 }),
            steps: Some(1),
            seed,
        );
        let model = Model::open(&model, &OpenOptions::default(), &Cancel::new())?;
        let mut session = match cache {
            Some(cache) => Session::with_cache(model, request, cache)?,
            None => Session::new(model, request)?,
        };
        Ok::<_, Error>(session.next_raw_chunk(&Cancel::new(), &mut |_| {})?.unwrap().data)
    };
    let expected = [0, 1, 2].map(|seed| frames(seed, None).unwrap());
    assert!(frames(0, Some(cache())).unwrap() == expected[0]);
    // Guidance encodes the negative prompt too.
    assert_eq!(cache().usage().unwrap().prompts, 2);

    // Now the text encoder is damaged.
    let whole = std::fs::read(&text_encoder).unwrap();
    let time = text_encoder.metadata().unwrap().modified().unwrap();
    let write = |bytes: &[u8]| {
        std::fs::write(&text_encoder, bytes).unwrap();
        std::fs::File::options().write(true).open(&text_encoder).unwrap().set_modified(time).unwrap();
    };
    let header = u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
    let mut damaged = whole.clone();
    damaged[8 + header..].fill(0xff);
    write(&damaged);
    assert!(frames(1, None).is_err(), "the text encoder is damaged");
    assert!(frames(1, Some(cache())).unwrap() == expected[1]);

    // A damaged entry is removed, and the prompt is encoded again.
    write(&whole);
    let entries = files(&folder.path().join("cache/prompts"));
    for entry in &entries {
        let mut bytes = std::fs::read(entry).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(entry, bytes).unwrap();
    }
    assert!(frames(2, Some(cache())).unwrap() == expected[2]);
    assert_eq!(files(&folder.path().join("cache/prompts")), entries);
    write(&damaged);
    // Remove the latents, so that the prompt is needed.
    for entry in files(&folder.path().join("cache/latents")) {
        std::fs::remove_file(entry).unwrap();
    }
    assert!(frames(2, Some(cache())).unwrap() == expected[2], "the prompt is cached again");
}

/// The files in the folders of `folder`, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let inside = |folder: &Path| -> Vec<_> {
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let mut files: Vec<_> = inside(folder).iter().flat_map(|folder| inside(folder)).collect();
    files.sort();
    files
}
