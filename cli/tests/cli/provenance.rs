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

#[test]
fn a_file_is_signed_and_checked_with_the_command() {
    let folder = tempfile::tempdir().unwrap();
    // It need not be there yet.
    let folder = folder.path().join("keys");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let make = || soragen(["certificate", "--organization", "The House"]).arg(&folder).output().unwrap();
    assert_eq!(make().status.code(), Some(0), "{}", stderr(&make()));
    let again = make();
    assert_eq!(again.status.code(), Some(1), "a key is not replaced");
    assert!(stderr(&again).contains("certificate.pem"), "{}", stderr(&again));

    let (certificate, key) = (path("certificate.pem"), path("private-key.pem"));
    let sign = ["--certificate", &certificate, "--private-key", &key, "--provider", "The House"];
    render(Path::new(&path("signed.mp4")), &sign);
    let (status, report) =
        detect(Path::new(&path("signed.mp4")), &["--trust-anchors", &path("authority.pem")]);
    let c2pa = &report["c2pa"];
    assert_eq!((status, &c2pa["state"]), (Some(0), &"trusted".into()), "{report}");
    assert_eq!(c2pa["generated"], true, "{report}");
    assert!(c2pa["models"][0].as_str().unwrap().starts_with("soragen"), "{report}");
    assert_eq!(c2pa["provider"], "The House");
    assert_eq!(c2pa["prompts"], serde_json::json!([]), "not asked for");
    assert_eq!((&c2pa["matches-mark"], &report["marked"]), (&true.into(), &true.into()), "{report}");
    assert_eq!(report["frames"], 9);

    // Nor is it in anything else that a muxer writes.
    let has = |path: &str| {
        let bytes = std::fs::read(path).unwrap();
        bytes.windows(10).any(|window| window == b"a fish swi")
    };
    render(Path::new(&path("signed.mov")), &sign);
    assert!(!has(&path("signed.mp4")) && !has(&path("signed.mov")));

    // Without the mark the manifest alone tells it; changed, it does not.
    let prompted: Vec<_> = sign.into_iter().chain(["--no-watermark", "--embed-prompt"]).collect();
    render(Path::new(&path("plain.mp4")), &prompted);
    let (status, report) = detect(Path::new(&path("plain.mp4")), &[]);
    assert_eq!((status, &report["c2pa"]["state"]), (Some(0), &"valid".into()), "{report}");
    assert_eq!(report["c2pa"]["prompts"], serde_json::json!(["a fish swims under water"]));
    assert!(has(&path("plain.mp4")));
    assert_eq!(
        (&report["c2pa"]["matches-mark"], &report["marked"]),
        (&serde_json::Value::Null, &false.into())
    );
    let mut bytes = std::fs::read(path("plain.mp4")).unwrap();
    let media = bytes.windows(4).position(|window| window == b"mdat").unwrap();
    bytes[media + 60] ^= 1;
    std::fs::write(path("plain.mp4"), bytes).unwrap();
    let (status, report) = detect(Path::new(&path("plain.mp4")), &[]);
    assert_eq!((status, &report["c2pa"]["state"]), (Some(3), &"invalid".into()), "{report}");

    let mut command = soragen(["render", "a fish", "-o"]);
    let output = command.arg(path("out.mkv")).args(["--certificate", &certificate]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}
