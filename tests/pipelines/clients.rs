//! Other programs that load the plugin: GStreamer's player, transcoder and editor.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::init;

/// A folder with only the plugin that was built for this test.
pub fn plugin_folder() -> (tempfile::TempDir, PathBuf) {
    // The build folder also has libraries that are not plugins.
    let name = "libgstsoragen.so";
    let folder = tempfile::tempdir().unwrap();
    let built = std::env::current_exe().unwrap().with_file_name(name);
    std::os::unix::fs::symlink(built, folder.path().join(name)).unwrap();
    let path = folder.path().to_owned();
    (folder, path)
}

/// Runs `program` with the plugin that was built for this test.
fn run(program: &str, args: &[&str]) {
    let (_folder, path) = plugin_folder();
    let output = Command::new(program)
        .args(args)
        .env("GST_PLUGIN_PATH", path)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}; scripts/setup.sh installs it"));
    let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).join("\n");
    // The player exits with status 0 even after an error.
    assert!(output.status.success() && !said.contains("ERROR"), "{program} {args:?}: {said}");
}

/// Duration of the video in a file, in seconds.
fn seconds(path: &Path) -> f64 {
    init();
    let uri = gst::glib::filename_to_uri(path, None).unwrap();
    let discoverer = gst_pbutils::Discoverer::new(gst::ClockTime::from_seconds(60)).unwrap();
    let info = discoverer.discover_uri(&uri).unwrap();
    assert_eq!(info.video_streams().len(), 1, "{}", path.display());
    info.duration().unwrap().seconds_f64()
}

fn file_uri(path: &Path) -> String {
    gst::glib::filename_to_uri(path, None).unwrap().into()
}

fn temporary(name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    (folder, path)
}

#[test]
fn gst_play_plays_a_uri() {
    run(
        "gst-play-1.0",
        &["--no-interactive", "-q", "--videosink=fakevideosink", "soragen:///snow;duration=0.25"],
    );
}

#[test]
fn gst_transcoder_transcodes_a_uri() {
    let (_folder, path) = temporary("snow.ogv");
    run(
        "gst-transcoder-1.0",
        &["soragen:///snow;duration=0.5", &file_uri(&path), "application/ogg:video/x-theora"],
    );
    assert!((seconds(&path) - 0.5).abs() < 0.1, "{} s", seconds(&path));
}

#[test]
fn an_editor_crossfades_two_uris() {
    let (_folder, path) = temporary("film.mkv");
    let project = path.with_extension("xges");
    let project = project.to_str().unwrap();
    let (first, second) = ("soragen:///a%20cat;duration=0.5", "soragen:///snow;duration=0.5");
    #[rustfmt::skip]
    let clips = ["+clip", first, "inpoint=0.125", "duration=0.25", "+clip", second, "start=0.125", "duration=0.25"];
    let sinks = ["--videosink=fakevideosink", "--audiosink=fakesink"];
    run("ges-launch-1.0", &[&clips[..], &["--save", project], &sinks].concat());
    run("ges-launch-1.0", &["--load", project, "-o", &file_uri(&path), "-f", "video/x-matroska:video/x-vp8"]);
    assert!((seconds(&path) - 0.375).abs() < 0.1, "{} s", seconds(&path));
}

/// Simulates a full disk with a file size limit of zero.
#[test]
fn a_full_disk_disables_the_cache() {
    let (_folder, plugins) = plugin_folder();
    let cache = plugins.join("cache");
    let play = |limit: &str, cache: &str| {
        let model = soragen_tests::fixtures::path("miniature");
        let source = format!("soragen model=\"{}\" prompt=fox cache-dir={cache}", model.display());
        let pipeline = format!("{source} duration=1000000000 ! checksumsink");
        let output = Command::new("sh")
            .args(["-c", &format!("trap '' XFSZ; {limit} exec gst-launch-1.0 {pipeline}")])
            .env("GST_PLUGIN_PATH", &plugins)
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).join("\n");
        assert!(output.status.success(), "{said}");
        // Timestamp and checksum of each frame.
        let sums = said.lines().filter(|line| line.starts_with("0:00:0")).map(str::to_owned);
        (sums.collect::<Vec<_>>(), said.matches("WARNING").count())
    };
    let cache = cache.to_str().unwrap();
    let (full, warnings) = play("ulimit -f 0;", cache);
    assert_eq!(warnings, 1);
    let (free, warnings) = play("", cache);
    assert_eq!(warnings, 0);
    assert_eq!(free.len(), 16);
    assert!(full == free);
}
