// SPDX-License-Identifier: MPL-2.0

//! GStreamer plugin with the elements `soragen`, a source that generates video from text, or from an image and text, with a
//! diffusion model in-process; `soraprompt`, which generates video from timed text; and `sorafilter`, which restyles video.
//!
//! ```text
//! gst-launch-1.0 soragen prompt="a red fox runs over the snow" ! x264enc ! mp4mux ! filesink location=fox.mp4
//! ```

// The items of `plugin_define` have no documentation.
#![allow(missing_docs)]

use gst::glib;

mod control;
mod filter;
mod monitor;
mod prompter;
mod source;
mod video;

pub use control::set_property;
pub use filter::{RateMode, SoraFilter};
pub use prompter::SoraPrompt;
pub use source::{Decoder, Label, LatePolicy, Precision, SoraGen, Transition};
pub use video::input::{NO_PICTURE_REASON, VideoInput, is_no_picture, post_no_picture, stretched};

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    // Must load no model and open no device: the registry scanner runs this as well.
    #[cfg(feature = "builtin")]
    soragen_builtin::register();
    source::register(plugin)?;
    prompter::register(plugin)?;
    filter::register(plugin)
}

gst::plugin_define!(
    soragen,
    env!("CARGO_PKG_DESCRIPTION"),
    plugin_init,
    concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
    "MPL",
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_REPOSITORY"),
    env!("BUILD_REL_DATE")
);
