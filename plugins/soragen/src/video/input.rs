// SPDX-License-Identifier: MPL-2.0

//! Reads a video from a file or a URI, frame by frame.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use gst::prelude::*;
use soragen::{Cancel, Error, Result, RgbImage, Size};

use super::rgb;

/// The message for a file without video.
const NO_PICTURE: &str = "soragen-no-picture";
/// What is wrong with such a file.
pub const NO_PICTURE_REASON: &str = "the file has no picture";
/// Time without a frame after which a source is regarded as stalled.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// The frames of a video at a frame rate, upright, progressive, with square pixels.
pub struct VideoInput {
    source: String,
    pipeline: gst::Pipeline,
    bus: gst::Bus,
    sink: gst_app::AppSink,
    /// The first frame, until it is taken.
    first: Option<RgbImage>,
}

impl VideoInput {
    /// Opens a file or a URI and decodes its first frame.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it cannot be read or has no picture; [`Error::Cancelled`].
    pub fn open(source: &str, (numerator, denominator): (u32, u32), cancel: &Cancel) -> Result<Self> {
        let unreadable = |reason: &dyn std::fmt::Display| invalid(source, reason);
        gst::init().map_err(|e| unreadable(&e))?;
        let uri = match source.contains("://") {
            true => source.to_string(),
            false => {
                let path = std::path::absolute(source).map_err(|e| unreadable(&e))?;
                gst::glib::filename_to_uri(path, None).map_err(|e| unreadable(&e))?.to_string()
            }
        };
        let description = format!(
            "uridecodebin name=source ! deinterlace name=picture ! videoconvert \
             ! videoflip video-direction=auto ! videoscale ! videorate \
             ! video/x-raw,format=RGB,framerate={numerator}/{denominator},pixel-aspect-ratio=1/1 \
             ! appsink name=sink sync=false max-buffers=4"
        );
        let pipeline = gst::parse::launch(&description).map_err(|e| {
            unreadable(&format_args!("{e}; are the base and good plugins of GStreamer installed?"))
        })?;
        let pipeline = pipeline.downcast::<gst::Pipeline>().map_err(|_| unreadable(&"no pipeline"))?;
        let sink = pipeline.by_name("sink").and_downcast::<gst_app::AppSink>();
        let sink = sink.ok_or_else(|| unreadable(&"no appsink"))?;
        let decoder = pipeline.by_name("source").ok_or_else(|| unreadable(&"no decoder"))?;
        decoder.set_property("uri", uri);
        let picture = pipeline.by_name("picture").and_then(|element| element.static_pad("sink"));
        decoder.connect_no_more_pads(move |decoder| {
            if picture.as_ref().is_none_or(|pad| !pad.is_linked()) {
                post_no_picture(decoder);
            }
        });
        let bus = pipeline.bus().ok_or_else(|| unreadable(&"the pipeline has no bus"))?;
        // The error is on the bus.
        let _ = pipeline.set_state(gst::State::Playing);
        let mut input = Self { source: source.into(), pipeline, bus, sink, first: None };
        input.first = Some(input.next(cancel)?.ok_or_else(|| unreadable(&NO_PICTURE_REASON))?);
        Ok(input)
    }

    /// Width and height of its frames.
    pub fn dimensions(&self) -> (u32, u32) {
        self.first.as_ref().map(RgbImage::dimensions).unwrap_or_default()
    }

    /// The last frames of `source`, at least one and at most `most`, stretched to the size that `like` gives for its width and height, and
    /// the number of frames before them.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn last_frames(
        source: &str,
        most: usize,
        frame_rate: (u32, u32),
        like: impl Fn(u32, u32) -> Size,
        cancel: &Cancel,
    ) -> Result<(Vec<RgbImage>, u64)> {
        let mut input = Self::open(source, frame_rate, cancel)?;
        let (width, height) = input.dimensions();
        let size = like(width, height);
        let (mut frames, mut before) = (VecDeque::new(), 0);
        while let Some(frame) = input.next(cancel)? {
            if frames.len() >= most.max(1) {
                frames.pop_front();
                before += 1;
            }
            frames.push_back(stretched(&frame, size)?);
        }
        Ok((frames.into(), before))
    }

    /// The next frame; `None` at the end.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn next(&mut self, cancel: &Cancel) -> Result<Option<RgbImage>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let kinds = [gst::MessageType::Error, gst::MessageType::Application];
        let began = Instant::now();
        loop {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            if let Some(sample) = self.sink.try_pull_sample(gst::ClockTime::from_mseconds(100)) {
                let frame = image(&sample);
                return frame.map(Some).ok_or_else(|| invalid(&self.source, &"a frame cannot be read"));
            }
            // After an error the stream ends too.
            let ended = self.sink.is_eos();
            match self.bus.pop_filtered(&kinds).as_ref().map(|message| message.view()) {
                Some(gst::MessageView::Error(error)) => return Err(invalid(&self.source, &error.error())),
                Some(gst::MessageView::Application(message)) if is_no_picture(message) => {
                    return Err(invalid(&self.source, &NO_PICTURE_REASON));
                }
                _ if ended => return Ok(None),
                _ if began.elapsed() > STALL_LIMIT => {
                    let reason = format!("no frame arrived for {} s", STALL_LIMIT.as_secs());
                    return Err(invalid(&self.source, &reason));
                }
                _ => {}
            }
        }
    }
}

impl Drop for VideoInput {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

/// `frame` stretched to `size`.
pub fn stretched(frame: &RgbImage, size: Size) -> Result<RgbImage> {
    let samples = soragen::stretch_frame(frame, size)?;
    RgbImage::from_raw(size.width, size.height, samples)
        .ok_or_else(|| Error::Generation("a frame has fewer samples than its size".into()))
}

/// Posts that the decoder of a file has found no video.
pub fn post_no_picture(decoder: &gst::Element) {
    let message = gst::message::Application::new(gst::Structure::new_empty(NO_PICTURE));
    // Posting fails if the pipeline is stopped.
    let _ = decoder.post_message(message);
}

/// Whether `message` is that of [`post_no_picture`].
pub fn is_no_picture(message: &gst::message::Application) -> bool {
    message.has_name(NO_PICTURE)
}

fn invalid(source: &str, reason: &dyn std::fmt::Display) -> Error {
    Error::Invalid { path: source.into(), reason: reason.to_string() }
}

/// The frame of a sample.
fn image(sample: &gst::Sample) -> Option<RgbImage> {
    let info = gst_video::VideoInfo::from_caps(sample.caps()?).ok()?;
    rgb::to_rgb_image(sample.buffer_owned()?, &info)
}
