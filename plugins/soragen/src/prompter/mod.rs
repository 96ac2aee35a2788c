// SPDX-License-Identifier: MPL-2.0

//! The element `soraprompt`.

use gst::glib;
use gst::prelude::*;

mod imp;

glib::wrapper! {
    /// Generates video from timed text, such as subtitles or the output of an application.
    ///
    /// A bin that contains an element named `soragen`. Its properties are set through the child proxy:
    /// `soraprompt soragen::seed=3`.
    ///
    /// If the request pad `video` is linked, the first shot and every shot after a cut start from the video's frame at
    /// that time.
    pub struct SoraPrompt(ObjectSubclass<imp::SoraPrompt>)
        @extends gst::Bin, gst::Element, gst::Object,
        @implements gst::ChildProxy;
}

/// Registers the element as `soraprompt`.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "soraprompt", gst::Rank::NONE, SoraPrompt::static_type())
}
