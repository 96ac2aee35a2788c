// SPDX-License-Identifier: MPL-2.0

//! GStreamer plugin for the provenance of generated video. The filter `soramark` embeds an invisible watermark,
//! `soradetect` detects it, and the sink `c2pasink` writes MP4 files with a signed C2PA manifest.
//!
//! ```text
//! gst-launch-1.0 -m filesrc location=clip.mp4 ! decodebin ! videoconvert ! soradetect ! fakesink
//! gst-launch-1.0 soragen prompt="a cat" ! x264enc ! mp4mux ! c2pasink location=cat.mp4 certificate=… private-key=…
//! ```

// The items of `plugin_define` have no documentation.
#![allow(missing_docs)]

use std::time::Duration;

use gst::glib;
use gst::prelude::*;
use gst_video::VideoFormat;

pub mod credentials;
mod destination;
mod detect;
mod error;
mod mark;
mod sign;

pub use destination::Destination;
pub use detect::SoraDetect;
pub use error::{Error, Result};
pub use mark::SoraMark;
pub use sign::C2paSink;

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    mark::register(plugin)?;
    detect::register(plugin)?;
    sign::register(plugin)
}

/// Loads the watermark key from a file; without a path it is the public key.
fn load_key(path: Option<&str>) -> Result<soragen::watermark::WatermarkKey, gst::ErrorMessage> {
    soragen::watermark::WatermarkKey::open(path.map(std::path::Path::new))
        .map_err(|e| gst::error_msg!(gst::ResourceError::OpenRead, ("{e}")))
}

/// The property `watermark-key`.
fn key_property() -> glib::ParamSpec {
    glib::ParamSpecString::builder("watermark-key")
        .nick("Watermark key")
        .blurb("File with the watermark key (unset = the public key)")
        .mutable_ready()
        .build()
}

/// The path in the value of `watermark-key`; an empty path is unset.
fn key_path(value: &glib::Value) -> Option<String> {
    value.get::<Option<String>>().ok().flatten().filter(|path| !path.is_empty())
}

/// The time of a frame for the watermark: its timestamp or, without one, the time of frame `number` at the frame rate.
pub fn frame_time(buffer: &gst::BufferRef, number: u64, info: &gst_video::VideoInfo) -> Duration {
    buffer.pts().map_or_else(
        || {
            let rate = f64::from(info.fps().numer()) / f64::from(info.fps().denom());
            // Without a frame rate there is no time.
            Duration::try_from_secs_f64(number as f64 / rate).unwrap_or_default()
        },
        Duration::from,
    )
}

/// Formats with a luma plane.
const LUMA_FORMATS: [VideoFormat; 7] = [
    VideoFormat::I420,
    VideoFormat::Nv12,
    VideoFormat::Yv12,
    VideoFormat::Nv21,
    VideoFormat::Y42b,
    VideoFormat::Y444,
    VideoFormat::Gray8,
];

/// Templates of a sink and a source pad for `formats`.
fn templates(formats: impl IntoIterator<Item = VideoFormat>) -> Vec<gst::PadTemplate> {
    let caps = gst_video::VideoCapsBuilder::new().format_list(formats).build();
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
