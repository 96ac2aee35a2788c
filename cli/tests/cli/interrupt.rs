//! An interrupt stops the command; completed frames are kept in a playable file.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use gst::prelude::*;

use super::{files, model, soragen, stderr};

/// The model's maximum: more frames than are generated before the signal.
const FRAMES: usize = 4093;

fn long_video(output: &Path) -> Command {
    let mut command = soragen(["render", "a fox", "--size", "16x16", "--steps", "1", "--guidance", "1"]);
    command.args(["--frames", &FRAMES.to_string(), "--model"]).arg(model("t2v-unipc"));
    command.arg("-o").arg(output);
    command
}

/// Starts `command` and waits until `ready` returns true.
fn start(mut command: Command, ready: impl Fn() -> bool) -> Child {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    while !ready() {
        assert!(child.try_wait().unwrap().is_none(), "the command exited too early");
        std::thread::yield_now();
    }
    child
}

fn interrupt(child: &Child) {
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
}

/// Starts `command` and interrupts it as soon as `ready` returns true.
fn run_and_interrupt(command: Command, ready: impl Fn() -> bool) -> Output {
    let child = start(command, ready);
    interrupt(&child);
    child.wait_with_output().unwrap()
}

#[test]
fn completed_images_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("0.png");
    let output = run_and_interrupt(long_video(&folder.path().join("%d.png")), || first.is_file());
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    let kept = files(folder.path()).len();
    assert!((1..FRAMES).contains(&kept), "{kept} files");
    for i in 0..kept {
        let picture = image::open(folder.path().join(format!("{i}.png"))).unwrap();
        assert_eq!((picture.width(), picture.height()), (16, 16));
    }
}

#[test]
fn an_interrupted_video_is_playable() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.mp4");
    // The file is empty until the first frame is written.
    let ready = || {
        let length =
            |entry: std::io::Result<std::fs::DirEntry>| entry.and_then(|e| e.metadata()).map(|m| m.len());
        std::fs::read_dir(folder.path()).unwrap().any(|entry| length(entry).is_ok_and(|bytes| bytes > 0))
    };
    let output = run_and_interrupt(long_video(&path), ready);
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert_eq!(files(folder.path()), ["out.mp4"]);
    let frames = decoded_frames(&path);
    assert!((1..FRAMES).contains(&frames), "{frames} frames");
}

/// Number of frames that are decoded from `path`.
fn decoded_frames(path: &Path) -> usize {
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
fn an_interrupt_before_the_first_frame_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = soragen(["render", "a fox", "--size", "64x64", "--frames", "401", "--steps", "1000"]);
    command.arg("--model").arg(model("t2v-unipc")).arg("-o").arg(folder.path().join("out.mp4"));
    // The file is created before denoising, which would take minutes.
    let output = run_and_interrupt(command, || !files(folder.path()).is_empty());
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(stderr(&output).contains("no file was written"), "{}", stderr(&output));
    assert!(files(folder.path()).is_empty(), "{:?}", files(folder.path()));
}

#[test]
fn a_second_interrupt_exits_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = soragen(["render", "a fox", "--size", "128x128", "--frames", "161", "--steps", "1000"]);
    command.arg("--model").arg(model("t2v-unipc")).arg("-o").arg(folder.path().join("out.mp4"));
    let mut child = start(command, || !files(folder.path()).is_empty());
    // Poll instead of wait, so that the process can be interrupted until it exits.
    while child.try_wait().unwrap().is_none() {
        interrupt(&child);
    }
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(files(folder.path()).is_empty(), "{:?}", files(folder.path()));
}
