// SPDX-License-Identifier: MPL-2.0

//! Raw video buffers as RGB images.

use gst_video::prelude::*;
use gst_video::{VideoConverter, VideoFormat, VideoFrame, VideoInfo};
use soragen::RgbImage;

/// Converts `buffer`, a frame in the format of `info`, to an RGB image; `None` if GStreamer cannot convert it.
pub fn to_rgb_image(buffer: gst::Buffer, info: &VideoInfo) -> Option<RgbImage> {
    let (width, height) = (info.width(), info.height());
    // The converter requires the same frame rate and interlace mode on both sides.
    let rgb = VideoInfo::builder(VideoFormat::Rgb, width, height)
        .fps(info.fps())
        .interlace_mode(info.interlace_mode())
        .build()
        .ok()?;
    let converter = VideoConverter::new(info, &rgb, None).ok()?;
    let from = VideoFrame::from_buffer_readable(buffer, info).ok()?;
    let mut to = VideoFrame::from_buffer_writable(gst::Buffer::with_size(rgb.size()).ok()?, &rgb).ok()?;
    converter.frame(&from, &mut to);
    let stride = usize::try_from(to.plane_stride()[0]).ok()?;
    let row = width as usize * 3;
    let lines = to.plane_data(0).ok()?.chunks(stride).take(height as usize);
    let pixels = lines.flat_map(|line| &line[..row]).copied().collect();
    RgbImage::from_raw(width, height, pixels)
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
