//! The element while its model is downloaded.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Once, OnceLock};

use gst::prelude::*;
use soragen_tests::fixtures::path;
use soragen_tests::hub::{Reply, Server, answer};

/// Whether weights of the owner `stuck` are sent completely, and do not hang.
static UNSTUCK: AtomicBool = AtomicBool::new(false);

/// The hub server of this process. The owner in a repository name selects its behaviour.
fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    static INIT: Once = Once::new();
    let server = SERVER.get_or_init(|| {
        Server::start(&path("pipelines/t2v-unipc"), |asked, reply| {
            if asked.path.contains("/causal/") {
                *reply = answer(&path("miniature"), asked);
            }
            if asked.path.starts_with("/private/") || asked.path.starts_with("/api/models/private/") {
                *reply = Reply::status(401);
            }
            if asked.path.starts_with("/stuck/")
                && asked.path.ends_with(".safetensors")
                && asked.method == "GET"
                && !UNSTUCK.load(Ordering::Relaxed)
            {
                // This server, which hangs after 1000 bytes.
                let body = std::fs::read(path("pipelines/t2v-unipc/vae/diffusion_pytorch_model.safetensors"));
                *reply = Reply { status: 200, body: body.unwrap(), hang: Some(1000), ..Reply::default() };
            }
        })
    });
    INIT.call_once(|| {
        let home = tempfile::tempdir().unwrap().keep();
        // SAFETY: no other thread reads the environment except by Rust's functions, which lock it.
        unsafe {
            std::env::set_var("HF_HOME", home);
            std::env::set_var("HF_ENDPOINT", &server.endpoint);
            for name in
                ["HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_TOKEN_PATH", "TRANSFORMERS_OFFLINE"]
            {
                std::env::remove_var(name);
            }
        }
        gst::init().unwrap();
        gst::glib::log_set_always_fatal(
            gst::glib::LogLevels::LEVEL_ERROR | gst::glib::LogLevels::LEVEL_CRITICAL,
        );
        gstsoragen::plugin_register_static().unwrap();
    });
    server
}

fn pipeline(description: &str) -> gst::Pipeline {
    server();
    gst::parse::launch(description).unwrap().downcast().unwrap()
}

fn soragen(model: &str) -> String {
    format!(
        "soragen model={model} prompt=\"a red fox\" steps=2 watermark=false cache-dir=\"\" duration=300000000 \
         ! video/x-raw,width=32,height=32,format=RGB"
    )
}

/// All frames of the pipeline.
fn frames(description: &str) -> Vec<Vec<u8>> {
    let pipeline = pipeline(&format!("{description} ! appsink name=sink sync=false"));
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let frames = std::iter::from_fn(|| sink.pull_sample().ok());
    let frames = frames.map(|s| s.buffer().unwrap().map_readable().unwrap().to_vec()).collect();
    let failure = pipeline.bus().unwrap().pop_filtered(&[gst::MessageType::Error]);
    pipeline.set_state(gst::State::Null).unwrap();
    assert!(failure.is_none(), "{description}: {failure:?}");
    frames
}

/// Waits for a progress message of type `kind` about the download.
fn wait_for(bus: &gst::Bus, kind: gst::ProgressType) -> gst::Message {
    loop {
        let message = bus.timed_pop(None).unwrap();
        match message.view() {
            gst::MessageView::Error(error) => panic!("{error:?}"),
            gst::MessageView::Progress(progress) => {
                let (got, code, _) = progress.get();
                if code == "download" && got == kind {
                    return message;
                }
            }
            _ => {}
        }
    }
}

#[test]
fn the_element_downloads_its_model() {
    server();
    let expected = frames(&soragen(path("pipelines/t2v-unipc").to_str().unwrap()));
    assert_eq!(expected.len(), 5);
    assert!(frames(&soragen("hf:any/first")) == expected);
    // The second time it sends no request.
    let asked = |server: &Server| server.asked().iter().any(|asked| asked.path.contains("any/first"));
    assert!(asked(server()));
    assert!(frames(&soragen("hf:any/first")) == expected);
    assert!(!asked(server()));
}

