// SPDX-License-Identifier: MPL-2.0

//! GStreamer plugin with the element `soragen`: a source that makes video from text, or from an image and
//! text, by a diffusion model that runs in-process.
//!
//! ```text
//! gst-launch-1.0 soragen prompt="a red fox runs over the snow" ! x264enc ! mp4mux ! filesink location=fox.mp4
//! ```

use gst::glib;

mod prompter;
mod source;

pub use prompter::SoraPrompt;
pub use source::{Decoder, Label, Precision, SoraGen};

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    // Loads nothing and touches no device: the registry scanner runs this too.
    #[cfg(feature = "builtin")]
    soragen_builtin::register();
    source::register(plugin)?;
    prompter::register(plugin)
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
