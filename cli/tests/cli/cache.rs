//! What was made is kept, counted and removed.

use soragen_tests::fixtures::path;

use super::{soragen, stderr};

#[test]
fn a_video_is_kept_until_the_cache_is_cleared() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let cache = cache.to_str().unwrap();
    let say = |arguments: &[&str]| {
        let output = soragen(arguments).args(["--cache-dir", cache]).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let model = path("miniature");
    let render = |name: &str| {
        let out = folder.path().join(name);
        say(&["render", "a fox", "--model", model.to_str().unwrap(), "-o", out.to_str().unwrap()]);
        std::fs::read(out).unwrap()
    };
    assert!(say(&["cache", "list"]).contains(": 0 chunks"));
    let first = render("first.safetensors");
    // Five latent frames, two in a chunk.
    assert!(say(&["cache", "list"]).contains(": 3 chunks"), "{}", say(&["cache", "list"]));
    assert!(render("second.safetensors") == first);
    assert!(say(&["cache", "clear"]).contains("removed 3 chunks"));
    assert!(say(&["cache", "list"]).contains(": 0 chunks"));
}

#[test]
fn nowhere_is_no_place_to_list() {
    let output = soragen(["cache", "list", "--cache-dir", ""]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--cache-dir"), "{}", stderr(&output));
}

/// How many files there are in the folders of `folder`.
fn count(folder: &std::path::Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let paths = entries.flatten().map(|entry| entry.path());
    paths.map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
}

#[test]
fn whoever_is_killed_leaves_nothing_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let model = path("miniature");
    let render = |out: &std::path::Path, cache: &str| {
        let arguments = ["render", "a fox", "--frames", "161", "--cache-dir", cache, "--model"];
        let mut command = soragen(arguments);
        command.arg(&model).arg("-o").arg(out).stderr(std::process::Stdio::null());
        command
    };
    let expected = folder.path().join("expected.safetensors");
    assert!(render(&expected, "").status().unwrap().success());
    let expected = std::fs::read(expected).unwrap();

    // As soon as there is one file more than the last time, whether it is whole or not.
    let mut files = 0;
    let out = folder.path().join("out.safetensors");
    loop {
        let mut child = render(&out, cache.to_str().unwrap()).spawn().unwrap();
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success());
                break true;
            }
            if count(&cache) > files {
                child.kill().unwrap();
                child.wait().unwrap();
                break false;
            }
        };
        if ended {
            break;
        }
        files = count(&cache);
    }
    assert!(files > 2, "it was killed a few times: {files}");
    assert!(std::fs::read(&out).unwrap() == expected);
    // What is there now is right too.
    assert!(render(&out, cache.to_str().unwrap()).status().unwrap().success());
    assert!(std::fs::read(&out).unwrap() == expected);
}
