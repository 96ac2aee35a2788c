// SPDX-License-Identifier: MPL-2.0

//! The window of generated frames.
//!
//! Frames that were read stay in the queue up to a capacity, so that a short seek back is free. A seek to a frame that
//! was removed starts the session over, which generates the same frames again.

use std::collections::VecDeque;
use std::sync::Arc;

use soragen::Nv12Frame;

/// The samples of a frame.
#[derive(Clone)]
pub enum FrameData {
    /// 8-bit RGB, `[H, W, 3]` without padding.
    Rgb(Arc<[u8]>),
    /// On the device of the model.
    Nv12(Nv12Frame),
}

impl FrameData {
    /// The memory that it takes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Rgb(samples) => samples.len(),
            Self::Nv12(frame) => frame.bytes(),
        }
    }
}

#[derive(Default)]
pub struct FrameQueue {
    /// Number of the first frame in `frames`.
    first: u64,
    frames: VecDeque<FrameData>,
    /// Number of the frame that the reader needs next.
    wanted: u64,
    /// Length of the last chunk in frames.
    chunk: u64,
    /// Frames that are denoised and not rendered yet.
    in_flight: u64,
    /// Total number of frames, once the last one is generated.
    end: Option<u64>,
}

impl FrameQueue {
    /// Number of the first frame that is not generated yet.
    pub fn generated(&self) -> u64 {
        self.first + self.frames.len() as u64
    }

    /// Whether fewer frames than one chunk are left to read, or no rendered one.
    pub fn needs_frames(&self) -> bool {
        let few = self.generated() + self.in_flight < self.wanted + self.chunk.max(1);
        self.end.is_none() && (few || self.generated() <= self.wanted)
    }

    /// So many frames are denoised, and will be pushed.
    pub fn expect_chunk(&mut self, frames: u64) {
        self.in_flight += frames;
    }

    /// Sets the frame that the reader needs next. Returns false if it was removed and has to be generated again.
    pub fn seek(&mut self, frame: u64) -> bool {
        self.wanted = frame;
        frame >= self.first
    }

    /// Whether frame `n` is in the queue.
    pub fn contains(&self, n: u64) -> bool {
        (self.first..self.generated()).contains(&n)
    }

    /// Frame `n`, if it is in the queue; the reader then needs the next one.
    pub fn read(&mut self, n: u64) -> Option<FrameData> {
        let index = usize::try_from(n.checked_sub(self.first)?).ok()?;
        let frame = self.frames.get(index)?.clone();
        self.wanted = n + 1;
        Some(frame)
    }

    /// Appends a chunk, then removes frames that were read until at most `capacity` frames are left.
    pub fn push_chunk(&mut self, frames: Vec<FrameData>, capacity: usize) {
        self.chunk = frames.len() as u64;
        self.in_flight = self.in_flight.saturating_sub(self.chunk);
        self.frames.extend(frames);
        while self.frames.len() > capacity && self.first < self.wanted {
            self.frames.pop_front();
            self.first += 1;
        }
    }

    /// Ends the video at frame `end`.
    pub fn set_end(&mut self, end: u64) {
        self.end = Some(end);
    }

    /// Whether frame `n` is after the last one.
    pub fn is_past_end(&self, n: u64) -> bool {
        self.end.is_some_and(|end| n >= end)
    }

    /// Removes all frames, to generate the video from its beginning. Keeps the number of the frame that the reader needs.
    pub fn clear(&mut self) {
        *self = Self { wanted: self.wanted, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three frames from `first` on; each holds its number.
    fn chunk(first: u8) -> Vec<FrameData> {
        (first..first + 3).map(|number| FrameData::Rgb([number].into())).collect()
    }

    /// What frame `n` holds.
    fn read(queue: &mut FrameQueue, n: u64) -> Vec<u8> {
        match queue.read(n) {
            Some(FrameData::Rgb(samples)) => samples.to_vec(),
            _ => panic!("no frame {n}"),
        }
    }

    #[test]
    fn one_chunk_is_generated_ahead() {
        let mut queue = FrameQueue::default();
        assert!(queue.needs_frames());
        queue.push_chunk(chunk(0), 100);
        assert!(!queue.needs_frames(), "nothing was read yet");
        assert_eq!(read(&mut queue, 0), [0]);
        assert!(queue.needs_frames(), "fewer than three frames are left");
        queue.push_chunk(chunk(3), 100);
        assert!(!queue.needs_frames());
        assert_eq!(queue.generated(), 6);
        assert!(queue.read(6).is_none());
    }

    #[test]
    fn the_chunk_after_one_in_flight_is_generated_when_the_reader_waits() {
        let mut queue = FrameQueue::default();
        queue.expect_chunk(3);
        assert!(queue.needs_frames(), "the reader waits for the first frame");
        queue.push_chunk(chunk(0), 100);
        queue.read(0).unwrap();
        queue.expect_chunk(3);
        assert!(!queue.needs_frames(), "two frames are left, and three will come");
        queue.read(2).unwrap();
        assert!(queue.needs_frames(), "the reader waits again");
        queue.push_chunk(chunk(3), 100);
        assert!(!queue.needs_frames());
    }

    #[test]
    fn no_frames_are_generated_after_the_end() {
        let mut queue = FrameQueue::default();
        queue.push_chunk(chunk(0), 100);
        queue.set_end(3);
        queue.read(2).unwrap();
        assert!(!queue.needs_frames());
        assert!(!queue.is_past_end(2) && queue.is_past_end(3));
    }

    #[test]
    fn only_frames_that_were_read_are_removed() {
        let mut queue = FrameQueue::default();
        queue.push_chunk(chunk(0), 4);
        queue.read(0).unwrap();
        queue.push_chunk(chunk(3), 4);
        assert!(queue.read(0).is_none(), "removed: it was read");
        assert_eq!(read(&mut queue, 1), [1]);
        assert_eq!(queue.generated(), 6);
        queue.push_chunk(chunk(6), 4);
        assert!(queue.read(1).is_none());
        assert_eq!(read(&mut queue, 2), [2], "kept over capacity: it was not read");
    }

    #[test]
    fn a_seek_inside_the_window_keeps_the_frames() {
        let mut queue = FrameQueue::default();
        for first in [0, 3, 6] {
            queue.push_chunk(chunk(first), 6);
            queue.read(u64::from(first) + 2).unwrap();
        }
        assert!(queue.seek(3));
        assert_eq!(read(&mut queue, 3), [3]);
        assert!(queue.seek(100), "later frames are generated, not generated again");
        assert!(!queue.seek(2), "frame 2 was removed");
        queue.clear();
        assert_eq!(queue.generated(), 0);
        assert!(queue.needs_frames());
        queue.push_chunk(chunk(0), 6);
        assert_eq!(read(&mut queue, 2), [2]);
    }
}
