//! `soraprompt`: incoming text becomes shots.

use gst::prelude::*;
use soragen_tests::fixtures::path;

use crate::support::{Pipeline, parse, pictures, samples};

const FILM: &str = "1\n00:00:00,100 --> 00:00:00,400\nthe <i>red</i> fox\n\n2\n00:00:00,500 --> 00:00:01,000\na blue\nbird\n\n\
                    3\n00:00:01,000 --> 00:00:02,000\n(cut) the green cat &amp; snow\n";

fn appsrc(pipeline: &gst::Pipeline, name: &str) -> gst_app::AppSrc {
    pipeline.by_name(name).unwrap().downcast().unwrap()
}

/// Pushes a buffer from `start` to `until` in milliseconds.
fn push(to: &gst_app::AppSrc, start: u64, until: u64, bytes: impl AsRef<[u8]> + Send + 'static) {
    let mut buffer = gst::Buffer::from_slice(bytes);
    let times = buffer.get_mut().unwrap();
    times.set_pts(gst::ClockTime::from_mseconds(start));
    times.set_duration(gst::ClockTime::from_mseconds(until - start));
    to.push_buffer(buffer).unwrap();
}

fn model() -> String {
    path("miniature").display().to_string()
}

#[test]
fn a_subtitle_file_gives_the_same_shots_as_the_storyboard() {
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
    assert!(pictures(&texts) == pictures(&board));
}

#[test]
fn frames_are_pushed_as_soon_as_their_prompt_is_known() {
    let pipeline = parse(&format!(
        "appsrc name=text format=time caps=text/x-raw,format=utf8 ! soraprompt soragen::model=\"{}\" soragen::seed=3 soragen::watermark=false ! \
         appsink name=sink sync=false",
        model()
    ));
    let text = appsrc(&pipeline, "text");
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    let say = |start, until, words: &'static str| push(&text, start, until, words);
    pipeline.set_state(gst::State::Playing).unwrap();
    say(0, 1000, "the red fox");
    say(2000, 3000, "a blue bird");
    // Chunks before the second text are known; later ones are not.
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
    assert!(pictures(&made) == pictures(&board));
}

#[test]
fn the_element_can_be_used_again() {
    let pipeline = parse(&format!(
        "appsrc name=text format=time caps=text/x-raw,format=utf8 ! soraprompt soragen::model=\"{}\" ! fakesink",
        model()
    ));
    let text = appsrc(&pipeline, "text");
    for words in [Some("snow"), None, Some("rain")] {
        pipeline.set_state(gst::State::Playing).unwrap();
        if let Some(words) = words {
            push(&text, 0, 500, words);
        }
        text.end_of_stream().unwrap();
        let bus = pipeline.bus().unwrap();
        let end = bus.timed_pop_filtered(None, &[gst::MessageType::Eos, gst::MessageType::Error]).unwrap();
        assert_eq!(end.type_() == gst::MessageType::Eos, words.is_some(), "{end:?}");
        // After an error, a change to READY can fail; it ends the aborted change to PLAYING.
        let stopped = if words.is_some() { gst::State::Ready } else { gst::State::Null };
        pipeline.set_state(stopped).unwrap();
        // The base class posts an error too.
        while bus.pop().is_some() {}
    }
    pipeline.set_state(gst::State::Null).unwrap();
}

/// The frames of a file, through a subtitle parser, and the prompts of its shots with their times in milliseconds.
fn film(file: &std::path::Path) -> (Vec<gst::Sample>, Vec<(u64, String)>) {
    let pipeline = parse(&format!(
        "filesrc location=\"{}\" ! subparse ! soraprompt soragen::model=\"{}\" soragen::seed=3 soragen::watermark=false ! \
         appsink name=sink sync=false",
        file.display(),
        model()
    ));
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let made: Vec<_> = std::iter::from_fn(|| sink.pull_sample().ok()).collect();
    let bus = pipeline.bus().unwrap();
    let messages = std::iter::from_fn(|| bus.pop()).filter(|message| message.has_name("soragen-shot"));
    let shot = |message: gst::Message| {
        let shot = message.structure().unwrap();
        (shot.get::<u64>("frame").unwrap(), shot.get("prompt").unwrap())
    };
    let shots = messages.map(shot).collect();
    pipeline.set_state(gst::State::Null).unwrap();
    (made, shots)
}

