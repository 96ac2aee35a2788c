//! The input image of a video: reading, scaling and conversion.

mod canvas;
mod complete;

use std::fs::File;
use std::io::{Cursor, ErrorKind, Read};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use image::{DynamicImage, ImageDecoder, ImageReader, RgbImage};
use rayon::prelude::*;

use crate::{Error, Result, Size};
pub(crate) use canvas::on_white;

/// The largest picture file that is read.
const MAX_BYTES: u64 = 512 << 20;

/// Reads the image file `path` and applies its EXIF orientation.
///
/// # Errors
/// [`Error::NotFound`] for a missing file, [`Error::Invalid`] for a damaged, truncated or unsupported one, and [`Error::Io`] if
/// reading fails.
pub fn read_image(path: &Path) -> Result<RgbImage> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes));
    read.map_err(|source| match source.kind() {
        ErrorKind::NotFound => {
            Error::NotFound { path: path.into(), hint: "use the path of an image file".into() }
        }
        _ => Error::Io { path: path.into(), source },
    })?;
    let image = decode(&bytes).map_err(|reason| Error::Invalid { path: path.into(), reason })?;
    Ok(image.into_rgb8())
}

/// As [`read_image`], for the bytes of a file.
///
/// # Errors
/// A reason if they are damaged, truncated or of an unsupported format.
pub fn decode_image(bytes: &[u8]) -> Result<RgbImage, String> {
    decode(bytes).map(DynamicImage::into_rgb8)
}

/// Decodes the bytes of an image file and applies its EXIF orientation; a reason if they are damaged, truncated or of an
/// unsupported format.
pub fn decode(bytes: &[u8]) -> Result<DynamicImage, String> {
    let unsupported = |e: image::ImageError| format!("not a picture in a supported format: {e}");
    let format = image::guess_format(bytes).map_err(unsupported)?;
    let decoded = || {
        let mut decoder = ImageReader::with_format(Cursor::new(bytes), format).into_decoder()?;
        // The header of a small file can claim an image of terabytes.
        image::Limits::default().reserve(decoder.total_bytes())?;
        let orientation = decoder.orientation()?;
        let mut image = DynamicImage::from_decoder(decoder)?;
        image.apply_orientation(orientation);
        Ok(image)
    };
    if !complete::is_complete(format, bytes) {
        return Err("the picture is truncated; copy or download it again".into());
    }
    decoded().map_err(unsupported)
}

/// How to fit an image whose aspect ratio differs from the video's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Keeps the proportions and crops, like the original Wan code (`wan/textimage2video.py`).
    Cover,
    /// Stretches to the size of the video, like diffusers' `VideoProcessor.preprocess`.
    Stretch,
}

/// Scales `image` to `size` and converts it to the input of an autoencoder, f32 `[1, 3, 1, H, W]` in \[−1, 1\].
///
/// # Errors
/// [`Error::Request`] for an image without pixels.
pub fn to_video(image: &RgbImage, size: Size, fit: Fit, device: &Device) -> Result<Tensor> {
    if image.width() == 0 || image.height() == 0 {
        return Err(Error::Request(crate::Setting::Image, "the image is empty".into()));
    }
    frames_to_video(scaled(image, size, fit), size, device)
}

/// Converts whole frames, RGB `[T, H, W, 3]` of `size`, to the input of an autoencoder, f32 `[1, 3, T, H, W]` in \[−1, 1\].
pub fn frames_to_video(samples: Vec<u8>, size: Size, device: &Device) -> Result<Tensor> {
    let shape = (samples.len() / size.samples(), size.height as usize, size.width as usize, 3);
    let pixels = Tensor::from_vec(samples, shape, device)?;
    let unit = ((pixels.to_dtype(DType::F32)? * (2.0 / 255.0))? - 1.0)?;
    Ok(unit.permute((3, 0, 1, 2))?.contiguous()?.unsqueeze(0)?)
}

/// The samples of `frame` stretched to `size`, as diffusers' `VideoProcessor.preprocess_video`: RGB `[H, W, 3]`.
///
/// # Errors
/// [`Error::Request`] for a frame without pixels.
pub fn stretch_frame(frame: &RgbImage, size: Size) -> Result<Vec<u8>> {
    match frame.dimensions() {
        (0, _) | (_, 0) => Err(Error::Request(crate::Setting::Video, "a frame is empty".into())),
        (width, height) if Size { width, height } == size => Ok(frame.as_raw().clone()),
        _ => Ok(scaled(frame, size, Fit::Stretch)),
    }
}

