// SPDX-License-Identifier: MPL-2.0

//! The element `soragen`.

use gst::glib;
use gst::prelude::*;

mod error;
mod generator;
mod imp;
mod paint;
mod settings;
mod tags;
mod timeline;
mod uri;

pub use settings::{Decoder, Precision};

glib::wrapper! {
    /// Makes video from text, or from an image and text; see [`register`] for its name.
    ///
    /// A worker thread owns the model and makes frames one chunk ahead of what was taken; the streaming
    /// thread only ever waits for them, so that every state change, seek and end of stream is prompt.
    pub struct SoraGen(ObjectSubclass<imp::SoraGen>)
        @extends gst_base::BaseSrc, gst::Element, gst::Object,
        @implements gst::URIHandler;
}

/// Makes the element known as `soragen`.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    #[cfg(feature = "doc")]
    for kind in [Decoder::static_type(), Precision::static_type()] {
        kind.mark_as_plugin_api(gst::PluginAPIFlags::empty());
    }
    gst::Element::register(Some(plugin), "soragen", gst::Rank::NONE, SoraGen::static_type())
}
