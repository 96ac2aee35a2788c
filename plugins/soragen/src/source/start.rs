// SPDX-License-Identifier: MPL-2.0

//! Starting the element, at once or after a download, and stopping it.

use std::sync::atomic::Ordering;

use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use soragen::hub::HubName;
use soragen::{Cancel, ModelInfo};

use super::cuda::CudaState;
use super::generator::{Generator, Job};
use super::imp::{SoraGen, lock};
use super::playback::LivePlayback;
use super::position::Position;
use super::settings::{Settings, VideoLength};
use super::state::{CueOutcome, PendingCue, PendingDownload, Running, State};
use super::{caps, download, error, messages, tags, timecode};

/// Everything that is checked and read before the worker starts.
struct Prepared {
    job: Job,
    info: ModelInfo,
    length: Option<VideoLength>,
    /// Of a live source.
    live: Option<LivePlayback>,
    tags: gst::TagList,
    images: Vec<String>,
    extend: Option<String>,
}

impl SoraGen {
    /// Starts the worker.
    pub(super) fn start_now(&self, settings: &Settings) -> soragen::Result<()> {
        let running = self.prepare(settings)?.start(&self.obj())?;
        *lock(&self.state) = State::Running(Box::new(running));
        self.apply_late_prompts(settings);
        Ok(())
    }

    /// Applies prompts that were set after the worker got `settings`, but before the element was running.
    fn apply_late_prompts(&self, settings: &Settings) {
        let now = lock(&self.settings).clone();
        if let Some(running) = lock(&self.state).running() {
            now.changes_since(settings).into_iter().for_each(|change| running.generator.change(change));
        }
    }

    /// Refuses settings without anything to show, before a model is downloaded or loaded for them.
    pub(super) fn check_prompt(&self, settings: &Settings) -> soragen::Result<()> {
        if settings.has_prompt() || self.streamed_shots.load(Ordering::Relaxed) {
            return Ok(());
        }
        let reason = "the prompt is empty; set `prompt` to what to show, or set `storyboard`";
        Err(soragen::Error::Request(soragen::Setting::Prompt, reason.into()))
    }

    fn prepare(&self, settings: &Settings) -> soragen::Result<Prepared> {
        self.check_prompt(settings)?;
        let info = settings.info()?;
        caps::check_size(&settings.uri_caps, &info)?;
        if let Some(text) = settings.timecode.as_ref().filter(|text| !timecode::is_valid(text)) {
            return Err(soragen::Error::Request(
                soragen::Setting::Timecode,
                format!("{text:?} is not a time code; use one like 10:00:00:00"),
            ));
        }
        if settings.extend.is_some() {
            info.check_extend()?;
        }
        let storyboard = settings.storyboard()?;
        let storyboard = storyboard.as_ref();
        let streamed_shots = self.streamed_shots.load(Ordering::Relaxed);
        let length = if streamed_shots { None } else { settings.length(&info, storyboard) };
        let threads = soragen::Threads::new(settings.threads as usize)?;
        let render_threads = soragen::Threads::named("soragen-render", settings.threads as usize)?;
        if let Some(warning) = threads.warning() {
            gst::element_imp_warning!(self, gst::ResourceError::Settings, ("{warning}"));
        }
        let element = self.obj().downgrade();
        let prompt_check = Box::new(move |prompt: &str| {
            element.upgrade().is_some_and(|element| element.emit_by_name(super::PROMPT_CHECK, &[&prompt]))
        });
        let job = Job {
            source: settings.model.clone(),
            options: settings.open_options(),
            request: settings.request(length.map(|length| length.frames), storyboard)?,
            past: settings.past(&info),
            prompt_check,
            cache: settings.cache(),
            threads: [threads, render_threads],
            streamed_shots,
        };
        let (tags, images) = (tags::of(settings, &info), settings.images(storyboard));
        let extend = settings.extend.clone();
        let replacement = settings.replacement()?;
        let live = settings.is_live.then(|| LivePlayback::new(replacement));
        Ok(Prepared { job, info, length, live, tags, images, extend })
    }

    /// Starts the download of the model. The start completes after it.
    pub(super) fn start_after_download(&self, name: HubName) -> Result<(), gst::ErrorMessage> {
        let cancel = Cancel::new();
        *lock(&self.state) = State::Downloading(PendingDownload { cancel: cancel.clone(), cues: Vec::new() });
        download::start(&self.obj(), name, cancel)
            .map_err(|e| gst::error_msg!(gst::CoreError::Thread, ("cannot spawn a thread: {e}")))
    }

