// SPDX-License-Identifier: MPL-2.0

//! The element `soraprompt`.

use gst::glib;
use gst::prelude::*;

mod frames;
mod imp;

glib::wrapper! {
    /// Makes video of the timed texts that come in: a film of subtitles, or of what an application says.
    ///
    /// It is a bin with a `soragen` in it, `soragen` by name, whose properties are set there:
    /// `soraprompt soragen::seed=3`.
    ///
    /// If video comes in at the pad `video`, the first shot and every one after a cut start from what it shows at
    /// that time.
    pub struct SoraPrompt(ObjectSubclass<imp::SoraPrompt>)
        @extends gst::Bin, gst::Element, gst::Object,
        @implements gst::ChildProxy;
}

/// Makes the element known as `soraprompt`.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "soraprompt", gst::Rank::NONE, SoraPrompt::static_type())
}
