//! A video that goes in, compared with diffusers (`make_video_to_video.py`), with the autoencoder's round trip, and with a new video.

use std::sync::Arc;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use soragen::autoencoder::Autoencoder;
use soragen::checkpoint::Source;
use soragen::{
    Cancel, Decoder, Error, Length, Model, OpenOptions, Request, Restyle, Session, Setting, Shot, Size,
    Transition,
};
use soragen_tests::fixtures::{assert_close, json, path, tensors};
use soragen_tests::with;

fn open(folder: &str) -> Arc<Model> {
    Model::open(path(folder).to_str().unwrap(), &OpenOptions::default(), &Cancel::new()).unwrap()
}

fn miniature() -> Arc<Model> {
    open("miniature")
}

fn restyle(strength: f64) -> Option<Restyle> {
    Some(Restyle { strength, motion_noise: 0.0 })
}

fn request(strength: f64) -> Request {
    with!(Request::default(); prompt: "the red fox runs over snow".into(), length: Length::Endless, restyle: restyle(strength))
}

/// An edge that moves over a gradient, RGB `[T, H, W, 3]`.
fn video(size: Size, frames: u32) -> Vec<u8> {
    let sample = |t: u32, y: u32, x: u32, channel: u32| match (x + 64 - t) % 24 < 9 {
        true => [230, 60, 20][channel as usize],
        false => ((x * 3 + y * 2 + channel * 40) % 256) as u8,
    };
    let samples = (0..frames).flat_map(|t| {
        (0..size.height).flat_map(move |y| {
            (0..size.width).flat_map(move |x| (0..3).map(move |channel| sample(t, y, x, channel)))
        })
    });
    samples.collect()
}

fn next(session: &mut Session) -> Option<Vec<f32>> {
    session.next_raw_chunk(&Cancel::new(), &mut |_| {}).unwrap().map(|frames| frames.data)
}

/// All frames that a session makes of `video`, which arrives as it is wanted.
fn restyled(session: &mut Session, video: &[u8]) -> Vec<Vec<f32>> {
    let (mut rest, mut chunks) = (video, Vec::new());
    loop {
        let wanted = session.missing_frames() as usize * session.size().samples();
        let (now, later) = rest.split_at(wanted.min(rest.len()));
        if wanted > 0 {
            session.push_frames(now).unwrap();
        }
        if now.len() < wanted {
            session.end_video();
        }
        rest = later;
        match next(session) {
            Some(frames) => chunks.push(frames),
            None => return chunks,
        }
    }
}

#[test]
fn frames_of_a_whole_clip_are_those_of_diffusers() {
    let expected = tensors("video_to_video.safetensors");
    for name in ["t2v-unipc", "t2v-euler"] {
        let asked = json(&format!("pipelines/{name}/request.json"));
        let number = |key: &str| asked[key].as_u64().unwrap();
        let size = Size { width: number("width") as u32, height: number("height") as u32 };
        let model = open(&format!("pipelines/{name}"));
        let video: Vec<u8> = expected[&format!("{name}.video")].flatten_all().unwrap().to_vec1().unwrap();
        for strength in ["0.5", "0.8", "1.0"] {
            let request = with!(
                Request::default();
                prompt: asked["prompt"].as_str().unwrap().into(),
                negative_prompt: Some(asked["negative"].as_str().unwrap_or_default().into()),
                size: Some(size),
                length: Length::Frames(number("frames")),
                steps: Some(number("steps") as u32),
                guidance_scale: asked["guidance"].as_f64(),
                initial_latents: Some(expected[&format!("{name}.noise")].clone()),
                restyle: restyle(strength.parse().unwrap()),
            );
            let mut session = Session::new(model.clone(), request).unwrap();
            assert_eq!(session.missing_frames(), number("frames"));
            let frames = restyled(&mut session, &video).concat();
            let of_diffusers = &expected[&format!("{name}.{strength}")];
            let frames = Tensor::from_vec(frames, of_diffusers.shape(), &Device::Cpu).unwrap();
            assert_close(&format!("{name} {strength}"), &frames, of_diffusers, 2e-3);
            let off = (frames - of_diffusers).unwrap().abs().unwrap().mean_all().unwrap();
            assert!(off.to_scalar::<f32>().unwrap() <= 1e-4, "{name} {strength}: {off}");
        }
    }
}

