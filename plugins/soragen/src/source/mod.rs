// SPDX-License-Identifier: MPL-2.0

//! The element `soragen`.

use std::time::Duration;

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;

pub(crate) mod caps;
mod cuda;
mod deadline;
mod download;
mod enums;
pub(crate) mod error;
pub(crate) mod frame_time;
mod generator;
mod imp;
pub(crate) mod messages;
mod negotiation;
mod playback;
mod position;
mod properties;
mod running;
mod settings;
mod slate;
mod start;
mod state;
mod tags;
mod timecode;
mod uri;

pub use enums::{Decoder, Label, LatePolicy, Precision, Transition};
pub(crate) use generator::Change;
pub(crate) use imp::lock;
pub(crate) use properties::specs_of;
pub(crate) use settings::Settings;
pub(crate) use state::CueEnd;
use state::PendingCue;

glib::wrapper! {
    /// Generates video from text, or from an image and text. [`register`] registers it as `soragen`.
    ///
    /// A worker thread owns the model and generates frames one chunk ahead. The streaming thread only waits for them, so
    /// seeks and the end of the stream take effect at once. State changes do too, unless a signal handler or policy hook on
    /// the worker's thread runs longer than 2 s.
    pub struct SoraGen(ObjectSubclass<imp::SoraGen>)
        @extends gst_base::BaseSrc, gst::Element, gst::Object,
        @implements gst::URIHandler, gst::Preset;
}

impl SoraGen {
    /// An element whose shots arrive through [`add_shot`](Self::add_shot) while it runs.
    pub(crate) fn with_streamed_shots(name: &str) -> Self {
        let source: Self = glib::Object::builder().property("name", name).build();
        source.imp().streamed_shots.store(true, std::sync::atomic::Ordering::Relaxed);
        source
    }

    /// Appends a shot. All shots that start before it must have been added.
    pub(crate) fn add_shot(&self, shot: soragen::Shot) {
        self.imp().push_cue(PendingCue::Shot(Box::new(shot)));
    }

    /// Declares that all shots that start before `time` were added.
    pub(crate) fn set_shots_complete_until(&self, time: Duration) {
        self.imp().push_cue(PendingCue::CompleteUntil(time));
    }

    /// Declares that all shots were added, and where the last one ends. Without a shot, the stream ends with an error.
    pub(crate) fn finish_shots(&self, end: CueEnd) {
        self.imp().push_cue(PendingCue::End(end));
    }
}

/// The name of the signal [`prompt_check`].
pub(crate) const PROMPT_CHECK: &str = "prompt-check";

/// `prompt-check`: emitted on the worker's thread with every prompt that the policy accepts, before the model gets it. A
/// handler that returns false blocks the prompt; without a handler every prompt is accepted.
pub(crate) fn prompt_check() -> glib::subclass::Signal {
    use std::ops::ControlFlow;
    glib::subclass::Signal::builder(PROMPT_CHECK)
        .param_types([String::static_type()])
        .return_type::<bool>()
        .run_last()
        .class_handler(|_| Some(true.to_value()))
        .accumulator(|_, _, accepted| match accepted.get() {
            Ok(true) => ControlFlow::Continue(accepted.clone()),
            _ => ControlFlow::Break(false.to_value()),
        })
        .build()
}

/// Registers the element as `soragen`.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    #[cfg(feature = "doc")]
    for kind in [
        Decoder::static_type(),
        Label::static_type(),
        LatePolicy::static_type(),
        Precision::static_type(),
        Transition::static_type(),
    ] {
        kind.mark_as_plugin_api(gst::PluginAPIFlags::empty());
    }
    gst::Element::register(Some(plugin), "soragen", gst::Rank::NONE, SoraGen::static_type())
}
