//! The model is released when the element has stopped, whichever thread stops it.
//!
//! A hang means that stopping deadlocks, or that the model is never released.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Weak, mpsc};

use gst::prelude::*;
use soragen::{Model, OpenOptions};
use soragen_tests::fixtures::{copy, path};
use tempfile::TempDir;

use crate::support::{Pipeline, parse, tiny};

/// A video that takes very long, from a copy of the tiny model. Other tests in this process share a model of the same
/// path, so only a copy has no other users.
fn pipeline(name: &str) -> (TempDir, Pipeline) {
    let (folder, model) = (tempfile::tempdir().unwrap(), path(&format!("pipelines/{name}")));
    copy(&model, folder.path());
    let source = tiny(name)
        .replace(&model.display().to_string(), &folder.path().display().to_string())
        .replace("steps=2", "steps=1000");
    let pipeline = parse(&format!("{source} ! video/x-raw,width=48,height=32 ! fakesink"));
    (folder, pipeline)
}

/// The model that the element has open.
fn open_model(folder: &Path) -> Weak<Model> {
    let model =
        Model::open(folder.to_str().unwrap(), &OpenOptions::default(), &soragen::Cancel::new()).unwrap();
    assert!(std::sync::Arc::strong_count(&model) > 1, "the element has the same model open");
    std::sync::Arc::downgrade(&model)
}

fn is_progress(message: &gst::Message) -> bool {
    message.has_name("soragen-progress")
}

/// Calls `handler` once, on the worker's thread, with the first progress message.
fn on_first_progress(pipeline: &gst::Pipeline, handler: impl FnOnce(gst::Pipeline) + Send + 'static) {
    let (weak, handler) = (pipeline.downgrade(), Mutex::new(Some(handler)));
    let called = AtomicBool::new(false);
    pipeline.bus().unwrap().set_sync_handler(move |_, message| {
        if is_progress(message) && !called.swap(true, Ordering::Relaxed) {
            let handler = handler.lock().unwrap().take().unwrap();
            handler(weak.upgrade().unwrap());
        }
        gst::BusSyncReply::Drop
    });
}

/// Waits until the model is released.
fn wait_released(model: &Weak<Model>) {
    while model.strong_count() > 0 {
        std::thread::yield_now();
    }
}

#[test]
fn the_model_is_released_when_the_element_is_in_null() {
    for threads in [0, 2] {
        let (folder, pipeline) = pipeline("t2v-unipc");
        let source = pipeline.iterate_sources().next().unwrap().unwrap();
        source.set_property("threads", threads as u32);
        let bus = pipeline.bus().unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        while !is_progress(&bus.timed_pop(None).unwrap()) {}
        let model = open_model(folder.path());
        pipeline.set_state(gst::State::Null).unwrap();
        assert_eq!(model.strong_count(), 0, "threads={threads}");
    }
}

#[test]
fn the_model_is_released_after_every_restart() {
    let (folder, pipeline) = pipeline("t2v-unipc");
    let bus = pipeline.bus().unwrap();
    for _ in 0..3 {
        pipeline.set_state(gst::State::Playing).unwrap();
        while !is_progress(&bus.timed_pop(None).unwrap()) {}
        let model = open_model(folder.path());
        pipeline.set_state(gst::State::Ready).unwrap();
        assert_eq!(model.strong_count(), 0);
        bus.set_flushing(true);
        bus.set_flushing(false);
    }
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn a_sync_handler_stops_the_element_on_the_worker_thread() {
    for threads in [0, 2] {
        let (folder, pipeline) = pipeline("t2v-unipc");
        let source = pipeline.iterate_sources().next().unwrap().unwrap();
        source.set_property("threads", threads as u32);
        let (sender, receiver) = mpsc::channel();
        let model_folder = folder.path().to_path_buf();
        on_first_progress(&pipeline, move |pipeline| {
            let model = open_model(&model_folder);
            pipeline.set_state(gst::State::Null).unwrap();
            sender.send(model).unwrap();
        });
        pipeline.set_state(gst::State::Playing).unwrap();
        let model = receiver.recv().unwrap();
        assert_eq!(pipeline.current_state(), gst::State::Null);
        // The worker releases the model after the handler has returned.
        wait_released(&model);
    }
}

#[test]
fn a_handler_that_waits_for_the_stopping_thread_does_not_deadlock() {
    let (folder, pipeline) = pipeline("t2v-unipc");
    let (sender, receiver) = mpsc::channel();
    let model_folder = folder.path().to_path_buf();
    on_first_progress(&pipeline, move |pipeline| {
        let model = open_model(&model_folder);
        let stopping = std::thread::spawn(move || pipeline.set_state(gst::State::Null).map(drop));
        sender.send((model, stopping.join().unwrap())).unwrap();
    });
    pipeline.set_state(gst::State::Playing).unwrap();
    let (model, stopped) = receiver.recv().unwrap();
    stopped.unwrap();
    wait_released(&model);
}

#[test]
fn the_element_stops_while_a_prompt_is_checked() {
    let (_folder, pipeline) = pipeline("t2v-unipc");
    let source = pipeline.iterate_sources().next().unwrap().unwrap();
    let (started, wait_started) = mpsc::channel();
    let (answer, answered) = mpsc::channel::<bool>();
    let (started, answered) = (Mutex::new(started), Mutex::new(answered));
    source.connect("prompt-check", false, move |_| {
        started.lock().unwrap().send(()).unwrap();
        // An application that asks its user on the thread that stops the element.
        Some(answered.lock().unwrap().recv().unwrap_or(false).to_value())
    });
    pipeline.set_state(gst::State::Playing).unwrap();
    wait_started.recv().unwrap();
    pipeline.set_state(gst::State::Null).unwrap();
    drop(answer);
}
