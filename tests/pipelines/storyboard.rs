//! Shots of a storyboard: frames, messages, key frames.

use gst::prelude::*;
use soragen_tests::fixtures::path;

use crate::support::{init, parse, pictures, samples, shots};

const FILM: &str = "0:00 the red fox | 0:00.5 a blue bird | 0:01 (cut) the green cat | 0:02";

fn source(arguments: &str) -> String {
    format!("soragen watermark=false model=\"{}\" {arguments}", path("miniature").display())
}

/// An item of the dataflow: a buffer with its timestamp, a shot event or a key frame request.
#[derive(Clone, Debug, PartialEq)]
enum Item {
    Buffer(u64),
    Shot { index: u64, prompt: String, seed: u64, start: u64, cut: bool },
    KeyUnit(u64),
}

/// Runs `description` to the end. Returns the dataflow of the element `source` and the shot messages.
fn flow(description: &str) -> (Vec<Item>, Vec<gst::Structure>) {
    let pipeline = parse(description);
    let source = pipeline.iterate_sources().next().unwrap().unwrap();
    let items = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let mask = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM;
    source.static_pad("src").unwrap().add_probe(mask, {
        let items = items.clone();
        move |_, info| {
            let mut items = items.lock().unwrap();
            if let Some(buffer) = info.buffer() {
                items.push(Item::Buffer(buffer.pts().unwrap().nseconds()));
            } else if let Some(event) = info.event() {
                let structure = event.structure();
                if let Ok(unit) = gst_video::DownstreamForceKeyUnitEvent::parse(event) {
                    assert!(unit.all_headers);
                    items.push(Item::KeyUnit(unit.timestamp.unwrap().nseconds()));
                } else if let Some(shot) = structure.filter(|s| s.name() == "soragen-shot") {
                    items.push(Item::Shot {
                        index: shot.get("index").unwrap(),
                        prompt: shot.get("prompt").unwrap(),
                        seed: shot.get("seed").unwrap(),
                        start: shot.get("start").unwrap(),
                        cut: shot.get("cut").unwrap(),
                    });
                }
            }
            gst::PadProbeReturn::Ok
        }
    });
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut messages = Vec::new();
    let bus = pipeline.bus().unwrap();
    loop {
        let message = bus.timed_pop(None).unwrap();
        match message.view() {
            gst::MessageView::Eos(_) => break,
            gst::MessageView::Error(error) => panic!("{error:?}"),
            gst::MessageView::Element(_) if message.has_name("soragen-shot") => {
                messages.push(message.structure().unwrap().to_owned());
            }
            _ => {}
        }
    }
    pipeline.set_state(gst::State::Null).unwrap();
    let items = items.lock().unwrap().clone();
    (items, messages)
}

#[test]
fn every_shot_is_announced_before_its_first_frame() {
    let (items, messages) = flow(&format!("{} ! fakesink", source(&format!("seed=5 storyboard=\"{FILM}\""))));
    let frame = |n: u64| n * 62_500_000;
    let shot = |index, prompt: &str, n, cut| Item::Shot {
        index,
        prompt: prompt.into(),
        seed: 5,
        start: frame(n),
        cut,
    };
    let mut wanted = Vec::new();
    for n in 0..32 {
        match n {
            0 => wanted.push(shot(0, "the red fox", 0, false)),
            // The chunk that is closest to frame 8.
            5 => wanted.push(shot(1, "a blue bird", 5, false)),
            16 => wanted.extend([Item::KeyUnit(frame(16)), shot(2, "the green cat", 16, true)]),
            _ => {}
        }
        wanted.push(Item::Buffer(frame(n)));
    }
    assert_eq!(items, wanted);
    let starts: Vec<u64> = messages.iter().map(|message| message.get("start").unwrap()).collect();
    assert_eq!(starts, [0, frame(5), frame(16)]);
}

