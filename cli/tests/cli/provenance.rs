//! Watermarks and manifests of rendered videos, and `soragen detect`.

use std::path::Path;

use soragen_tests::fixtures;

use super::{soragen, stderr};

fn render(path: &Path, arguments: &[&str]) {
    let mut command = soragen(["render", "a fish swims under water", "--frames", "17", "--steps", "2"]);
    let output = command.args(arguments).arg("-o").arg(path).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

/// Exit status and report of `soragen detect`.
fn detect(path: &Path, arguments: &[&str]) -> (Option<i32>, serde_json::Value) {
    let output = soragen(["detect"]).arg(path).args(arguments).output().unwrap();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default())
}

#[test]
fn the_watermark_is_detected() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    render(&path("marked.mkv"), &[]);
    let (status, report) = detect(&path("marked.mkv"), &[]);
    assert_eq!(
        (status, &report["marked"], &report["frames"]),
        (Some(0), &true.into(), &17.into()),
        "{report}"
    );
    let id = report["marks"][0]["generation-id"].as_str().unwrap();
    assert!(id.len() == 10 && u64::from_str_radix(id, 16).is_ok(), "{report}");

    // The id depends on the seed, but not on the container.
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
fn the_watermark_of_an_earlier_version_is_detected() {
    // Nine frames of "a fish swims under water", rendered by a build before scheme 2 and encoded by x264 at crf 18.
    let (status, report) = detect(&fixtures::path("static-watermark.mp4"), &[]);
    let mark = &report["marks"][0];
    assert_eq!((status, &mark["scheme"]), (Some(0), &1.into()), "{report}");
    assert_eq!(mark["generation-id"], "80848a36b3", "{report}");
}

#[test]
fn a_strength_that_would_be_seen_or_lost_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = soragen(["render", "snow", "--frames", "1", "--watermark-strength", "2.5", "-o"]);
    let output = command.arg(folder.path().join("x.y4m")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("watermark strength of 2.5"), "{}", stderr(&output));
}

#[test]
fn a_private_watermark_key_is_needed_for_detection() {
    let folder = tempfile::tempdir().unwrap();
    let (key, video) = (folder.path().join("key"), folder.path().join("video.y4m"));
    std::fs::write(&key, [7; 32]).unwrap();
    let key = key.to_str().unwrap();
    render(&video, &["--watermark-key", key]);
    assert_eq!(detect(&video, &["--watermark-key", key]).0, Some(0));
    assert_eq!(detect(&video, &[]).0, Some(3));
}

#[test]
fn detecting_in_an_unreadable_file_is_an_error() {
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
fn a_file_is_signed_and_verified() {
    let folder = tempfile::tempdir().unwrap();
    // The command creates the folder.
    let folder = folder.path().join("keys");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let create = || soragen(["certificate", "--organization", "The House"]).arg(&folder).output().unwrap();
    assert_eq!(create().status.code(), Some(0), "{}", stderr(&create()));
    let again = create();
    assert_eq!(again.status.code(), Some(1), "a key is not overwritten");
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
    assert_eq!(c2pa["prompts"], serde_json::json!([]), "embed-prompt is off");
    assert_eq!((&c2pa["matches-mark"], &report["marked"]), (&true.into(), &true.into()), "{report}");
    assert_eq!(report["frames"], 17);

    // The tags of the muxer do not have the prompt either.
    let has_prompt = |path: &str| {
        let bytes = std::fs::read(path).unwrap();
        bytes.windows(10).any(|window| window == b"a fish swi")
    };
    render(Path::new(&path("signed.mov")), &sign);
    assert!(!has_prompt(&path("signed.mp4")) && !has_prompt(&path("signed.mov")));

    // Without a watermark the manifest is sufficient, unless the file was changed.
    let prompted: Vec<_> = sign.into_iter().chain(["--no-watermark", "--embed-prompt"]).collect();
    render(Path::new(&path("plain.mp4")), &prompted);
    let (status, report) = detect(Path::new(&path("plain.mp4")), &[]);
    assert_eq!((status, &report["c2pa"]["state"]), (Some(0), &"valid".into()), "{report}");
    assert_eq!(report["c2pa"]["prompts"], serde_json::json!(["a fish swims under water"]));
    assert!(has_prompt(&path("plain.mp4")));
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
