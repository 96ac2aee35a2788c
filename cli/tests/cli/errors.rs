//! What cannot be done is said in one line, and leaves nothing behind.

use std::path::Path;
use std::process::Command;

use candle_core::{DType, Device, Tensor};
use soragen_tests::fixtures::json;

use super::{files, model, render, soragen, stderr};

/// Fails unless `command`, told to write `name`, ends with status 1, one line with `word` in it, and no file.
#[track_caller]
fn assert_fails(what: &str, mut command: Command, name: &str, word: &str) {
    let folder = tempfile::tempdir().unwrap();
    let output = command.arg("-o").arg(folder.path().join(name)).output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{what}: {said}");
    assert!(said.starts_with("soragen: ") && said.contains(word), "{what}: no {word:?} in {said:?}");
    assert_eq!(said.trim_end().lines().count(), 1, "{what}: {said}");
    assert!(files(folder.path()).is_empty(), "{what} leaves {:?}", files(folder.path()));
}

/// A copy of a tiny pipeline's model, to be damaged.
fn copy(pipeline: &str) -> tempfile::TempDir {
    fn all(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                all(&entry.path(), &to);
            } else {
                std::fs::copy(entry.path(), to).unwrap();
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    all(&model(pipeline), folder.path());
    folder
}

fn remove(path: &Path) {
    std::fs::remove_file(path).unwrap();
}

fn garble(path: &Path) {
    std::fs::write(path, b"\x07\0\0\0\0\0\0\0{\"a\":1,}").unwrap();
}

fn empty(path: &Path) {
    std::fs::write(path, "").unwrap();
}

fn truncate(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

/// Weights of another width than the configuration has.
fn widen(path: &Path) {
    let mut weights = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    for tensor in weights.values_mut() {
        *tensor = Tensor::cat(&[&*tensor, &*tensor], 0).unwrap();
    }
    candle_core::safetensors::save(&weights, path).unwrap();
}

/// A pipeline, one of its files, what is done to it, and a word of the message.
type Damage<'a> = (&'a str, &'a str, fn(&Path), &'a str);

#[test]
fn damaged_models() {
    const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";
    let shard = "transformer/diffusion_pytorch_model-00003-of-00008.safetensors";
    let cases: [Damage; 23] = [
        ("t2v-unipc", "model_index.json", remove, "model_index.json"),
        ("t2v-unipc", "model_index.json", garble, "not understood"),
        ("t2v-unipc", "transformer/config.json", remove, "not found"),
        ("t2v-unipc", "transformer/config.json", empty, "not understood"),
        ("t2v-unipc", &format!("transformer/{WEIGHTS}"), remove, "not found"),
        ("t2v-unipc", &format!("transformer/{WEIGHTS}"), garble, WEIGHTS),
        ("t2v-unipc", &format!("transformer/{WEIGHTS}"), empty, WEIGHTS),
        ("t2v-unipc", &format!("transformer/{WEIGHTS}"), truncate, WEIGHTS),
        ("t2v-unipc", &format!("transformer/{WEIGHTS}"), widen, "config.json"),
        ("t2v-unipc", &format!("vae/{WEIGHTS}"), truncate, WEIGHTS),
        ("t2v-unipc", &format!("vae/{WEIGHTS}"), widen, "config.json"),
        ("t2v-unipc", "vae/config.json", garble, "not understood"),
        ("t2v-unipc", "scheduler/scheduler_config.json", remove, "not found"),
        ("t2v-unipc", "scheduler/scheduler_config.json", garble, "not understood"),
        ("t2v-unipc", "text_encoder/model.safetensors", truncate, "model.safetensors"),
        ("t2v-unipc", "text_encoder/model.safetensors", widen, "config.json"),
        ("t2v-unipc", "text_encoder/config.json", garble, "not understood"),
        ("t2v-unipc", "tokenizer/tokenizer.json", remove, "not found"),
        ("t2v-unipc", "tokenizer/tokenizer.json", truncate, "tokenizer.json"),
        ("t2v-euler", shard, remove, shard),
        ("t2v-euler", shard, truncate, "diffusion_pytorch_model"),
        (
            "t2v-euler",
            "transformer/diffusion_pytorch_model.safetensors.index.json",
            truncate,
            "not understood",
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
        // Each kind of writer in turn: all are made before the text encoder is opened.
        let name = ["out.safetensors", "out.mp4", "out-%d.png"][i % 3];
        assert_fails(&format!("{file}, {i}"), render(pipeline, folder.path()), name, word);
    }
}

#[test]
fn models_that_are_none() {
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
fn what_the_model_cannot_make() {
    let refused = |arguments: &[&str], word: &str| {
        let mut command = soragen(["render", "a fox", "--size", "48x32", "--frames", "5", "--model"]);
        command.arg(model("t2v-unipc")).args(arguments);
        assert_fails(word, command, "out.mp4", word);
    };
    refused(&["--steps", "5000"], "steps");
    refused(&["--guidance", "-1"], "guidance");
    refused(&["--shift", "0"], "shift");
    refused(&["--device", "gpu"], "not a device");
    for (size, frames, prompt, word) in [
        ("50x32", "5", "a fox", "multiple of 16"),
        ("48x32", "99999", "a fox", "at most"),
        ("48x32", "5", " \n", "prompt is empty"),
    ] {
        let mut command = soragen(["render", prompt, "--size", size, "--frames", frames, "--model"]);
        command.arg(model("t2v-unipc"));
        assert_fails(word, command, "out.mp4", word);
    }
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("missing/out.mp4");
    let output = render("t2v-unipc", &model("t2v-unipc")).arg("-o").arg(nowhere).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no such folder"));
}

#[test]
fn pictures_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let picture = model("i2v-22").join("image.png");
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("text.png"), "not a picture").unwrap();
    std::fs::copy(&picture, path("half.png")).unwrap();
    truncate(&path("half.png"));
    for (name, word) in
        [("missing.png", "missing.png"), ("text.png", "not a picture"), ("half.png", "not a picture")]
    {
        let mut command = soragen(["render", "a fox", "--size", "96x64", "--frames", "5", "--model"]);
        command.arg(model("i2v-22")).arg("--image").arg(path(name));
        assert_fails(name, command, "out.mp4", word);
    }
    let mut command = render("t2v-unipc", &model("t2v-unipc"));
    command.arg("--image").arg(&picture);
    assert_fails("text to video", command, "out.mp4", "cannot start from an image");
}

#[test]
fn noise_that_does_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let noise = folder.path().join("noise.safetensors");
    let refused = |word: &str| {
        let mut command = render("t2v-unipc", &model("t2v-unipc"));
        command.arg("--initial-latents").arg(&noise);
        assert_fails(word, command, "out.safetensors", word);
    };
    refused("noise.safetensors");
    std::fs::write(&noise, "not a tensor").unwrap();
    refused("noise.safetensors");
    let zeros = |frames| Tensor::zeros((1, 4, frames, 4, 6), DType::F32, &Device::Cpu).unwrap();
    zeros(3).save_safetensors("noise", &noise).unwrap();
    refused("`latents`");
    zeros(2).save_safetensors("latents", &noise).unwrap();
    refused("initial latents");
    (zeros(3) / 0.0).unwrap().save_safetensors("latents", &noise).unwrap();
    refused("not a number");
}

