// SPDX-License-Identifier: MPL-2.0

//! The frames and events that wait for the task of the source pad.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use soragen::{Cancel, GrayImage, Restyle, RgbImage};

use crate::monitor::Monitor;
use crate::source::Change;

/// A frame of the model.
pub struct InputFrame {
    /// 8-bit RGB, `[H, W, 3]` without padding.
    pub pixels: Arc<[u8]>,
    pub pts: gst::ClockTime,
    pub timecode: Option<gst_video::ValidVideoTimeCode>,
    /// How much to change it.
    pub restyle: Restyle,
    /// What steers it.
    pub control: Option<ControlFrame>,
    /// Changes from its chunk on; if it is not the first one of its chunk, from the next one on.
    pub changes: Vec<Change>,
}

/// A frame of the pad `control` and one of the pad `mask`, at the time of a frame.
pub struct ControlFrame {
    pub frame: RgbImage,
    pub mask: Option<GrayImage>,
}

/// What comes in, in order.
pub enum Item {
    Frame(InputFrame),
    Event(gst::Event),
}

impl Item {
    /// Whether the frames before it have to come out before anything after it goes in.
    fn is_barrier(&self) -> bool {
        match self {
            Self::Frame(_) => false,
            Self::Event(event) => ends_video(event),
        }
    }
}

/// Whether the frames before `event` have to come out before it. Frames of an incomplete chunk would wait for frames that come after it.
pub fn ends_video(event: &gst::Event) -> bool {
    use gst::EventType::{Caps, Eos, Gap, SegmentDone};
    matches!(event.type_(), Caps | Eos | Gap | SegmentDone)
}

/// Whether a flush keeps `event`: upstream does not send it again.
pub fn survives_flush(event: &gst::Event) -> bool {
    event.is_sticky() && !matches!(event.type_(), gst::EventType::Segment | gst::EventType::Eos)
}

/// What waits first.
pub enum Front {
    Event(gst::Event),
    Frame,
}

/// The frames of a chunk, with the events between them.
pub struct Chunk {
    pub items: Vec<Item>,
    /// Whether it has as many frames as wanted; otherwise the video ends or changes after it.
    pub is_complete: bool,
}

/// A flush interrupted a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt;

#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Frames that came out.
    pub frames: u64,
    /// Frames that were too late.
    pub dropped: u64,
    /// Time spent restyling.
    pub busy: Duration,
    /// Time that the last chunk took.
    pub chunk: Duration,
}

/// The queue between the two threads.
#[derive(Default)]
pub struct Input {
    state: Monitor<State>,
}

struct State {
    items: VecDeque<Item>,
    frames: usize,
    /// Frames of a chunk.
    chunk: usize,
    /// The video comes from a live source.
    is_live: bool,
    flushing: bool,
    /// The result of the last push downstream.
    flow: Result<gst::FlowSuccess, gst::FlowError>,
    changes: Vec<Change>,
    cancel: Cancel,
    latency: Duration,
    stats: Stats,
}

impl Default for State {
    fn default() -> Self {
        Self {
            items: VecDeque::new(),
            frames: 0,
            chunk: 1,
            is_live: false,
            flushing: true,
            flow: Ok(gst::FlowSuccess::Ok),
            changes: Vec::new(),
            cancel: Cancel::new(),
            latency: Duration::ZERO,
            stats: Stats::default(),
        }
    }
}

/// Chunks that may wait.
const CHUNKS: usize = 2;

impl Input {
    /// Accepts frames for chunks of `chunk` frames, which come out `latency` after they came in.
    pub fn start(&self, chunk: usize, latency: Duration) {
        self.state.update(|state| {
            *state = State { chunk: chunk.max(1), flushing: false, latency, ..State::default() }
        });
    }

    /// Interrupts the waits and the chunk that is being made.
    pub fn start_flush(&self) {
        self.state.update(|state| {
            state.flushing = true;
            state.cancel.cancel();
        });
    }

    /// Removes everything that waits except what upstream does not send again, and accepts new frames. Both threads must have stopped.
    pub fn stop_flush(&self) {
        self.state.update(|state| {
            state.clear();
            state.flushing = false;
            state.flow = Ok(gst::FlowSuccess::Ok);
            state.cancel = Cancel::new();
        });
    }

    pub fn set_live(&self, is_live: bool) {
        self.state.update(|state| state.is_live = is_live);
    }

    /// Adds a frame. If there is no room, it waits; or, from a live source, the oldest chunk is dropped. Returns how many frames
    /// were.
    ///
    /// # Errors
    /// [`gst::FlowError::Flushing`], and the error of the last push downstream.
    pub fn push(&self, frame: InputFrame) -> Result<u64, gst::FlowError> {
        let (mut state, mut dropped) = (self.state.lock(), 0);
        loop {
            if state.flushing {
                return Err(gst::FlowError::Flushing);
            }
            state.flow?;
            if state.frames < CHUNKS * state.chunk {
                break;
            }
            if state.is_live {
                dropped += state.drop_chunk();
            } else {
                state = self.state.wait(state);
            }
        }
        state.items.push_back(Item::Frame(frame));
        state.frames += 1;
        drop(state);
        self.state.notify();
        Ok(dropped)
    }

