//! An interrupt ends the command at once; what was finished is kept, and plays.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use gst::prelude::*;

use super::{files, model, soragen, stderr};

/// More frames than are made before the signal comes: as many as the model can make.
const FRAMES: usize = 4093;

fn long_video(output: &Path) -> Command {
    let mut command = soragen(["render", "a fox", "--size", "16x16", "--steps", "1", "--guidance", "1"]);
    command.args(["--frames", &FRAMES.to_string(), "--model"]).arg(model("t2v-unipc"));
    command.arg("-o").arg(output);
    command
}

/// Starts `command` and waits until `begun` holds.
fn started(mut command: Command, begun: impl Fn() -> bool) -> Child {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    while !begun() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it began");
        std::thread::yield_now();
    }
    child
}

fn interrupt(child: &Child) {
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
}

/// Interrupts `command` as soon as `begun` holds.
fn interrupted(command: Command, begun: impl Fn() -> bool) -> Output {
    let child = started(command, begun);
    interrupt(&child);
    child.wait_with_output().unwrap()
}

#[test]
fn pictures_that_were_finished_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("0.png");
    let output = interrupted(long_video(&folder.path().join("%d.png")), || first.is_file());
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    let kept = files(folder.path()).len();
    assert!((1..FRAMES).contains(&kept), "{kept} files");
    for i in 0..kept {
        let picture = image::open(folder.path().join(format!("{i}.png"))).unwrap();
        assert_eq!((picture.width(), picture.height()), (16, 16));
    }
}

#[test]
fn a_video_that_was_begun_plays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.mp4");
    // The file appears before the first frame and grows with it.
    let begun = || {
        let length =
            |entry: std::io::Result<std::fs::DirEntry>| entry.and_then(|e| e.metadata()).map(|m| m.len());
        std::fs::read_dir(folder.path()).unwrap().any(|entry| length(entry).is_ok_and(|bytes| bytes > 0))
    };
    let output = interrupted(long_video(&path), begun);
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert_eq!(files(folder.path()), ["out.mp4"]);
    let frames = decoded(&path);
    assert!((1..FRAMES).contains(&frames), "{frames} frames");
}

/// How many frames a player gets out of `path`.
fn decoded(path: &Path) -> usize {
    gst::init().unwrap();
    let description = "filesrc name=source ! qtdemux ! h264parse ! avdec_h264 ! appsink name=sink sync=false";
    let pipeline = gst::parse::launch(description).unwrap().downcast::<gst::Pipeline>().unwrap();
    pipeline.by_name("source").unwrap().set_property("location", path);
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let frames = std::iter::from_fn(|| sink.pull_sample().ok()).count();
    let error = pipeline.bus().unwrap().pop_filtered(&[gst::MessageType::Error]);
    pipeline.set_state(gst::State::Null).unwrap();
    assert!(error.is_none(), "{error:?}");
    frames
}

#[test]
fn before_the_first_frame_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = soragen(["render", "a fox", "--size", "64x64", "--frames", "401", "--steps", "1000"]);
    command.arg("--model").arg(model("t2v-unipc")).arg("-o").arg(folder.path().join("out.mp4"));
    // The file is opened before the steps begin, which would take minutes.
    let output = interrupted(command, || !files(folder.path()).is_empty());
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(stderr(&output).contains("no file was made"), "{}", stderr(&output));
    assert!(files(folder.path()).is_empty(), "{:?}", files(folder.path()));
}

#[test]
fn interrupted_again_it_waits_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = soragen(["render", "a fox", "--size", "128x128", "--frames", "161", "--steps", "1000"]);
    command.arg("--model").arg(model("t2v-unipc")).arg("-o").arg(folder.path().join("out.mp4"));
    let mut child = started(command, || !files(folder.path()).is_empty());
    // Not waited for, so that there is somebody to interrupt until it has ended.
    while child.try_wait().unwrap().is_none() {
        interrupt(&child);
    }
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(files(folder.path()).is_empty(), "{:?}", files(folder.path()));
}
