// SPDX-License-Identifier: MPL-2.0

//! The element `soradetect`.

use gst::glib;
use gst::prelude::*;

mod imp;

glib::wrapper! {
    /// Detects the watermark in video.
    pub struct SoraDetect(ObjectSubclass<imp::SoraDetect>)
        @extends gst_video::VideoFilter, gst_base::BaseTransform, gst::Element, gst::Object;
}

/// Registers the element `soradetect`.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "soradetect", gst::Rank::NONE, SoraDetect::static_type())
}
