//! `soragen cache`.

use soragen_tests::fixtures::path;

use super::{soragen, stderr};

#[test]
fn a_video_is_kept_until_the_cache_is_cleared() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let cache = cache.to_str().unwrap();
    let run = |arguments: &[&str]| {
        let output = soragen(arguments).args(["--cache-dir", cache]).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let model = path("miniature");
    let render = |name: &str| {
        let out = folder.path().join(name);
        run(&["render", "a fox", "--model", model.to_str().unwrap(), "-o", out.to_str().unwrap()]);
        std::fs::read(out).unwrap()
    };
    assert!(run(&["cache", "list"]).contains(": 0 chunks"));
    let first = render("first.safetensors");
    // Five latent frames, two per chunk.
    assert!(run(&["cache", "list"]).contains(": 3 chunks"), "{}", run(&["cache", "list"]));
    assert!(render("second.safetensors") == first);
    assert!(run(&["cache", "clear"]).contains("removed 3 chunks"));
    assert!(run(&["cache", "list"]).contains(": 0 chunks"));
}

#[test]
fn a_disabled_cache_cannot_be_listed() {
    for folder in ["", "none"] {
        let output = soragen(["cache", "list", "--cache-dir", folder]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{folder:?}");
        assert!(stderr(&output).contains("--cache-dir"), "{}", stderr(&output));
    }
}

#[test]
fn no_cache_writes_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = soragen(["render", "a fox", "--frames", "8", "--cache-dir", "none", "-o", "out.y4m"]);
    let output = command.arg("--model").arg(path("miniature")).current_dir(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(super::files(folder.path()), ["out.y4m"]);
}

/// Number of files below `folder`.
fn count(folder: &std::path::Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let paths = entries.flatten().map(|entry| entry.path());
    paths.map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
}

#[test]
fn a_killed_process_leaves_a_valid_cache() {
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

    // Kill it each time the cache has one more file, complete or not.
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
    assert!(files > 2, "killed only {files} times");
    assert!(std::fs::read(&out).unwrap() == expected);
    // The complete cache gives the same frames.
    assert!(render(&out, cache.to_str().unwrap()).status().unwrap().success());
    assert!(std::fs::read(&out).unwrap() == expected);
}
