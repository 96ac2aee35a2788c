//! `soragen convert`. The PyTorch files are from `make_pickles.py`.

use std::collections::HashMap;
use std::path::Path;
use std::process::Output;

use candle_core::safetensors::load;
use candle_core::{Device, Tensor};
use soragen_tests::fixtures::{path, values};

use super::{soragen, stderr};

fn convert(from: &Path, to: &Path, options: &[&str]) -> Output {
    soragen(["convert"]).arg(from).arg(to).args(options).current_dir(to.parent().unwrap()).output().unwrap()
}

fn assert_same(converted: &Path, rename: impl Fn(&str) -> String) {
    let expected = load(path("pickles/plain.safetensors"), &Device::Cpu).unwrap();
    let converted: HashMap<String, Tensor> = load(converted, &Device::Cpu).unwrap();
    assert_eq!(converted.len(), expected.len());
    for (name, tensor) in expected {
        let found =
            converted.get(&rename(&name)).unwrap_or_else(|| panic!("{name} among {:?}", converted.keys()));
        assert_eq!((found.dims(), found.dtype()), (tensor.dims(), tensor.dtype()), "{name}");
        assert_eq!(values(found), values(&tensor), "{name}");
    }
}

#[test]
fn converted_tensors_have_the_requested_names_and_the_same_values() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let diffusers = |name: &str| {
        name.replace("self_attn.q", "attn1.to_q").replace("norm3", "norm2").replace("head.head", "proj_out")
    };
    for (file, options, names) in [
        ("plain.pth", &[][..], &(|name: &str| name.to_string()) as &dyn Fn(&str) -> String),
        ("plain.pth", &["--names", "diffusers"], &diffusers),
        ("generator.pt", &[], &|name| format!("model._fsdp_wrapped_module.{name}")),
        ("generator.pt", &["--recipe", "self-forcing", "--names", "original"], &|name| name.to_string()),
        ("student.pt", &["--key", "generator_ema", "--names", "diffusers"], &diffusers),
    ] {
        let output = convert(&path(&format!("pickles/{file}")), &out, options);
        assert!(output.status.success(), "{file}: {}", stderr(&output));
        assert!(stderr(&output).contains("5 tensors"), "{}", stderr(&output));
        assert_same(&out, names);
    }
}

/// The keys that the inference code of each model loads: `use_ema` in its configuration, or `--use_ema` in its README.
#[test]
fn a_recipe_selects_the_weights_that_the_original_code_uses() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let own = folder.path().join("own.json");
    std::fs::write(&own, r#"{ "checkpoint_key": "generator" }"#).unwrap();
    let plain = load(path("pickles/plain.safetensors"), &Device::Cpu).unwrap();
    for (option, value, key) in [
        ("--recipe", "self-forcing", "generator_ema"),
        ("--recipe", "causal-forcing", "generator"),
        ("--recipe", "causal-forcing-framewise", "generator_ema"),
        ("--recipe", "causal-forcing-framewise-1", "generator_ema"),
        ("--recipe", "causal-forcing-framewise-2", "generator_ema"),
        ("--recipe", "causal-forcing-framewise-4", "generator_ema"),
        ("--recipe", "longlive", "generator"),
        ("--recipe", "longlive-absolute", "generator"),
        ("--recipe", "longlive-2", "generator"),
        ("--recipe", own.to_str().unwrap(), "generator"),
        ("--key", "generator", "generator"),
        ("--key", "generator_ema", "generator_ema"),
    ] {
        let options = [option, value, "--names", "original"];
        let output = convert(&path("pickles/student.pt"), &out, &options);
        assert!(output.status.success(), "{value}: {}", stderr(&output));
        let printed = format!("5 tensors of {key} in");
        assert!(stderr(&output).contains(&printed), "{value}: {}", stderr(&output));
        // `make_pickles.py` adds 1 to the weights of `generator`.
        let added = if key == "generator" { 1.0 } else { 0.0 };
        let converted = load(&out, &Device::Cpu).unwrap();
        let (before, after) = (values(&plain["head.head.weight"]), values(&converted["head.head.weight"]));
        assert!(before.iter().zip(&after).all(|(a, b)| (b - a - added).abs() < 1e-6), "{value}");
    }
}

#[test]
fn a_failed_conversion_is_an_error_and_keeps_the_existing_file() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    std::fs::write(&out, "existing").unwrap();
    let truncated = folder.path().join("truncated.pth");
    let complete = std::fs::read(path("pickles/plain.pth")).unwrap();
    std::fs::write(&truncated, &complete[..complete.len() / 2]).unwrap();
    let corrupt = folder.path().join("corrupt.pth");
    let mut bytes = complete;
    // Within the pickle itself.
    bytes[90..140].fill(0xff);
    std::fs::write(&corrupt, bytes).unwrap();
    let (silent, other) = (folder.path().join("silent.json"), folder.path().join("other.json"));
    std::fs::write(&silent, "{}").unwrap();
    std::fs::write(&other, r#"{ "checkpoint_key": "model" }"#).unwrap();
    for (file, options, reason) in [
        (path("pickles/plain.safetensors"), &[][..], "not a PyTorch file"),
        (path("pickles/old.pt"), &[], "not a PyTorch file"),
        (path("pickles/view.pt"), &[], "contiguous"),
        (path("pickles/plain.pth"), &["--key", "nothing"], "nothing"),
        (path("pickles/student.pt"), &[], "--recipe (self-forcing, causal-forcing,"),
        (path("pickles/student.pt"), &["--recipe", "no-such"], "a recipe is one of self-forcing"),
        (
            path("pickles/student.pt"),
            &["--recipe", silent.to_str().unwrap()],
            "no `checkpoint_key`; set --key",
        ),
        (
            path("pickles/student.pt"),
            &["--recipe", other.to_str().unwrap()],
            "`model`, which the file does not",
        ),
        (truncated, &[], "truncated.pth"),
        (corrupt, &[], "corrupt.pth"),
        (path("no-such.pth"), &[], "no-such.pth"),
    ] {
        let output = convert(&file, &out, options);
        assert_eq!(output.status.code(), Some(1), "{}", file.display());
        assert!(stderr(&output).contains(reason), "{}: {}", file.display(), stderr(&output));
        assert_eq!(std::fs::read(&out).unwrap(), b"existing", "{}", file.display());
    }
}

#[test]
fn code_in_a_pickle_is_not_executed() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    convert(&path("pickles/evil.pt"), &out, &[]);
    assert!(!folder.path().join("PICKLE-WAS-RUN").exists());
    // The engine does not even open it.
    let output = soragen(["models", "info"]).arg(path("pickles/evil.pt")).output().unwrap();
    assert!(stderr(&output).contains("soragen convert"), "{}", stderr(&output));
}