#[test]
fn progress_in_bytes_is_posted_before_the_first_buffer() {
    let pipeline = pipeline(&format!("{} ! fakesink sync=false", soragen("hf:any/progress")));
    let bus = pipeline.bus().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    wait_for(&bus, gst::ProgressType::Start);
    let at = wait_for(&bus, gst::ProgressType::Continue);
    let at = at.structure().unwrap();
    let (received, total) = (at.get::<u64>("received").unwrap(), at.get::<u64>("total").unwrap());
    assert!(received > 0 && received <= total && total > 700_000, "{received} of {total}");
    wait_for(&bus, gst::ProgressType::Complete);
    bus.timed_pop_filtered(None, &[gst::MessageType::Eos]).unwrap();
    // The duration is known after the download.
    assert_eq!(pipeline.query_duration::<gst::ClockTime>().unwrap().nseconds(), 300_000_000);
    pipeline.set_state(gst::State::Null).unwrap();
}

/// Hangs if the element waits for the network. A live source starts its streaming thread on the way to PLAYING.
#[test]
fn a_hanging_download_can_be_stopped_and_restarted() {
    for (model, live) in [("hf:stuck/a", false), ("hf:stuck/b", true)] {
        let pipeline = pipeline(&format!("{} ! fakesink name=sink sync=false", soragen(model)));
        let source = pipeline.iterate_sources().next().unwrap().unwrap();
        source.set_property("is-live", live);
        let bus = pipeline.bus().unwrap();
        for state in [gst::State::Ready, gst::State::Null] {
            pipeline.set_state(gst::State::Playing).unwrap();
            wait_for(&bus, gst::ProgressType::Start);
            // A seek has no effect yet.
            let _ = pipeline.seek_simple(gst::SeekFlags::FLUSH, gst::ClockTime::ZERO);
            pipeline.set_state(state).unwrap();
        }
        UNSTUCK.store(true, Ordering::Relaxed);
        pipeline.set_state(gst::State::Playing).unwrap();
        let end = bus.timed_pop_filtered(None, &[gst::MessageType::Eos, gst::MessageType::Error]).unwrap();
        assert_eq!(end.type_(), gst::MessageType::Eos, "{end:?}");
        pipeline.set_state(gst::State::Null).unwrap();
        UNSTUCK.store(false, Ordering::Relaxed);
    }
}

#[test]
fn prompts_before_the_model_is_ready_are_kept() {
    server();
    let folder = tempfile::tempdir().unwrap();
    let film = folder.path().join("film.srt");
    std::fs::write(&film, "1\n00:00:00,000 --> 00:00:00,300\na red fox\n").unwrap();
    let description = |model: &str| {
        format!(
            "filesrc location=\"{}\" ! subparse ! soraprompt soragen::model={model} soragen::watermark=false \
             soragen::cache-dir=\"\"",
            film.display()
        )
    };
    let expected = frames(&description(path("miniature").to_str().unwrap()));
    let downloaded = frames(&description("hf:causal/texts"));
    assert!(
        !expected.is_empty() && downloaded == expected,
        "{} and {} frames",
        expected.len(),
        downloaded.len()
    );
}

#[test]
fn the_error_for_a_refused_model_names_the_remedy() {
    for (model, word) in [("hf:private/model", "HF_TOKEN"), ("hf:../x", "owner/name")] {
        let pipeline = pipeline(&format!("{} ! fakesink", soragen(model)));
        let _ = pipeline.set_state(gst::State::Playing);
        let message = pipeline.bus().unwrap().timed_pop_filtered(None, &[gst::MessageType::Error]).unwrap();
        let gst::MessageView::Error(error) = message.view() else { panic!("{message:?}") };
        assert!(error.error().message().contains(word), "{error:?}");
        pipeline.set_state(gst::State::Null).unwrap();
    }
}
