// SPDX-License-Identifier: MPL-2.0

//! The element `soragen`.

use std::time::Duration;

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;

mod download;
mod error;
mod generator;
mod imp;
mod paint;
mod settings;
mod tags;
mod timecode;
mod timeline;
mod uri;

pub(crate) use paint::FORMATS;
pub use settings::{Decoder, Label, Precision};

glib::wrapper! {
    /// Makes video from text, or from an image and text; see [`register`] for its name.
    ///
    /// A worker thread owns the model and makes frames one chunk ahead of what was taken; the streaming
    /// thread only ever waits for them, so that every state change, seek and end of stream is prompt.
    pub struct SoraGen(ObjectSubclass<imp::SoraGen>)
        @extends gst_base::BaseSrc, gst::Element, gst::Object,
        @implements gst::URIHandler, gst::Preset;
}

impl SoraGen {
    /// One whose shots come while it runs.
    pub(crate) fn open(name: &str) -> Self {
        let source: Self = glib::Object::builder().property("name", name).build();
        source.imp().open();
        source
    }

    /// Adds a shot after the others, before which all were added that start earlier.
    pub(crate) fn add_shot(&self, shot: soragen::Shot) {
        self.imp().add_shot(shot);
    }

    /// All shots that start before `time` were added.
    pub(crate) fn set_known(&self, time: Duration) {
        self.imp().set_known(time);
    }

    /// All shots were added, and the last ends at `end`.
    pub(crate) fn finish(&self, end: Duration) {
        self.imp().finish(end);
    }
}

/// `prompt-check`: given a prompt that the policy lets pass, before a model sees it. A handler that returns false
/// refuses it; without a handler all pass. It is called on a thread of the element's.
pub(crate) fn prompt_check() -> glib::subclass::Signal {
    use std::ops::ControlFlow;
    glib::subclass::Signal::builder(PROMPT_CHECK)
        .param_types([String::static_type()])
        .return_type::<bool>()
        .run_last()
        .class_handler(|_| Some(true.to_value()))
        .accumulator(|_, _, may| match may.get() {
            Ok(true) => ControlFlow::Continue(may.clone()),
            _ => ControlFlow::Break(false.to_value()),
        })
        .build()
}

pub(crate) const PROMPT_CHECK: &str = "prompt-check";

/// Makes the element known as `soragen`.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    #[cfg(feature = "doc")]
    for kind in [Decoder::static_type(), Label::static_type(), Precision::static_type()] {
        kind.mark_as_plugin_api(gst::PluginAPIFlags::empty());
    }
    gst::Element::register(Some(plugin), "soragen", gst::Rank::NONE, SoraGen::static_type())
}
