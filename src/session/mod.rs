//! One running generation: the next chunk, a new prompt, a cancel.
//!
//! [`validate`] checks the request. [`timeline`] assigns its shots to frames. A sampler generates the latents of each [`scene`]:
//! [`clip`] all at once, [`causal`] chunk by chunk. Both use [`conditioning`], [`guidance`] and [`latents`]. [`render`] decodes latents, and
//! [`finish`] converts the decoded frames to output frames; [`tensor_finish`] does so on the device. [`changes`] are those of a user while it
//! runs.

mod causal;
mod changes;
mod clip;
mod conditioning;
mod conditions;
mod film;
mod finish;
mod guidance;
mod latents;
mod overlay;
mod past;
mod planner;
mod progress;
mod prompt;
mod render;
mod restyle;
mod scene;
mod subjects;
mod tensor_finish;
mod timeline;
mod validate;

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::Tensor;
use image::{GrayImage, RgbImage};

use crate::error::refuse;
use crate::frames::RawFrames;
use crate::model::Pacing;
use crate::request::{Shot, Transition};
use crate::watermark::{Embedder, GenerationId};
use crate::{Cache, Cancel, Error, Frames, Model, Reference, Request, Result, Setting, Size, picture};
use causal::CausalSampler;
use clip::ClipSampler;
use conditioning::TextConditioner;
use conditions::ControlFrame;
use finish::{Finisher, LabelStart};
use latents::{InitialLatents, LatentGeometry, LatentStore};
use planner::Planner;
use progress::Reporter;
pub use progress::{Phase, Progress, SessionStats};
use render::Part;
pub use render::{ChunkLatents, Renderer};
use restyle::InputVideo;
use scene::{Scene, SceneBuilder};
use timeline::{PendingShot, ShotStart, Timeline};
use validate::{ValidatedRequest, check_restyled_shot};

/// The shot that a video shows from a frame on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShotInfo {
    /// Index of the shot, from 0. Changes of the prompt, the references and their path are counted, and so are shots without a chunk.
    pub index: u64,
    /// Its first frame.
    pub frame: u64,
    /// Its prompt.
    pub prompt: String,
    /// Its random seed.
    pub seed: u64,
    /// Whether there is a cut before it.
    pub cut: bool,
    /// The references that it shows: `bank:NAME`, or the name of a file.
    pub references: Vec<String>,
    /// The files among them.
    pub reference_files: Vec<PathBuf>,
}

/// One running generation. The same request gives the same frames on the same build and device.
pub struct Session {
    model: Arc<Model>,
    request: ValidatedRequest,
    timeline: Timeline,
    text: TextConditioner,
    store: LatentStore,
    initial_latents: Option<InitialLatents>,
    renderer: Renderer,
    generation_id: GenerationId,
    scenes: SceneBuilder,
    /// The sampler of the current scene; `None` before the first chunk.
    sampler: Option<Sampler>,
    /// Whether no chunk of the current scene was made.
    begins_scene: bool,
    /// The frame at which the current scene ends.
    scene_end: Option<u64>,
    /// The shot of the last chunk.
    shot: ShotInfo,
    label: LabelStart,
    /// The seed of the request has changed.
    new_seed: bool,
    planner: Planner,
    /// The video that goes in.
    video: Option<InputVideo>,
    /// The frames that the first scene continues, until it begins.
    past: Option<Tensor>,
    /// Frames that steer the next chunk.
    control: Vec<ControlFrame>,
    stats: SessionStats,
    shots_begun: u64,
    chunks: u64,
    frames_generated: u64,
    failed: bool,
}

/// Generates the frames of one scene, a few at a time.
enum Sampler {
    Clip(Box<ClipSampler>),
    Causal(Box<CausalSampler>),
}

impl Session {
    /// Checks `request` against the abilities of `model`. Generates nothing; the policy checks the prompts.
    ///
    /// # Errors
    /// [`Error::Request`] names the setting that the model cannot fulfil; [`Error::Refused`] by the policy.
    pub fn new(model: Arc<Model>, request: Request) -> Result<Self> {
        Self::start(model, request, None)
    }

