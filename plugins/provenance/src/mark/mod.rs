// SPDX-License-Identifier: MPL-2.0

//! The element `soramark`.

use gst::glib;
use gst::prelude::*;

mod imp;

glib::wrapper! {
    /// Embeds an invisible watermark in video.
    pub struct SoraMark(ObjectSubclass<imp::SoraMark>)
        @extends gst_video::VideoFilter, gst_base::BaseTransform, gst::Element, gst::Object;
}

/// Registers the element `soramark`.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "soramark", gst::Rank::NONE, SoraMark::static_type())
}
