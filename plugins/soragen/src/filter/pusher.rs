// SPDX-License-Identifier: MPL-2.0

//! Pushes frames and events downstream. A sink shows the frames of a live video at their time, and blocks until then: a thread of the
//! pusher waits for it, so that the next chunk is made meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

use gst::prelude::*;

use super::input::survives_flush;
use crate::monitor::Monitor;

/// What waits to be pushed.
enum Item {
    Frame(gst::Buffer),
    Event(gst::Event),
}

struct State {
    items: VecDeque<Item>,
    /// Frames among them, and how many may wait.
    frames: usize,
    room: usize,
    /// The thread pushes something.
    busy: bool,
    is_live: bool,
    flushing: bool,
    quit: bool,
    /// The result of the last push.
    flow: Result<gst::FlowSuccess, gst::FlowError>,
}

struct Shared {
    pad: gst::Pad,
    state: Monitor<State>,
}

/// Clones push to the same pad.
#[derive(Clone)]
pub struct Pusher(Arc<Shared>);

/// The thread of a live video. It ends when this is dropped.
pub struct PusherThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Shared {
    fn run(&self, on_failure: impl Fn(gst::FlowError)) {
        let mut state = self.state.lock();
        while !state.quit {
            let next = if state.flushing { None } else { state.items.pop_front() };
            let Some(item) = next else {
                state = self.state.wait(state);
                continue;
            };
            state.frames -= usize::from(matches!(item, Item::Frame(_)));
            state.busy = true;
            drop(state);
            self.state.notify();
            let flow = match item {
                Item::Frame(buffer) => self.pad.push(buffer),
                Item::Event(event) => {
                    self.pad.push_event(event);
                    Ok(gst::FlowSuccess::Ok)
                }
            };
            state = self.state.lock();
            // A flush has its own state.
            let failure = flow.err().filter(|_| !state.flushing);
            if let Some(error) = failure {
                state.flow = Err(error);
                state.keep_sticky();
                drop(state);
                // Whoever waits for room must not hold up what follows.
                self.state.notify();
                // Nobody may push anything after it.
                on_failure(error);
                state = self.state.lock();
            }
            state.busy = false;
            self.state.notify();
        }
    }
}

impl State {
    fn clear(&mut self) {
        self.items.clear();
        self.frames = 0;
    }

    /// Forgets what waits, but not what upstream does not send again.
    fn keep_sticky(&mut self) {
        self.items.retain(|item| matches!(item, Item::Event(event) if survives_flush(event)));
        self.frames = 0;
    }

    fn flow(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
        if self.flushing { Err(gst::FlowError::Flushing) } else { self.flow }
    }
}

impl Pusher {
    /// Pushes to `pad`.
    pub fn new(pad: gst::Pad) -> Self {
        let state = State {
            items: VecDeque::new(),
            frames: 0,
            room: 1,
            busy: false,
            is_live: false,
            flushing: true,
            quit: false,
            flow: Ok(gst::FlowSuccess::Ok),
        };
        Self(Arc::new(Shared { pad, state: Monitor::new(state) }))
    }

    /// Starts the thread, and lets `room` frames of a live video wait. `on_failure` gets the error of a push in the thread, which may have
    /// been the last one.
    ///
    /// # Errors
    /// If the system cannot spawn a thread.
    pub fn start(
        &self,
        room: usize,
        on_failure: impl Fn(gst::FlowError) + Send + 'static,
    ) -> std::io::Result<PusherThread> {
        self.0.state.update(|state| {
            state.clear();
            (state.room, state.quit, state.flushing) = (room.max(1), false, false);
            state.flow = Ok(gst::FlowSuccess::Ok);
        });
        let shared = self.0.clone();
        let thread =
            std::thread::Builder::new().name("sorafilter".into()).spawn(move || shared.run(on_failure))?;
        Ok(PusherThread { shared: self.0.clone(), thread: Some(thread) })
    }

    pub fn set_live(&self, is_live: bool) {
        self.0.state.update(|state| state.is_live = is_live);
    }

    /// Refuses everything until [`stop_flush`](Self::stop_flush), and forgets what waits, but not what upstream does not send again.
    pub fn start_flush(&self) {
        self.0.state.update(|state| {
            state.flushing = true;
            state.keep_sticky();
        });
    }

    /// Accepts another stream after downstream has ended the one before.
    pub fn begin_stream(&self) {
        self.0.state.update(|state| {
            if state.flow == Err(gst::FlowError::Eos) {
                state.flow = Ok(gst::FlowSuccess::Ok);
            }
        });
    }

    /// Accepts frames and events again. Nothing is pushed meanwhile.
    pub fn stop_flush(&self) {
        let mut state = self.0.state.lock();
        while state.busy {
            state = self.0.state.wait(state);
        }
        state.flushing = false;
        state.flow = Ok(gst::FlowSuccess::Ok);
        drop(state);
        self.0.state.notify();
    }

    /// Pushes a frame; one of a live video when there is room for it to wait.
    ///
    /// # Errors
    /// [`gst::FlowError::Flushing`], and the error of an earlier push.
    pub fn frame(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        match self.queued(Item::Frame(buffer))? {
            Some(Item::Frame(buffer)) => self.0.pad.push(buffer),
            _ => Ok(gst::FlowSuccess::Ok),
        }
    }

    /// Pushes an event, after the frames before it. During a flush one that upstream does not send again waits for its end.
    ///
    /// # Errors
    /// As [`frame`](Self::frame).
    pub fn event(&self, event: gst::Event) -> Result<(), gst::FlowError> {
        {
            let mut state = self.0.state.lock();
            if state.flushing && !state.quit && survives_flush(&event) {
                state.items.push_back(Item::Event(event));
                return Ok(());
            }
        }
        if let Some(Item::Event(event)) = self.queued(Item::Event(event))? {
            self.0.pad.push_event(event);
        }
        Ok(())
    }

    /// Queues an item of a live video. Returns that of another video, when nothing is before it.
    fn queued(&self, item: Item) -> Result<Option<Item>, gst::FlowError> {
        let mut state = self.0.state.lock();
        loop {
            state.flow()?;
            let is_empty = state.items.is_empty() && !state.busy;
            if !state.is_live && is_empty {
                return Ok(Some(item));
            }
            if state.is_live && (state.frames < state.room || matches!(item, Item::Event(_))) {
                state.frames += usize::from(matches!(item, Item::Frame(_)));
                state.items.push_back(item);
                drop(state);
                self.0.state.notify();
                return Ok(None);
            }
            state = self.0.state.wait(state);
        }
    }
}

impl Drop for PusherThread {
    fn drop(&mut self) {
        self.shared.state.update(|state| {
            state.quit = true;
            state.flushing = true;
            state.clear();
        });
        if let Some(thread) = self.thread.take() {
            // A panic was reported by its thread.
            let _ = thread.join();
        }
    }
}