    /// As [`new`](Self::new), with latents kept in `cache`: latents that it has are not computed again.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_cache(model: Arc<Model>, request: Request, cache: Cache) -> Result<Self> {
        Self::start(model, request, Some(cache))
    }

    fn start(model: Arc<Model>, request: Request, cache: Option<Cache>) -> Result<Self> {
        let info = &model.info;
        let mut request = ValidatedRequest::new(request, info)?;
        let generation_id = request.generation_id(info);
        let of_shots = request.shots.iter().flat_map(|shot| &shot.references);
        planner::check_names(&model, request.references.iter().chain(of_shots))?;
        let geometry = LatentGeometry::new(model.autoencoder.config(), request.size);
        let past = past_frames(&model, &geometry, &mut request)?;
        let before = past.as_ref().map_or(Ok(0), |past| past.dim(2))? as u64;
        let cache = cache.map(|cache| cache.made_by(model.maker()));
        let timeline = Timeline::new(std::mem::take(&mut request.shots), info, request.total_frames);
        let scenes = timeline.scenes();
        // Only the first scene continues a video.
        let scene_frames = scenes.iter().flatten().enumerate();
        let lengths = scene_frames.map(|(i, &frames)| frames + if i == 0 { before } else { 0 });
        if let (Some(frames), Some(max)) = (lengths.max(), info.max_frames)
            && frames > max
        {
            return refuse(
                Setting::Length,
                format!("{} makes at most {max} frames, not {frames}", info.name),
            );
        }
        let planner = Planner::new(std::mem::take(&mut request.references), request.motion_path.take());
        let video = request.restyle.map(|restyle| InputVideo::new(restyle, request.size));
        let initial_latents = request.initial_latents.take();
        let references = if info.has_reference_latents() { planner.current_references().len() } else { 0 };
        let initial_latents = initial_latents
            .map(|latents| InitialLatents::new(latents, scenes, references, &geometry, &model.device))
            .transpose()?;
        let embedder = |key| Embedder::new(key, generation_id, request.watermark_strength);
        let embedder = request.watermark.as_ref().map(embedder);
        let finisher =
            Finisher::new(request.label, embedder, request.embed_watermark, request.size, info.frame_rate);
        let label = LabelStart { label: request.label, since: 0 };
        Ok(Self {
            renderer: Renderer::new(model.clone(), request.size, geometry, finisher),
            text: TextConditioner { model: model.clone(), cache: cache.clone(), guidance: request.guidance },
            store: LatentStore { cache, geometry, device: model.device.clone() },
            model,
            request,
            timeline,
            initial_latents,
            generation_id,
            scenes: SceneBuilder::default(),
            sampler: None,
            begins_scene: false,
            scene_end: None,
            shot: ShotInfo::default(),
            label,
            new_seed: false,
            planner,
            video,
            past,
            control: Vec::new(),
            stats: SessionStats::default(),
            shots_begun: 0,
            chunks: 0,
            frames_generated: 0,
            failed: false,
        })
    }

    /// Size of the frames.
    pub fn size(&self) -> Size {
        self.request.size
    }

    /// Identifies the request; requests that differ only in length share it. It is the first 40 bits of a digest, so anyone
    /// who guesses the whole request can confirm the guess.
    pub fn generation_id(&self) -> GenerationId {
        self.generation_id
    }

    /// The id in the watermark of the frames; `None` if they have no watermark.
    pub fn watermark_id(&self) -> Option<GenerationId> {
        self.embedder().map(Embedder::id)
    }

    /// What embeds the watermark in the frames; `None` if they have no watermark. The `shot` is [`ShotInfo::index`].
    pub fn embedder(&self) -> Option<&Embedder> {
        self.renderer.finisher().embedder()
    }

    /// Frames of the whole video; `None` without an end.
    pub fn total_frames(&self) -> Option<u64> {
        self.timeline.total()
    }

    /// What the session has computed so far.
    pub fn stats(&self) -> SessionStats {
        self.stats
    }

    /// The shot of the last chunk; empty before the first chunk.
    pub fn shot(&self) -> &ShotInfo {
        &self.shot
    }

    /// Adds a shot after those of the request. Finished frames stay: a shot whose time has passed starts with the next
    /// chunk.
    ///
    /// # Errors
    /// [`Error::Request`] if it does not start later than the shot before it, or if the model cannot make it;
    /// [`Error::Refused`] by the policy.
    pub fn add_shot(&mut self, shot: Shot) -> Result<()> {
        planner::check_names(&self.model, &shot.references)?;
        if self.video.is_some() {
            check_restyled_shot(&shot, false)?;
        }
        if self.request.control.is_some() || self.request.last_image.is_some() {
            let reason = "the control video and the last image are of the only shot; no other can be added";
            return refuse(Setting::Shots, reason.into());
        }
        self.timeline.add(shot, &self.planner.digests(), &self.model.info, &self.request.policy)
    }

    /// Ends an endless video after `frames` frames.
    pub fn end_at(&mut self, frames: u64) {
        let pushed = self.video.as_ref().filter(|video| video.ended).map(|video| video.pushed);
        self.timeline.end_at(pushed.map_or(frames, |pushed| frames.min(pushed)));
    }

    /// Upper bound of the frame where the next chunk ends. If all shots that start before that frame are added before the chunk
    /// is generated, the video equals that of a request that had them from the beginning.
    pub fn next_end(&self) -> u64 {
        match &self.model.pacing {
            Pacing::Causal { config, .. } => {
                self.frames_generated + self.store.geometry.frames_of(1, config.max_chunk())
            }
            Pacing::Clip { .. } => self.timeline.total().unwrap_or(u64::MAX),
        }
    }

    /// Gives frames of the video that goes in: RGB, 8 bits per sample, `[T, H, W, 3]` of [`size`](Self::size) without gaps, at the
    /// frame rate of the model. The next chunk needs [`missing_frames`](Self::missing_frames) of them.
    ///
    /// # Errors
    /// [`Error::Request`] from a session without [`Request::restyle`], after [`end_video`](Self::end_video), and for a part of a frame.
    pub fn push_frames(&mut self, samples: &[u8]) -> Result<()> {
        let size = self.request.size;
        let video = self.input_video()?;
        if video.ended {
            return refuse(Setting::Video, "the video has ended".into());
        }
        if !samples.len().is_multiple_of(size.samples()) {
            let bytes = samples.len();
            return refuse(Setting::Video, format!("{bytes} bytes are no whole frames of {size} in RGB"));
        }
        video.push(samples);
        Ok(())
    }

    /// Gives a frame that steers the next frame of the video that goes in, with its mask, as [`Control`](crate::Control) has them. Frames
    /// that get none are free.
    ///
    /// # Errors
    /// [`Error::Request`] from a session without [`Request::restyle`], and from a model without a control branch.
    pub fn push_control(&mut self, frame: RgbImage, mask: Option<GrayImage>) -> Result<()> {
        if !(self.model.info.control && self.model.info.causal) {
            let reason = format!("{} is not steered frame by frame", self.model.info.name);
            return refuse(Setting::Control, reason);
        }
        self.input_video()?;
        self.control.push((frame, mask));
        Ok(())
    }

    /// Ends the video that goes in: no more frames come. The session makes as many frames as went in, or fewer if the request has a
    /// shorter length.
    pub fn end_video(&mut self) {
        if let Some(video) = &mut self.video {
            video.ended = true;
            let end = self.timeline.total().map_or(video.pushed, |total| total.min(video.pushed));
            self.timeline.end_at(end);
        }
    }

    /// Frames of the video that goes in that are missing for the next chunk; 0 without such a video, and after its end.
    pub fn missing_frames(&self) -> u64 {
        match &self.video {
            Some(video) if !self.is_complete() => video.missing(self.input_frames()),
            _ => 0,
        }
    }

    fn input_video(&mut self) -> Result<&mut InputVideo> {
        self.video.as_mut().ok_or_else(|| {
            let reason = "this session makes a new video; set `restyle` to change one";
            Error::Request(Setting::Video, reason.into())
        })
    }

    /// Whether all frames are generated.
    fn is_complete(&self) -> bool {
        self.timeline.total().is_some_and(|total| self.frames_generated >= total)
    }

    /// Frames of the video that goes in that the next chunk takes.
    fn input_frames(&self) -> u64 {
        let geometry = &self.store.geometry;
        match (&self.sampler, &self.model.pacing) {
            (Some(Sampler::Causal(sampler)), _) => sampler.next_frames(),
            (_, Pacing::Causal { config, .. }) => geometry.frames_of(0, config.chunk_at(0)),
            // All at once. Frames after the end fill the last latent frame.
            (_, Pacing::Clip { .. }) if self.frames_generated == 0 => self.timeline.total().unwrap_or(0),
            (_, Pacing::Clip { .. }) => 0,
        }
    }

    /// Generates the next frames: 8 bits per sample, with label and watermark as requested. `None` after the last.
    ///
    /// After a cancel it returns [`Error::Cancelled`] within one transformer block or decoder layer. After an error every call
    /// fails: start another session from the same request.
    pub fn next_chunk(
        &mut self,
        cancel: &Cancel,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Option<Frames>> {
        let chunk = self.denoise_chunk(cancel, progress)?;
        self.rendered(chunk, |renderer, chunk| renderer.render(chunk, cancel))
    }

    /// As [`next_chunk`](Self::next_chunk), but the frames are as the autoencoder decoded them: f32, without label and
    /// watermark. For measurements; use
    /// [`next_chunk`](Self::next_chunk) for frames that people see.
    pub fn next_raw_chunk(
        &mut self,
        cancel: &Cancel,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Option<RawFrames>> {
        let chunk = self.denoise_chunk(cancel, progress)?;
        self.rendered(chunk, |renderer, chunk| renderer.render_raw(chunk, cancel))
    }

    /// Renders a chunk with the session's own renderer.
    fn rendered<T>(
        &mut self,
        chunk: Option<ChunkLatents>,
        render: impl FnOnce(&mut Renderer, ChunkLatents) -> Result<T>,
    ) -> Result<Option<T>> {
        let Some(chunk) = chunk else { return Ok(None) };
        let frames = render(&mut self.renderer, chunk);
        self.failed |= frames.is_err();
        frames.map(Some)
    }

    /// What makes frames of the chunks of [`denoise_chunk`](Self::denoise_chunk), on any thread. Call it before the first chunk.
    pub fn renderer(&self) -> Renderer {
        let finisher = self.renderer.finisher().clone();
        Renderer::new(self.model.clone(), self.request.size, self.store.geometry, finisher)
    }

    /// The first half of [`next_chunk`](Self::next_chunk): the latents of the next chunk, for a [`renderer`](Self::renderer). `None`
    /// after the last. While it renders them, the session may denoise the chunk after it. A session takes its chunks in one way only.
    ///
    /// # Errors
    /// As [`next_chunk`](Self::next_chunk).
    pub fn denoise_chunk(
        &mut self,
        cancel: &Cancel,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Option<ChunkLatents>> {
        if !self.begin_chunk(cancel)? {
            return Ok(None);
        }
        let mut reporter = Reporter::new(progress, self.chunks, self.frames_generated, self.request.steps);
        let left = self.scene_end.map_or(u64::MAX, |end| end.saturating_sub(self.frames_generated));
        let begins_scene = std::mem::take(&mut self.begins_scene);
        let (part, sum, frames) = match &mut self.sampler {
            Some(Sampler::Clip(sampler)) => {
                let (frame, clip) = sampler.next_frame(cancel, &mut reporter)?;
                (Part::Clip { clip, frame }, None, self.store.geometry.frames_of(frame, 1))
            }
            Some(Sampler::Causal(sampler)) => {
                let frames = sampler.next_frames();
                let latents = sampler.next_latents(cancel, &mut reporter)?;
                let sum = latents.sum_all()?;
                (Part::Stream { before: sampler.take_before(), latents }, Some(sum), frames)
            }
            None => unreachable!("the first shot begins a scene"),
        };
        let (first, frames, shot) = (self.frames_generated, frames.min(left), self.shot.index);
        reporter.report(Phase::Decode, reporter.steps);
        self.end_chunk(&reporter, frames);
        Ok(Some(ChunkLatents { part, begins_scene, sum, first, frames, shot, label: self.label }))
    }

    /// Prepares the sampler for the next chunk; false after the last. Until [`end_chunk`](Self::end_chunk) the session counts as failed:
    /// after an error, half of a chunk may be in the KV caches.
    fn begin_chunk(&mut self, cancel: &Cancel) -> Result<bool> {
        if self.failed {
            return Err(Error::Generation("this generation failed before; start another one".into()));
        }
        if self.is_complete() {
            return Ok(false);
        }
        let missing = self.missing_frames();
        if missing > 0 {
            return refuse(Setting::Video, format!("{missing} more frames of the video must go in first"));
        }
        self.failed = true;
        self.begin_shots(cancel)?;
        self.take_video()?;
        Ok(true)
    }

    /// Counts a chunk of so many frames.
    fn end_chunk(&mut self, reporter: &Reporter, frames: u64) {
        self.stats.forwards += reporter.forwards;
        self.stats.cached += if reporter.cached { frames } else { 0 };
        self.chunks += u64::from(matches!(self.sampler, Some(Sampler::Causal(_))));
        self.frames_generated += frames;
        self.failed = false;
    }

    /// Hands the sampler its part of the video that goes in.
    fn take_video(&mut self) -> Result<()> {
        let geometry = self.store.geometry;
        match (&mut self.video, &mut self.sampler) {
            (Some(video), Some(Sampler::Causal(sampler))) => {
                if !self.control.is_empty() {
                    sampler.push_control(self.control.drain(..), self.request.control_scale);
                }
                sampler.set_video(video.take(sampler.next_frames(), &self.model.device)?);
            }
            (Some(video), Some(Sampler::Clip(sampler))) if self.frames_generated == 0 => {
                let frames = self.timeline.total().unwrap_or(1);
                let whole = geometry.frames_of(0, geometry.latents_of(frames));
                video.ended = true;
                sampler.set_video(video.take(whole, &self.model.device)?);
            }
            _ => {}
        }
        Ok(())
    }

    /// Begins the shots that are due with the next chunk.
    fn begin_shots(&mut self, cancel: &Cancel) -> Result<()> {
        let mut cut = None;
        let other_seed = std::mem::take(&mut self.new_seed);
        if other_seed {
            self.shot.seed = self.request.seed;
        }
        while let Some(pending) = self.timeline.next_due(self.frames_generated, self.next_frames()) {
            let PendingShot { start, mut shot } = pending;
            let shot_cut = shot.transition == Transition::Cut;
            self.shot.prompt = shot.prompt.clone();
            if start != ShotStart::Live {
                self.shot.seed = shot.seed.unwrap_or(self.request.seed);
            }
            let live = start == ShotStart::Live;
            // A model that remembers shots cuts inside of its scene.
            let live_cut = live && shot_cut && !self.model.info.remembers_shots;
            let begins_scene = live_cut || matches!(start, ShotStart::Scene(_));
            if live_cut {
                shot.seed = Some(self.shot.seed);
            }
            self.planner.begin_shot(&shot, begins_scene, live, self.seconds());
            match (begins_scene, &mut self.sampler) {
                (true, _) => self.begin_scene(shot)?,
                (false, Some(Sampler::Causal(sampler))) => {
                    sampler.set_prompt(shot.prompt, Some(self.shot.seed), shot_cut);
                }
                _ => {}
            }
            cut = Some(shot_cut || cut.unwrap_or(false));
            self.shots_begun += 1;
        }
        if (self.plan(cancel)? || other_seed) && cut.is_none() {
            // Other references, another path or another seed.
            cut = Some(false);
            self.shots_begun += 1;
        }
        // A shot may have been added since the last chunk.
        self.scene_end = self.timeline.next_scene();
        if let Some(cut) = cut {
            self.shot.index = self.shots_begun - 1;
            self.shot.frame = self.frames_generated;
            self.shot.cut = cut && self.frames_generated > 0;
        }
        Ok(())
    }

    /// Seconds of the video so far.
    fn seconds(&self) -> f64 {
        let (numerator, denominator) = self.model.info.frame_rate;
        self.frames_generated as f64 * f64::from(denominator) / f64::from(numerator)
    }

    /// Latent frames of the scene so far.
    fn latent_frames(&self) -> usize {
        match &self.sampler {
            Some(Sampler::Causal(sampler)) => sampler.latent_frames(),
            Some(Sampler::Clip(_)) | None => 0,
        }
    }

    /// Plans the subjects, if the shot, its references or its path are new; returns whether they are.
    fn plan(&mut self, cancel: &Cancel) -> Result<bool> {
        let (prompt, latent) = (&self.shot.prompt, self.latent_frames());
        let plan = self.planner.next(&self.text, self.request.size, prompt, latent, cancel)?;
        let changed = plan.is_some();
        if let (Some(plan), Some(Sampler::Causal(sampler))) = (plan, &mut self.sampler) {
            let references = self.planner.references();
            self.shot.references = references.iter().map(Reference::name).collect();
            self.shot.reference_files =
                references.iter().filter_map(Reference::file).map(Into::into).collect();
            sampler.set_plan(plan);
        }
        Ok(changed)
    }

    fn begin_scene(&mut self, mut shot: Shot) -> Result<()> {
        let frames = self.timeline.next_scene().map(|end| end.saturating_sub(self.frames_generated));
        let latents = self.initial_latents.as_ref();
        shot.references = match self.model.info.has_reference_latents() {
            true => self.planner.current_references().to_vec(),
            false => Vec::new(),
        };
        let references = shot.references.iter();
        self.shot.references = references.clone().map(Reference::name).collect();
        self.shot.reference_files = references.filter_map(Reference::file).map(Into::into).collect();
        let mut scene = self.scenes.next(&self.model, &self.request, &self.store, latents, shot, frames)?;
        scene.past = self.past.take();
        if let Some(past) = &scene.past {
            let geometry = &self.store.geometry;
            let latents = geometry.latents_of(past.dim(2)? as u64);
            let before = self.request.past_start / self.model.info.latent_frames.max(1);
            self.planner.continue_video(before as usize, latents, planner::latent_duration(&self.model));
        }
        self.sampler = Some(self.sampler_for(scene)?);
        self.begins_scene = true;
        Ok(())
    }

    fn sampler_for(&self, scene: Scene) -> Result<Sampler> {
        let (text, store) = (self.text.clone(), self.store.clone());
        let ValidatedRequest { size, steps, shift, blend_chunks, .. } = self.request;
        Ok(match &self.model.pacing {
            Pacing::Clip { scheduler, experts } => {
                let scheduler = scheduler.start(steps, shift)?;
                let experts = experts.clone();
                Sampler::Clip(Box::new(ClipSampler::new(experts, scheduler, text, store, size, scene)))
            }
            Pacing::Causal { config, transformer } => {
                let schedule = config.schedule.resolve(steps as usize, shift);
                let (config, transformer) = (config.clone(), transformer.clone());
                Sampler::Causal(Box::new(CausalSampler::new(
                    config,
                    transformer,
                    schedule,
                    text,
                    store,
                    size,
                    blend_chunks,
                    scene,
                )))
            }
        })
    }

    /// Frames of the next chunk.
    fn next_frames(&self) -> u64 {
        match &self.sampler {
            Some(Sampler::Causal(sampler)) => sampler.next_frames(),
            // A scene of a clip begins at any frame, and has no other shots.
            Some(Sampler::Clip(_)) | None => 1,
        }
    }
}

/// The last frames of the video that a request continues, as many as fill whole chunks.
fn past_frames(
    model: &Model,
    geometry: &LatentGeometry,
    request: &mut ValidatedRequest,
) -> Result<Option<Tensor>> {
    let frames = std::mem::take(&mut request.past);
    if frames.is_empty() {
        return Ok(None);
    }
    let available = geometry.whole_latents_of(frames.len() as u64);
    let (found, least) = match &model.pacing {
        Pacing::Causal { config, .. } => (config.past_latents(available), config.chunk_at(0)),
        Pacing::Clip { .. } => (Some(available.min(geometry.latents_of(model.info.past_frames))), 1),
    };
    let Some(latents) = found else {
        let least = geometry.frames_of(0, least);
        let reason = format!("{} frames are too short to continue; give at least {least}", frames.len());
        return refuse(Setting::Video, reason);
    };
    let count = geometry.frames_of(0, latents) as usize;
    request.past_start = request.past_start.saturating_add((frames.len() - count) as u64);
    let mut samples = Vec::with_capacity(count * request.size.samples());
    for frame in &frames[frames.len() - count..] {
        samples.extend(picture::stretch_frame(frame, request.size)?);
    }
    Ok(Some(picture::frames_to_video(samples, request.size, &model.device)?))
}