#[test]
fn a_file_a_uri_and_an_inline_storyboard_give_the_same_frames() {
    init();
    let line = pictures(&samples(&source(&format!("storyboard=\"{FILM}\""))));
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        (
            "film.toml",
            "[[shot]]\nprompt = \"the red fox\"\nduration = 0.5\n[[shot]]\nprompt = \"a blue bird\"\nduration = 0.5\n\
             [[shot]]\nprompt = \"the green cat\"\nduration = 1\ntransition = \"cut\"\n",
        ),
        (
            "film.srt",
            "1\n00:00:00,000 --> 00:00:00,400\nthe red fox\n\n2\n00:00:00,500 --> 00:00:01,000\na blue bird\n\n\
             3\n00:00:01,000 --> 00:00:02,000\n(cut) the <i>green</i> cat\n",
        ),
    ] {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        let made = pictures(&samples(&source(&format!("storyboard=\"{}\"", file.display()))));
        assert!(made == line, "{name}");
    }
    // A URI can hold an inline storyboard, but not name a file.
    let element = gst::ElementFactory::make("soragen").build().unwrap();
    let handler = element.dynamic_cast_ref::<gst::URIHandler>().unwrap();
    handler.set_uri("soragen:///;storyboard=0%3A00%20a%20%7C%200%3A04%20b%20%7C%200%3A08").unwrap();
    assert_eq!(element.property::<String>("storyboard"), "0:00 a | 0:04 b | 0:08");
    assert!(handler.uri().unwrap().contains("storyboard=0%3A00"));
    for named in ["film.srt", "%2Fetc%2Fpasswd", "0%3A00%20--%3E%200%3A04", "%5B%5Bshot%5D%5D"] {
        assert!(handler.set_uri(&format!("soragen:///;storyboard={named}")).is_err(), "{named}");
    }
}

#[test]
fn a_seek_into_a_shot_gives_the_same_frames_and_announces_the_shot() {
    let description = source(&format!("storyboard=\"{FILM}\""));
    let all = pictures(&samples(&description));
    assert_eq!(all.len(), 32);

    let pipeline = parse(&format!("{description} ! appsink name=sink sync=false"));
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    let duration = || pipeline.query_duration::<gst::ClockTime>();
    pipeline.set_state(gst::State::Paused).unwrap();
    sink.pull_preroll().unwrap();
    assert_eq!(duration(), Some(gst::ClockTime::from_seconds(2)));
    let bus = pipeline.bus().unwrap();
    let seek = |rate: f64, start: u64, stop: u64| {
        let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE;
        let time = gst::ClockTime::from_mseconds;
        while bus.pop().is_some() {}
        pipeline.seek(rate, flags, gst::SeekType::Set, time(start), gst::SeekType::Set, time(stop)).unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        let made: Vec<_> = std::iter::from_fn(|| sink.pull_sample().ok()).collect();
        (pictures(&made), shots(&bus, "index"))
    };
    let (frames, shots) = seek(1.0, 750, 1500);
    assert!(frames == all[12..24]);
    assert_eq!(shots, [1, 2]);
    let (frames, shots) = seek(-1.0, 750, 1500);
    assert!(frames.iter().eq(all[12..24].iter().rev()), "backwards");
    assert_eq!(shots, [2, 1]);
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn a_new_prompt_starts_in_the_announced_chunk() {
    init();
    // Reference: the engine with a prompt change at frame 13.
    let written = pictures(&samples(&source(
        "storyboard=\"0:00 the red fox | 0:00.8125 a blue bird | 0:01.8125\" ! video/x-raw,format=RGB",
    )));
    let description = source("prompt=\"the red fox\" duration=1812500000 ! video/x-raw,format=RGB");
    let pipeline = parse(&format!("{description} ! appsink name=sink sync=false max-buffers=1"));
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    let source = pipeline.iterate_sources().next().unwrap().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut made = vec![sink.pull_sample().unwrap()];
    source.set_property("prompt", "a blue bird");
    made.extend(std::iter::from_fn(|| sink.pull_sample().ok()));
    let frames = shots(&pipeline.bus().unwrap(), "frame");
    pipeline.set_state(gst::State::Null).unwrap();
    let made = pictures(&made);
    // The worker is one chunk ahead of the sink, and may be computing another.
    assert!(frames == [0, 5] || frames == [0, 13], "{frames:?}");
    let changed = frames[1] as usize;
    assert!(made[..changed] == written[..changed]);
    if changed == 13 {
        assert!(made == written);
    }
    assert_ne!(made, pictures(&samples(&description)));
}

#[test]
fn every_cut_is_a_key_frame() {
    // Key frames only on request, except the first.
    let film =
        "0:00 the red fox | 0:00.5 (cut) a blue bird | 0:01 the green cat | 0:01.4375 (cut) snow | 0:02";
    let encoded = samples(&format!(
        "{} ! x264enc tune=zerolatency key-int-max=1000 option-string=scenecut=0 ! h264parse",
        source(&format!("storyboard=\"{film}\""))
    ));
    let keys = encoded.iter().map(|sample| sample.buffer().unwrap());
    let keys: Vec<_> = keys.filter(|buffer| !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT)).collect();
    let first = encoded[0].buffer().unwrap().pts().unwrap();
    let frames: Vec<_> =
        keys.iter().map(|key| (key.pts().unwrap() - first).nseconds() / 62_500_000).collect();
    assert_eq!(frames, [0, 8, 23]);
}

