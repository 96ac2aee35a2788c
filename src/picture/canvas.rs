//! A picture of a subject in the middle of a white canvas, as VACE models take their references.

use image::{Rgb, RgbImage, RgbaImage};

use super::{Fit, scaled};
use crate::Size;

/// Scales `picture`, whose colours are premultiplied, to fit into `size`, and returns `[3, H, W]` in \[−1, 1\]; as
/// `preprocess_conditions` of diffusers' `WanVACEPipeline`, which first stretches the sides to multiples of `step`, then scales with
/// two taps in each direction.
pub fn on_white(picture: &RgbaImage, size: Size, step: u32) -> Vec<f32> {
    let picture = stretched(&composed(picture), step);
    let (width, height) = (size.width as usize, size.height as usize);
    let (from_width, from_height) = (picture.width() as usize, picture.height() as usize);
    let scale = (height as f64 / from_height as f64).min(width as f64 / from_width as f64);
    let scaled = |from: usize| ((from as f64 * scale) as usize).max(1);
    let (columns, rows) = (taps(from_width, scaled(from_width)), taps(from_height, scaled(from_height)));
    let (left, top) = ((width - columns.len()) / 2, (height - rows.len()) / 2);
    let mut canvas = vec![1.0; 3 * width * height];
    for (channel, plane) in canvas.chunks_exact_mut(width * height).enumerate() {
        let value = |x: usize, y: usize| {
            f32::from(picture.get_pixel(x as u32, y as u32)[channel]) * (2.0 / 255.0) - 1.0
        };
        for (&(y, below, down), row) in rows.iter().zip(plane.chunks_exact_mut(width).skip(top)) {
            for (&(x, beside, right), out) in columns.iter().zip(&mut row[left..]) {
                let across = |y| value(x, y) * (1.0 - right) + value(beside, y) * right;
                *out = across(y) * (1.0 - down) + across(below) * down;
            }
        }
    }
    canvas
}

/// A picture with premultiplied colours on white.
fn composed(picture: &RgbaImage) -> RgbImage {
    RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
        let pixel = picture.get_pixel(x, y);
        Rgb([0, 1, 2].map(|channel| pixel[channel].saturating_add(255 - pixel[3])))
    })
}

fn stretched(picture: &RgbImage, step: u32) -> RgbImage {
    let side = |length: u32| (length / step * step).max(step);
    let size = Size { width: side(picture.width()), height: side(picture.height()) };
    if picture.dimensions() == (size.width, size.height) {
        return picture.clone();
    }
    let pixels = scaled(picture, size, Fit::Stretch);
    RgbImage::from_raw(size.width, size.height, pixels).unwrap_or_else(|| unreachable!("as many samples"))
}

/// For each of `to` pixels the two of `from` that it lies between, and the weight of the second.
fn taps(from: usize, to: usize) -> Vec<(usize, usize, f32)> {
    let scale = from as f64 / to as f64;
    let tap = |i: usize| {
        let at = ((i as f64 + 0.5) * scale - 0.5).max(0.0);
        let first = (at as usize).min(from - 1);
        (first, (first + 1).min(from - 1), (at - first as f64) as f32)
    };
    (0..to).map(tap).collect()
}

#[cfg(test)]
mod tests {
    use image::Rgba;

    use super::*;

    #[test]
    fn a_picture_stands_in_the_middle_of_white() {
        let picture =
            RgbaImage::from_fn(4, 2, |x, _| if x < 2 { Rgba([0, 0, 0, 255]) } else { Rgba([0; 4]) });
        let canvas = on_white(&picture, Size { width: 8, height: 8 }, 2);
        let row = |y: usize| canvas[8 * y..8 * y + 8].to_vec();
        assert_eq!(row(1), [1.0; 8]);
        assert_eq!(row(6), [1.0; 8]);
        // The subject is black, what is transparent white, and between them is a blend.
        assert_eq!(row(3), [-1.0, -1.0, -1.0, -0.5, 0.5, 1.0, 1.0, 1.0]);
    }
}
