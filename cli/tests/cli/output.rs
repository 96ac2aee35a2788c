//! All types of output files, compared with the frames of diffusers.

use candle_core::{Device, Tensor};
use soragen_tests::fixtures::{PIPELINES, assert_close, path, tensors, values};

use super::{files, model, render, samples, soragen, stderr};

/// The frames of diffusers for the request of `pipeline`, `[T, H, W, 3]`.
fn expected(pipeline: &str) -> Tensor {
    tensors(&format!("pipelines/{pipeline}/expected.safetensors"))["frames"].clone()
}

/// Renders to `name` in an empty folder, from the same noise as diffusers.
fn rendered(pipeline: &str, name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let noise = folder.path().join("noise.safetensors");
    let latents = &tensors(&format!("pipelines/{pipeline}/expected.safetensors"))["latents"];
    latents.save_safetensors("latents", &noise).unwrap();
    let mut command = render(pipeline, &model(pipeline));
    command.arg("--initial-latents").arg(&noise).arg("-o").arg(folder.path().join(name));
    // The reference has no watermark.
    command.arg("--no-watermark");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{pipeline}: {}", stderr(&output));
    std::fs::remove_file(noise).unwrap();
    folder
}

#[test]
fn frames_match_diffusers() {
    for pipeline in PIPELINES {
        let folder = rendered(pipeline, "frames.safetensors");
        assert_eq!(files(folder.path()), ["frames.safetensors"]);
        let frames = candle_core::safetensors::load(folder.path().join("frames.safetensors"), &Device::Cpu);
        let frames = &frames.unwrap()["frames"];
        let expected = expected(pipeline);
        assert_close(pipeline, frames, &expected, 2e-3);
        let mean = (frames - &expected).unwrap().abs().unwrap().mean_all().unwrap();
        assert!(mean.to_scalar::<f32>().unwrap() <= 1e-4, "{pipeline}: {mean}");
        assert!(values(frames).iter().all(|sample| (0.0..=1.0).contains(sample)), "{pipeline}");
    }
}

#[test]
fn a_causal_model_is_rendered() {
    let reference = tensors("miniature/session.safetensors");
    let folder = tempfile::tempdir().unwrap();
    let (noise, out) = (folder.path().join("noise.safetensors"), folder.path().join("frames.safetensors"));
    reference["latents"].save_safetensors("latents", &noise).unwrap();
    let mut command = soragen(["render", "the red fox runs over snow", "--model"]);
    command.arg(path("miniature")).arg("--initial-latents").arg(noise);
    command.arg("--image").arg(path("miniature/image.png")).arg("-o").arg(&out);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let frames = candle_core::safetensors::load(out, &Device::Cpu).unwrap();
    assert_close("image", &frames["frames"], &reference["image"], 1e-4);
}

#[test]
fn a_storyboard_is_rendered_with_key_frames_at_its_cuts() {
    use gst::prelude::*;

    let folder = tempfile::tempdir().unwrap();
    let (board, out) = (folder.path().join("film.toml"), folder.path().join("film.webm"));
    let shot =
        |prompt: &str| format!("[[shot]]\nprompt = \"{prompt}\"\nduration = 0.5\ntransition = \"cut\"\n");
    std::fs::write(&board, shot("the red fox") + &shot("a blue bird") + &shot("snow")).unwrap();
    let mut command = soragen(["render", "--storyboard"]);
    command.arg(&board).arg("--model").arg(path("miniature")).arg("-o").arg(&out);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));

    gst::init().unwrap();
    let description = format!("filesrc location={} ! matroskademux ! appsink name=sink", out.display());
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
    // VP8 adds no key frames here; x264 would, for the frames of this model.
    let keys: Vec<_> = (0..times.len()).filter(|&n| times[n].1).collect();
    assert_eq!((times.len(), keys), (24, vec![0, 8, 16]));
}

