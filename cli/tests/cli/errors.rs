//! Errors are one line on stderr and leave no files.

use std::path::Path;
use std::process::Command;

use candle_core::{DType, Device, Tensor};
use soragen_tests::fixtures::{self, json};

use super::{files, model, render, soragen, stderr};

/// Asserts that `command` with output `name` exits with status 1, prints one line that contains `word`, and leaves no file.
#[track_caller]
fn assert_fails(case: &str, mut command: Command, name: &str, word: &str) {
    let folder = tempfile::tempdir().unwrap();
    let output = command.arg("-o").arg(folder.path().join(name)).output().unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{case}: {message}");
    assert!(message.starts_with("soragen: ") && message.contains(word), "{case}: no {word:?} in {message:?}");
    assert_eq!(message.trim_end().lines().count(), 1, "{case}: {message}");
    assert!(files(folder.path()).is_empty(), "{case} leaves {:?}", files(folder.path()));
}

/// A copy of a tiny pipeline's model, for a test that damages it.
fn copy(pipeline: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fixtures::copy(&model(pipeline), folder.path());
    folder
}

fn remove(path: &Path) {
    std::fs::remove_file(path).unwrap();
}

fn corrupt(path: &Path) {
    std::fs::write(path, b"\x07\0\0\0\0\0\0\0{\"a\":1,}").unwrap();
}

fn empty(path: &Path) {
    std::fs::write(path, "").unwrap();
}

fn truncate(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

/// Doubles the first dimension of all tensors, so that they do not match the configuration.
fn widen(path: &Path) {
    let mut weights = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    for tensor in weights.values_mut() {
        *tensor = Tensor::cat(&[&*tensor, &*tensor], 0).unwrap();
    }
    candle_core::safetensors::save(&weights, path).unwrap();
}

/// Pipeline, file, damage, and a part of the expected message.
type Damage<'a> = (&'a str, &'a str, fn(&Path), &'a str);

#[test]
fn a_damaged_model_is_an_error() {
    const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";
    let shard = "transformer/diffusion_pytorch_model-00003-of-00008.safetensors";
    let cases: [Damage; 23] = [
        ("t2v-unipc", "model_index.json", remove, "model_index.json"),
        ("t2v-unipc", "model_index.json", corrupt, "cannot be parsed"),
        ("t2v-unipc", "transformer/config.json", remove, "not found"),
        ("t2v-unipc", "transformer/config.json", empty, "cannot be parsed"),
        ("t2v-unipc", &format!("transformer/{WEIGHTS}"), remove, "not found"),
        ("t2v-unipc", &format!("transformer/{WEIGHTS}"), corrupt, WEIGHTS),
        ("t2v-unipc", &format!("transformer/{WEIGHTS}"), empty, WEIGHTS),
        ("t2v-unipc", &format!("transformer/{WEIGHTS}"), truncate, WEIGHTS),
        ("t2v-unipc", &format!("transformer/{WEIGHTS}"), widen, "config.json"),
        ("t2v-unipc", &format!("vae/{WEIGHTS}"), truncate, WEIGHTS),
        ("t2v-unipc", &format!("vae/{WEIGHTS}"), widen, "config.json"),
        ("t2v-unipc", "vae/config.json", corrupt, "cannot be parsed"),
        ("t2v-unipc", "scheduler/scheduler_config.json", remove, "not found"),
        ("t2v-unipc", "scheduler/scheduler_config.json", corrupt, "cannot be parsed"),
        ("t2v-unipc", "text_encoder/model.safetensors", truncate, "model.safetensors"),
        ("t2v-unipc", "text_encoder/model.safetensors", widen, "config.json"),
        ("t2v-unipc", "text_encoder/config.json", corrupt, "cannot be parsed"),
        ("t2v-unipc", "tokenizer/tokenizer.json", remove, "not found"),
        ("t2v-unipc", "tokenizer/tokenizer.json", truncate, "tokenizer.json"),
        ("t2v-euler", shard, remove, shard),
        ("t2v-euler", shard, truncate, "diffusion_pytorch_model"),
        (
            "t2v-euler",
            "transformer/diffusion_pytorch_model.safetensors.index.json",
            truncate,
            "cannot be parsed",
        ),
        (
            "t2v-euler",
            "transformer/diffusion_pytorch_model.safetensors.index.json",
            |index| {
                let text = std::fs::read_to_string(index).unwrap();
                std::fs::write(index, text.replace("diffusion_pytorch_model-00003", "../vae/diffusion"))
                    .unwrap();
            },
            "not a file beside it",
        ),
    ];
    for (i, (pipeline, file, damage, word)) in cases.into_iter().enumerate() {
        let folder = copy(pipeline);
        damage(&folder.path().join(file));
        // All types of output: each creates its file before the text encoder is loaded.
        let name = ["out.safetensors", "out.mp4", "out-%d.png"][i % 3];
        assert_fails(&format!("{file}, {i}"), render(pipeline, folder.path()), name, word);
    }
}

