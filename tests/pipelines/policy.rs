//! Content policy in the element.

use gst::prelude::*;

use crate::support::{error, init, parse, tiny};

/// A policy file that blocks quartz.
fn policy(folder: &tempfile::TempDir) -> String {
    let path = folder.path().join("policy.toml");
    let text = "name = \"test\"\n[[category]]\nname = \"stones\"\naction = \"block\"\nphrases = [\"quartz\"]";
    std::fs::write(&path, text).unwrap();
    format!("policy=\"{}\" audit-log=\"{}\"", path.display(), folder.path().join("audit.jsonl").display())
}

#[test]
fn a_blocked_prompt_generates_no_video() {
    let folder = tempfile::tempdir().unwrap();
    let source = format!("{} {} prompt=\"a mountain of q.u.4.r.t.z\"", tiny("t2v-unipc"), policy(&folder));
    let error = error(&source);
    assert!(error.matches(gst::ResourceError::NotAuthorized), "{error:?}");
    assert!(error.message().contains("stones") && !error.message().contains("mountain"), "{error}");
    let log = folder.path().join("audit.jsonl");
    assert_eq!(soragen::policy::verify(&log).unwrap(), 1);
    assert!(std::fs::read_to_string(log).unwrap().contains("\"block\""));
}

#[test]
fn a_blocked_prompt_change_keeps_the_current_prompt() {
    init();
    let folder = tempfile::tempdir().unwrap();
    let model = soragen_tests::fixtures::path("miniature");
    let description = format!(
        "soragen name=source model=\"{}\" prompt=\"the red fox runs\" duration=-1 {} ! fakesink",
        model.display(),
        policy(&folder)
    );
    let pipeline = parse(&description);
    pipeline.set_state(gst::State::Playing).unwrap();
    pipeline.by_name("source").unwrap().set_property("prompt", "the quartz fox runs");
    let bus = pipeline.bus().unwrap();
    let said = bus
        .iter_timed_filtered(
            None,
            &[gst::MessageType::Warning, gst::MessageType::Error, gst::MessageType::Element],
        )
        .find(|message| match message.view() {
            gst::MessageView::Element(element) => {
                element.structure().is_some_and(|s| s.name() == "soragen-shot")
            }
            _ => true,
        });
    pipeline.set_state(gst::State::Null).unwrap();
    match said.unwrap().view() {
        gst::MessageView::Warning(warning) => {
            let text = warning.error().to_string();
            assert!(text.contains("stones") && !text.contains("quartz"), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_invalid_policy_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.toml");
    std::fs::write(&path, "name = 3").unwrap();
    let error = error(&format!("{} policy=\"{}\"", tiny("t2v-unipc"), path.display()));
    assert!(error.message().contains("policy.toml") && error.message().contains("name"), "{error}");
}

/// Number of decisions and of blocked prompts in the audit log in `folder`.
fn decisions(folder: &tempfile::TempDir) -> (u64, usize) {
    let log = folder.path().join("audit.jsonl");
    let count = soragen::policy::verify(&log).unwrap();
    (count, std::fs::read_to_string(log).unwrap().matches("\"block\"").count())
}

/// The element on the causal miniature, without a prompt.
fn miniature() -> String {
    format!("soragen name=source model=\"{}\"", soragen_tests::fixtures::path("miniature").display())
}

#[track_caller]
fn assert_blocked(error: &gst::glib::Error, folder: &tempfile::TempDir) {
    assert!(error.matches(gst::ResourceError::NotAuthorized), "{error:?}");
    assert!(error.message().contains("stones") && !error.message().contains("quartz"), "{error}");
    assert_eq!(decisions(folder).1, 1);
}

#[test]
fn the_prompt_in_a_uri_is_checked() {
    init();
    for uri in [
        "soragen:///a%20quartz%20fox",
        "soragen:///fox;storyboard=0:00%20snow%20%7C%200:01%20quartz%20%7C%200:02",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let pipeline = parse(&format!("{} {} ! fakesink", miniature(), policy(&folder)));
        let source = pipeline.by_name("source").unwrap().dynamic_cast::<gst::URIHandler>().unwrap();
        source.set_uri(uri).unwrap();
        let _ = pipeline.set_state(gst::State::Playing);
        let bus = pipeline.bus().unwrap();
        let end = bus.timed_pop_filtered(None, &[gst::MessageType::Error, gst::MessageType::Eos]).unwrap();
        pipeline.set_state(gst::State::Null).unwrap();
        match end.view() {
            gst::MessageView::Error(end) => assert_blocked(&end.error(), &folder),
            _ => panic!("{uri} passes"),
        }
    }
}

#[test]
fn every_shot_of_a_storyboard_is_checked() {
    for (name, text) in [
        (
            "film.toml",
            "[[shot]]\nprompt = \"snow\"\nduration = 1.0\n[[shot]]\nprompt = \"a quartz fox\"\nduration = 1.0",
        ),
        (
            "film.srt",
            "1\n00:00:00,000 --> 00:00:01,000\nsnow\n\n2\n00:00:01,000 --> 00:00:02,000\n<i>quartz</i>\n",
        ),
        ("film.vtt", "WEBVTT\n\n00:00.000 --> 00:01.000\nsnow\n\n00:01.000 --> 00:02.000\nqu4rtz\n"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let board = folder.path().join(name);
        std::fs::write(&board, text).unwrap();
        let source = format!("{} storyboard=\"{}\" {}", miniature(), board.display(), policy(&folder));
        assert_blocked(&error(&source), &folder);
    }
    let folder = tempfile::tempdir().unwrap();
    let board = "storyboard=\"\\\"0:00 snow | 0:01 (cut) quartz | 0:02\\\"\"";
    assert_blocked(&error(&format!("{} {board} {}", miniature(), policy(&folder))), &folder);
}

#[test]
fn incoming_text_buffers_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let film = folder.path().join("film.srt");
    std::fs::write(&film, "1\n00:00:00,000 --> 00:00:01,000\na quartz fox\n").unwrap();
    let gate =
        policy(&folder).replace("policy=", "soragen::policy=").replace("audit-log=", "soragen::audit-log=");
    let model = soragen_tests::fixtures::path("miniature");
    let description = format!(
        "filesrc location=\"{}\" ! subparse ! soraprompt soragen::model=\"{}\" {gate}",
        film.display(),
        model.display()
    );
    assert_blocked(&error(&description), &folder);
}

#[test]
fn the_negative_prompt_is_logged_but_not_blocked() {
    let folder = tempfile::tempdir().unwrap();
    let short = "prompt=snow duration=500000000";
    let source = format!("{} {short} negative-prompt=\"a quartz fox\" {}", miniature(), policy(&folder));
    let (asked, refused) = play_with_prompt_check(&source, "nothing");
    assert_eq!((asked.as_slice(), refused), (["snow".to_string(), "a quartz fox".into()].as_slice(), None));
    let log = std::fs::read_to_string(folder.path().join("audit.jsonl")).unwrap();
    assert!(log.lines().nth(1).unwrap().contains("\"warn\",\"category\":\"stones\""), "{log}");

    // An application can still block it, also with incoming text.
    let film = folder.path().join("film.srt");
    std::fs::write(&film, "1\n00:00:00,000 --> 00:00:01,000\na fox\n").unwrap();
    let texts = format!(
        "filesrc location=\"{}\" ! subparse ! soraprompt name=source soragen::negative-prompt=quartz soragen::model=\"{}\"",
        film.display(),
        soragen_tests::fixtures::path("miniature").display()
    );
    for source in [&source, &texts] {
        let refused = play_with_prompt_check(source, "quartz").1.unwrap();
        assert!(refused.matches(gst::ResourceError::NotAuthorized), "{refused:?}");
        assert!(
            refused.message().contains("application") && !refused.message().contains("quartz"),
            "{refused}"
        );
    }

    // Also while playing.
    let folder = tempfile::tempdir().unwrap();
    let description = format!("{} prompt=snow duration=-1 {} ! fakesink", miniature(), policy(&folder));
    let pipeline = parse(&description);
    let source = pipeline.by_name("source").unwrap();
    source.connect("prompt-check", false, |args| {
        Some((!args[1].get::<String>().unwrap().contains("quartz")).to_value())
    });
    pipeline.set_state(gst::State::Playing).unwrap();
    source.set_property("negative-prompt", "quartz");
    let bus = pipeline.bus().unwrap();
    let said = bus.timed_pop_filtered(None, &[gst::MessageType::Warning, gst::MessageType::Error]);
    pipeline.set_state(gst::State::Null).unwrap();
    match said.unwrap().view() {
        gst::MessageView::Warning(warning) => {
            let text = warning.error().to_string();
            assert!(text.contains("application") && !text.contains("quartz"), "{text}");
            assert_eq!(decisions(&folder).1, 1);
        }
        other => panic!("{other:?}"),
    }
}

/// Plays `source` with a `prompt-check` handler that blocks prompts containing `part`. Returns the prompts that it received,
/// and the error, if any.
fn play_with_prompt_check(source: &str, part: &'static str) -> (Vec<String>, Option<gst::glib::Error>) {
    let pipeline = parse(&format!("{source} ! fakesink"));
    let (asked, questions) = std::sync::mpsc::channel();
    pipeline.by_name("source").unwrap().connect("prompt-check", false, move |args| {
        let prompt = args[1].get::<String>().unwrap();
        let may = !prompt.contains(part);
        asked.send(prompt).unwrap();
        Some(may.to_value())
    });
    let _ = pipeline.set_state(gst::State::Playing);
    let bus = pipeline.bus().unwrap();
    let end = bus.timed_pop_filtered(None, &[gst::MessageType::Error, gst::MessageType::Eos]).unwrap();
    pipeline.set_state(gst::State::Null).unwrap();
    let error = match end.view() {
        gst::MessageView::Error(error) => Some(error.error()),
        _ => None,
    };
    (questions.try_iter().collect(), error)
}

#[test]
fn prompt_check_is_emitted_for_every_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let source = format!("{} prompt=\"a green fox\" duration=500000000 {}", miniature(), policy(&folder));
    let (asked, error) = play_with_prompt_check(&source, "red");
    assert_eq!((asked, error), (vec!["a green fox".to_string()], None));
    let (asked, error) = play_with_prompt_check(&source, "green");
    assert_eq!(asked, ["a green fox"]);
    let error = error.unwrap();
    assert!(
        error.matches(gst::ResourceError::NotAuthorized) && error.message().contains("application"),
        "{error}"
    );
    assert_eq!(decisions(&folder), (2, 1), "both were written down");
    // The signal is not emitted for prompts that the policy blocks.
    let quartz = source.replace("green", "quartz");
    assert_eq!(play_with_prompt_check(&quartz, "red").0, [""; 0]);

    let film = folder.path().join("film.srt");
    std::fs::write(&film, "1\n00:00:00,000 --> 00:00:01,000\na green fox\n").unwrap();
    let model = soragen_tests::fixtures::path("miniature");
    let texts = format!(
        "filesrc location=\"{}\" ! subparse ! soraprompt name=source soragen::model=\"{}\"",
        film.display(),
        model.display()
    );
    let (asked, error) = play_with_prompt_check(&texts, "green");
    assert!(asked == ["a green fox"] && error.is_some(), "{asked:?} {error:?}");
}
