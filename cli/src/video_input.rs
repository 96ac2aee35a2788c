//! Reads the video that goes in, frame by frame.

use gst::prelude::*;
use soragen::{Cancel, RgbImage};

use crate::decode::{NO_PICTURE_REASON, is_no_picture, post_no_picture};
use crate::error::{Error, Result};

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
    /// If it cannot be read or has no picture.
    pub fn open(source: &str, (numerator, denominator): (u32, u32), cancel: &Cancel) -> Result<Self> {
        let unreadable = |reason: &dyn std::fmt::Display| Error::file(source, reason);
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

    /// The next frame; `None` at the end.
    pub fn next(&mut self, cancel: &Cancel) -> Result<Option<RgbImage>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let kinds = [gst::MessageType::Error, gst::MessageType::Application];
        loop {
            if cancel.is_cancelled() {
                return Err(Error::Interrupted);
            }
            if let Some(sample) = self.sink.try_pull_sample(gst::ClockTime::from_mseconds(100)) {
                let frame = rgb(&sample);
                return frame.map(Some).ok_or_else(|| Error::file(&self.source, "a frame cannot be read"));
            }
            // After an error the stream ends too.
            let ended = self.sink.is_eos();
            match self.bus.pop_filtered(&kinds).as_ref().map(|message| message.view()) {
                Some(gst::MessageView::Error(error)) => return Err(Error::file(&self.source, error.error())),
                Some(gst::MessageView::Application(message)) if is_no_picture(message) => {
                    return Err(Error::file(&self.source, NO_PICTURE_REASON));
                }
                _ if ended => return Ok(None),
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

/// The frame of a sample.
fn rgb(sample: &gst::Sample) -> Option<RgbImage> {
    let info = gst_video::VideoInfo::from_caps(sample.caps()?).ok()?;
    gstsoragen::to_rgb_image(sample.buffer_owned()?, &info)
}
