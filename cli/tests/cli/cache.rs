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
