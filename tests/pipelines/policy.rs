//! What the element refuses to make.

use gst::prelude::*;

use crate::support::{error, init, tiny};

/// A file with a policy that refuses quartz.
fn policy(folder: &tempfile::TempDir) -> String {
    let path = folder.path().join("policy.toml");
    let text = "name = \"test\"\n[[category]]\nname = \"stones\"\naction = \"block\"\nphrases = [\"quartz\"]";
    std::fs::write(&path, text).unwrap();
    format!("policy=\"{}\" audit-log=\"{}\"", path.display(), folder.path().join("audit.jsonl").display())
}

#[test]
fn a_refused_prompt_makes_no_video() {
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
fn a_refused_prompt_does_not_take_the_place_of_another() {
    init();
    let folder = tempfile::tempdir().unwrap();
    let model = soragen_tests::fixtures::path("miniature");
    let description = format!(
        "soragen name=source model=\"{}\" prompt=\"the red fox runs\" duration=-1 {} ! fakesink",
        model.display(),
        policy(&folder)
    );
    let pipeline = gst::parse::launch(&description).unwrap().downcast::<gst::Pipeline>().unwrap();
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
fn a_policy_that_is_none_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.toml");
    std::fs::write(&path, "name = 3").unwrap();
    let error = error(&format!("{} policy=\"{}\"", tiny("t2v-unipc"), path.display()));
    assert!(error.message().contains("policy.toml") && error.message().contains("name"), "{error}");
}
