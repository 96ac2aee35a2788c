// SPDX-License-Identifier: MPL-2.0

//! The thread that makes frames of denoised chunks.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use soragen::{Cancel, ChunkLatents, Renderer, Result, Session, ShotInfo, YuvColours};

use super::queue::FrameData;
use super::shared::Shared;

/// Capacity of the frame queue in bytes.
const QUEUE_BYTES: usize = 128 << 20;

/// A chunk on its way to the rendering thread.
pub struct DenoisedChunk {
    pub latents: ChunkLatents,
    pub shot: ShotInfo,
    /// Frames of the whole video, if that is known.
    pub total: Option<u64>,
    /// When the chunk was begun.
    pub began: Instant,
}

/// Renders the chunks of one session into the queue.
pub struct ChunkRenderer {
    shared: Arc<Shared>,
    renderer: Renderer,
    /// The frames stay on the device, in NV12 with these colours.
    on_device: Option<YuvColours>,
    cancel: Cancel,
    /// When the generator was started.
    started: Instant,
}

/// Wakes the denoising thread when the rendering thread ends, also after a panic.
struct StopGuard<'a>(&'a Shared);

impl Drop for StopGuard<'_> {
    fn drop(&mut self) {
        self.0.state.update(|state| state.renderer_stopped = true);
    }
}

impl ChunkRenderer {
    pub fn new(
        shared: Arc<Shared>,
        session: &Session,
        on_device: Option<YuvColours>,
        cancel: &Cancel,
        started: Instant,
    ) -> Self {
        shared.state.lock().renderer_stopped = false;
        Self { shared, renderer: session.renderer(), on_device, cancel: cancel.clone(), started }
    }

    /// Runs until no more chunks come, or until an error.
    pub fn run(mut self, chunks: Receiver<DenoisedChunk>) -> Result<()> {
        let shared = self.shared.clone();
        let _guard = StopGuard(&shared);
        // The time of a chunk begins when the one before it is done, or later.
        let mut last = self.started;
        for DenoisedChunk { latents, shot, total, began } in chunks {
            let first = latents.first();
            let frames = self.render(latents)?;
            self.push(first, frames, shot, total, began.max(last));
            last = Instant::now();
        }
        Ok(())
    }

    fn render(&mut self, latents: ChunkLatents) -> Result<Vec<FrameData>> {
        Ok(match &self.on_device {
            Some(colours) => {
                let rendered = self.renderer.render_nv12(latents, colours, &self.cancel)?;
                rendered.frames.into_iter().map(FrameData::Nv12).collect()
            }
            None => {
                let rendered = self.renderer.render(latents, &self.cancel)?;
                rendered.iter().map(|frame| FrameData::Rgb(frame.into())).collect()
            }
        })
    }

    fn push(&self, first: u64, frames: Vec<FrameData>, shot: ShotInfo, total: Option<u64>, began: Instant) {
        let count = frames.len() as u64;
        let frame_bytes = frames.first().map_or(1, FrameData::bytes);
        self.shared.state.update(|state| {
            // These frames belong to the previous session, or come after the end that the application has set.
            if state.restart || state.truncated {
                return;
            }
            if shot.frame == first {
                state.shots.insert(shot.frame, Arc::new(shot));
            }
            state.queue.push_chunk(frames, QUEUE_BYTES / frame_bytes.max(1));
            let generated = state.queue.generated();
            if total == Some(generated) {
                state.queue.set_end(generated);
            }
            let took = began.elapsed();
            let stats = &mut state.stats;
            if stats.frames == 0 {
                stats.first_frame = self.started.elapsed();
            }
            stats.frames += count;
            stats.busy += took;
            stats.chunk = took;
        });
    }
}
