//! References in the element.

use gst::prelude::*;
use soragen_tests::fixtures::puppets;

use crate::support::{Pipeline, error, parse, pictures, pixels, samples};

/// `soragen` with the tiny model with references.
fn source(folder: &tempfile::TempDir, options: &str) -> String {
    let model = folder.path().display();
    format!(
        "soragen name=source model=\"{model}\" prompt=\"a fox waits\" watermark=false cache-size=0 {options}"
    )
}

/// A playing pipeline without an end, and its source.
fn play(folder: &tempfile::TempDir) -> (Pipeline, gst::Element) {
    let pipeline = parse(&format!("{} duration=-1 ! fakesink", source(folder, "")));
    let source = pipeline.by_name("source").unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    (pipeline, source)
}

#[test]
fn references_and_motion_path_change_the_frames() {
    let folder = puppets();
    let options = [
        "",
        "reference=bank:owl",
        "reference=\"bank:fox; bank:owl\"",
        "motion-path=\"0 left ground | 1 right up\"",
    ];
    let videos = options.map(|options| pictures(&samples(&source(&folder, options))));
    for (i, video) in videos.iter().enumerate() {
        assert_eq!(video.len(), 17);
        assert!(videos[..i].iter().all(|other| other != video), "{}", options[i]);
    }
}

#[test]
fn the_shot_names_its_references_and_a_new_reference_begins_a_shot() {
    let folder = puppets();
    let (pipeline, source) = play(&folder);
    let bus = pipeline.bus().unwrap();
    let mut shots = Vec::new();
    while shots.len() < 3 {
        let message =
            bus.timed_pop_filtered(None, &[gst::MessageType::Element, gst::MessageType::Error]).unwrap();
        let Some(shot) = message.structure().filter(|structure| structure.name() == "soragen-shot") else {
            continue;
        };
        let names = shot.get::<gst::List>("references").unwrap();
        shots.push(names.iter().map(|name| name.get::<String>().unwrap()).collect::<Vec<_>>());
        match shots.len() {
            1 => source.set_property("reference", "bank:owl"),
            2 => source.set_property("reference", "bank:steam-train; bank:fox"),
            _ => {}
        }
    }
    assert_eq!(shots, [vec!["bank:fox"], vec!["bank:owl"], vec!["bank:steam-train", "bank:fox"]]);
}

#[test]
fn a_bad_reference_while_playing_is_a_warning_and_nothing_is_lost() {
    let folder = puppets();
    let (pipeline, source) = play(&folder);
    let bus = pipeline.bus().unwrap();
    let kinds = [gst::MessageType::Warning, gst::MessageType::Error];
    for (property, value, word) in [
        ("reference", "missing.png", "missing.png"),
        ("reference", "bank:fox;bank:fox;bank:fox", "at most 2"),
        ("reference", "bank:unicorn", "unicorn"),
        ("motion-path", "0 north ground", "north"),
    ] {
        source.set_property(property, value);
        match bus.timed_pop_filtered(None, &kinds).unwrap().view() {
            gst::MessageView::Warning(warning) => {
                assert!(warning.error().to_string().contains(word), "{}", warning.error());
            }
            other => panic!("{other:?}"),
        }
    }
    // It still plays.
    source.set_property("motion-path", None::<String>);
    source.set_property("reference", "bank:owl");
    let shot = bus
        .iter_timed_filtered(
            gst::ClockTime::from_seconds(60),
            &[gst::MessageType::Element, gst::MessageType::Error],
        )
        .filter(|message| {
            message.has_name("soragen-shot") || matches!(message.view(), gst::MessageView::Error(_))
        })
        .find(|message| {
            let names = message.structure().unwrap().get::<gst::List>("references");
            names.is_ok_and(|names| names.iter().any(|name| name.get::<&str>() == Ok("bank:owl")))
        });
    assert!(shot.is_some());
}

#[test]
fn a_seek_repeats_a_reference_that_was_set_while_playing() {
    let folder = puppets();
    let picture = folder.path().join("own.png");
    image::RgbImage::from_fn(20, 10, |x, y| image::Rgb([x as u8 * 9, y as u8 * 20, 90]))
        .save(&picture)
        .unwrap();
    let description = source(&folder, "duration=3000000000");
    let pipeline = parse(&format!("{description} ! appsink name=sink sync=false max-buffers=1"));
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    let bus = pipeline.bus().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    sink.pull_sample().unwrap();
    pipeline.by_name("source").unwrap().set_property("reference", picture.to_str().unwrap());
    let frames =
        || std::iter::from_fn(|| sink.pull_sample().ok()).map(|sample| pixels(&sample)).collect::<Vec<_>>();
    let first = frames();
    std::fs::remove_file(&picture).unwrap();
    pipeline.seek_simple(gst::SeekFlags::FLUSH, gst::ClockTime::ZERO).unwrap();
    let again = frames();
    assert!(again[1..] == first, "the same video");
    let messages: Vec<_> = std::iter::from_fn(|| bus.pop()).collect();
    assert!(messages.iter().all(|message| message.type_() != gst::MessageType::Warning), "{messages:?}");
    let own = messages.iter().filter_map(|message| message.structure()?.get::<gst::List>("references").ok());
    assert!(own.filter(|names| names.iter().any(|name| name.get::<&str>() == Ok("own.png"))).count() >= 2);
}

#[test]
fn unusable_references_have_the_right_domain() {
    let folder = puppets();
    let missing = error(&source(&folder, "reference=missing.png"));
    assert!(missing.matches(gst::ResourceError::NotFound), "{missing:?}");
    for options in [
        "reference=bank:unicorn",
        "motion-path=\"0 north ground\"",
        "reference=\"bank:fox;bank:fox;bank:fox\"",
    ] {
        let error = error(&source(&folder, options));
        assert!(error.matches(gst::LibraryError::Settings), "{options}: {error:?}");
    }
}
