// SPDX-License-Identifier: MPL-2.0

//! The element `soradetect`.

use gst::glib;
use gst::prelude::*;

mod imp;

glib::wrapper! {
    /// Finds the mark in video and says so.
    pub struct SoraDetect(ObjectSubclass<imp::SoraDetect>)
        @extends gst_video::VideoFilter, gst_base::BaseTransform, gst::Element, gst::Object;
}

/// Makes the element known as `soradetect`.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "soradetect", gst::Rank::NONE, SoraDetect::static_type())
}
