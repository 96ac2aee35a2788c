//! The scripts in `pipelines/`, on a tiny model.

use std::path::Path;
use std::process::Command;

use soragen_tests::fixtures::path;

/// Runs `pipelines/SCRIPT` with the plugin that belongs to this test.
fn run(script: &str, arguments: &[&str]) {
    let plugins = tempfile::tempdir().unwrap();
    let built = std::env::current_exe().unwrap().with_file_name("libgstsoragen.so");
    std::fs::copy(built, plugins.path().join("libgstsoragen.so")).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines").join(script);
    let output = Command::new(script)
        .args(arguments)
        .env("SORAGEN_PLUGINS", plugins.path())
        .env("GST_REGISTRY", plugins.path().join("registry"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The numbers of all frames of an H.264 file at 16 a second, and of its key frames.
fn frames(file: &Path) -> (usize, Vec<u64>) {
    let description = format!("filesrc location=\"{}\" ! qtdemux ! h264parse", file.display());
    let encoded = crate::support::samples(&description);
    let buffers = encoded.iter().map(|sample| sample.buffer().unwrap());
    let first = buffers.clone().map(|buffer| buffer.pts().unwrap()).min().unwrap();
    let keys = buffers.filter(|buffer| !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT));
    let number =
        |buffer: &gst::BufferRef| ((buffer.pts().unwrap() - first).nseconds() + 31_250_000) / 62_500_000;
    (encoded.len(), keys.map(number).collect())
}

#[test]
fn a_storyboard_becomes_a_file_with_key_frames_at_its_cuts() {
    let folder = tempfile::tempdir().unwrap();
    let model = format!("model={}", path("miniature").display());
    let film = "0:00 the red fox | 0:01 (cut) a blue bird | 0:02 snow | 0:02.5 (cut) the green cat |
        0:03.5 (cut) a slow dog | 0:04.5 (cut) the sea | 0:06";
    let out = folder.path().join("film.mp4");
    run("storyboard.sh", &[film, &out.to_string_lossy(), &model]);
    let (count, keys) = frames(&out);
    assert_eq!(count, 96);
    // The encoder may find others worth one.
    for cut in [0, 16, 40, 56, 72] {
        assert!(keys.contains(&cut), "{cut} in {keys:?}");
    }

    let subtitles = folder.path().join("film.srt");
    let cues = "1\n00:00:00,000 --> 00:00:01,000\nthe red fox\n\n2\n00:00:01,000 --> 00:00:02,000\n(cut) a blue bird\n";
    std::fs::write(&subtitles, cues).unwrap();
    run("storyboard.sh", &[&subtitles.to_string_lossy(), &out.to_string_lossy(), &model]);
    let (count, keys) = frames(&out);
    assert!(count == 32 && keys.contains(&16), "{count} {keys:?}");
}
