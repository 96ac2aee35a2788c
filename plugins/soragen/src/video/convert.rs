// SPDX-License-Identifier: MPL-2.0

//! 8-bit RGB to the negotiated video format.

use gst_video::prelude::*;
use gst_video::{VideoColorRange, VideoFormat, VideoFrameRef};

/// The output formats, preferred first. Every player supports 4:2:0, so an encoder without a preference gets I420.
pub const FORMATS: [VideoFormat; 9] = [
    VideoFormat::I420,
    VideoFormat::Nv12,
    VideoFormat::Yv12,
    VideoFormat::Rgb,
    VideoFormat::Bgr,
    VideoFormat::Rgbx,
    VideoFormat::Bgrx,
    VideoFormat::Rgba,
    VideoFormat::Bgra,
];

/// Writes `rgb`, 8-bit `[H, W, 3]` without padding, into `frame`, which has the same size and one of [`FORMATS`].
///
/// # Errors
/// If a plane cannot be accessed, or the colorimetry has no Y'CbCr matrix.
pub fn convert(
    rgb: &[u8],
    frame: &mut VideoFrameRef<&mut gst::BufferRef>,
) -> Result<(), gst::glib::BoolError> {
    if frame.format_info().is_rgb() { to_packed_rgb(rgb, frame) } else { to_yuv420(rgb, frame) }
}

/// The position of a component's samples in its plane, in bytes.
struct Component {
    plane: u32,
    offset: usize,
    step: usize,
    stride: usize,
}

impl Component {
    fn of(frame: &VideoFrameRef<&mut gst::BufferRef>, index: usize) -> Self {
        let format = frame.format_info();
        let plane = format.plane()[index];
        Self {
            plane,
            offset: format.poffset()[index] as usize,
            step: format.pixel_stride()[index] as usize,
            stride: frame.plane_stride()[plane as usize] as usize,
        }
    }
}

fn to_packed_rgb(
    rgb: &[u8],
    frame: &mut VideoFrameRef<&mut gst::BufferRef>,
) -> Result<(), gst::glib::BoolError> {
    let width = frame.width() as usize;
    let [red, green, blue] = [0, 1, 2].map(|c| Component::of(frame, c));
    let data = frame.plane_data_mut(red.plane)?;
    for (row, line) in rgb.chunks_exact(3 * width).zip(data.chunks_mut(red.stride)) {
        for (pixel, out) in row.chunks_exact(3).zip(line.chunks_exact_mut(red.step)) {
            // Sets alpha and padding bytes to 255.
            out.fill(u8::MAX);
            (out[red.offset], out[green.offset], out[blue.offset]) = (pixel[0], pixel[1], pixel[2]);
        }
    }
    Ok(())
}

/// The matrix from R'G'B' to Y'CbCr: section 3 of ITU-R BT.601 and BT.709.
struct Matrix {
    luma: [f32; 3],
    blue: [f32; 3],
    red: [f32; 3],
    black: f32,
}

impl Matrix {
    fn of(frame: &VideoFrameRef<&mut gst::BufferRef>) -> Result<Self, gst::glib::BoolError> {
        let colorimetry = frame.info().colorimetry();
        let (kr, kb) = colorimetry.matrix().kr_kb()?;
        let (kr, kb) = (kr as f32, kb as f32);
        let kg = 1.0 - kr - kb;
        let (black, luma, chroma) = if colorimetry.range() == VideoColorRange::Range0_255 {
            (0.0, 255.0, 255.0)
        } else {
            (16.0, 219.0, 224.0)
        };
        let (luma, chroma) = (luma / 255.0, chroma / 255.0 / 2.0);
        Ok(Self {
            luma: [kr * luma, kg * luma, kb * luma],
            blue: [-kr / (1.0 - kb) * chroma, -kg / (1.0 - kb) * chroma, chroma],
            red: [chroma, -kg / (1.0 - kr) * chroma, -kb / (1.0 - kr) * chroma],
            black,
        })
    }
}

/// Computes `weights · (red, green, blue) + offset` for every pixel.
fn dot<'a>(
    weights: [f32; 3],
    [red, green, blue]: [&[f32]; 3],
    offset: f32,
    out: impl Iterator<Item = &'a mut u8>,
) {
    for (((r, g), b), out) in red.iter().zip(green).zip(blue).zip(out) {
        // `as` saturates.
        *out = (weights[0] * r + weights[1] * g + weights[2] * b + offset + 0.5) as u8;
    }
}

/// One row in planar layout, so that loops over a colour are vectorized.
struct Row([Vec<f32>; 3]);

impl Row {
    fn new(width: usize) -> Self {
        Self(std::array::from_fn(|_| vec![0.0; width]))
    }

    fn read(&mut self, rgb: &[u8]) {
        let [red, green, blue] = &mut self.0;
        for (((pixel, r), g), b) in rgb.chunks_exact(3).zip(red).zip(green).zip(blue) {
            (*r, *g, *b) = (pixel[0].into(), pixel[1].into(), pixel[2].into());
        }
    }