/// Scales `image` to `size` with a Lanczos filter like Pillow 13 (`Resample.c`): weights of 22 bits, rounding after each axis.
/// Columns are filtered first, unless scaling removes more than twice as many rows as columns.
fn scaled(image: &RgbImage, size: Size, fit: Fit) -> Vec<u8> {
    let (width, height) = (f64::from(image.width()), f64::from(image.height()));
    let ratio = f64::from(size.width) / f64::from(size.height);
    let (shown_width, shown_height) = match fit {
        Fit::Stretch => (width, height),
        Fit::Cover => (width.min(height * ratio), height.min(width / ratio)),
    };
    filtered(image, (shown_width, shown_height), size, Kernel::LANCZOS)
}

/// Scales `image` with a bicubic filter like Pillow, so that its shorter side is `side`, and returns the square in its middle, RGB
/// `[side, side, 3]`; as transformers' `CLIPImageProcessor`.
///
/// # Errors
/// [`Error::Request`] for an image without pixels.
pub(crate) fn middle_square(image: &RgbImage, side: u32) -> Result<Vec<u8>> {
    let (width, height) = image.dimensions();
    let shorter = width.min(height);
    if shorter == 0 {
        return Err(Error::Request(crate::Setting::Image, "the image is empty".into()));
    }
    // Only the middle of the scaled image is computed: a narrow one would be as long as it likes.
    let scaled = |length: u32| u64::from(length) * u64::from(side) / u64::from(shorter);
    let middle = |length: u32| {
        let (all, first) = (scaled(length), (scaled(length) - u64::from(side)) / 2);
        Filter::part(length, all, first..first + u64::from(side), Kernel::BICUBIC)
    };
    let lost = |from: u32| i64::from(from) - scaled(from) as i64;
    Ok(both(image, &middle(width), &middle(height), (lost(width), lost(height))))
}

/// Scales the middle `shown` of `image` to `size` like Pillow 13.
fn filtered(image: &RgbImage, shown: (f64, f64), size: Size, kernel: Kernel) -> Vec<u8> {
    let columns = Filter::new(image.width(), shown.0, size.width, kernel);
    let rows = Filter::new(image.height(), shown.1, size.height, kernel);
    let lost = |from: u32, to: u32| i64::from(from) - i64::from(to);
    let lost = (lost(image.width(), size.width), lost(image.height(), size.height));
    both(image, &columns, &rows, lost)
}

/// Filters columns and rows; `lost` are the columns and rows that scaling removes.
fn both(image: &RgbImage, columns: &Filter, rows: &Filter, lost: (i64, i64)) -> Vec<u8> {
    if lost.1 > 0 && lost.1 > 2 * lost.0 {
        columns.across(&rows.down(image.as_raw(), image.width()), image.width())
    } else {
        rows.down(&columns.across(image.as_raw(), image.width()), columns.0.len() as u32)
    }
}

/// The taps of every output pixel of an axis.
struct Filter(Vec<Taps>);

/// The weights of adjacent input pixels.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

const WEIGHT_BITS: u32 = 22;

impl Filter {
    /// Scales the middle `shown` of `from` pixels to `to` pixels.
    fn new(from: u32, shown: f64, to: u32, kernel: Kernel) -> Self {
        let (first, scale) = ((f64::from(from) - shown) / 2.0, shown / f64::from(to));
        // Downscaling widens the filter by the scale.
        let width = scale.max(1.0);
        Self(
            (0..to)
                .map(|x| Taps::around(first + (f64::from(x) + 0.5) * scale, width, from, kernel))
                .collect(),
        )
    }

    /// Scales `from` pixels to `to` pixels, and keeps the range `part` of them.
    fn part(from: u32, to: u64, part: std::ops::Range<u64>, kernel: Kernel) -> Self {
        let scale = f64::from(from) / to as f64;
        let taps = |x: u64| Taps::around((x as f64 + 0.5) * scale, scale.max(1.0), from, kernel);
        Self(part.map(taps).collect())
    }

