//! A video that goes in.

use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::{Device, Tensor};
use soragen_tests::fixtures::{self, values};

use crate::{soragen, stderr};

/// A video of 11 frames with sound, larger than the model's, at twice its frame rate.
fn ball(folder: &Path) -> PathBuf {
    let path = folder.join("ball.mkv");
    launch(&format!(
        "videotestsrc num-buffers=21 pattern=ball ! video/x-raw,format=I420,width=96,height=32,framerate=32/1 \
         ! x264enc ! matroskamux name=mux ! filesink location={} audiotestsrc num-buffers=40 ! vorbisenc ! mux.",
        path.display()
    ));
    path
}

fn launch(pipeline: &str) {
    let output = Command::new("gst-launch-1.0").arg("-q").args(pipeline.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

/// The frames that the miniature makes, `[T, H, W, 3]`.
fn render(out: &Path, arguments: &[&str]) -> Tensor {
    let mut command = soragen(["render", "the red fox runs over snow", "--cache-dir", "", "--model"]);
    let output =
        command.arg(fixtures::path("miniature")).arg("-o").arg(out).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    candle_core::safetensors::load(out, &Device::Cpu).unwrap().remove("frames").unwrap()
}

#[test]
fn a_video_is_changed_frame_by_frame() {
    let folder = tempfile::tempdir().unwrap();
    let (video, out) = (ball(folder.path()), folder.path().join("out.safetensors"));
    let video = video.to_str().unwrap();
    // Every second frame, to its end.
    let kept = render(&out, &["--video", video, "--strength", "0"]);
    assert_eq!(kept.dims(), [11, 16, 48, 3]);
    let new = render(&out, &["--video", video, "--strength", "1", "--motion-noise", "0"]);
    assert_eq!(values(&new), values(&render(&out, &["--frames", "11"])));
    assert_ne!(values(&new), values(&kept));
    let uri = format!("file://{video}");
    let short = render(&out, &["--video", &uri, "--strength", "0", "--frames", "6"]);
    assert_eq!(values(&short), values(&kept.narrow(0, 0, 6).unwrap()));
}

#[test]
fn a_video_is_continued() {
    let folder = tempfile::tempdir().unwrap();
    let (video, out) = (ball(folder.path()), folder.path().join("out.safetensors"));
    let video = video.to_str().unwrap();
    let made = render(&out, &["--extend", video, "--frames", "9"]);
    assert_eq!(made.dims(), [20, 16, 48, 3], "11 frames of the video and 9 new ones");
    let other = render(&out, &["--extend", video, "--frames", "9", "--seed", "1"]);
    let part = |frames: &Tensor, first, count| values(&frames.narrow(0, first, count).unwrap());
    assert_eq!(part(&made, 0, 11), part(&other, 0, 11));
    assert_ne!(part(&made, 11, 9), part(&other, 11, 9));
    assert_ne!(part(&made, 11, 9), values(&render(&out, &["--frames", "9"])), "they continue the video");
    let mut command = soragen(["render", "a fox", "--frames", "9", "--extend", video, "--model"]);
    let refused = command.arg(crate::model("t2v-unipc")).arg("-o").arg(&out).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("builtin"), "{}", stderr(&refused));
}

/// The frames that the VACE fixture makes.
fn steered(out: &Path, arguments: &[&str]) -> Tensor {
    let mut command =
        soragen(["render", "a red fox", "--steps", "2", "--guidance", "1", "--cache-dir", "", "--model"]);
    let output = command.arg(fixtures::path("vace")).arg("-o").arg(out).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    candle_core::safetensors::load(out, &Device::Cpu).unwrap().remove("frames").unwrap()
}

#[test]
fn a_control_video_steers_a_vace_model() {
    let folder = tempfile::tempdir().unwrap();
    let (video, out) = (ball(folder.path()), folder.path().join("out.safetensors"));
    let (video, size) = (video.to_str().unwrap(), "48x32");
    let black = folder.path().join("black.png");
    image::RgbImage::new(9, 9).save(&black).unwrap();
    let steer =
        |arguments: &[&str]| steered(&out, &[&["--control", video, "--size", size], arguments].concat());
    // As long as the control video, at the frame rate of the model.
    let made = steer(&[]);
    assert_eq!(made.dims(), [11, 32, 48, 3]);
    assert_ne!(values(&made), values(&steer(&["--control-scale", "0.2"])));
    assert_eq!(steer(&["--frames", "5"]).dims(), [5, 32, 48, 3]);
    // A still mask is that of every frame.
    assert_ne!(values(&made), values(&steer(&["--mask", black.to_str().unwrap()])));
    let mut command = soragen(["render", "a fox", "--control", video, "--model"]);
    let refused = command.arg(fixtures::path("miniature")).arg("-o").arg(&out).output().unwrap();
    assert!(stderr(&refused).contains("VACE"), "{}", stderr(&refused));
}

#[test]
fn a_video_ends_with_an_image_or_where_it_begins() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let [first, last] = ["wide.png", "tall.png"].map(|name| fixtures::path(&format!("vace/{name}")));
    let (first, last) = (first.to_str().unwrap(), last.to_str().unwrap());
    let from = |arguments: &[&str]| {
        steered(&out, &[&["--image", first, "--size", "48x32", "--frames"], arguments].concat())
    };
    let plain = from(&["8"]);
    let ends = from(&["8", "--last-image", last]);
    let looped = from(&["8", "--loop"]);
    assert_ne!(values(&plain), values(&ends));
    // The frame after a loop is its first one.
    let closed = from(&["9", "--last-image", first]);
    assert_eq!(values(&looped), values(&closed.narrow(0, 0, 8).unwrap()));
}

#[test]
fn a_whole_clip_is_as_long_as_its_video() {
    let folder = tempfile::tempdir().unwrap();
    let (video, out) = (ball(folder.path()), folder.path().join("out.safetensors"));
    let mut command = soragen([
        "render",
        "a fox",
        "--steps",
        "2",
        "--size",
        "48x32",
        "--strength",
        "0.5",
        "--cache-dir",
        "",
        "--video",
    ]);
    command.arg(video).arg("--model").arg(crate::model("t2v-unipc")).arg("-o").arg(&out);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let frames = candle_core::safetensors::load(&out, &Device::Cpu).unwrap().remove("frames").unwrap();
    assert_eq!(frames.dim(0).unwrap(), 11);
}

#[test]
fn what_is_no_video_is_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (sound, text) = (folder.path().join("sound.wav"), folder.path().join("text.avi"));
    launch(&format!("audiotestsrc num-buffers=5 ! wavenc ! filesink location={}", sound.display()));
    std::fs::write(&text, "no video").unwrap();
    for path in [sound, text, folder.path().join("missing.avi"), folder.path().to_path_buf()] {
        let out = folder.path().join("out.mp4");
        let mut command = soragen(["render", "a fox", "--cache-dir", "", "--model"]);
        command.arg(fixtures::path("miniature")).arg("-o").arg(&out).arg("--video").arg(&path);
        let output = command.output().unwrap();
        let error = stderr(&output);
        assert!(
            !output.status.success() && error.contains(path.to_str().unwrap()),
            "{}: {error}",
            path.display()
        );
        assert!(!out.exists());
    }
}
