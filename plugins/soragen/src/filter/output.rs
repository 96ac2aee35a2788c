// SPDX-License-Identifier: MPL-2.0

//! What comes out: buffers in the negotiated format, with their watermark.

use std::sync::Arc;
use std::time::Duration;

use gst_video::{VideoFrameRef, VideoInfo};
use soragen::watermark::{Embedder, GenerationId, Plane};
use soragen::{ShotInfo, Size};

use super::input::InputFrame;
use crate::source::messages::ShotAnnouncement;
use crate::video::convert::convert;

/// The buffer of a frame with these `pixels`, which came in as `frame`.
///
/// # Errors
/// If there is no memory, or the format cannot be written.
pub fn buffer(
    pixels: &[u8],
    frame: &InputFrame,
    video: &VideoInfo,
    duration: Option<gst::ClockTime>,
) -> Result<gst::Buffer, gst::glib::BoolError> {
    let mut buffer = gst::Buffer::with_size(video.size())?;
    let writable = buffer.make_mut();
    convert(pixels, &mut VideoFrameRef::from_buffer_ref_writable(writable, video)?)?;
    writable.set_pts(frame.pts);
    writable.set_duration(duration);
    if let Some(timecode) = &frame.timecode {
        gst_video::VideoTimeCodeMeta::add(writable, timecode);
    }
    Ok(buffer)
}

/// Embeds the watermark in `pixels`. It follows the time of the frames, which may have gaps.
pub fn embed(embedder: Option<&Embedder>, pixels: &mut [u8], size: Size, shot: u64, time: gst::ClockTime) {
    if let Some(embedder) = embedder {
        embedder.embed(&mut Plane::rgb(pixels, size), shot, Duration::from(time));
    }
}

/// The structure `soragen-shot` of a shot that begins with the frame at `time`. `ingredient` is the file that the video comes from.
pub fn announcement(
    shot: &ShotInfo,
    time: gst::ClockTime,
    model: &str,
    ingredient: Option<&str>,
    generation_id: Option<GenerationId>,
) -> gst::Structure {
    let references = shot.reference_files.iter().map(|file| file.to_string_lossy().into_owned());
    let announcement = ShotAnnouncement {
        shot: Arc::new(shot.clone()),
        start: time.nseconds(),
        model: model.into(),
        images: references.collect(),
        restyled: true,
        ingredient: ingredient.map(Into::into),
        generation_id,
        after_another: shot.index > 0,
    };
    announcement.structure()
}
