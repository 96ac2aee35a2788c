//! Cached chunks and prompts are not computed again, and give the same frames.

use std::path::{Path, PathBuf};
use std::time::Duration;

use soragen::{
    Cache, Cancel, Error, Length, Model, MotionPath, OpenOptions, Request, Session, Setting, Shot, Size,
    Transition,
};
use soragen_tests::fixtures::{copy, miniature, path, puppets};
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
    let header = [header, &vec![b' '; 8 << 20]].concat();
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
    // Its key has samples of the content, the last one 16 KiB at the end. The damage is before that.
    let header = u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
    let mut damaged = whole.clone();
    damaged[8 + header..whole.len() - (17 << 10)].fill(0xff);
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

/// Three scenes, the second of two shots, with their own seeds.
fn film(shots: &[(f64, &str, Transition)]) -> Request {
    let shot = |(i, &(start, prompt, transition)): (usize, &(f64, &str, Transition))| with!(Shot::new(Duration::from_secs_f64(start), prompt); transition: transition, seed: Some(i as u64));
    with!(
        Request::default();
        shots: shots.iter().enumerate().map(shot).collect(),
        length: Length::Frames(40),
        steps: Some(2),
    )
}

#[test]
fn scenes_that_are_made_one_by_one_are_those_of_the_film() {
    let puppets = puppets();
    let causal = [
        (0.0, "the red fox runs over snow", Transition::Cut),
        (0.8, "a fox walks to the right", Transition::Cut),
        (1.3, "an owl walks to the left", Transition::Continue),
        // Two cuts at one frame: the first of these scenes has no frames.
        (1.88, "the red fox", Transition::Cut),
        (1.89, "a fox goes back and forth", Transition::Cut),
    ];
    let clip = [causal[0], causal[1], causal[3], causal[4]];
    let size = |width, height| Some(Size { width, height });
    let films = [
        (path("miniature"), film(&causal)),
        (
            puppets.path().into(),
            with!(film(&causal); motion_path: Some(MotionPath::parse("0 left ground | 2 right up").unwrap())),
        ),
        (path("pipelines/t2v-unipc"), with!(film(&clip); size: size(32, 32))),
    ];
    for (source, request) in films {
        let model = Model::open(&source.to_string_lossy(), &OpenOptions::default(), &Cancel::new()).unwrap();
        let with_cache =
            |cache: &Cache| Session::with_cache(model.clone(), request.clone(), cache.clone()).unwrap();
        let whole = all_frames(&mut Session::new(model.clone(), request.clone()).unwrap());
        let (folder, worker) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (here, there) = (Cache::new(folder.path(), SIZE), Cache::new(worker.path(), SIZE).portable());
        let scenes = with_cache(&here).scenes().unwrap();
        assert_eq!((scenes.len(), scenes.iter().sum()), (3, 40), "{source:?}");
        let mut names = with_cache(&here).film_entries(&Cancel::new()).unwrap().concat();
        for scene in [2, 0, 1] {
            let stats = with_cache(&there).make_scene(scene, &Cancel::new(), &mut |_| {}).unwrap();
            assert!(stats.forwards > 0 && stats.cached == 0, "{stats:?}");
            // Made again, it comes from the cache.
            let again = with_cache(&there).make_scene(scene, &Cancel::new(), &mut |_| {}).unwrap();
            assert_eq!((again.forwards, again.cached), (0, scenes[scene]));
        }
        let entries = there.export().unwrap();
        let latents = entries.iter().filter(|entry| entry.name.starts_with("latents/"));
        let mut made: Vec<_> = latents.map(|entry| entry.name.clone()).collect();
        names.sort();
        made.sort();
        assert_eq!(names, made, "{source:?}");
        entries.iter().for_each(|entry| here.import(entry).unwrap());
        let mut played = with_cache(&here);
        assert!(all_frames(&mut played) == whole, "{source:?}");
        assert_eq!((played.stats().forwards, played.stats().cached), (0, 40));
    }
}

#[test]
fn a_model_that_remembers_shots_has_one_scene() {
    let folder =
        miniature(|config| config["causal"]["shots"] = serde_json::json!({ "sink": 0, "offset": 2 }));
    let shots = [
        (0.0, "the red fox runs over snow", Transition::Cut),
        (1.0, "the red fox runs over snow", Transition::Cut),
    ];
    let model =
        Model::open(&folder.path().to_string_lossy(), &OpenOptions::default(), &Cancel::new()).unwrap();
    let session = Session::new(model, film(&shots)).unwrap();
    assert_eq!(session.scenes(), Some(vec![40]));
}

#[test]
fn a_scene_that_cannot_be_made_alone_is_refused() {
    let (folder, cancel) = (tempfile::tempdir().unwrap(), Cancel::new());
    let cache = Cache::new(folder.path(), SIZE);
    let refused = |session: Session, scene| match session.make_scene(scene, &cancel, &mut |_| {}) {
        Err(Error::Request(setting, _)) => setting,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(start("miniature", request(), None), 0), Setting::Shots, "no cache");
    assert_eq!(refused(start("miniature", request(), Some(&cache)), 1), Setting::Shots, "no such scene");
    let mut begun = start("miniature", request(), Some(&cache));
    next_frames(&mut begun, 1);
    assert_eq!(refused(begun, 0), Setting::Shots, "it has begun");
    let black = image::RgbImage::new(48, 16);
    let continued = with!(request(); past: vec![black; 9]);
    assert_eq!(
        refused(start("miniature", continued, Some(&cache)), 0),
        Setting::Shots,
        "after another video"
    );
}

#[test]
fn a_film_is_the_same_on_a_machine_with_a_copy_of_the_model() {
    let names = |source: &Path| {
        let model = Model::open(&source.to_string_lossy(), &OpenOptions::default(), &Cancel::new()).unwrap();
        let session = Session::with_cache(model, request(), Cache::new("", 0)).unwrap();
        session.film_entries(&Cancel::new()).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    copy(&path("miniature"), folder.path());
    // Larger than what is read as a whole.
    let large = folder.path().join("transformer/notes.bin");
    std::fs::write(&large, vec![7; 3 << 20]).unwrap();
    let here = names(folder.path());
    let file = std::fs::File::options().write(true).open(&large).unwrap();
    file.set_modified(std::time::SystemTime::now() - Duration::from_secs(3600)).unwrap();
    assert_eq!(names(folder.path()), here, "of another time");
    let mut bytes = vec![7; 3 << 20];
    bytes[2 << 20..].fill(8);
    std::fs::write(&large, bytes).unwrap();
    assert_ne!(names(folder.path()), here, "of other content");
}