    /// Adds an event. Returns false while flushing, and after an error downstream.
    pub fn push_event(&self, event: gst::Event) -> bool {
        self.state.update(|state| {
            let accepted = !state.flushing && state.flow.is_ok();
            if accepted {
                state.items.push_back(Item::Event(event));
            }
            accepted
        })
    }

    /// Waits for something to come in. An event is taken.
    pub fn front(&self) -> Result<Front, Interrupt> {
        let mut state = self.state.lock();
        loop {
            if state.flushing {
                return Err(Interrupt);
            }
            match state.items.pop_front() {
                Some(Item::Event(event)) => return Ok(Front::Event(event)),
                Some(frame) => {
                    state.items.push_front(frame);
                    return Ok(Front::Frame);
                }
                None => state = self.state.wait(state),
            }
        }
    }

    /// Waits for `wanted` frames, or for a change of the format or the end before them, and takes them with the events between.
    pub fn take(&self, wanted: usize) -> Result<Chunk, Interrupt> {
        let mut state = self.state.lock();
        loop {
            if state.flushing {
                return Err(Interrupt);
            }
            if let Some((count, is_complete)) = state.chunk_of(wanted) {
                let items: Vec<_> = state.items.drain(..count).collect();
                state.frames -= items.iter().filter(|item| matches!(item, Item::Frame(_))).count();
                drop(state);
                self.state.notify();
                return Ok(Chunk { items, is_complete });
            }
            state = self.state.wait(state);
        }
    }

    /// Ends the stream with an error: later frames are refused with it. Returns false if it has ended with one before.
    pub fn fail(&self, error: gst::FlowError) -> bool {
        self.state.update(|state| {
            let is_first = state.flow.is_ok();
            state.flow = Err(error);
            state.clear();
            is_first
        })
    }

    /// Accepts another stream after downstream has ended the one before. Returns whether it had.
    pub fn begin_stream(&self) -> bool {
        self.state.update(|state| {
            let ended = state.flow == Err(gst::FlowError::Eos);
            if ended {
                state.flow = Ok(gst::FlowSuccess::Ok);
            }
            ended
        })
    }

    /// Makes a change with the next chunk. It replaces one of the same kind.
    pub fn request(&self, change: Change) {
        self.state.update(|state| change.put_into(&mut state.changes));
    }

    pub fn take_changes(&self) -> Vec<Change> {
        std::mem::take(&mut self.state.lock().changes)
    }

    /// Cancels the chunk that is being made.
    pub fn cancel(&self) -> Cancel {
        self.state.lock().cancel.clone()
    }

    pub fn stats(&self) -> Stats {
        self.state.lock().stats
    }

    /// Adds a chunk of `frames` frames, which took `took` to make, to the statistics.
    pub fn count(&self, frames: u64, took: Duration) {
        let stats = &mut self.state.lock().stats;
        stats.frames += frames;
        stats.busy += took;
        stats.chunk = took;
    }

    /// Raises the latency of a live video, if a chunk of this `duration` takes too long to make. A frame waits for its chunk, or for
    /// the chunk before if that takes longer, and then for its own to be made. Returns whether the latency grew.
    pub fn raise_latency(&self, duration: Duration, took: Duration) -> bool {
        let mut state = self.state.lock();
        let delay = duration.max(took) + took;
        let grew = state.is_live && delay > state.latency;
        if grew {
            // With room for small differences, so that it does not grow with every chunk.
            state.latency = delay + delay / 8;
        }
        grew
    }

    /// How long a frame takes to come out.
    pub fn latency(&self) -> Duration {
        self.state.lock().latency
    }
}

impl State {
    fn clear(&mut self) {
        for item in &mut self.items {
            if let Item::Frame(frame) = item {
                self.changes.append(&mut frame.changes);
            }
        }
        self.items.retain(|item| matches!(item, Item::Event(event) if survives_flush(event)));
        self.frames = 0;
    }

    /// The items of the next chunk, and whether it has all `wanted` frames; `None` if more have to come.
    fn chunk_of(&self, wanted: usize) -> Option<(usize, bool)> {
        let mut frames = 0;
        for (i, item) in self.items.iter().enumerate() {
            if item.is_barrier() {
                return Some((i, false));
            }
            frames += usize::from(matches!(item, Item::Frame(_)));
            if frames == wanted {
                return Some((i + 1, true));
            }
        }
        None
    }