#[test]
fn storyboards_that_are_none() {
    for (board, word) in [("film.srt", "not found"), ("0:00 a\nb", "line 2"), ("0:00 a | 0:00 b", "line 1")] {
        let mut command = soragen(["render", "--storyboard", board, "--model"]);
        command.arg(soragen_tests::fixtures::path("miniature"));
        assert_fails(board, command, "out.mp4", word);
    }
}

#[test]
fn bad_usage() {
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
fn nobody_reads_any_further() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = soragen(["models", "list"]).stdout(writer).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", stderr(&output));
}

#[test]
fn a_model_is_described() {
    let output = soragen(["models", "info"]).arg(model("i2v-22")).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = String::from_utf8(output.stdout).unwrap();
    let shift = json("pipelines/i2v-22/scheduler/scheduler_config.json")["flow_shift"].as_f64().unwrap();
    for line in ["name         i2v-22", "from image   yes", &format!("shift        {shift}")] {
        assert!(said.lines().any(|l| l == line), "{line:?} in {said}");
    }
    let output = soragen(["models", "info", "builtin"]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    for line in ["subjects     fox, cat, dog", "places       in a green meadow", "transformer  9.2"] {
        assert!(said.contains(line), "{said}");
    }

    let output = soragen(["models", "info", "missing"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}
