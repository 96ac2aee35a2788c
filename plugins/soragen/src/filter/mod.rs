// SPDX-License-Identifier: MPL-2.0

//! The element `sorafilter`.

use gst::glib;
use gst::prelude::*;

mod imp;
mod input;
mod negotiation;
mod output;
mod pacing;
mod pusher;
mod settings;
mod worker;

pub use settings::RateMode;

glib::wrapper! {
    /// Restyles video: it changes each frame as the prompt says, and keeps motion and layout. For causal models.
    ///
    /// The streaming thread of the sink pad converts and queues frames; a task of the source pad owns the model, and restyles one chunk
    /// after the other and pushes its frames. Those of a live video are pushed by a thread of their own. The frames of the request pads
    /// `control` and `mask` steer those of the sink pad at the same running time.
    pub struct SoraFilter(ObjectSubclass<imp::SoraFilter>)
        @extends gst::Element, gst::Object,
        @implements gst::Preset;
}

/// Registers the element as `sorafilter`.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    #[cfg(feature = "doc")]
    RateMode::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
    gst::Element::register(Some(plugin), "sorafilter", gst::Rank::NONE, SoraFilter::static_type())
}