    /// Filters every row of `width` RGB pixels.
    fn across(&self, pixels: &[u8], width: u32) -> Vec<u8> {
        let (from_bytes, to_bytes) = (3 * width as usize, 3 * self.0.len());
        let mut out = vec![0; pixels.len() / from_bytes * to_bytes];
        out.par_chunks_mut(to_bytes).zip(pixels.par_chunks(from_bytes)).for_each(|(to, from)| {
            for (to, taps) in to.chunks_exact_mut(3).zip(&self.0) {
                for (channel, to) in to.iter_mut().enumerate() {
                    *to = taps.sum(|x| from[3 * x + channel]);
                }
            }
        });
        out
    }

    /// Filters every column of rows of `width` RGB pixels.
    fn down(&self, pixels: &[u8], width: u32) -> Vec<u8> {
        let row_bytes = 3 * width as usize;
        let mut out = vec![0; self.0.len() * row_bytes];
        out.par_chunks_mut(row_bytes).zip(&self.0).for_each(|(to, taps)| {
            for (x, to) in to.iter_mut().enumerate() {
                *to = taps.sum(|y| pixels[y * row_bytes + x]);
            }
        });
        out
    }
}

impl Taps {
    fn around(center: f64, width: f64, from: u32, kernel: Kernel) -> Self {
        let reach = kernel.reach * width;
        let first = (center - reach + 0.5).max(0.0) as usize;
        let end = ((center + reach + 0.5) as usize).min(from as usize);
        let weights = (first..end).map(|x| (kernel.weight)((x as f64 - center + 0.5) / width));
        let weights: Vec<f64> = weights.collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: &f64| (weight / sum * f64::from(1 << WEIGHT_BITS)).round() as i32;
        Self { first, weights: weights.iter().map(fixed).collect() }
    }

    fn sum(&self, pixel: impl Fn(usize) -> u8) -> u8 {
        let half = 1 << (WEIGHT_BITS - 1);
        let terms =
            self.weights.iter().enumerate().map(|(i, weight)| weight * i32::from(pixel(self.first + i)));
        ((half + terms.sum::<i32>()) >> WEIGHT_BITS).clamp(0, 255) as u8
    }
}

/// The weight of a pixel by its distance, up to `reach`.
#[derive(Clone, Copy)]
struct Kernel {
    reach: f64,
    weight: fn(f64) -> f64,
}

impl Kernel {
    const LANCZOS: Self = Self { reach: LOBES, weight: lanczos };
    const BICUBIC: Self = Self { reach: 2.0, weight: bicubic };
}

const LOBES: f64 = 3.0;

fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| {
        let x = x * std::f64::consts::PI;
        if x == 0.0 { 1.0 } else { x.sin() / x }
    };
    if (-LOBES..LOBES).contains(&x) { sinc(x) * sinc(x / LOBES) } else { 0.0 }
}

