// SPDX-License-Identifier: MPL-2.0

//! Raw video buffers as RGB images.

use gst_video::prelude::*;
use gst_video::{VideoConverter, VideoFormat, VideoFrame, VideoInfo};
use soragen::RgbImage;

/// Converts frames of one format to RGB images.
pub struct RgbConverter {
    converter: VideoConverter,
    from: VideoInfo,
    to: VideoInfo,
}

impl RgbConverter {
    /// A converter for frames in the format `from`; `None` if GStreamer cannot convert it.
    pub fn new(from: &VideoInfo) -> Option<Self> {
        // Both sides must have the same frame rate and interlace mode.
        let to = VideoInfo::builder(VideoFormat::Rgb, from.width(), from.height())
            .fps(from.fps())
            .interlace_mode(from.interlace_mode())
            .build()
            .ok()?;
        Some(Self { converter: VideoConverter::new(from, &to, None).ok()?, from: from.clone(), to })
    }

    /// The RGB image of `buffer`; `None` if the buffer is too small.
    pub fn convert(&self, buffer: gst::Buffer) -> Option<RgbImage> {
        let from = VideoFrame::from_buffer_readable(buffer, &self.from).ok()?;
        let to = gst::Buffer::with_size(self.to.size()).ok()?;
        let mut to = VideoFrame::from_buffer_writable(to, &self.to).ok()?;
        self.converter.frame(&from, &mut to);
        let (width, height) = (self.to.width(), self.to.height());
        let stride = usize::try_from(to.plane_stride()[0]).ok()?;
        let row = width as usize * 3;
        let lines = to.plane_data(0).ok()?.chunks(stride).take(height as usize);
        let pixels = lines.flat_map(|line| &line[..row]).copied().collect();
        RgbImage::from_raw(width, height, pixels)
    }
}

/// Converts `buffer`, a frame in the format of `info`, to an RGB image; `None` if GStreamer cannot convert it.
pub fn to_rgb_image(buffer: gst::Buffer, info: &VideoInfo) -> Option<RgbImage> {
    RgbConverter::new(info)?.convert(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_padding_is_removed() {
        gst::init().unwrap();
        // 3 pixels of 3 bytes are padded to a stride of 12 bytes.
        let info = VideoInfo::builder(VideoFormat::Rgb, 3, 2).fps(gst::Fraction::new(25, 1)).build().unwrap();
        assert_eq!(info.stride()[0], 12);
        let row = [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 0];
        let image = to_rgb_image(gst::Buffer::from_slice([row, row].concat()), &info).unwrap();
        assert_eq!(image.dimensions(), (3, 2));
        assert_eq!(image.into_raw(), [&row[..9], &row[..9]].concat());
    }
}
