//! Every kind of file holds the frames that diffusers makes.

use candle_core::{Device, Tensor};
use soragen_tests::fixtures::{PIPELINES, assert_close, path, tensors, values};

use super::{files, model, render, soragen, stderr};

/// What diffusers makes of the request of `pipeline`, `[T, H, W, 3]`.
fn expected(pipeline: &str) -> Tensor {
    tensors(&format!("pipelines/{pipeline}/expected.safetensors"))["frames"].clone()
}

/// Renders to `name` in an empty folder, from the noise that diffusers began with.
fn rendered(pipeline: &str, name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let noise = folder.path().join("noise.safetensors");
    let latents = &tensors(&format!("pipelines/{pipeline}/expected.safetensors"))["latents"];
    latents.save_safetensors("latents", &noise).unwrap();
    let mut command = render(pipeline, &model(pipeline));
    command.arg("--initial-latents").arg(&noise).arg("-o").arg(folder.path().join(name));
    // The mark is not diffusers'.
    command.arg("--no-watermark");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{pipeline}: {}", stderr(&output));
    std::fs::remove_file(noise).unwrap();
    folder
}

#[test]
fn frames_are_those_of_diffusers() {
    for pipeline in PIPELINES {
        let folder = rendered(pipeline, "frames.safetensors");
        assert_eq!(files(folder.path()), ["frames.safetensors"]);
        let made = candle_core::safetensors::load(folder.path().join("frames.safetensors"), &Device::Cpu);
        let made = &made.unwrap()["frames"];
        let expected = expected(pipeline);
        assert_close(pipeline, made, &expected, 2e-3);
        let mean = (made - &expected).unwrap().abs().unwrap().mean_all().unwrap();
        assert!(mean.to_scalar::<f32>().unwrap() <= 1e-4, "{pipeline}: {mean}");
        assert!(values(made).iter().all(|sample| (0.0..=1.0).contains(sample)), "{pipeline}");
    }
}

#[test]
fn a_causal_model_is_rendered_too() {
    let reference = tensors("miniature/session.safetensors");
    let folder = tempfile::tempdir().unwrap();
    let (noise, made) = (folder.path().join("noise.safetensors"), folder.path().join("made.safetensors"));
    reference["latents"].save_safetensors("latents", &noise).unwrap();
    let mut command = soragen(["render", "the red fox runs over snow", "--model"]);
    command.arg(path("miniature")).arg("--initial-latents").arg(noise);
    command.arg("--image").arg(path("miniature/image.png")).arg("-o").arg(&made);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let made = candle_core::safetensors::load(made, &Device::Cpu).unwrap();
    assert_close("image", &made["frames"], &reference["image"], 1e-4);
}

#[test]
fn a_storyboard_is_rendered_with_key_frames_at_its_cuts() {
    use gst::prelude::*;

    let folder = tempfile::tempdir().unwrap();
    let (board, made) = (folder.path().join("film.toml"), folder.path().join("film.webm"));
    let shot =
        |prompt: &str| format!("[[shot]]\nprompt = \"{prompt}\"\nduration = 0.5\ntransition = \"cut\"\n");
    std::fs::write(&board, shot("the red fox") + &shot("a blue bird") + &shot("snow")).unwrap();
    let mut command = soragen(["render", "--storyboard"]);
    command.arg(&board).arg("--model").arg(path("miniature")).arg("-o").arg(&made);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));

    gst::init().unwrap();
    let description = format!("filesrc location={} ! matroskademux ! appsink name=sink", made.display());
    let pipeline = gst::parse::launch(&description).unwrap().downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    sink.set_property("sync", false);
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut times: Vec<_> = std::iter::from_fn(|| sink.pull_sample().ok())
        .map(|sample| {
            let buffer = sample.buffer().unwrap();
            (buffer.pts().unwrap(), !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT))
        })
        .collect();
    pipeline.set_state(gst::State::Null).unwrap();
    times.sort();
    // VP8 makes none of its own here; x264 does, of what this model makes.
    let keys: Vec<_> = (0..times.len()).filter(|&n| times[n].1).collect();
    assert_eq!((times.len(), keys), (24, vec![0, 8, 16]));
}

#[test]
fn pictures_are_numbered_frames() {
    let folder = rendered("t2v-euler", "frame-%03d.png");
    let expected = expected("t2v-euler");
    let names: Vec<_> = (0..expected.dim(0).unwrap()).map(|i| format!("frame-{i:03}.png")).collect();
    assert_eq!(files(folder.path()), names);
    for (i, name) in names.iter().enumerate() {
        let picture = image::open(folder.path().join(name)).unwrap().into_rgb8();
        let frame = expected.get(i).unwrap();
        assert_eq!([picture.height() as usize, picture.width() as usize, 3], frame.dims());
        for (sample, expected) in picture.as_raw().iter().zip(values(&frame)) {
            assert!((f32::from(*sample) - 255.0 * expected).abs() <= 0.51, "{name}: {sample} {expected}");
        }
    }
}

