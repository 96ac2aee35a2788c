//! PyTorch files become safetensors, and nothing in them is run. The files are `make_pickles.py`'s.

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

fn assert_same(made: &Path, rename: impl Fn(&str) -> String) {
    let expected = load(path("pickles/plain.safetensors"), &Device::Cpu).unwrap();
    let made: HashMap<String, Tensor> = load(made, &Device::Cpu).unwrap();
    assert_eq!(made.len(), expected.len());
    for (name, tensor) in expected {
        let found = made.get(&rename(&name)).unwrap_or_else(|| panic!("{name} among {:?}", made.keys()));
        assert_eq!((found.dims(), found.dtype()), (tensor.dims(), tensor.dtype()), "{name}");
        assert_eq!(values(found), values(&tensor), "{name}");
    }
}

#[test]
fn tensors_are_the_same_under_the_names_that_were_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let diffusers = |name: &str| {
        name.replace("self_attn.q", "attn1.to_q").replace("norm3", "norm2").replace("head.head", "proj_out")
    };
    for (file, options, names) in [
        ("plain.pth", &[][..], &(|name: &str| name.to_string()) as &dyn Fn(&str) -> String),
        ("plain.pth", &["--names", "diffusers"], &diffusers),
        // The averaged weights, if there are two.
        ("student.pt", &[], &|name| format!("model._fsdp_wrapped_module.{name}")),
        ("student.pt", &["--names", "original"], &|name| name.to_string()),
        ("student.pt", &["--key", "generator_ema", "--names", "diffusers"], &diffusers),
    ] {
        let output = convert(&path(&format!("pickles/{file}")), &out, options);
        assert!(output.status.success(), "{file}: {}", stderr(&output));
        assert!(stderr(&output).contains("5 tensors"), "{}", stderr(&output));
        assert_same(&out, names);
    }
    let output = convert(&path("pickles/student.pt"), &out, &["--key", "generator", "--names", "original"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let (plain, raised) =
        (load(path("pickles/plain.safetensors"), &Device::Cpu).unwrap(), load(&out, &Device::Cpu).unwrap());
    let (a, b) = (values(&plain["head.head.weight"]), values(&raised["head.head.weight"]));
    assert!(a.iter().zip(&b).all(|(a, b)| (b - a - 1.0).abs() < 1e-6));
}

#[test]
fn what_cannot_be_converted_is_refused_and_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    std::fs::write(&out, "as it was").unwrap();
    let cut = folder.path().join("cut.pth");
    let whole = std::fs::read(path("pickles/plain.pth")).unwrap();
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let spoilt = folder.path().join("spoilt.pth");
    let mut bytes = whole;
    // Within the pickle itself.
    bytes[90..140].fill(0xff);
    std::fs::write(&spoilt, bytes).unwrap();
    for (file, options, reason) in [
        (path("pickles/plain.safetensors"), &[][..], "not a PyTorch file"),
        (path("pickles/old.pt"), &[], "not a PyTorch file"),
        (path("pickles/view.pt"), &[], "contiguous"),
        (path("pickles/plain.pth"), &["--key", "nothing"], "nothing"),
        (cut, &[], "cut.pth"),
        (spoilt, &[], "spoilt.pth"),
        (path("no-such.pth"), &[], "no-such.pth"),
    ] {
        let output = convert(&file, &out, options);
        assert_eq!(output.status.code(), Some(1), "{}", file.display());
        assert!(stderr(&output).contains(reason), "{}: {}", file.display(), stderr(&output));
        assert_eq!(std::fs::read(&out).unwrap(), b"as it was", "{}", file.display());
    }
}

#[test]
fn a_command_in_a_pickle_is_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    convert(&path("pickles/evil.pt"), &out, &[]);
    assert!(!folder.path().join("PICKLE-WAS-RUN").exists());
    // The engine does not even open it.
    let output = soragen(["models", "info"]).arg(path("pickles/evil.pt")).output().unwrap();
    assert!(stderr(&output).contains("soragen convert"), "{}", stderr(&output));
}
