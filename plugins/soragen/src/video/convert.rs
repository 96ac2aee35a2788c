// SPDX-License-Identifier: MPL-2.0

//! 8-bit RGB to the negotiated video format.

use gst_video::prelude::*;
use gst_video::{
    VideoChromaSite, VideoColorPrimaries, VideoColorRange, VideoColorimetry, VideoFormat, VideoFrameRef,
    VideoInfo, VideoTransferFunction,
};
use soragen::YuvColours;

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

/// The colours of a frame in 4:2:0; chroma as in "mpeg2", horizontally on the left column and vertically between the two rows, if it
/// has no site.
///
/// # Errors
/// If the colorimetry has no Y'CbCr matrix.
pub fn yuv_colours(info: &VideoInfo) -> Result<YuvColours, gst::glib::BoolError> {
    let colorimetry = info.colorimetry();
    let (red, blue) = colorimetry.matrix().kr_kb()?;
    let site = info.chroma_site();
    let site = if site.is_empty() { VideoChromaSite::MPEG2 } else { site };
    Ok(YuvColours {
        red,
        blue,
        full_range: colorimetry.range() == VideoColorRange::Range0_255,
        horizontally_cosited: site.contains(VideoChromaSite::H_COSITED),
        vertically_cosited: site.contains(VideoChromaSite::V_COSITED),
    })
}

/// Whether [`convert`] can write colours of `colorimetry`, as in caps: any range and Y'CbCr matrix, but neither wide gamuts
/// nor the curves of film and high dynamic range, because it does not change primaries and transfer.
pub fn supports_colorimetry(colorimetry: &str, is_rgb: bool) -> bool {
    use VideoColorPrimaries as Primaries;
    use VideoTransferFunction as Transfer;
    let Ok(colorimetry) = colorimetry.parse::<VideoColorimetry>() else { return false };
    let transfer = matches!(
        colorimetry.transfer(),
        Transfer::Unknown
            | Transfer::Gamma22
            | Transfer::Bt709
            | Transfer::Smpte240m
            | Transfer::Srgb
            | Transfer::Bt202010
            | Transfer::Bt202012
            | Transfer::Bt601
    );
    let primaries = matches!(
        colorimetry.primaries(),
        Primaries::Unknown
            | Primaries::Bt709
            | Primaries::Bt470bg
            | Primaries::Smpte170m
            | Primaries::Smpte240m
            | Primaries::Ebu3213
    );
    transfer && primaries && (is_rgb || colorimetry.matrix().kr_kb().is_ok())
}

