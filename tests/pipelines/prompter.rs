//! `soraprompt`: texts that come in become shots.

use gst::prelude::*;
use soragen_tests::fixtures::path;

use crate::support::{init, samples};

const FILM: &str = "1\n00:00:00,100 --> 00:00:00,400\nthe <i>red</i> fox\n\n2\n00:00:00,500 --> 00:00:01,000\na blue\nbird\n\n\
                    3\n00:00:01,000 --> 00:00:02,000\n(cut) the green cat &amp; snow\n";

fn pixels(samples: &[gst::Sample]) -> Vec<Vec<u8>> {
    samples.iter().map(|sample| sample.buffer().unwrap().map_readable().unwrap().to_vec()).collect()
}

fn model() -> String {
    path("miniature").display().to_string()
}

#[test]
fn a_subtitle_file_makes_the_shots_of_the_same_storyboard() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("film.srt");
    std::fs::write(&file, FILM).unwrap();
    let (file, model) = (file.display(), model());
    let board = samples(&format!("soragen model=\"{model}\" seed=3 watermark=false storyboard=\"{file}\""));
    let texts = samples(&format!(
        "filesrc location=\"{file}\" ! subparse ! soraprompt soragen::model=\"{model}\" soragen::seed=3 soragen::watermark=false"
    ));
    assert_eq!(board.len(), 32);
    let times =
        |samples: &[gst::Sample]| samples.iter().map(|s| s.buffer().unwrap().pts()).collect::<Vec<_>>();
    assert_eq!(times(&texts), times(&board));
    assert!(pixels(&texts) == pixels(&board));
}

#[test]
fn frames_leave_as_soon_as_it_is_known_what_they_show() {
    init();
    let pipeline = gst::parse::launch(&format!(
        "appsrc name=text format=time caps=text/x-raw,format=utf8 ! soraprompt soragen::model=\"{}\" soragen::seed=3 soragen::watermark=false ! \
         appsink name=sink sync=false",
        model()
    ));
    let pipeline = pipeline.unwrap().downcast::<gst::Pipeline>().unwrap();
    let text = pipeline.by_name("text").unwrap().downcast::<gst_app::AppSrc>().unwrap();
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    let say = |start: u64, until: u64, words: &'static str| {
        let mut buffer = gst::Buffer::from_slice(words);
        let times = buffer.get_mut().unwrap();
        times.set_pts(gst::ClockTime::from_mseconds(start));
        times.set_duration(gst::ClockTime::from_mseconds(until - start));
        text.push_buffer(buffer).unwrap();
    };
    pipeline.set_state(gst::State::Playing).unwrap();
    say(0, 1000, "the red fox");
    say(2000, 3000, "a blue bird");
    // What comes before the second text is certain; the next chunk is not.
    let mut made: Vec<_> = (0..21).map(|_| sink.pull_sample().unwrap()).collect();
    assert_eq!(pipeline.query_duration::<gst::ClockTime>(), None);
    say(3000, 3500, "(cut) snow");
    text.end_of_stream().unwrap();
    made.extend(std::iter::from_fn(|| sink.pull_sample().ok()));
    assert_eq!(pipeline.query_duration::<gst::ClockTime>(), Some(gst::ClockTime::from_mseconds(3500)));
    pipeline.set_state(gst::State::Null).unwrap();
    let board = samples(&format!(
        "soragen model=\"{}\" seed=3 watermark=false storyboard=\"0:00 the red fox | 0:02 a blue bird | 0:03 (cut) snow | 0:03.5\"",
        model()
    ));
    assert_eq!(made.len(), 56);
    assert!(pixels(&made) == pixels(&board));
}

#[test]
fn it_plays_again_and_ends_without_a_text() {
    init();
    let description = format!(
        "appsrc name=text format=time caps=text/x-raw,format=utf8 ! soraprompt soragen::model=\"{}\" ! fakesink",
        model()
    );
    let pipeline = gst::parse::launch(&description).unwrap().downcast::<gst::Pipeline>().unwrap();
    let text = pipeline.by_name("text").unwrap().downcast::<gst_app::AppSrc>().unwrap();
    for words in [None, Some("snow"), None] {
        pipeline.set_state(gst::State::Playing).unwrap();
        if let Some(words) = words {
            let mut buffer = gst::Buffer::from_slice(words);
            buffer.get_mut().unwrap().set_pts(gst::ClockTime::ZERO);
            buffer.get_mut().unwrap().set_duration(gst::ClockTime::from_mseconds(500));
            text.push_buffer(buffer).unwrap();
        }
        text.end_of_stream().unwrap();
        let bus = pipeline.bus().unwrap();
        let end = bus.timed_pop_filtered(None, &[gst::MessageType::Eos, gst::MessageType::Error]).unwrap();
        assert!(matches!(end.view(), gst::MessageView::Eos(_)), "{end:?}");
        pipeline.set_state(gst::State::Ready).unwrap();
    }
    pipeline.set_state(gst::State::Null).unwrap();
}
