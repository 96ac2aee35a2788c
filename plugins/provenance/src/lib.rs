// SPDX-License-Identifier: MPL-2.0

//! GStreamer plugin with the elements `soramark` and `soradetect`: filters that mark video invisibly, and find
//! the mark again.
//!
//! ```text
//! gst-launch-1.0 -m filesrc location=clip.mp4 ! decodebin ! videoconvert ! soradetect ! fakesink
//! ```

use gst::glib;

mod detect;
mod mark;

pub use detect::SoraDetect;
pub use mark::SoraMark;

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    mark::register(plugin)?;
    detect::register(plugin)
}

/// The key in the file that the property names, or everyone's.
fn key(path: Option<&str>) -> Result<soragen::watermark::Key, gst::ErrorMessage> {
    use soragen::watermark::Key;
    match path {
        None => Ok(Key::public()),
        Some(path) => Key::read(std::path::Path::new(path))
            .map_err(|e| gst::error_msg!(gst::ResourceError::OpenRead, ("{e}"))),
    }
}

/// Always pads of both directions for `formats`.
fn templates(formats: &[gst_video::VideoFormat]) -> Vec<gst::PadTemplate> {
    let caps = gst_video::VideoCapsBuilder::new().format_list(formats.iter().copied()).build();
    [("sink", gst::PadDirection::Sink), ("src", gst::PadDirection::Src)]
        .into_iter()
        .filter_map(|(name, direction)| {
            gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &caps).ok()
        })
        .collect()
}

gst::plugin_define!(
    soraprovenance,
    env!("CARGO_PKG_DESCRIPTION"),
    plugin_init,
    concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
    "MPL",
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_REPOSITORY"),
    env!("BUILD_REL_DATE")
);