    /// Drops the oldest chunk of frames, but no event. Returns how many frames it had.
    fn drop_chunk(&mut self) -> u64 {
        let (mut dropped, chunk) = (0, self.chunk);
        let changes = &mut self.changes;
        self.items.retain_mut(|item| match item {
            Item::Frame(frame) if dropped < chunk => {
                dropped += 1;
                changes.append(&mut frame.changes);
                false
            }
            _ => true,
        });
        self.frames -= dropped;
        self.stats.dropped += dropped as u64;
        dropped as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(number: u64) -> InputFrame {
        InputFrame {
            pixels: Arc::default(),
            pts: gst::ClockTime::from_nseconds(number),
            timecode: None,
            restyle: Restyle::default(),
            control: None,
            changes: Vec::new(),
        }
    }

    fn input(chunk: usize) -> Input {
        gst::init().unwrap();
        let input = Input::default();
        input.start(chunk, Duration::ZERO);
        input
    }

    /// The times of the frames of the next chunk; 1000 for an event.
    fn taken(input: &Input, wanted: usize) -> (Vec<u64>, bool) {
        let chunk = input.take(wanted).unwrap();
        let number = |item: &Item| match item {
            Item::Frame(frame) => frame.pts.nseconds(),
            Item::Event(_) => 1000,
        };
        (chunk.items.iter().map(number).collect(), chunk.is_complete)
    }

    #[test]
    fn a_chunk_has_all_frames_or_ends_at_a_barrier() {
        let input = input(3);
        (0..4).for_each(|number| {
            input.push(frame(number)).unwrap();
        });
        assert!(input.push_event(gst::event::Tag::new(gst::TagList::new())));
        input.push(frame(4)).unwrap();
        assert!(input.push_event(gst::event::Eos::new()));
        assert!(matches!(input.front(), Ok(Front::Frame)));
        assert_eq!(taken(&input, 1), (vec![0], true));
        assert_eq!(taken(&input, 3), (vec![1, 2, 3], true));
        assert!(matches!(input.front(), Ok(Front::Event(_))), "nothing is before it");
        assert_eq!(taken(&input, 3), (vec![4], false));
        assert!(matches!(input.front(), Ok(Front::Event(event)) if event.type_() == gst::EventType::Eos));
    }

    #[test]
    fn the_frames_before_a_gap_or_the_end_of_a_segment_do_not_wait() {
        gst::init().unwrap();
        assert!(ends_video(&gst::event::Gap::builder(gst::ClockTime::ZERO).build()));
        assert!(ends_video(&gst::event::SegmentDone::new(gst::ClockTime::ZERO)));
        assert!(!ends_video(&gst::event::Tag::new(gst::TagList::new())));
    }

    #[test]
    fn events_between_frames_keep_their_place() {
        let input = input(3);
        input.push(frame(0)).unwrap();
        assert!(input.push_event(gst::event::Tag::new(gst::TagList::new())));
        input.push(frame(1)).unwrap();
        assert_eq!(taken(&input, 2), (vec![0, 1000, 1], true));
    }

    #[test]
    fn late_frames_of_a_live_source_are_dropped_by_chunks() {
        let input = input(2);
        input.set_live(true);
        let dropped: Vec<_> = (0..7).map(|number| input.push(frame(number)).unwrap()).collect();
        assert_eq!(dropped, [0, 0, 0, 0, 2, 0, 2]);
        assert_eq!(taken(&input, 2), (vec![4, 5], true));
        assert_eq!(input.stats().dropped, 4);
    }

    #[test]
    fn a_full_queue_waits_for_room_unless_it_is_flushed() {
        let input = Arc::new(input(1));
        (0..2).for_each(|number| {
            input.push(frame(number)).unwrap();
        });
        let (waiting, room) = (input.clone(), input.clone());
        let pushing = std::thread::spawn(move || (waiting.push(frame(2)), waiting.push(frame(3))));
        room.take(1).unwrap();
        input.start_flush();
        let (_, last) = pushing.join().unwrap();
        assert_eq!(last, Err(gst::FlowError::Flushing));
        assert!(matches!(input.take(1), Err(Interrupt)));
        input.stop_flush();
        assert_eq!(input.push(frame(4)), Ok(0));
        assert_eq!(taken(&input, 1), (vec![4], true));
    }

    #[test]
    fn a_flush_keeps_what_upstream_does_not_send_again() {
        let input = input(2);
        input.push(frame(0)).unwrap();
        let caps = gst::Caps::builder("video/x-raw").build();
        for event in [gst::event::Caps::new(&caps), gst::event::Eos::new()] {
            assert!(input.push_event(event));
        }
        input.start_flush();
        input.stop_flush();
        assert!(matches!(input.front(), Ok(Front::Event(event)) if event.type_() == gst::EventType::Caps));
        input.push(frame(1)).unwrap();
        assert!(matches!(input.front(), Ok(Front::Frame)));
    }

    #[test]
    fn the_latency_grows_with_the_time_of_a_chunk() {
        let (input, second) = (input(2), Duration::from_secs(1));
        assert!(!input.raise_latency(second, 3 * second), "not live");
        input.set_live(true);
        assert!(input.raise_latency(second, second / 2) && input.latency() >= 3 * second / 2);
        assert!(!input.raise_latency(second, second / 2));
        assert!(input.raise_latency(second, 2 * second) && input.latency() >= 4 * second);
    }

    #[test]
    fn after_an_error_downstream_nothing_is_accepted() {
        let input = input(1);
        input.fail(gst::FlowError::Eos);
        assert_eq!(input.push(frame(0)), Err(gst::FlowError::Eos));
        assert!(!input.push_event(gst::event::Eos::new()));
        assert!(input.begin_stream(), "another stream");
        assert_eq!(input.push(frame(0)), Ok(0));
    }
}