/// A file with `text` in a folder of its own.
fn written(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("film.txt");
    std::fs::write(&file, text).unwrap();
    (folder, file)
}

const PROMPTS: [&str; 3] = ["a red fox in snow", "a blue boat on the sea", "a green hill in rain"];

/// Frames of the test model's natural length.
const NATURAL: usize = 17;

#[test]
fn a_text_without_a_duration_lasts_until_the_next() {
    crate::support::init();
    let [a, b, c] = PROMPTS;
    let (_folder, tmplayer) = written(&format!("00:00:00:{a}\n00:00:01:{b}\n00:00:02:{c}\n"));
    for file in [path("cases/subtitles/song.lrc"), tmplayer] {
        let (made, shots) = film(&file);
        let prompts: Vec<_> = shots.iter().map(|(_, prompt)| prompt.as_str()).collect();
        assert_eq!(prompts, PROMPTS, "{}", file.display());
        assert_eq!(made.len(), 32 + NATURAL, "{}", file.display());
    }
    // An empty text ends the one before it.
    let (_folder, ended) = written(&format!("[00:00.00]{a}\n[00:01.00]{b}\n[00:01.50]\n"));
    let (made, shots) = film(&ended);
    assert_eq!((made.len(), shots.len()), (24, 2));
}

/// The frames of texts from an application, without durations: prompts and milliseconds.
fn said(texts: &[(u64, &'static str)], end: impl FnOnce(&gst::Pad), live: bool) -> usize {
    let pipeline = parse(&format!(
        "appsrc name=text format=time caps=text/x-raw,format=utf8 ! soraprompt soragen::model=\"{}\" \
         soragen::watermark=false soragen::is-live={live} ! appsink name=sink sync=false",
        model()
    ));
    let clock = gst_check::TestClock::new();
    pipeline.use_clock(Some(&clock));
    let text = appsrc(&pipeline, "text");
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    for &(start, words) in texts {
        let mut buffer = gst::Buffer::from_slice(words);
        buffer.get_mut().unwrap().set_pts(gst::ClockTime::from_mseconds(start));
        text.push_buffer(buffer).unwrap();
    }
    while text.current_level_buffers() > 0 {
        std::thread::yield_now();
    }
    if live {
        // The first frame shows that the pipeline runs.
        sink.pull_sample().unwrap();
        clock.set_time(gst::ClockTime::from_mseconds(1500));
    }
    end(&text.static_pad("src").unwrap());
    text.end_of_stream().unwrap();
    let duration = loop {
        match pipeline.query_duration::<gst::ClockTime>() {
            Some(duration) => break duration,
            None => std::thread::yield_now(),
        }
    };
    // A live source may wait for the time of its next frame when the end becomes known.
    while !sink.is_eos() {
        if let Some(id) = clock.peek_next_pending_id() {
            clock.set_time(id.time().max(clock.time()));
            clock.process_next_clock_id();
        }
        sink.try_pull_sample(gst::ClockTime::MSECOND);
    }
    pipeline.set_state(gst::State::Null).unwrap();
    usize::try_from(duration.mseconds()).unwrap()
}

#[test]
fn the_last_text_lasts_until_the_end_of_the_stream() {
    let natural = 1000 + 17 * 1000 / 16;
    let texts = [(0, "the red fox"), (1000, "a blue bird")];
    assert_eq!(said(&texts, |_| {}, false), natural);
    // A gap says until when there is no other text.
    let gap = |pad: &gst::Pad| {
        let (start, length) = (gst::ClockTime::from_mseconds(1000), gst::ClockTime::from_mseconds(750));
        assert!(pad.push_event(gst::event::Gap::builder(start).duration(length).build()));
    };
    assert_eq!(said(&texts, gap, false), 1750);
    assert_eq!(said(&[(0, "the red fox"), (1250, "")], |_| {}, false), 1250);
    // A live text ends when its stream does.
    assert_eq!(said(&texts, |_| {}, true), 1500);
}

#[test]
fn a_stream_without_text_is_an_error() {
    crate::support::init();
    let model = model();
    let failure = |texts: &str| {
        crate::support::error(&format!("{texts} ! soraprompt soragen::model=\"{model}\""))
            .message()
            .to_string()
    };
    let (_folder, numbers) =
        written("1\n00:00:00,000 --> 00:00:01,000\n{\\an8}\n\n2\n00:00:01,000 --> 00:00:02,000\n\n");
    for file in [path("cases/subtitles/bom.srt"), numbers] {
        let reason = failure(&format!("filesrc location=\"{}\" ! subparse", file.display()));
        assert!(reason.contains("no text"), "{}: {reason}", file.display());
    }
    let reason = failure("fakesrc num-buffers=0 ! text/x-raw,format=utf8");
    assert!(reason.contains("no text"), "{reason}");
}

#[test]
fn a_subtitle_parser_may_leave_markup_and_times_in_a_text() {
    crate::support::init();
    let [a, b, c] = PROMPTS;
    let board = |text: &str| {
        let description =
            format!("soragen model=\"{}\" seed=3 watermark=false storyboard=\"{text}\"", model());
        pictures(&samples(&description))
    };
    let line = format!("0:00 {a} | 0:01 {b} | 0:02");
    for (file, line) in
        [("noblank.srt", format!("0:00 {a} | 0:01 {b} | 0:02 {c} | 0:03")), ("an8.srt", line.clone())]
    {
        let (made, _) = film(&path(&format!("cases/subtitles/{file}")));
        assert!(pictures(&made) == board(&line), "{file}");
    }
    let codes = format!(
        "1\n00:00:00,000 --> 00:00:01,000\n{{\\i1}}{a}{{\\i0}}\n2\n00:00:01,000 --> 00:00:02,000\n<b>{b}</b>\n"
    );
    let (_folder, file) = written(&codes);
    assert!(pictures(&film(&file).0) == board(&line));
}

#[test]
fn a_text_without_length_is_dropped_with_a_warning() {
    let pipeline = parse(&format!(
        "filesrc location=\"{}\" ! subparse ! soraprompt soragen::model=\"{}\" ! fakesink",
        path("cases/subtitles/zero.srt").display(),
        model()
    ));
    pipeline.set_state(gst::State::Playing).unwrap();
    let (bus, mut warnings, mut prompts) = (pipeline.bus().unwrap(), Vec::new(), Vec::new());
    loop {
        let message = bus.timed_pop(None).unwrap();
        match message.view() {
            gst::MessageView::Eos(_) => break,
            gst::MessageView::Error(error) => panic!("{error:?}"),
            gst::MessageView::Warning(warning) => warnings.push(warning.error().message().to_string()),
            gst::MessageView::Element(_) if message.has_name("soragen-shot") => {
                prompts.push(message.structure().unwrap().get::<String>("prompt").unwrap());
            }
            _ => {}
        }
    }
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(prompts, [PROMPTS[0], PROMPTS[2]]);
    assert!(warnings.len() == 1 && warnings[0].contains("\"flash\" has no length"), "{warnings:?}");
}

/// `soraprompt` with text and video from the test.
fn with_video() -> (Pipeline, gst_app::AppSrc, gst_app::AppSrc, gst_app::AppSink) {
    let pipeline = parse(&format!(
        "soraprompt name=prompt soragen::model=\"{}\" soragen::seed=3 soragen::watermark=false ! appsink name=sink sync=false \
         appsrc name=text format=time caps=text/x-raw,format=utf8 ! prompt.text \
         appsrc name=video format=time caps=video/x-raw,format=BGRx,width=24,height=16,framerate=10/1 ! prompt.video",
        model()
    ));
    let (text, video) = (appsrc(&pipeline, "text"), appsrc(&pipeline, "video"));
    let sink = pipeline.by_name("sink").unwrap().downcast().unwrap();
    (pipeline, text, video, sink)
}

const RED: [u8; 3] = [200, 30, 20];
const BLUE: [u8; 3] = [20, 60, 220];

#[test]
fn a_shot_starts_from_the_video_frame_at_its_time() {
    let folder = tempfile::tempdir().unwrap();
    for (name, colour) in [("red", RED), ("blue", BLUE)] {
        let file = folder.path().join(name).with_extension("png");
        image::RgbImage::from_pixel(24, 16, image::Rgb(colour)).save(file).unwrap();
    }
    let board = "[[shot]]\nprompt = \"the red fox\"\nduration = 0.5\nimage = \"red.png\"\n\
                 [[shot]]\nprompt = \"a blue bird\"\nduration = 0.5\n\
                 [[shot]]\nprompt = \"snow\"\nduration = 0.5\nimage = \"blue.png\"\ntransition = \"cut\"\n";
    let file = folder.path().join("film.toml");
    std::fs::write(&file, board).unwrap();
    let board = samples(&format!(
        "soragen model=\"{}\" seed=3 watermark=false storyboard=\"{}\"",
        model(),
        file.display()
    ));

    let (pipeline, text, video, sink) = with_video();
    pipeline.set_state(gst::State::Playing).unwrap();
    let show = |frames: std::ops::Range<u64>| {
        for frame in frames {
            // The video turns blue at the frame of the cut.
            let [r, g, b] = if frame < 10 { RED } else { BLUE };
            push(&video, 100 * frame, 100 * (frame + 1), [b, g, r, 0].repeat(24 * 16));
        }
    };
    // With the video ahead of the text, then behind.
    show(0..8);
    push(&text, 0, 500, "the red fox");
    push(&text, 500, 1000, "a blue bird");
    push(&text, 1000, 1500, "(cut) snow");
    text.end_of_stream().unwrap();
    show(8..30);
    video.end_of_stream().unwrap();
    let made: Vec<_> = std::iter::from_fn(|| sink.pull_sample().ok()).collect();
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(made.len(), 24);
    assert!(pictures(&made) == pictures(&board));
}

#[test]
fn a_missing_video_does_not_block_shutdown() {
    let (pipeline, text, video, sink) = with_video();
    let plain = samples(&format!(
        "soragen model=\"{}\" seed=3 watermark=false prompt=snow duration=500000000",
        model()
    ));
    pipeline.set_state(gst::State::Playing).unwrap();
    push(&text, 0, 500, "snow");
    text.end_of_stream().unwrap();
    video.end_of_stream().unwrap();
    let made: Vec<_> = std::iter::from_fn(|| sink.pull_sample().ok()).collect();
    assert!(pictures(&made) == pictures(&plain), "from noise");

    pipeline.set_state(gst::State::Ready).unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    push(&text, 0, 500, "snow");
    // The text has arrived and waits for a video frame.
    while text.current_level_buffers() > 0 {
        std::thread::yield_now();
    }
    let (done, stopped) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(pipeline.set_state(gst::State::Null)));
    assert!(stopped.recv_timeout(std::time::Duration::from_secs(20)).unwrap().is_ok());
}

#[test]
fn the_video_restarts_after_a_flush() {
    let folder = tempfile::tempdir().unwrap();
    let blue = folder.path().join("blue.png");
    image::RgbImage::from_pixel(24, 16, image::Rgb(BLUE)).save(&blue).unwrap();
    let from_blue = samples(&format!(
        "soragen model=\"{}\" seed=3 watermark=false prompt=snow duration=500000000 image=\"{}\"",
        model(),
        blue.display()
    ));
    let (pipeline, text, video, sink) = with_video();
    pipeline.set_state(gst::State::Playing).unwrap();
    let [r, g, b] = RED;
    push(&video, 0, 500, [b, g, r, 0].repeat(24 * 16));
    video.end_of_stream().unwrap();
    // Nothing can be flushed until its EOS has passed.
    let pad = video.static_pad("src").unwrap();
    while pad.sticky_event::<gst::event::Eos>(0).is_none() {
        std::thread::yield_now();
    }
    assert!(pad.push_event(gst::event::FlushStart::new()));
    assert!(pad.push_event(gst::event::FlushStop::new(true)));
    assert!(pad.push_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new())));
    let [r, g, b] = BLUE;
    let mut buffer = gst::Buffer::from_slice([b, g, r, 0].repeat(24 * 16));
    let frame = buffer.get_mut().unwrap();
    frame.set_pts(gst::ClockTime::ZERO);
    frame.set_duration(gst::ClockTime::from_mseconds(500));
    pad.push(buffer).unwrap();
    push(&text, 0, 500, "snow");
    text.end_of_stream().unwrap();
    let made: Vec<_> = std::iter::from_fn(|| sink.pull_sample().ok()).collect();
    pipeline.set_state(gst::State::Null).unwrap();
    assert!(pictures(&made) == pictures(&from_blue));
}