#[test]
fn raw_video_has_the_colours_of_the_frames() {
    let folder = rendered("t2v-unipc", "frames.y4m");
    assert_eq!(files(folder.path()), ["frames.y4m"]);
    let bytes = std::fs::read(folder.path().join("frames.y4m")).unwrap();
    let end = bytes.iter().position(|&byte| byte == b'\n').unwrap();
    let header = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let expected = expected("t2v-unipc");
    let (frames, height, width, _) = expected.dims4().unwrap();
    for part in ["YUV4MPEG2", &format!("W{width}"), &format!("H{height}"), "F16:1"] {
        assert!(header.split(' ').any(|p| p == part), "{part} in {header}");
    }
    // Of the planes only luma is looked at; the others are half as wide and high.
    let pixels = height * width;
    let records: Vec<_> = bytes[end + 1..].chunks(b"FRAME\n".len() + pixels * 3 / 2).collect();
    assert_eq!(records.len(), frames);
    for (i, record) in records.into_iter().enumerate() {
        let luma = record.strip_prefix(b"FRAME\n").unwrap();
        let frame = values(&expected.get(i).unwrap());
        for (y, rgb) in luma[..pixels].iter().zip(frame.chunks(3)) {
            // ITU-R BT.601, in its limited range.
            let wanted = 16.0 + 65.481 * rgb[0] + 128.553 * rgb[1] + 24.966 * rgb[2];
            assert!((f32::from(*y) - wanted).abs() <= 2.0, "frame {i}: {y}, not {wanted}");
        }
    }
}

/// `picture`, a PNG, said to have been taken with the camera on its side.
fn turned(picture: &[u8]) -> Vec<u8> {
    // TIFF, little endian, with one entry: orientation (0x112), a short, is 6, a quarter turn to the right.
    let exif = b"eXIfII*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let crc = !exif.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
    });
    // After the signature and the header.
    let (before, after) = picture.split_at(33);
    let length = (exif.len() as u32 - 4).to_be_bytes();
    [before, &length, exif, &crc.to_be_bytes(), after].concat()
}

#[test]
fn a_picture_is_turned_as_the_camera_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let picture = std::fs::read(model("i2v-22").join("image.png")).unwrap();
    std::fs::write(path("on-its-side.png"), turned(&picture)).unwrap();
    image::load_from_memory(&picture).unwrap().rotate90().save(path("upright.png")).unwrap();
    let frame = |name: &str| {
        let mut command =
            soragen(["render", "a fox", "--frames", "1", "--steps", "1", "--size", "64x96", "--model"]);
        command.arg(model("i2v-22")).arg("--image").arg(path(name)).arg("-o").arg(path("%d.png"));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        std::fs::read(path("0.png")).unwrap()
    };
    assert!(frame("on-its-side.png") == frame("upright.png"));
}

#[test]
fn another_process_makes_the_same_bytes() {
    let bytes = |seed: &str| {
        let folder = tempfile::tempdir().unwrap();
        let mut command = render("i2v-22", &model("i2v-22"));
        let path = folder.path().join("frames.safetensors");
        let output = command.args(["--seed", seed, "-o"]).arg(&path).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        std::fs::read(path).unwrap()
    };
    let first = bytes("7");
    assert!(first == bytes("7"), "the same seed, the same file");
    assert!(first != bytes("8"), "another seed, another file");
}

#[test]
fn shift_and_duration_are_what_they_are_asked_to_be() {
    let frames = |arguments: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let mut command = soragen(["render", "a fox", "--size", "32x32", "--steps", "2", "--guidance", "1"]);
        command.arg("--model").arg(model("t2v-unipc")).args(arguments);
        let path = folder.path().join("frames.safetensors");
        let output = command.arg("-o").arg(&path).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        candle_core::safetensors::load(path, &Device::Cpu).unwrap()["frames"].clone()
    };
    // At 16 frames a second.
    let shifted = |shift: &str| frames(&["--duration", "0.3", "--shift", shift]);
    let own = frames(&["--duration", "0.3"]);
    assert_eq!(own.dims(), [5, 32, 32, 3]);
    assert_close("its own shift", &shifted("3"), &own, 0.0);
    assert_ne!(values(&shifted("8")), values(&own));
}

#[test]
fn a_file_that_is_there_is_replaced_only_by_a_whole_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frames.safetensors");
    std::fs::write(&path, "before").unwrap();
    let mut refused = render("t2v-euler", &model("t2v-euler"));
    let output = refused.args(["--guidance", "nan", "-o"]).arg(&path).output().unwrap();
    assert_ne!(output.status.code(), Some(0));
    assert_eq!(std::fs::read(&path).unwrap(), b"before");
    let output = render("t2v-euler", &model("t2v-euler")).arg("-o").arg(&path).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(candle_core::safetensors::load(&path, &Device::Cpu).unwrap().contains_key("frames"));
    assert_eq!(files(folder.path()), ["frames.safetensors"]);
}
