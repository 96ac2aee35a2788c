// SPDX-License-Identifier: MPL-2.0

//! The element `c2pasink`.

use gst::glib;
use gst::prelude::*;

mod imp;
mod settings;

glib::wrapper! {
    /// Writes an MP4 file with a signed C2PA manifest.
    pub struct C2paSink(ObjectSubclass<imp::C2paSink>)
        @extends gst_base::BaseSink, gst::Element, gst::Object;
}

/// Registers the element `c2pasink`.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "c2pasink", gst::Rank::NONE, C2paSink::static_type())
}
