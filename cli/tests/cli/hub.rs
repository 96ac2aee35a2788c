//! Hugging Face Hub models, from a local test server.

use std::process::Command;

use soragen_tests::fixtures;
use soragen_tests::hub::Server;

use super::{model, render, soragen, stderr};

/// Runs `command` with its own cache and the test server.
fn run_with(command: &mut Command, server: &Server, home: &std::path::Path) -> std::process::Output {
    for name in ["HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
        command.env_remove(name);
    }
    command.env("HF_HOME", home).env("HF_ENDPOINT", &server.endpoint).output().unwrap()
}

#[test]
fn a_model_is_downloaded_listed_and_used() {
    let server = Server::start(&model("t2v-unipc"), |_, _| {});
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    let out = |name: &str| folder.path().join(name);

    let missing = run_with(&mut soragen(["models", "info", "hf:a/tiny"]), &server, &home);
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains("soragen models pull hf:a/tiny"), "{}", stderr(&missing));
    assert!(server.asked().is_empty());

    // `render` downloads the model.
    let mut command = render("t2v-unipc", std::path::Path::new("hf:a/tiny"));
    command.args(["--cache-dir", "", "-o"]).arg(out("hub.safetensors"));
    let rendered = run_with(&mut command, &server, &home);
    assert!(rendered.status.success(), "{}", stderr(&rendered));
    assert!(!server.asked().is_empty());
    let mut command = render("t2v-unipc", &model("t2v-unipc"));
    command.args(["--cache-dir", "", "-o"]).arg(out("folder.safetensors"));
    assert!(command.output().unwrap().status.success());
    assert!(
        std::fs::read(out("hub.safetensors")).unwrap() == std::fs::read(out("folder.safetensors")).unwrap()
    );

    // Then the server is not contacted.
    let list = run_with(&mut soragen(["models", "list"]), &server, &home);
    assert!(String::from_utf8_lossy(&list.stdout).contains("\nhf:a/tiny\n"));
    let info = run_with(&mut soragen(["models", "info", "hf:a/tiny"]), &server, &home);
    assert!(String::from_utf8_lossy(&info.stdout).contains("name         tiny\n"), "{}", stderr(&info));
    assert!(server.asked().is_empty());

    let pulled = run_with(&mut soragen(["models", "pull", "hf:a/tiny"]), &server, &home);
    assert!(pulled.status.success(), "{}", stderr(&pulled));
    let path = String::from_utf8_lossy(&pulled.stdout).trim().to_string();
    assert!(std::path::Path::new(&path).join("model_index.json").is_file(), "{path}");
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn pulling_something_else_than_a_hub_model_is_an_error() {
    let server = Server::start(&fixtures::path("layouts/wan-2.1/transformer"), |_, _| {});
    let home = tempfile::tempdir().unwrap();
    for (source, status, word) in
        [("builtin", 2, "owner/name"), ("hf:../x", 1, "owner/name"), ("hf:a/b", 1, "-Diffusers")]
    {
        let output = run_with(&mut soragen(["models", "pull", source]), &server, home.path());
        assert_eq!(output.status.code(), Some(status), "{source}");
        assert!(stderr(&output).contains(word), "{source}: {}", stderr(&output));
    }
}
