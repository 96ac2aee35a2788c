//! What the command makes can be told with the command.

use std::path::Path;

use super::{soragen, stderr};

fn render(path: &Path, arguments: &[&str]) {
    let mut command = soragen(["render", "a fish swims under water", "--frames", "9", "--steps", "2"]);
    let output = command.args(arguments).arg("-o").arg(path).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

/// The exit status of `detect`, and what it prints.
fn detect(path: &Path, arguments: &[&str]) -> (Option<i32>, serde_json::Value) {
    let output = soragen(["detect"]).arg(path).args(arguments).output().unwrap();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default())
}

#[test]
fn a_video_is_told_by_its_mark() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    render(&path("marked.mkv"), &[]);
    let (status, report) = detect(&path("marked.mkv"), &[]);
    assert_eq!(
        (status, &report["marked"], &report["frames"]),
        (Some(0), &true.into(), &9.into()),
        "{report}"
    );
    let id = report["marks"][0]["generation-id"].as_str().unwrap();
    assert!(id.len() == 10 && u64::from_str_radix(id, 16).is_ok(), "{report}");

    // The same request has the same id in another container, another seed has another.
    render(&path("again.y4m"), &[]);
    render(&path("other.y4m"), &["--seed", "5"]);
    assert_eq!(detect(&path("again.y4m"), &[]).1["marks"][0]["generation-id"], id);
    let other = detect(&path("other.y4m"), &[]).1["marks"][0]["generation-id"].clone();
    assert!(other.is_string() && other != id, "{other}");

    render(&path("plain.y4m"), &["--no-watermark"]);
    let (status, report) = detect(&path("plain.y4m"), &[]);
    assert_eq!((status, &report["marked"]), (Some(3), &false.into()), "{report}");
}

#[test]
fn a_key_of_ones_own_is_needed_to_find_its_mark() {
    let folder = tempfile::tempdir().unwrap();
    let (key, video) = (folder.path().join("key"), folder.path().join("video.y4m"));
    std::fs::write(&key, [7; 32]).unwrap();
    let key = key.to_str().unwrap();
    render(&video, &["--watermark-key", key]);
    assert_eq!(detect(&video, &["--watermark-key", key]).0, Some(0));
    assert_eq!(detect(&video, &[]).0, Some(3));
}

#[test]
fn what_cannot_be_looked_at_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.mp4");
    std::fs::write(&text, "this is no video").unwrap();
    for path in [&text, Path::new("/nowhere.mp4")] {
        let output = soragen(["detect"]).arg(path).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stderr(&output).contains(path.to_str().unwrap()), "{}", stderr(&output));
    }
}
