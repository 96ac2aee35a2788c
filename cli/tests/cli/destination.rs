//! Outputs that are not plain files.
#![cfg(unix)]

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use soragen_tests::fixtures::path;

use super::{files, samples, soragen, stderr};

/// Half a second of the tiny model, without `--output`.
fn short_video() -> Command {
    let mut command = soragen(["render", "the red fox", "--frames", "8", "--model"]);
    command.arg(path("miniature"));
    command
}

/// The bytes of the video in a file with this name.
fn expected(name: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join(name);
    let output = short_video().arg("-o").arg(&out).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    std::fs::read(out).unwrap()
}

#[test]
fn a_fifo_gets_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let temporary = tempfile::tempdir().unwrap();
    for (name, demuxer) in [
        ("a.y4m", None),
        ("a.safetensors", None),
        ("a.mp4", Some("qtdemux")),
        ("a.mov", Some("qtdemux")),
        ("a.mkv", Some("matroskademux")),
        ("a.webm", Some("matroskademux")),
    ] {
        let fifo = folder.path().join(name);
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let mut command = short_video();
        command.arg("-o").arg(&fifo).env("TMPDIR", temporary.path()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let mut bytes = Vec::new();
        File::open(&fifo).unwrap().read_to_end(&mut bytes).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{name}: {}", stderr(&output));
        assert!(fifo.symlink_metadata().unwrap().file_type().is_fifo(), "{name}");
        match demuxer {
            None => assert!(bytes == expected(name), "{name}"),
            Some(demuxer) => {
                let copy = temporary.path().join("copy");
                std::fs::write(&copy, bytes).unwrap();
                assert_eq!(samples(&copy, demuxer).len(), 8, "{name}");
                std::fs::remove_file(copy).unwrap();
            }
        }
        assert!(files(temporary.path()).is_empty(), "{name}: {:?}", files(temporary.path()));
        std::fs::remove_file(fifo).unwrap();
        assert!(files(folder.path()).is_empty(), "{name}: {:?}", files(folder.path()));
    }
}

#[test]
fn stdout_gets_the_file_that_the_codec_selects() {
    for (codec, start) in [("raw", &b"YUV4MPEG2"[..]), ("ffv1", b"\x1aE\xdf\xa3"), ("h264", b"\0\0\0")] {
        let output = short_video().args(["--codec", codec, "-o", "/dev/stdout"]).output().unwrap();
        assert!(output.status.success(), "{codec}: {}", stderr(&output));
        assert!(output.stdout.starts_with(start), "{codec}: {} bytes", output.stdout.len());
    }
    // A file that a shell has opened keeps what it has.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("film");
    std::fs::write(&file, "before").unwrap();
    for codec in ["raw", "h264"] {
        let stdout = File::options().append(true).open(&file).unwrap();
        let mut command = short_video();
        let output = command.args(["--codec", codec, "-o", "/dev/stdout"]).stdout(stdout).output().unwrap();
        assert!(output.status.success(), "{codec}: {}", stderr(&output));
    }
    let bytes = std::fs::read(&file).unwrap();
    let place = |what: &[u8]| bytes.windows(what.len()).position(|window| window == what);
    assert!(bytes.starts_with(b"beforeYUV4MPEG2") && place(b"ftyp") > place(b"FRAME"));
    assert_eq!(files(folder.path()), ["film"]);
}

#[test]
fn a_stream_that_nobody_reads_is_an_error() {
    for codec in ["raw", "h264"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = short_video();
        let output = command.args(["--codec", codec, "-o", "/dev/stdout"]).stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{codec}: {}", stderr(&output));
        assert!(!stderr(&output).contains("panicked"), "{codec}: {}", stderr(&output));
    }
}

#[test]
fn the_null_device_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["null.mp4", "null.y4m", "null.mkv", "null.safetensors"] {
        symlink("/dev/null", folder.path().join(name)).unwrap();
        let output = short_video().arg("-o").arg(folder.path().join(name)).output().unwrap();
        assert!(output.status.success(), "{name}: {}", stderr(&output));
    }
    let output = short_video().args(["-o", "/dev/null"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(Path::new("/dev/null").symlink_metadata().unwrap().file_type().is_char_device());
    assert_eq!(files(folder.path()).len(), 4);
}

#[test]
fn the_target_of_a_link_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("videos")).unwrap();
    std::fs::write(path("videos/old.y4m"), "old").unwrap();
    for (link, target) in [("old.y4m", "videos/old.y4m"), ("new.y4m", "videos/new.y4m")] {
        symlink(target, path(link)).unwrap();
        let output = short_video().arg("-o").arg(path(link)).output().unwrap();
        assert!(output.status.success(), "{link}: {}", stderr(&output));
        assert!(path(link).is_symlink() && !path(target).is_symlink());
        assert!(std::fs::read(path(target)).unwrap() == expected("a.y4m"), "{link}");
    }
    // Numbered images and timelines too.
    symlink("videos/first.png", path("0.png")).unwrap();
    symlink("videos/film.otio", path("film.otio")).unwrap();
    let mut command = short_video();
    let output =
        command.arg("-o").arg(path("%d.png")).arg("--timeline").arg(path("film.otio")).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(files(&path("videos")), ["film.otio", "first.png", "new.y4m", "old.y4m"]);
    assert!(path("0.png").is_symlink() && path("film.otio").is_symlink());
}

#[test]
fn other_outputs_are_refused_before_the_model_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let _socket = UnixListener::bind(path("socket.mp4")).unwrap();
    std::fs::create_dir(path("folder.y4m")).unwrap();
    std::fs::create_dir(path("0.png")).unwrap();
    symlink("/dev/full", path("full.mp4")).unwrap();
    symlink("/dev/full", path("full.safetensors")).unwrap();
    symlink("loop.mkv", path("loop.mkv")).unwrap();
    let before = files(folder.path());
    for (name, reason) in [
        ("socket.mp4", "socket"),
        ("folder.y4m", "folder"),
        ("%d.png", "folder"),
        ("full.mp4", "device"),
        ("full.safetensors", "device"),
        ("/dev/full", "device"),
        ("/dev", "folder"),
        ("loop.mkv", "loop"),
    ] {
        for option in ["-o", "--timeline"] {
            if option == "--timeline" && name == "%d.png" {
                continue;
            }
            let mut command = soragen(["render", "a fox", "--model", "/no/such/model"]);
            if option == "--timeline" {
                command.arg("-o").arg(path("out.mp4"));
            }
            let output = command.arg(option).arg(path(name)).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{name}: {}", stderr(&output));
            let message = stderr(&output);
            assert!(message.contains(reason) && !message.contains("model"), "{name}: {message}");
        }
    }
    assert_eq!(files(folder.path()), before);
    assert!(Path::new("/dev/full").symlink_metadata().unwrap().file_type().is_char_device());
}
