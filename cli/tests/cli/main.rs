//! Tests that run the command: output files, messages, exit status.

mod cache;
mod convert;
mod destination;
mod detect;
mod errors;
mod hub;
mod interrupt;
mod output;
mod policy;
mod provenance;
mod video;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use soragen_tests::fixtures;

/// The command with these arguments.
fn soragen<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_soragen"));
    // Backtraces must not change the messages.
    command.args(arguments).env("RUST_BACKTRACE", "1");
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The model folder of a tiny pipeline.
fn model(name: &str) -> PathBuf {
    fixtures::path(&format!("pipelines/{name}"))
}

/// `soragen render` with the request of `pipeline` and the model in `folder`, without `--output`.
fn render(pipeline: &str, folder: &Path) -> Command {
    let request = fixtures::json(&format!("pipelines/{pipeline}/request.json"));
    let text = |key: &str| request[key].as_str().map(str::to_owned);
    let number = |key: &str| request[key].to_string();
    let mut command = soragen(["render", &text("prompt").unwrap(), "--negative"]);
    command.arg(text("negative").unwrap_or_default()).arg("--model").arg(folder);
    command.args(["--size", &format!("{}x{}", number("width"), number("height"))]);
    command.args(["--frames", &number("frames"), "--steps", &number("steps")]);
    command.args(["--guidance", &number("guidance")]);
    if let Some(image) = text("image") {
        command.arg("--image").arg(model(pipeline).join(image));
    }
    command
}

/// Sorted names of the files in `folder`.
fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The encoded frames in `file`.
fn samples(file: &Path, demuxer: &str) -> Vec<gst::Sample> {
    use gst::prelude::*;

    gst::init().unwrap();
    let description =
        format!("filesrc location={} ! {demuxer} ! appsink name=sink sync=false", file.display());
    let pipeline = gst::parse::launch(&description).unwrap().downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let samples = std::iter::from_fn(|| sink.pull_sample().ok()).collect();
    pipeline.set_state(gst::State::Null).unwrap();
    samples
}