#[test]
fn a_path_that_is_not_a_model_is_an_error() {
    let somewhere = tempfile::tempdir().unwrap();
    let file = model("t2v-unipc").join("vae/diffusion_pytorch_model.safetensors");
    for (folder, word) in [
        (somewhere.path().join("missing"), "not found"),
        (somewhere.path().into(), "model_index.json"),
        (file, "not a Wan transformer"),
    ] {
        assert_fails(word, render("t2v-unipc", &folder), "out.mp4", word);
    }
    assert_fails("no name", render("t2v-unipc", Path::new("")), "out.mp4", "the model is not set");
}

#[test]
fn an_invalid_setting_is_an_error() {
    let assert_refused = |arguments: &[&str], word: &str| {
        let mut command = soragen(["render", "a fox", "--size", "48x32", "--frames", "5", "--model"]);
        command.arg(model("t2v-unipc")).args(arguments);
        assert_fails(word, command, "out.mp4", word);
    };
    assert_refused(&["--steps", "5000"], "steps");
    assert_refused(&["--guidance", "-1"], "guidance");
    assert_refused(&["--shift", "0"], "shift");
    assert_refused(&["--device", "gpu"], "not a device");
    for (size, frames, prompt, word) in [
        ("50x32", "5", "a fox", "multiple of 16"),
        ("48x32", "99999", "a fox", "at most"),
        ("48x32", "5", " \n", "prompt is empty"),
    ] {
        let mut command = soragen(["render", prompt, "--size", size, "--frames", frames, "--model"]);
        command.arg(model("t2v-unipc"));
        assert_fails(word, command, "out.mp4", word);
    }
    // Before the model is looked for.
    let missing = soragen(["render", "", "--model", "/no/such/model"]);
    assert_fails("no prompt", missing, "out.mp4", "prompt is empty");
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("missing/out.mp4");
    let output = render("t2v-unipc", &model("t2v-unipc")).arg("-o").arg(nowhere).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no such folder"));
}

#[test]
fn an_unreadable_image_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let picture = model("i2v-22").join("image.png");
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("text.png"), "not a picture").unwrap();
    std::fs::copy(&picture, path("half.png")).unwrap();
    truncate(&path("half.png"));
    std::fs::copy(fixtures::path("cases/images/trunc.jpg"), path("half.jpg")).unwrap();
    for (name, word) in [
        ("missing.png", "missing.png"),
        ("text.png", "not a picture"),
        ("half.png", "truncated"),
        ("half.jpg", "truncated"),
    ] {
        let mut command = soragen(["render", "a fox", "--size", "96x64", "--frames", "5", "--model"]);
        command.arg(model("i2v-22")).arg("--image").arg(path(name));
        assert_fails(name, command, "out.mp4", word);
    }
    let mut command = render("t2v-unipc", &model("t2v-unipc"));
    command.arg("--image").arg(&picture);
    assert_fails("text to video", command, "out.mp4", "cannot start from an image");
}

