//! Latents in place of frames: those of a session, and those of one scene of a film, which a cache keeps for playback.

use candle_core::Tensor;

use super::latents::check_finite;
use super::{Sampler, Session, SessionStats};
use crate::error::refuse;
use crate::session::progress::{Progress, Reporter};
use crate::{Cache, Cancel, Result, Setting};

impl Session {
    /// Frames of each scene, from the first to the last; `None` without an end. A scene is what lies between two cuts; of a model that
    /// remembers shots the whole video is one scene. Call it before the first chunk.
    pub fn scenes(&self) -> Option<Vec<u64>> {
        self.timeline.scenes()
    }

    /// Generates the latents of the next chunk, or of the next whole clip, f32 `[1, C, T, h, w]` in latent units; `None` after the last. In
    /// place of [`next_chunk`](Self::next_chunk): nothing is decoded, and a session that has begun with one of them goes on with it.
    ///
    /// # Errors
    /// As [`next_chunk`](Self::next_chunk).
    pub fn next_latents(
        &mut self,
        cancel: &Cancel,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Option<Tensor>> {
        if !self.begin_chunk(cancel)? {
            return Ok(None);
        }
        let mut reporter = Reporter::new(progress, self.chunks, self.frames_generated, self.request.steps);
        let left = self.scene_end.map_or(u64::MAX, |end| end.saturating_sub(self.frames_generated));
        let (latents, frames) = match &mut self.sampler {
            Some(Sampler::Clip(sampler)) => (sampler.latents(cancel, &mut reporter)?, left),
            Some(Sampler::Causal(sampler)) => {
                let frames = sampler.next_frames().min(left);
                (sampler.next_latents(cancel, &mut reporter)?, frames)
            }
            None => unreachable!("the first shot begins a scene"),
        };
        check_finite(&latents)?;
        self.end_chunk(&reporter, frames);
        Ok(Some(latents))
    }

    /// Makes the latents of one scene, which the cache of the session keeps, and no frames. A session of the same request whose cache has
    /// all scenes runs no transformer.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) from a session that has begun or has no cache, for a number that no scene has, and for a request whose latents
    /// are not kept: one with a video that goes in or before it, or with initial latents. Otherwise as [`next_chunk`](Self::next_chunk).
    pub fn make_scene(
        mut self,
        scene: usize,
        cancel: &Cancel,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<SessionStats> {
        let end = self.skip_to_scene(scene)?;
        self.begin_shots(cancel)?;
        let is_kept = match &self.sampler {
            Some(Sampler::Clip(sampler)) => sampler.is_kept(),
            Some(Sampler::Causal(sampler)) => sampler.is_kept(),
            None => false,
        };
        if !is_kept {
            return refuse_not_kept();
        }
        while self.frames_generated < end && self.next_latents(cancel, progress)?.is_some() {}
        Ok(self.stats)
    }

    /// The names of the [entries](crate::CacheEntry) with the latents of each scene, which [`make_scene`](Self::make_scene) writes into a
    /// [portable](crate::Cache::portable) cache. Makes nothing.
    ///
    /// # Errors
    /// As [`make_scene`](Self::make_scene).
    pub fn film_entries(mut self, cancel: &Cancel) -> Result<Vec<Vec<String>>> {
        let scenes = self.new_scenes()?;
        scenes.into_iter().map(|frames| self.skip_scene(frames, cancel)).collect()
    }

    /// Leaves out the next scene, of so many frames, and returns the names of its entries.
    fn skip_scene(&mut self, frames: u64, cancel: &Cancel) -> Result<Vec<String>> {
        let (end, mut names) = (self.frames_generated + frames, Vec::new());
        while self.frames_generated < end {
            self.begin_shots(cancel)?;
            let left = end - self.frames_generated;
            let (key, frames) = match &mut self.sampler {
                Some(Sampler::Clip(sampler)) => (sampler.key()?, left),
                Some(Sampler::Causal(sampler)) => {
                    let frames = sampler.next_frames();
                    (sampler.skip_chunk(), frames.min(left))
                }
                None => unreachable!("the first shot begins a scene"),
            };
            let Some(key) = key else { return refuse_not_kept() };
            names.push(Cache::name_of_latents(&key));
            self.frames_generated += frames;
        }
        Ok(names)
    }

    /// Leaves out the scenes before `scene`, and returns the frame at which it ends.
    fn skip_to_scene(&mut self, scene: usize) -> Result<u64> {
        let scenes = self.new_scenes()?;
        let Some((&frames, (start, skipped))) = scenes.get(scene).zip(self.timeline.skip_scenes(scene))
        else {
            let reason = format!("there is no scene {scene}; the video has {}, counted from 0", scenes.len());
            return refuse(Setting::Shots, reason);
        };
        self.scenes.skip(skipped);
        self.frames_generated = start;
        Ok(start + frames)
    }

    /// The scenes of a session that has not begun.
    fn new_scenes(&self) -> Result<Vec<u64>> {
        if self.frames_generated > 0 || self.store.cache.is_none() {
            let reason = "a scene is made by a new session with a cache; open one".into();
            return refuse(Setting::Shots, reason);
        }
        Ok(self.scenes().unwrap_or_default())
    }
}

fn refuse_not_kept<T>() -> Result<T> {
    let reason = "the latents of this request are not kept, so its scenes cannot be made one by one; leave out the video that goes \
                  in or before it, and initial latents";
    refuse(Setting::Shots, reason.into())
}