#[test]
fn png_files_are_numbered_frames() {
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
    // Only luma is compared; the chroma planes are subsampled.
    let pixels = height * width;
    let records: Vec<_> = bytes[end + 1..].chunks(b"FRAME\n".len() + pixels * 3 / 2).collect();
    assert_eq!(records.len(), frames);
    for (i, record) in records.into_iter().enumerate() {
        let luma = record.strip_prefix(b"FRAME\n").unwrap();
        let frame = values(&expected.get(i).unwrap());
        for (y, rgb) in luma[..pixels].iter().zip(frame.chunks(3)) {
            // ITU-R BT.601, in its limited range.
            let expected_luma = 16.0 + 65.481 * rgb[0] + 128.553 * rgb[1] + 24.966 * rgb[2];
            assert!((f32::from(*y) - expected_luma).abs() <= 2.0, "frame {i}: {y}, not {expected_luma}");
        }
    }
}

/// Adds an EXIF orientation to the PNG `picture`: rotated by 90 degrees.
fn with_orientation(picture: &[u8]) -> Vec<u8> {
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
fn the_exif_orientation_of_an_image_is_applied() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let picture = std::fs::read(model("i2v-22").join("image.png")).unwrap();
    std::fs::write(path("on-its-side.png"), with_orientation(&picture)).unwrap();
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
fn the_same_seed_gives_the_same_bytes_in_another_process() {
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
fn shift_and_duration_are_applied() {
    let frames = |arguments: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let mut command = soragen(["render", "a fox", "--size", "32x32", "--steps", "2", "--guidance", "1"]);
        command.arg("--model").arg(model("t2v-unipc")).args(arguments);
        let path = folder.path().join("frames.safetensors");
        let output = command.arg("-o").arg(&path).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        candle_core::safetensors::load(path, &Device::Cpu).unwrap()["frames"].clone()
    };
    // At 16 fps.
    let shifted = |shift: &str| frames(&["--duration", "0.3", "--shift", shift]);
    let own = frames(&["--duration", "0.3"]);
    assert_eq!(own.dims(), [5, 32, 32, 3]);
    assert_close("its own shift", &shifted("3"), &own, 0.0);
    assert_ne!(values(&shifted("8")), values(&own));
}

#[test]
fn an_existing_file_is_only_replaced_by_a_complete_one() {
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

/// The caps of the stream in `file`, and whether each frame is a delta frame.
fn stream(file: &std::path::Path, demuxer: &str) -> (String, Vec<bool>) {
    let samples = samples(file, demuxer);
    let delta =
        |sample: &gst::Sample| sample.buffer().unwrap().flags().contains(gst::BufferFlags::DELTA_UNIT);
    (samples[0].caps().unwrap().to_string(), samples.iter().map(delta).collect())
}

#[test]
fn intra_codecs_have_only_key_frames() {
    for (name, codec, demuxer, caps) in [
        ("a.mov", None, "qtdemux", "video/x-prores"),
        ("a.mkv", Some("ffv1"), "matroskademux", "video/x-ffv"),
        ("b.mkv", Some("h264-intra"), "matroskademux", "video/x-h264"),
        ("a.mp4", Some("h264-intra"), "qtdemux", "video/x-h264"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join(name);
        let mut command = soragen(["render", "a fox", "--model"]);
        command.arg(path("miniature")).arg("-o").arg(&out);
        command.args(codec.iter().flat_map(|codec| ["--codec", codec]));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{name}: {}", stderr(&output));
        let (found, delta) = stream(&out, demuxer);
        assert!(found.starts_with(caps), "{name}: {found}");
        assert_eq!(delta, [false; 17], "{name}");
    }
    let output = soragen(["render", "a fox", "-o", "a.webm", "--codec", "prores"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains(".webm supports vp8, not prores"), "{}", stderr(&output));
}

#[test]
fn a_timeline_has_one_clip_per_shot() {
    let folder = tempfile::tempdir().unwrap();
    let (video, timeline) = (folder.path().join("film 1.mkv"), folder.path().join("film.otio"));
    let mut command =
        soragen(["render", "--storyboard", "0:00 the red fox | 0:00.5 (cut) a blue bird | 0:01"]);
    command.arg("--model").arg(path("miniature")).arg("-o").arg(&video).arg("--timeline").arg(&timeline);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let otio: serde_json::Value = serde_json::from_slice(&std::fs::read(timeline).unwrap()).unwrap();
    assert_eq!(otio["OTIO_SCHEMA"], "Timeline.1");
    let clips = otio["tracks"]["children"][0]["children"].as_array().unwrap();
    let range = |clip: &serde_json::Value| {
        let time = |name: &str| clip["source_range"][name]["value"].as_u64().unwrap();
        (clip["name"].as_str().unwrap().to_owned(), time("start_time"), time("duration"))
    };
    let expected = [("the red fox".to_owned(), 0, 8), ("a blue bird".to_owned(), 8, 8)];
    assert_eq!(clips.iter().map(range).collect::<Vec<_>>(), expected);
    let url = clips[1]["media_references"]["DEFAULT_MEDIA"]["target_url"].as_str().unwrap();
    assert_eq!(url, gst::glib::filename_to_uri(&video, None).unwrap());
    assert_eq!(clips[0]["source_range"]["duration"]["rate"], 16.0);
}

#[test]
fn an_invalid_timeline_path_is_an_error_before_rendering() {
    let folder = tempfile::tempdir().unwrap();
    let film = folder.path().join("film.mp4");
    for (timeline, part) in [(film.clone(), "--timeline"), (folder.path().join("no/film.otio"), "folder")] {
        let mut command = render("t2v-unipc", &model("t2v-unipc"));
        let output = command.arg("-o").arg(&film).arg("--timeline").arg(timeline).output().unwrap();
        assert!(!output.status.success() && stderr(&output).contains(part), "{}", stderr(&output));
        assert!(!film.exists());
    }
}

#[test]
#[cfg(unix)]
fn a_full_disk_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let command =
        "trap '' XFSZ; ulimit -f 200; exec \"$0\" render snow --frames 81 --steps 1 --codec ffv1 -o film.mkv";
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", command, env!("CARGO_BIN_EXE_soragen")]).current_dir(folder.path());
    let output = shell.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "no partial file is left");
}

#[test]
fn more_threads_than_cpus_are_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let frames = |threads: &str| {
        let out = folder.path().join("frames.safetensors");
        let mut command = render("t2v-unipc", &model("t2v-unipc"));
        let output = command.args(["--threads", threads, "-o"]).arg(&out).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        (std::fs::read(out).unwrap(), stderr(&output))
    };
    let ((many, warned), (one, silent)) = (frames("1024"), frames("1"));
    assert!(many == one);
    assert!(warned.contains("1024 threads") && !silent.contains("threads"), "{warned} {silent}");
}

#[test]
fn a_label_is_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let frame = |name: &str, label: &[&str]| {
        let path = folder.path().join(format!("{name}-%05d.png"));
        let mut command =
            soragen(["render", "a cat at night", "--frames", "1", "--steps", "1", "--no-watermark"]);
        let output = command.args(label).arg("-o").arg(path).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        image::open(folder.path().join(format!("{name}-00000.png"))).unwrap().into_rgb8()
    };
    let (plain, labelled) = (frame("plain", &[]), frame("label", &["--label", "ai"]));
    let different = plain.enumerate_pixels().filter(|(x, y, pixel)| labelled.get_pixel(*x, *y) != *pixel);
    let (columns, rows) = different.fold((0, 0), |(w, h), (x, y, _)| (w.max(x + 1), h.max(y + 1)));
    assert!((20..60).contains(&columns) && (20..40).contains(&rows), "{columns} by {rows}");
    assert!(labelled.pixels().any(|pixel| pixel.0 == [255; 3]));
}
