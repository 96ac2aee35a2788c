//! A cancel is noticed wherever the engine works or waits, and a fault ends a session, not the process.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::scope;

use soragen::testing::{Event, HookGuard, failing, set_hook, slow, wait};
use soragen::{Cancel, Error, Length, Model, OpenOptions, Phase, Request, Session, Size};
use soragen_tests::fixtures::{copy, path};
use soragen_tests::with;

/// A copy of the model `name`, which a hook can belong to.
fn model(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&path(name), folder.path());
    folder
}

fn open(folder: &Path, cancel: &Cancel) -> soragen::Result<Arc<Model>> {
    Model::open(folder.to_str().unwrap(), &OpenOptions::default(), cancel)
}

fn session(folder: &Path) -> Session {
    Session::new(open(folder, &Cancel::new()).unwrap(), Request::new("a red fox")).unwrap()
}

/// Stops the model in `folder` at the first event that `at` selects, until the event's computation is cancelled. The
/// receiver gets a message for each of these events.
fn stop_at(folder: &Path, at: impl Fn(Event) -> bool + Send + Sync + 'static) -> (HookGuard, Receiver<()>) {
    let (reached, receiver): (Sender<()>, _) = channel();
    let reached = Mutex::new(reached);
    let hook = set_hook(folder, move |event, cancel| {
        if at(event) {
            let _ = reached.lock().unwrap().send(());
            while !cancel.is_cancelled() {
                std::thread::yield_now();
            }
        }
        Ok(())
    });
    (hook, receiver)
}

#[test]
fn opening_a_model_ends_within_one_tensor_of_a_cancel() {
    let folder = model("miniature");
    let (hook, reached) = stop_at(folder.path(), |event| event == Event::Load);
    let cancel = Cancel::new();
    scope(|scope| {
        let opened = scope.spawn(|| open(folder.path(), &cancel));
        reached.recv().unwrap();
        cancel.cancel();
        assert!(matches!(opened.join().unwrap(), Err(Error::Cancelled)));
    });
    // Blocks are loaded on several threads; each of them stops at its own tensor.
    let threads = std::thread::available_parallelism().unwrap().get();
    assert!(reached.try_iter().count() < threads, "more tensors were loaded after the cancel");
    drop(hook);
    open(folder.path(), &Cancel::new()).unwrap();
}

#[test]
fn waiting_for_a_model_that_another_caller_opens_can_be_cancelled() {
    let folder = model("miniature");
    let (_hook, reached) = stop_at(folder.path(), |event| event == Event::Load);
    let (opening, waiting) = (Cancel::new(), Cancel::new());
    scope(|scope| {
        let opened = scope.spawn(|| open(folder.path(), &opening));
        reached.recv().unwrap();
        let second = scope.spawn(|| open(folder.path(), &waiting));
        waiting.cancel();
        assert!(matches!(second.join().unwrap(), Err(Error::Cancelled)));
        assert!(!opened.is_finished(), "the first caller still loads");
        opening.cancel();
        assert!(matches!(opened.join().unwrap(), Err(Error::Cancelled)));
    });
}

#[test]
fn loading_another_transformer_ends_within_one_tensor_of_a_cancel() {
    let folder = model("experts/t2v");
    let start = || {
        let size = Some(Size { width: 32, height: 32 });
        let request = with!(Request::new("a red fox"); size, length: Length::Frames(1), steps: Some(4));
        Session::new(open(folder.path(), &Cancel::new()).unwrap(), request).unwrap()
    };
    // Afterwards the second transformer is in memory, and the prompt is encoded.
    let mut before = start();
    before.next_chunk(&Cancel::new(), &mut |_| {}).unwrap();
    let mut running = start();
    let (hook, reached) = stop_at(folder.path(), |event| event == Event::Load);
    let cancel = Cancel::new();
    scope(|scope| {
        let chunk = scope.spawn(|| running.next_chunk(&cancel, &mut |_| {}).map(drop));
        reached.recv().unwrap();
        cancel.cancel();
        assert!(matches!(chunk.join().unwrap(), Err(Error::Cancelled)));
    });
    drop(hook);
    assert!(start().next_chunk(&Cancel::new(), &mut |_| {}).unwrap().is_some());
}

#[test]
fn waiting_for_the_text_encoder_of_another_session_can_be_cancelled() {
    let folder = model("pipelines/t2v-unipc");
    let (mut first, mut second) = (session(folder.path()), session(folder.path()));
    let (_hook, reached) = stop_at(folder.path(), |event| event == Event::Encode);
    let (encoding, waiting) = (Cancel::new(), Cancel::new());
    scope(|scope| {
        let encoder = scope.spawn(|| first.next_chunk(&encoding, &mut |_| {}).map(drop));
        reached.recv().unwrap();
        let waiter = scope.spawn(|| {
            second.next_chunk(&waiting, &mut |progress| {
                if progress.phase == Phase::Text {
                    waiting.cancel();
                }
            })
        });
        assert!(matches!(waiter.join().unwrap(), Err(Error::Cancelled)));
        assert!(!encoder.is_finished(), "the first session still encodes");
        encoding.cancel();
        assert!(matches!(encoder.join().unwrap(), Err(Error::Cancelled)));
    });
}

#[test]
fn a_slow_model_generates_the_same_frames_and_its_steps_can_be_cancelled() {
    let folder = model("miniature");
    let expected = session(folder.path()).next_chunk(&Cancel::new(), &mut |_| {}).unwrap();
    let hook = slow(folder.path(), std::time::Duration::from_millis(2), wait);
    let frames = session(folder.path()).next_chunk(&Cancel::new(), &mut |_| {}).unwrap();
    assert_eq!(frames, expected);
    drop(hook);

    // A step that would take an hour.
    let _hook = slow(folder.path(), std::time::Duration::from_secs(3600), wait);
    let (mut session, cancel) = (session(folder.path()), Cancel::new());
    let chunk = session.next_chunk(&cancel, &mut |progress| {
        if progress.phase == Phase::Denoise {
            cancel.cancel();
        }
    });
    assert!(matches!(chunk, Err(Error::Cancelled)));
}

#[test]
fn a_session_fails_at_an_injected_fault_and_keeps_the_chunks_before_it() {
    let folder = model("miniature");
    let _hook = failing(folder.path(), 2);
    let request = with!(Request::new("a red fox"); length: Length::Frames(64));
    let mut session = Session::new(open(folder.path(), &Cancel::new()).unwrap(), request).unwrap();
    let mut chunks = 0;
    let error = loop {
        match session.next_chunk(&Cancel::new(), &mut |_| {}) {
            Ok(frames) => chunks += u32::from(frames.is_some()),
            Err(error) => break error,
        }
    };
    assert_eq!(chunks, 2);
    assert!(error.to_string().contains("injected fault"), "{error}");
    let again = session.next_chunk(&Cancel::new(), &mut |_| {}).unwrap_err().to_string();
    assert!(again.contains("start another one"), "{again}");
}