    /// Completes the start after the download, unless the element was stopped meanwhile.
    pub(super) fn finish_download(&self, pulled: soragen::Result<()>, cancel: &Cancel) {
        let settings = lock(&self.settings).clone();
        let prepared = pulled.and_then(|()| self.prepare(&settings));
        let started = {
            let mut state = lock(&self.state);
            // Checked under the lock: after `stop` no worker is started.
            if cancel.is_cancelled() {
                return;
            }
            // The state stays `Downloading` after an error, so that `stop` can still cancel `complete_start`.
            let cues = match &mut *state {
                State::Downloading(download) => std::mem::take(&mut download.cues),
                State::Stopped | State::Running(_) => Vec::new(),
            };
            prepared.and_then(|prepared| prepared.start(&self.obj())).map(|mut running| {
                running.download = Some(cancel.clone());
                // Under the lock, so that no later cue overtakes them.
                let outcomes: Vec<_> =
                    cues.into_iter().map(|cue| running.apply(cue, settings.is_live)).collect();
                *state = State::Running(Box::new(running));
                outcomes
            })
        };
        match started {
            Ok(outcomes) => {
                self.apply_late_prompts(&settings);
                outcomes.into_iter().for_each(|outcome| self.report_cue(outcome));
                if self.complete_start(cancel, gst::FlowReturn::Ok) {
                    messages::post(&self.obj(), messages::duration_changed(&self.obj()));
                }
            }
            Err(error) => {
                if self.complete_start(cancel, gst::FlowReturn::Error) {
                    self.post_error_message(error::message(&error));
                }
            }
        }
    }

    /// Completes the asynchronous start. Returns false if the element was stopped meanwhile.
    ///
    /// Holds none of the element's locks. The pad's stream lock, which the base class takes here and in its own stop, makes
    /// the check and the completion one step: the element is stopped either before the check or after the completion.
    fn complete_start(&self, cancel: &Cancel, result: gst::FlowReturn) -> bool {
        let element = self.obj();
        let pad = element.src_pad();
        let _stream_lock = pad.stream_lock();
        let active = !cancel.is_cancelled() && pad.mode() != gst::PadMode::None;
        if active {
            element.start_complete(result);
        }
        active
    }

    /// Stops the worker and a pending download. A running worker has released the model when this returns, unless this is
    /// the worker's own thread, or a signal handler or policy hook runs longer than 2 s.
    pub(super) fn stop_now(&self) {
        let state = {
            let mut state = lock(&self.state);
            state.cancel_download();
            std::mem::take(&mut *state)
        };
        // Waits for the worker, without the lock.
        drop(state);
        *lock(&self.cuda) = CudaState::default();
    }

    /// Cancels a pending download, so that it does not complete the start.
    pub(super) fn cancel_download(&self) {
        let mut state = lock(&self.state);
        state.cancel_download();
        if matches!(*state, State::Downloading(_)) {
            *state = State::Stopped;
        }
    }

    /// Passes `cue` to the worker, after a pending download.
    pub(super) fn push_cue(&self, cue: PendingCue) {
        let is_live = lock(&self.settings).is_live;
        let outcome = match &mut *lock(&self.state) {
            State::Stopped if matches!(cue, PendingCue::End(_)) => CueOutcome::DurationChanged,
            State::Stopped => CueOutcome::Accepted,
            State::Downloading(download) => {
                download.cues.push(cue);
                CueOutcome::Accepted
            }
            State::Running(running) => running.apply(cue, is_live),
        };
        self.report_cue(outcome);
    }

    pub(super) fn report_cue(&self, outcome: CueOutcome) {
        match outcome {
            CueOutcome::Accepted => {}
            CueOutcome::Dropped => gst::element_imp_warning!(
                self,
                gst::StreamError::Decode,
                ("cue dropped: it is empty, or out of order")
            ),
            CueOutcome::DurationChanged => {
                messages::post(&self.obj(), messages::duration_changed(&self.obj()));
            }
        }
    }
}

impl Prepared {
    fn start(self, element: &super::SoraGen) -> soragen::Result<Running> {
        let Self { job, info, length, live, tags, images, extend } = self;
        let on_event = messages::event_poster(element, length.map(|length| length.frames));
        let generator = Generator::start(job, on_event)
            .map_err(|e| soragen::Error::Device(format!("cannot spawn a thread: {e}")))?;
        Ok(Running {
            info,
            length,
            generator,
            output: None,
            video: None,
            position: Position::default(),
            live,
            restarts: 0,
            early_cues: Vec::new(),
            timecode: None,
            new_seed: None,
            shot: None,
            tags: Some(tags),
            images,
            extend,
            download: None,
        })
    }
}
