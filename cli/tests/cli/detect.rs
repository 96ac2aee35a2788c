//! `soragen detect` on every kind of file.

use std::path::Path;

use gst::prelude::*;
use soragen_tests::fixtures;

use super::{soragen, stderr};

/// Runs a pipeline to its end.
fn play(description: &str) {
    gst::init().unwrap();
    let pipeline = gst::parse::launch(description).unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let bus = pipeline.bus().unwrap();
    let end = bus.timed_pop_filtered(None, &[gst::MessageType::Eos, gst::MessageType::Error]).unwrap();
    assert_eq!(end.type_(), gst::MessageType::Eos, "{description}: {end:?}");
    pipeline.set_state(gst::State::Null).unwrap();
}

/// Exit status, report and errors of `soragen detect`.
fn detect(path: &Path) -> (Option<i32>, serde_json::Value, String) {
    let output = soragen(["detect"]).arg(path).output().unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code(), report, stderr(&output))
}

#[test]
fn a_file_whose_end_is_not_signalled_ends() {
    // The demuxer of GStreamer 1.22 never ends an animated GIF.
    let gif = std::fs::read(fixtures::path("cases/images/anim.gif")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cut = folder.path().join("cut");
    std::fs::write(&cut, &gif[..gif.len() - 200]).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (status, report, errors) = detect(&fixtures::path("cases/images/anim.gif"));
            assert_eq!(status, Some(3), "{report} {errors}");
            assert_eq!((&report["frames"], &report["complete"]), (&2.into(), &true.into()), "{report}");
        });
        scope.spawn(|| {
            let (status, report, errors) = detect(&cut);
            assert!(matches!(status, Some(1 | 3)), "{status:?} {report} {errors}");
        });
    });
}

#[test]
fn all_video_streams_are_searched() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    gst::init().unwrap();
    gstsoraprovenance::plugin_register_static().unwrap();
    let clip = "videotestsrc pattern=smpte num-buffers=30 ! video/x-raw,format=I420,width=480,height=270";
    let mark = "soramark generation-id=7 watermark-strength=2";
    let encoder = "x264enc pass=qual quantizer=20 ! mux.";
    let (plain, marked) = (format!("{clip} ! {encoder}"), format!("{clip} ! {mark} ! {encoder}"));
    let sound = "audiotestsrc num-buffers=20 ! audio/x-raw,format=S16LE ! mux.";
    for (name, first, second) in [("first.mkv", &marked, &plain), ("second.mkv", &plain, &marked)] {
        let out = path(name);
        play(&format!("matroskamux name=mux ! filesink location={} {first} {second} {sound}", out.display()));
        let (status, report, errors) = detect(&out);
        assert_eq!(status, Some(0), "{name}: {report} {errors}");
        assert_eq!((&report["video-streams"], &report["frames"]), (&2.into(), &60.into()), "{report}");
        assert_eq!(report["marks"].as_array().unwrap().len(), 1, "{report}");
        assert_eq!(report["complete"], true, "{report}");
    }
}

#[test]
fn a_file_without_a_picture_is_an_error_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let sound = "audiotestsrc num-buffers=20 ! ";
    for (name, muxer) in [
        ("sound.wav", "wavenc"),
        ("sound.mkv", "audio/x-raw,format=S16LE ! matroskamux"),
        ("video.mp4", "wavenc"),
    ] {
        let out = folder.path().join(name);
        play(&format!("{sound} {muxer} ! filesink location={}", out.display()));
        let (status, report, errors) = detect(&out);
        assert_eq!((status, &report), (Some(1), &serde_json::Value::Null), "{name}: {errors}");
        assert!(errors.contains(name) && errors.contains("no picture"), "{name}: {errors}");
    }
    for path in [folder.path(), Path::new("/dev/null")] {
        let (status, _, errors) = detect(path);
        assert!(status == Some(1) && errors.contains("not a regular file"), "{errors}");
    }
    let empty = folder.path().join("empty.mp4");
    std::fs::write(&empty, "").unwrap();
    assert_eq!(detect(&empty).0, Some(1));
}

#[test]
fn what_is_not_readable_as_c2pa_is_not_reported_as_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let film = path("film.mov");
    let video = "videotestsrc num-buffers=9 ! x264enc ! qtmux";
    play(&format!("{video} ! filesink location={}", film.display()));
    // Films of QuickTime 6 and earlier have no `ftyp`.
    let mut bytes = std::fs::read(&film).unwrap();
    bytes[4..8].copy_from_slice(b"free");
    std::fs::write(&film, &bytes).unwrap();
    let (status, report, errors) = detect(&film);
    assert_eq!((status, &report["c2pa"]), (Some(3), &serde_json::Value::Null), "{report} {errors}");

    // A box with the UUID of C2PA that holds something else.
    play(&format!("{video} ! filesink location={}", path("other.mp4").display()));
    let mut bytes = std::fs::read(path("other.mp4")).unwrap();
    let uuid =
        [0xd8, 0xfe, 0xc3, 0xd6, 0x1b, 0x0e, 0x48, 0x3c, 0x92, 0x97, 0x58, 0x28, 0x87, 0x7e, 0xc4, 0x81];
    let content = [&uuid[..], &[0; 4], b"manifest\0", &[0; 8], b"no manifest at all"].concat();
    bytes.extend([&(8 + content.len() as u32).to_be_bytes()[..], b"uuid", &content].concat());
    std::fs::write(path("other.mp4"), bytes).unwrap();
    let (status, report, errors) = detect(&path("other.mp4"));
    assert_eq!((status, &report["c2pa"]["state"]), (Some(3), &"unreadable".into()), "{report} {errors}");
    assert!(!report["c2pa"]["problems"][0].as_str().unwrap().is_empty(), "{report}");
}
