// SPDX-License-Identifier: MPL-2.0

//! Times on the pipeline's clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gst::prelude::*;

/// The pipeline's clock, and its time at running time 0.
pub struct RunningClock {
    clock: gst::Clock,
    base_time: gst::ClockTime,
}

impl RunningClock {
    /// The clock of `element`; `None` outside of PAUSED and PLAYING.
    pub fn of(element: &impl IsA<gst::Element>) -> Option<Self> {
        Some(Self { clock: element.clock()?, base_time: element.base_time()? })
    }

    pub fn base_time(&self) -> gst::ClockTime {
        self.base_time
    }

    /// The running time in nanoseconds.
    pub fn now(&self) -> u64 {
        self.clock.time().saturating_sub(self.base_time).nseconds()
    }

    /// A deadline at `running_time`, in nanoseconds. `wake` is called when it is reached, unless it is dropped before.
    pub fn deadline(&self, running_time: u64, wake: impl FnOnce() + Send + 'static) -> Deadline {
        let time = self.base_time.saturating_add(gst::ClockTime::from_nseconds(running_time));
        let reached = Arc::new(AtomicBool::new(self.clock.time() >= time));
        if reached.load(Ordering::Relaxed) {
            return Deadline { reached, id: None };
        }
        let id = self.clock.new_single_shot_id(time);
        let flag = reached.clone();
        let waiting = id.wait_async(move |_, _, _| {
            flag.store(true, Ordering::Release);
            wake();
        });
        if waiting.is_err() {
            // A clock that cannot wait must not stop the stream.
            reached.store(true, Ordering::Release);
        }
        Deadline { reached, id: Some(id) }
    }
}

/// A time that a wait ends at.
pub struct Deadline {
    reached: Arc<AtomicBool>,
    id: Option<gst::SingleShotClockId>,
}

impl Deadline {
    pub fn is_reached(&self) -> bool {
        self.reached.load(Ordering::Acquire)
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        if let Some(id) = &self.id {
            id.unschedule();
        }
    }
}