/// Whether [`convert`] can write 4:2:0 with the chroma site `site`, as in caps.
pub fn supports_chroma_site(site: &str) -> bool {
    site.parse::<VideoChromaSite>()
        .is_ok_and(|site| !site.is_empty() && !site.contains(VideoChromaSite::ALT_LINE))
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
    let limited = frame.info().colorimetry().range() == VideoColorRange::Range16_235;
    let levels: [u8; 256] = std::array::from_fn(|value| {
        // Rounded to the nearest.
        (if limited { 16 + (219 * value + 127) / 255 } else { value }) as u8
    });
    let data = frame.plane_data_mut(red.plane)?;
    for (row, line) in rgb.chunks_exact(3 * width).zip(data.chunks_mut(red.stride)) {
        for (pixel, out) in row.chunks_exact(3).zip(line.chunks_exact_mut(red.step)) {
            // Sets alpha and padding bytes to 255.
            out.fill(u8::MAX);
            for (component, value) in [&red, &green, &blue].into_iter().zip(pixel) {
                out[component.offset] = levels[usize::from(*value)];
            }
        }
    }
    Ok(())
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

/// Writes 4:2:0 with the [colours](yuv_colours) of the frame.
fn to_yuv420(rgb: &[u8], frame: &mut VideoFrameRef<&mut gst::BufferRef>) -> Result<(), gst::glib::BoolError> {
    let (width, height) = (frame.width() as usize, frame.height() as usize);
    let colours = yuv_colours(frame.info())?;
    let (matrix, siting) = (colours.matrix(), colours.siting());
    let [luma, blue, red] = [0, 1, 2].map(|c| Component::of(frame, c));

    let mut rows = [Row::new(width), Row::new(width), Row::new(width)];
    // `sum` adds the rows and repeats the pixel at either end; `chroma` has the filtered colours at half width.
    let (mut sum, mut chroma) = (vec![0f32; width + 2], Row::new(width.div_ceil(2)));
    rows[2].read(&rgb[..3 * width]);
    for y in 0..height.div_ceil(2) {
        // The row before; the first one is repeated.
        rows.swap(0, 2);
        for (i, row) in rows[1..].iter_mut().enumerate() {
            // Repeats the last row of an odd height.
            let line = (2 * y + i).min(height - 1);
            row.read(&rgb[line * 3 * width..][..3 * width]);
            let out = &mut frame.plane_data_mut(luma.plane)?[line * luma.stride..][..width];
            dot(matrix.luma, row.colours(), matrix.black, out.iter_mut());
        }

        // The matrix is linear, so the colours are filtered before the conversion.
        let [before, above, below] = rows.each_ref().map(Row::colours);
        for (c, chroma) in chroma.0.iter_mut().enumerate() {
            let rows = before[c].iter().zip(above[c]).zip(below[c]);
            for (((before, above), below), sum) in rows.zip(&mut sum[1..]) {
                *sum = siting.rows[0] * before + siting.rows[1] * above + siting.rows[2] * below;
            }
            (sum[0], sum[width + 1]) = (sum[1], sum[width]);
            let pairs = sum.chunks_exact(2).zip(sum[2..].iter().step_by(2));
            for ((pair, after), chroma) in pairs.zip(chroma) {
                *chroma =
                    siting.columns[0] * pair[0] + siting.columns[1] * pair[1] + siting.columns[2] * after;
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
        let info =
            VideoInfo::builder(format, 6, 4).colorimetry(&colorimetry.parse().unwrap()).build().unwrap();
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

    /// The first component of chroma of a picture with `height` rows, all black except for one blue pixel.
    fn blue_chroma(site: VideoChromaSite, height: u32, (row, column): (usize, usize)) -> Vec<u8> {
        gst::init().unwrap();
        let info = VideoInfo::builder(VideoFormat::I420, 4, height)
            .chroma_site(site)
            .colorimetry(&"1:4:5:1".parse().unwrap())
            .build()
            .unwrap();
        let mut buffer = gst::Buffer::with_size(info.size()).unwrap();
        let mut frame = VideoFrameRef::from_buffer_ref_writable(buffer.get_mut().unwrap(), &info).unwrap();
        let mut rgb = vec![0; 12 * height as usize];
        rgb[12 * row + 3 * column + 2] = 255;
        convert(&rgb, &mut frame).unwrap();
        let stride = frame.plane_stride()[1] as usize;
        frame.plane_data(1).unwrap().chunks(stride).flat_map(|row| &row[..2]).copied().collect()
    }

    #[test]
    fn chroma_is_sited_where_the_caps_say() {
        // Blue is 127.5 above 128, times the weight of its pixel. The filter is 1-2-1 where a sample is on a pixel, and 1-1
        // where it is between two.
        let all = VideoChromaSite::COSITED;
        for (site, pixel, expected) in [
            (VideoChromaSite::MPEG2, (0, 2), [128, 160, 128, 128]),
            (VideoChromaSite::MPEG2, (1, 1), [144, 144, 128, 128]),
            (VideoChromaSite::JPEG, (0, 2), [128, 160, 128, 128]),
            (VideoChromaSite::JPEG, (1, 1), [160, 128, 128, 128]),
            (all, (2, 2), [128, 128, 128, 160]),
            (all, (1, 1), [136, 136, 136, 136]),
            (VideoChromaSite::V_COSITED, (1, 0), [144, 128, 144, 128]),
            (VideoChromaSite::empty(), (1, 1), [144, 144, 128, 128]),
        ] {
            assert_eq!(blue_chroma(site, 4, pixel), expected, "{site:?} {pixel:?}");
        }
        // The first row is repeated above, and the last one of an odd height below.
        assert_eq!(blue_chroma(all, 3, (0, 2)), [128, 176, 128, 128]);
        assert_eq!(blue_chroma(all, 3, (2, 2)), [128, 128, 128, 176]);
    }

    #[test]
    fn rgb_of_a_limited_range_is_scaled() {
        for (value, level) in [(0, 16), (255, 235), (128, 126)] {
            assert_eq!(colour(VideoFormat::Bgrx, "2:1:7:1", [value; 3]), [level; 3]);
        }
    }

    #[test]
    fn colours_that_the_conversion_cannot_make_are_known() {
        gst::init().unwrap();
        for colorimetry in ["bt601", "bt709", "smpte240m", "1:4:0:0", "2:3:5:1", "1:6:5:1"] {
            assert!(supports_colorimetry(colorimetry, false), "{colorimetry}");
        }
        for colorimetry in ["sRGB", "bt2020", "bt2100-pq", "bt2100-hlg", "1:4:1:1", "x", ""] {
            assert!(!supports_colorimetry(colorimetry, false), "{colorimetry}");
        }
        assert!(supports_colorimetry("sRGB", true) && supports_colorimetry("bt709", true));
        assert!(!supports_colorimetry("bt2020", true));
        for site in ["jpeg", "mpeg2", "cosited", "v-cosited"] {
            assert!(supports_chroma_site(site), "{site}");
        }
        for site in ["dv", "alt-line", "x", ""] {
            assert!(!supports_chroma_site(site), "{site}");
        }
    }
}