#[test]
fn without_strength_the_video_goes_through_the_autoencoder_only() {
    let model = miniature();
    let mut session = Session::new(model, request(0.0)).unwrap();
    let (size, count) = (session.size(), 17);
    let video = video(size, count);
    let frames = restyled(&mut session, &video).concat();
    // Only the past is kept: three chunks, with and without the prompt.
    assert_eq!(session.stats().forwards, 6);

    let source = Source::Folder(path("miniature"));
    let autoencoder =
        Autoencoder::open(&source, Decoder::Auto, true, DType::F32, &Device::Cpu, &Cancel::new()).unwrap();
    let shape = (count as usize, size.height as usize, size.width as usize, 3);
    let pixels = Tensor::from_vec(video, shape, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
    let pixels = ((pixels * (2.0 / 255.0)).unwrap() - 1.0).unwrap().permute((3, 0, 1, 2)).unwrap();
    let latents =
        autoencoder.encode(&pixels.unsqueeze(0).unwrap(), &mut autoencoder.encoder_state(), &Cancel::new());
    let decoded = autoencoder.decode(&latents.unwrap(), &mut autoencoder.decoder_state(), &Cancel::new());
    let decoded = decoded.unwrap().permute((0, 2, 3, 1)).unwrap();
    assert_close("round trip", &Tensor::from_vec(frames, shape, &Device::Cpu).unwrap(), &decoded, 1e-4);
}

#[test]
fn at_full_strength_the_video_is_a_new_one() {
    let model = miniature();
    let mut session = Session::new(model.clone(), request(1.0)).unwrap();
    let video = video(session.size(), 17);
    let frames = restyled(&mut session, &video);
    let new = with!(request(1.0); restyle: None, length: Length::Frames(17));
    let mut session = Session::new(model, new).unwrap();
    for (i, chunk) in frames.iter().enumerate() {
        assert!(next(&mut session).as_ref() == Some(chunk), "chunk {i}");
    }
    assert!(next(&mut session).is_none());
}

#[test]
fn the_stronger_the_farther_from_the_video() {
    let model = miniature();
    let made = |strength| {
        let mut session = Session::new(model.clone(), request(strength)).unwrap();
        let video = video(session.size(), 17);
        restyled(&mut session, &video).concat()
    };
    let kept = made(0.0);
    let far = |frames: Vec<f32>| -> f32 { kept.iter().zip(frames).map(|(a, b)| (a - b).powi(2)).sum() };
    let [weak, medium, full] = [0.2, 0.6, 1.0].map(|strength| far(made(strength)));
    assert!(0.0 < weak && weak < medium && medium < full, "{weak} {medium} {full}");
}

#[test]
fn an_end_within_a_chunk_loses_no_frame() {
    let model = miniature();
    let made = |count| {
        let mut session = Session::new(model.clone(), request(0.5)).unwrap();
        let video = video(session.size(), count);
        (restyled(&mut session, &video).concat(), session.size().samples())
    };
    let (longer, samples) = made(17);
    // Chunks have 5 and then 8 frames.
    for count in [0, 1, 5, 9] {
        let (frames, _) = made(count);
        assert_eq!(frames.len(), count as usize * samples, "{count} frames");
        let whole = if count < 5 { 0 } else { 5 * samples };
        assert!(frames[..whole] == longer[..whole], "{count} frames");
    }
}

#[test]
fn a_chunk_needs_its_frames_and_a_refusal_loses_nothing() {
    let model = miniature();
    let mut session = Session::new(model.clone(), request(0.5)).unwrap();
    let video = video(session.size(), 13);
    let frame = session.size().samples();
    let setting = |result: soragen::Result<()>| match result {
        Err(Error::Request(setting, _)) => setting,
        other => panic!("{other:?}"),
    };
    let missing = session.next_raw_chunk(&Cancel::new(), &mut |_| {});
    assert!(matches!(missing, Err(Error::Request(Setting::Video, _))));
    assert_eq!(setting(session.push_frames(&video[..frame - 1])), Setting::Video);
    assert_eq!(setting(session.set_restyle(Restyle { strength: 1.5, motion_noise: 0.0 })), Setting::Strength);
    let negative = Restyle { strength: 0.5, motion_noise: f64::NAN };
    assert_eq!(setting(session.set_restyle(negative)), Setting::MotionNoise);
    // One frame at a time.
    let mut made = Vec::new();
    for frame in video.chunks(frame) {
        session.push_frames(frame).unwrap();
        if session.missing_frames() == 0 {
            made.push(next(&mut session).unwrap());
        }
    }
    let mut whole = Session::new(model.clone(), request(0.5)).unwrap();
    assert!(restyled(&mut whole, &video) == made);
    session.end_video();
    assert!(next(&mut session).is_none());
    assert_eq!(setting(session.push_frames(&video)), Setting::Video);
    let mut plain = Session::new(model, with!(request(0.5); restyle: None)).unwrap();
    assert_eq!(setting(plain.push_frames(&video)), Setting::Video);
    assert_eq!(setting(plain.set_restyle(Restyle::default())), Setting::Video);
}

#[test]
fn strength_and_prompt_change_with_the_next_chunk() {
    let model = miniature();
    let made = |change: &dyn Fn(&mut Session)| {
        let mut session = Session::new(model.clone(), request(0.5)).unwrap();
        let video = video(session.size(), 29);
        let mut chunks = Vec::new();
        for (i, frames) in [0..5, 5..13, 13..21, 21..29].into_iter().enumerate() {
            if i == 2 {
                change(&mut session);
            }
            let samples = session.size().samples();
            session.push_frames(&video[frames.start * samples..frames.end * samples]).unwrap();
            chunks.push(next(&mut session).unwrap());
        }
        chunks
    };
    let unchanged = made(&|_| {});
    let stronger = made(&|session| {
        session.set_restyle(Restyle { strength: 1.0, motion_noise: 0.0 }).unwrap();
    });
    let prompted = made(&|session| session.set_prompt("a blue bird in the sea").unwrap());
    for other in [stronger, prompted] {
        assert!(other[..2] == unchanged[..2] && other[2] != unchanged[2]);
    }
}

/// The frames of a video as images.
fn images(size: Size, samples: &[u8]) -> Vec<image::RgbImage> {
    let frames = samples.chunks(size.samples());
    frames.map(|frame| image::RgbImage::from_raw(size.width, size.height, frame.to_vec()).unwrap()).collect()
}

fn continued(past: Vec<image::RgbImage>, frames: u64) -> soragen::Result<Session> {
    let request = with!(request(1.0); restyle: None, past: past, length: Length::Frames(frames));
    Session::new(miniature(), request)
}

#[test]
fn a_video_is_continued_from_its_last_frames() {
    // The first chunk of the miniature has 5 frames, later ones 8.
    let size = continued(Vec::new(), 1).unwrap().size();
    let before = video(size, 13);
    // The same as a chunk that is kept, and one that is made anew.
    let last = &before[8 * size.samples()..];
    let mut kept = Session::new(miniature(), request(0.0)).unwrap();
    kept.push_frames(last).unwrap();
    next(&mut kept);
    kept.set_restyle(restyle(1.0).unwrap()).unwrap();
    kept.push_frames(&vec![0; 8 * size.samples()]).unwrap();
    let expected = next(&mut kept).unwrap();
    let mut session = continued(images(size, &before), 8).unwrap();
    assert!(next(&mut session).unwrap() == expected);
    assert_eq!(next(&mut session), None);
    let mut other = continued(images(size, &video(size, 5)), 8).unwrap();
    assert!(next(&mut other).unwrap() != expected);

    let refused = |past: Vec<image::RgbImage>| continued(past, 8).err().unwrap().to_string();
    assert!(refused(images(size, &video(size, 4))).contains("at least 5"));
    let whole = with!(Request::new("a fox"); past: images(size, &before), length: Length::Frames(5));
    assert!(matches!(
        Session::new(open("pipelines/t2v-unipc"), whole),
        Err(Error::Request(Setting::Video, _))
    ));
}

#[test]
fn impossible_requests_name_the_setting() {
    let image = image::RgbImage::new(16, 16);
    let later = with!(Shot::new(Duration::from_secs(1), "a bird"); transition: Transition::Cut);
    let cut = vec![Shot::new(Duration::ZERO, "a fox"), later];
    let model = miniature();
    for (request, setting) in [
        (request(-0.1), Setting::Strength),
        (
            with!(request(0.5); restyle: Some(Restyle { strength: 0.5, motion_noise: 2.0 })),
            Setting::MotionNoise,
        ),
        (with!(request(0.5); image: Some(image)), Setting::Image),
        (with!(request(0.5); shots: cut), Setting::Shots),
    ] {
        match Session::new(model.clone(), request) {
            Err(Error::Request(found, _)) => assert_eq!(found, setting),
            other => panic!("{setting}: {:?}", other.err()),
        }
    }
}