#[test]
fn an_unusable_reference_is_an_error() {
    let folder = fixtures::puppets();
    let text = folder.path().join("text.svg");
    std::fs::write(&text, "<svg").unwrap();
    for (case, options, word) in [
        ("missing", ["--reference", "missing.svg"], "missing.svg"),
        ("damaged", ["--reference", text.to_str().unwrap()], "not a drawing"),
        ("unknown", ["--reference", "bank:unicorn"], "unicorn"),
        ("path", ["--motion-path", "0 north ground"], "north"),
        ("paths", ["--motion-path", "0 0 0; 0 0 0; 0 0 0"], "at most 2"),
    ] {
        let mut command = soragen(["render", "a fox waits", "--model"]);
        command.arg(folder.path()).args(options);
        assert_fails(case, command, "out.mp4", word);
    }
    let mut command = render("t2v-unipc", &model("t2v-unipc"));
    command.args(["--reference", "bank:fox"]);
    assert_fails("other model", command, "out.mp4", "no references");
}

#[test]
fn invalid_initial_latents_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let noise = folder.path().join("noise.safetensors");
    let assert_refused = |word: &str| {
        let mut command = render("t2v-unipc", &model("t2v-unipc"));
        command.arg("--initial-latents").arg(&noise);
        assert_fails(word, command, "out.safetensors", word);
    };
    assert_refused("noise.safetensors");
    std::fs::write(&noise, "not a tensor").unwrap();
    assert_refused("noise.safetensors");
    let zeros = |frames| Tensor::zeros((1, 4, frames, 4, 6), DType::F32, &Device::Cpu).unwrap();
    zeros(3).save_safetensors("noise", &noise).unwrap();
    assert_refused("`latents`");
    zeros(2).save_safetensors("latents", &noise).unwrap();
    assert_refused("initial latents");
    (zeros(3) / 0.0).unwrap().save_safetensors("latents", &noise).unwrap();
    assert_refused("not finite");
}

#[test]
fn an_invalid_storyboard_is_an_error() {
    for (board, word) in [("film.srt", "not found"), ("0:00 a\nb", "line 2"), ("0:00 a | 0:00 b", "line 1")] {
        let mut command = soragen(["render", "--storyboard", board, "--model"]);
        command.arg(fixtures::path("miniature"));
        assert_fails(board, command, "out.mp4", word);
    }
}

#[test]
fn wrong_usage_exits_with_status_2() {
    let model = model("t2v-unipc");
    for arguments in [
        &[][..],
        &["render"],
        &["paint"],
        &["render", "a fox", "--paint"],
        &["render", "a fox", "--storyboard", "0:00 a fox"],
        &["render", "a fox", "--size", "big"],
        &["render", "a fox", "--size", "0x32"],
        &["render", "a fox", "--frames", "0"],
        &["render", "a fox", "--frames", "5", "--duration", "1"],
        &["render", "a fox", "--duration", "-1"],
        &["render", "a fox", "--steps", "many"],
        &["render", "a fox", "-o", "out.bmp"],
        &["render", "a fox", "-o", "out"],
        &["render", "a fox", "-o", "out.png"],
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = soragen(arguments);
        if arguments.len() > 1 {
            command.arg("--model").arg(&model);
        }
        let output = command.current_dir(folder.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{arguments:?}");
        assert!(files(folder.path()).is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_closed_stdout_is_not_an_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = soragen(["models", "list"]).stdout(writer).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", stderr(&output));
}

#[test]
fn models_info_describes_a_model() {
    let output = soragen(["models", "info"]).arg(model("i2v-22")).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let shift = json("pipelines/i2v-22/scheduler/scheduler_config.json")["flow_shift"].as_f64().unwrap();
    for line in ["name         i2v-22", "from image   yes", &format!("shift        {shift}")] {
        assert!(text.lines().any(|l| l == line), "{line:?} in {text}");
    }
    let output = soragen(["models", "info", "builtin"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for line in ["drawings (road)", "places       ", "in a green meadow", "transformer  9.3"] {
        assert!(text.contains(line), "{text}");
    }

    // The original's `timestep_shift`, and its 1024 positions in chunks of 3.
    for (recipe, streaming) in
        [("longlive", "unlimited length"), ("longlive-absolute", "at most 4085 frames between two cuts")]
    {
        let output = soragen(["models", "info", "--recipe", recipe])
            .arg(fixtures::path("layouts/wan-2.1"))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        for line in ["shift        5", "steps        4", &format!("streaming    yes, {streaming}")] {
            assert!(text.lines().any(|l| l == line), "{line:?} in {text}");
        }
    }

    let output = soragen(["models", "info", "missing"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}
