//! What `soragen` starts from and ends with: a video to continue, a last image, a loop.

use std::path::Path;

use gst::prelude::*;
use soragen_tests::fixtures::path;

use crate::support::{error, parse, pictures, pixels, samples};

fn source(model: &str, options: &str) -> String {
    let model = path(model);
    format!(
        "soragen name=source model=\"{}\" prompt=\"a red fox\" steps=2 watermark=false cache-size=0 {options}",
        model.display()
    )
}

/// A video of a second in the size and at the frame rate of the miniature.
fn video(file: &Path, pattern: &str) {
    let written = samples(&format!(
        "videotestsrc num-buffers=16 pattern={pattern} ! video/x-raw,width=48,height=16,framerate=16/1 ! y4menc"
    ));
    std::fs::write(file, pictures(&written).concat()).unwrap();
}

#[test]
fn a_video_is_continued() {
    let folder = tempfile::tempdir().unwrap();
    let [ball, snow] = ["ball.y4m", "smpte.y4m"].map(|name| folder.path().join(name));
    video(&ball, "ball");
    video(&snow, "smpte");
    let made =
        |options: &str| pictures(&samples(&source("miniature", &format!("duration=1000000000 {options}"))));
    let continued = |file: &Path| made(&format!("extend=\"{}\"", file.display()));
    let (plain, after_ball, after_snow) = (made(""), continued(&ball), continued(&snow));
    // The new frames alone.
    assert_eq!((plain.len(), after_ball.len(), after_snow.len()), (16, 16, 16));
    assert!(plain != after_ball && after_ball != after_snow && plain != after_snow);
    assert!(made(&format!("extend=\"file://{}\"", ball.display())) == after_ball, "a URI");
}

#[test]
fn a_seek_continues_the_same_video() {
    let folder = tempfile::tempdir().unwrap();
    let ball = folder.path().join("ball.y4m");
    video(&ball, "ball");
    let description = source("miniature", &format!("duration=1000000000 extend=\"{}\"", ball.display()));
    let pipeline = parse(&format!("{description} ! appsink name=sink sync=false"));
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    let bus = pipeline.bus().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let frames =
        || std::iter::from_fn(|| sink.pull_sample().ok()).map(|sample| pixels(&sample)).collect::<Vec<_>>();
    let first = frames();
    assert_eq!(first.len(), 16);
    pipeline.seek_simple(gst::SeekFlags::FLUSH, gst::ClockTime::ZERO).unwrap();
    assert!(frames() == first);
    // The signer keeps the provenance of the video.
    let mut shots = std::iter::from_fn(|| bus.pop()).filter(|message| message.has_name("soragen-shot"));
    let shot = shots.next().unwrap();
    let shot = shot.structure().unwrap();
    assert!(shot.get::<bool>("restyled").unwrap());
    assert_eq!(shot.get::<&str>("ingredient").unwrap(), ball.to_str().unwrap());
}

#[test]
fn a_video_ends_with_an_image_or_where_it_begins() {
    let picture = |name: &str| path(&format!("vace/{name}")).display().to_string();
    let (first, last) = (picture("wide.png"), picture("tall.png"));
    let made = |options: &str| {
        let options = format!("guidance-scale=1 image=\"{first}\" duration=500000000 {options}");
        pictures(&samples(&format!("{} ! video/x-raw,width=48,height=32", source("vace", &options))))
    };
    let (plain, ends, looped) = (made(""), made(&format!("last-image=\"{last}\"")), made("loop=true"));
    assert_eq!((plain.len(), ends.len(), looped.len()), (8, 8, 8));
    assert!(plain != ends && plain != looped && ends != looped);
}

#[test]
fn what_a_model_cannot_do_is_a_settings_error() {
    let folder = tempfile::tempdir().unwrap();
    let ball = folder.path().join("ball.y4m");
    video(&ball, "ball");
    let extend = format!("extend=\"{}\"", ball.display());
    let image = format!("last-image=\"{}\"", path("vace/wide.png").display());
    for (model, options, word) in [
        ("pipelines/t2v-unipc", extend.as_str(), "builtin"),
        ("miniature", &image, "VACE"),
        ("miniature", "loop=true", "image"),
    ] {
        let error = error(&source(model, options));
        assert!(error.matches(gst::LibraryError::Settings), "{options}: {error:?}");
        assert!(error.to_string().contains(word), "{options}: {error}");
    }
    for file in ["missing.y4m", path("vace/cases.json").to_str().unwrap()] {
        let error = error(&source("miniature", &format!("extend=\"{file}\"")));
        assert!(error.matches(gst::ResourceError::OpenRead), "{file}: {error:?}");
    }
}