    fn colours(&self) -> [&[f32]; 3] {
        self.0.each_ref().map(Vec::as_slice)
    }
}

/// Writes 4:2:0 with the chroma site "mpeg2": horizontally on the left column, vertically between the two rows.
fn to_yuv420(rgb: &[u8], frame: &mut VideoFrameRef<&mut gst::BufferRef>) -> Result<(), gst::glib::BoolError> {
    let (width, height) = (frame.width() as usize, frame.height() as usize);
    let matrix = Matrix::of(frame)?;
    let [luma, blue, red] = [0, 1, 2].map(|c| Component::of(frame, c));

    let mut rows = [Row::new(width), Row::new(width)];
    // `sum` adds both rows and repeats the pixel at either end; `chroma` has the filtered colours at half width.
    let (mut sum, mut chroma) = (vec![0f32; width + 2], Row::new(width.div_ceil(2)));
    for y in 0..height.div_ceil(2) {
        for (i, row) in rows.iter_mut().enumerate() {
            // Repeats the last row of an odd height.
            let line = (2 * y + i).min(height - 1);
            row.read(&rgb[line * 3 * width..][..3 * width]);
            let out = &mut frame.plane_data_mut(luma.plane)?[line * luma.stride..][..width];
            dot(matrix.luma, row.colours(), matrix.black, out.iter_mut());
        }

        // The matrix is linear, so the colours are filtered before the conversion: 1-2-1 horizontally, 1-1 vertically.
        let [above, below] = rows.each_ref().map(Row::colours);
        for ((above, below), chroma) in above.iter().zip(below).zip(&mut chroma.0) {
            for ((a, b), sum) in above.iter().zip(below).zip(&mut sum[1..]) {
                *sum = a + b;
            }
            (sum[0], sum[width + 1]) = (sum[1], sum[width]);
            let pairs = sum.chunks_exact(2).zip(sum[2..].iter().step_by(2));
            for ((pair, after), chroma) in pairs.zip(chroma) {
                *chroma = (pair[0] + 2.0 * pair[1] + after) / 8.0;
            }
        }
        for (component, weights) in [(&blue, matrix.blue), (&red, matrix.red)] {
            let line = &mut frame.plane_data_mut(component.plane)?[y * component.stride..];
            let line = line[component.offset..].iter_mut().step_by(component.step);
            dot(weights, chroma.colours(), 128.0, line);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Converts a picture of one colour and returns the first sample of each component.
    fn colour(format: VideoFormat, colorimetry: &str, rgb: [u8; 3]) -> Vec<u8> {
        gst::init().unwrap();
        let info = gst_video::VideoInfo::builder(format, 6, 4)
            .colorimetry(&colorimetry.parse().unwrap())
            .build()
            .unwrap();
        let mut buffer = gst::Buffer::with_size(info.size()).unwrap();
        let mut frame = VideoFrameRef::from_buffer_ref_writable(buffer.get_mut().unwrap(), &info).unwrap();
        convert(&rgb.repeat(24), &mut frame).unwrap();
        (0..3)
            .map(|c| {
                let component = Component::of(&frame, c);
                frame.plane_data(component.plane).unwrap()[component.offset]
            })
            .collect()
    }

    #[test]
    fn colours_match_bt601_and_bt709() {
        // 8-bit colour bars of ITU-R BT.601 and BT.709.
        for format in [VideoFormat::I420, VideoFormat::Nv12, VideoFormat::Yv12] {
            assert_eq!(colour(format, "bt709", [255, 255, 255]), [235, 128, 128]);
            assert_eq!(colour(format, "bt709", [0, 0, 0]), [16, 128, 128]);
            assert_eq!(colour(format, "bt709", [255, 0, 0]), [63, 102, 240]);
            assert_eq!(colour(format, "bt601", [255, 0, 0]), [81, 90, 240]);
            assert_eq!(colour(format, "bt601", [0, 0, 255]), [41, 240, 110]);
        }
        for format in &FORMATS[3..] {
            assert_eq!(colour(*format, "sRGB", [1, 2, 3]), [1, 2, 3], "{format}");
        }
    }

    #[test]
    fn chroma_is_sited_on_the_left_column() {
        gst::init().unwrap();
        let info = gst_video::VideoInfo::builder(VideoFormat::I420, 4, 2).build().unwrap();
        let mut buffer = gst::Buffer::with_size(info.size()).unwrap();
        let mut frame = VideoFrameRef::from_buffer_ref_writable(buffer.get_mut().unwrap(), &info).unwrap();
        // Only the third column is blue: the filter keeps half of it there and nothing in the first column.
        let row = [[0, 0, 0], [0, 0, 0], [0, 0, 255], [0, 0, 0]].concat();
        convert(&row.repeat(2), &mut frame).unwrap();
        let blue = frame.plane_data(1).unwrap();
        assert_eq!(blue[0], 128);
        assert_eq!(blue[1], 184, "halfway from 128 to 240");
    }
}