#[test]
fn an_invalid_storyboard_is_an_error() {
    let file = path("prompts.json");
    for (board, word) in [("/no/such.srt".to_string(), "not found"), (file.display().to_string(), "line 1")] {
        let error = crate::support::error(&source(&format!("storyboard=\"{board}\"")));
        assert!(error.message().contains(word), "{error}");
    }
    let error = crate::support::error(&source("storyboard=\"0:00 a | 0:04\n0:08 b\""));
    assert!(error.message().contains("line 1"), "{error}");
}

#[test]
fn a_storyboard_is_read_whatever_its_layout() {
    use soragen::Storyboard;
    let case = |name: &str| std::fs::read_to_string(path(&format!("cases/subtitles/{name}"))).unwrap();
    let [fox, boat, hill] = ["a red fox in snow", "a blue boat on the sea", "a green hill in rain"];
    for (text, prompts, seconds) in [
        (case("noblank.srt"), &[fox, boat, hill][..], Some(3)),
        (case("innerblank.srt"), &["a red fox in deep snow", boat], Some(2)),
        (case("an8.srt"), &[fox, boat], Some(2)),
        (case("bom.srt"), &[fox, boat], Some(2)),
        (case("cr.vtt"), &["a red fox", "a blue boat"], Some(2)),
        (case("toml2.toml"), &[fox], Some(1)),
        (case("toml3.toml"), &[fox], Some(1)),
        // Old Mac files, of any format.
        (case("noblank.srt").replace('\n', "\r"), &[fox, boat, hill], Some(3)),
        (case("toml3.toml").replace('\n', "\r"), &[fox], Some(1)),
        ("0:00 a\r0:01 b\r0:02".into(), &["a", "b"], Some(2)),
        // TOML without a line that is exactly [[shot]].
        (
            "shot = [{ prompt = \"a\", duration = 1 }, { prompt = \"b --> c\" }]".into(),
            &["a", "b --> c"],
            Some(2),
        ),
        ("[[\"shot\"]]\n\"prompt\"='''\n0:00 --> 0:01'''".into(), &["0:00 --> 0:01"], None),
        ("\n# a\n  [[shot]]#b\nprompt = 'a'\n".into(), &["a"], None),
    ] {
        let board = Storyboard::open(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let made: Vec<_> = board.shots.iter().map(|shot| shot.prompt.as_str()).collect();
        assert_eq!(made, prompts, "{text}");
        assert_eq!(board.end, seconds.map(std::time::Duration::from_secs), "{text}");
    }
    let zero = Storyboard::parse(&case("zero.srt")).unwrap_err().to_string();
    assert!(zero.contains("line 6: the cue has no length"), "{zero}");
}

#[test]
fn a_message_repeats_neither_a_whole_text_nor_a_path() {
    use soragen::Storyboard;
    let long = "word ".repeat(5000);
    for text in [
        long.clone(),
        format!("{long}\r{long}"),
        format!("0:00 a\n{long}"),
        format!("0:00 --> {long}"),
        format!("[[shot]]\nprompt = \"a\"\ntransition = \"{long}\""),
        format!("[[shot]]\nprompt = {long}"),
    ] {
        let reason = Storyboard::open(&text).unwrap_err().to_string();
        assert!(reason.len() < 500, "{reason}");
    }
    for file in
        [path("prompts.json"), path("pipelines"), path("miniature/noise.safetensors"), path("none.srt")]
    {
        let file = file.display().to_string();
        let reason = Storyboard::open(&file).unwrap_err().to_string();
        assert_eq!(reason.matches(&file).count(), 1, "{reason}");
    }
}