/// With a slope of −½ at distance 1.
fn bicubic(x: f64) -> f64 {
    let x = x.abs();
    match x {
        0.0..1.0 => (1.5 * x - 2.5) * x * x + 1.0,
        1.0..2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SQUARE: Size = Size { width: 20, height: 20 };

    /// Black and white halves with red margins, which a square crop removes.
    fn wide_image() -> RgbImage {
        RgbImage::from_fn(40, 20, |x, _| match x {
            0..10 | 30..40 => image::Rgb([255, 0, 0]),
            10..20 => image::Rgb([0, 0, 0]),
            _ => image::Rgb([255, 255, 255]),
        })
    }

    /// The red and green channels of the middle row.
    fn middle_row(fit: Fit) -> [Vec<f32>; 2] {
        let video = to_video(&wide_image(), SQUARE, fit, &Device::Cpu).unwrap();
        assert_eq!(video.dims(), [1, 3, 1, 20, 20]);
        [0, 1].map(|channel| {
            let plane = video.get(0).unwrap().get(channel).unwrap().get(0).unwrap();
            plane.get(10).unwrap().to_vec1().unwrap()
        })
    }

    #[test]
    fn cover_crops_the_sides() {
        let [red, green] = middle_row(Fit::Cover);
        assert!(green[2] < -0.99 && red[2] < -0.99, "black on the left");
        assert!(green[17] > 0.99 && red[17] > 0.99, "white on the right");
    }

    #[test]
    fn stretch_keeps_the_sides() {
        let [red, green] = middle_row(Fit::Stretch);
        assert!(green[2] < -0.99 && red[2] > 0.99, "red on the left");
        assert!(green[17] < -0.99 && red[17] > 0.99, "red on the right");
        assert!(green[7] < -0.9 && red[7] < -0.9 && green[12] > 0.9, "black and white between");
    }

    #[test]
    fn an_empty_image_is_an_error() {
        let empty = to_video(&RgbImage::default(), SQUARE, Fit::Cover, &Device::Cpu);
        assert!(matches!(empty, Err(Error::Request(..))));
    }

    #[test]
    fn a_truncated_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.jpg", "a.png", "a.webp", "a.bmp"] {
            let file = folder.path().join(name);
            let noise = RgbImage::from_fn(64, 48, |x, y| {
                image::Rgb([0, 1, 2].map(|c| (x * y * (c + 7) % 251) as u8))
            });
            noise.save(&file).unwrap();
            assert_eq!(read_image(&file).unwrap().dimensions(), (64, 48));
            let bytes = std::fs::read(&file).unwrap();
            for part in [0.3, 0.6, 0.9, 0.995] {
                let end = (bytes.len() as f64 * part) as usize;
                std::fs::write(&file, &bytes[..end]).unwrap();
                let error = read_image(&file).expect_err(&format!("{name}: {end} of {}", bytes.len()));
                assert!(matches!(error, Error::Invalid { .. }), "{error}");
            }
        }
    }

    #[test]
    fn an_image_above_the_memory_limit_is_an_error() {
        // A bitmap of 54 bytes whose header claims 30000×30000.
        let long: Vec<u8> = [54u32, 0, 54, 40, 30_000, 30_000].iter().flat_map(|n| n.to_le_bytes()).collect();
        let bytes = [b"BM", &long[..], &[1, 0, 24, 0], &[0; 24]].concat();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("large.bmp");
        std::fs::write(&file, bytes).unwrap();
        let error = read_image(&file).unwrap_err().to_string();
        assert!(error.contains("large.bmp") && error.contains("imit"), "{error}");
    }

    /// From `Image.fromarray(a).resize(size, Image.LANCZOS)` of Pillow.
    #[test]
    fn scaling_equals_pillow() {
        let image = RgbImage::from_fn(7, 5, |x, y| {
            image::Rgb([0, 1, 2].map(|c| ((x * 37 + y * 101 + c * 59 + x * y * 7) % 256) as u8))
        });
        let stretched = |width, height| scaled(&image, Size { width, height }, Fit::Stretch);
        assert_eq!(stretched(7, 5), image.as_raw().as_slice());
        let pillow = [
            41, 121, 145, 126, 165, 133, 155, 157, 87, 181, 136, 92, 133, 131, 104, 129, 89, 152, 137, 100,
            149, 124, 126, 120, 150, 110, 83, 127, 122, 90, 116, 119, 119, 113, 108, 99,
        ];
        assert_eq!(stretched(3, 4), pillow);
        let pillow = [
            11, 64, 128, 69, 129, 224, 149, 232, 73, 217, 122, 43, 73, 182, 130, 191, 176, 64, 96, 87, 131,
            90, 164, 183, 219, 87, 76, 141, 145, 126, 117, 118, 99, 174, 60, 146, 162, 49, 138, 126, 136,
            153, 116, 127, 102, 203, 87, 63, 75, 154, 165, 167, 142, 77, 99, 74, 136, 87, 166, 102, 187, 112,
            21, 58, 75, 171, 158, 175, 75, 121, 45, 103,
        ];
        assert_eq!(stretched(4, 6), pillow);
        let pillow = [
            83, 77, 159, 116, 111, 111, 126, 174, 90, 131, 167, 142, 164, 107, 166, 104, 137, 86, 98, 159,
            76, 161, 124, 130, 195, 92, 145, 121, 124, 85, 178, 93, 128, 145, 119, 118, 93, 142, 103, 150,
            93, 152, 100, 149, 82, 124, 95, 101, 150, 71, 122, 119, 138, 80,
        ];
        assert_eq!(stretched(9, 2), pillow, "rows first");
    }
}
