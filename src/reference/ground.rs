//! What of a picture is the subject, and its place in a square.

use std::collections::VecDeque;

use image::imageops::FilterType;
use image::{Rgba, Rgba32FImage, RgbaImage};

/// Alpha below this is invisible, of 255.
const VISIBLE: u8 = 8;
/// Largest difference of a channel from the colour of the ground, of 255. JPEG changes flat colours by less.
const SAME: u8 = 24;
/// Part of the border that must have the colour of the ground.
const MOSTLY: f64 = 0.9;
/// Longest side that is kept, in pixels.
const MAX_SIDE: u32 = 1024;
/// Pixels around the subject in a square of 128. The drawings of the built-in model have as many.
const MARGIN: (u32, u32) = (4, 128);

/// A picture without alpha loses the colour of its border, from the border inwards. If the border has several colours, the picture
/// stays as it is.
pub fn without_ground(mut picture: RgbaImage) -> RgbaImage {
    let (width, height) = picture.dimensions();
    if width < 3 || height < 3 || picture.pixels().any(|pixel| pixel[3] < 255) {
        return picture;
    }
    let rows = (0..height).flat_map(|y| [(0, y), (width - 1, y)]);
    let border: Vec<_> = (0..width).flat_map(|x| [(x, 0), (x, height - 1)]).chain(rows).collect();
    let ground = median(border.iter().map(|&(x, y)| *picture.get_pixel(x, y)));
    let is_ground = |pixel: &Rgba<u8>| (0..3).all(|c| pixel[c].abs_diff(ground[c]) <= SAME);
    let same = border.iter().filter(|(x, y)| is_ground(picture.get_pixel(*x, *y))).count();
    if (same as f64) < MOSTLY * border.len() as f64 {
        return picture;
    }
    let mut queue = VecDeque::from(border);
    while let Some((x, y)) = queue.pop_front() {
        let pixel = picture.get_pixel_mut(x, y);
        if pixel[3] == 0 || !is_ground(pixel) {
            continue;
        }
        *pixel = Rgba([0; 4]);
        let neighbours = [(x.wrapping_sub(1), y), (x + 1, y), (x, y.wrapping_sub(1)), (x, y + 1)];
        queue.extend(neighbours.into_iter().filter(|&(x, y)| x < width && y < height));
    }
    picture
}

/// The median of each channel.
fn median(pixels: impl Iterator<Item = Rgba<u8>>) -> [u8; 3] {
    let pixels: Vec<_> = pixels.collect();
    [0, 1, 2].map(|c| {
        let mut values: Vec<_> = pixels.iter().map(|pixel| pixel[c]).collect();
        values.sort_unstable();
        values[values.len() / 2]
    })
}

/// `picture` without invisible margins; `None` if nothing is visible.
pub fn trimmed(picture: &RgbaImage) -> Option<RgbaImage> {
    let visible = picture.enumerate_pixels().filter(|(.., pixel)| pixel[3] >= VISIBLE);
    let (mut left, mut top, mut right, mut bottom) = (u32::MAX, u32::MAX, 0, 0);
    for (x, y, _) in visible {
        (left, top, right, bottom) = (left.min(x), top.min(y), right.max(x), bottom.max(y));
    }
    let some = left <= right && top <= bottom;
    some.then(|| image::imageops::crop_imm(picture, left, top, right - left + 1, bottom - top + 1).to_image())
}

/// Multiplies the colours with alpha, so that invisible pixels do not colour the edges when it is scaled, and scales a large picture
/// down.
pub fn premultiplied(mut picture: RgbaImage) -> RgbaImage {
    for pixel in picture.pixels_mut() {
        let alpha = u16::from(pixel[3]);
        for c in 0..3 {
            pixel[c] = ((u16::from(pixel[c]) * alpha + 127) / 255) as u8;
        }
    }
    match picture.width().max(picture.height()) {
        0..=MAX_SIDE => picture,
        longest => {
            let scaled =
                |side: u32| (u64::from(side) * u64::from(MAX_SIDE) / u64::from(longest)).max(1) as u32;
            image::imageops::thumbnail(&picture, scaled(picture.width()), scaled(picture.height()))
        }
    }
}

/// See [`ReferencePicture::in_square`](super::ReferencePicture::in_square).
pub fn in_square(picture: &RgbaImage, side: u32) -> Vec<f32> {
    let margin = side * MARGIN.0 / MARGIN.1;
    let room = f64::from(side - 2 * margin);
    let (width, height) = (f64::from(picture.width()), f64::from(picture.height()));
    let scale = room / width.max(height);
    let scaled = |side: f64| ((side * scale).round() as u32).max(1);
    let picture = Rgba32FImage::from_fn(picture.width(), picture.height(), |x, y| {
        Rgba(picture.get_pixel(x, y).0.map(|value| f32::from(value) / 255.0))
    });
    let small = image::imageops::resize(&picture, scaled(width), scaled(height), FilterType::Triangle);
    let mut square = Rgba32FImage::new(side, side);
    let (left, top) = ((side - small.width()) / 2, side - margin - small.height());
    image::imageops::replace(&mut square, &small, left.into(), top.into());
    square.into_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RED: Rgba<u8> = Rgba([220, 20, 20, 255]);
    const WHITE: Rgba<u8> = Rgba([250, 252, 255, 255]);

    /// A red ring with a white hole on white, and one speck on the border.
    fn ring() -> RgbaImage {
        RgbaImage::from_fn(60, 40, |x, y| {
            let distance = f64::from(x.abs_diff(30)).hypot(f64::from(y.abs_diff(20)));
            if (5.0..=12.0).contains(&distance) || (x, y) == (0, 0) { RED } else { WHITE }
        })
    }

    #[test]
    fn the_colour_of_the_border_is_removed_from_the_outside_only() {
        let made = without_ground(ring());
        assert_eq!(made.get_pixel(3, 3)[3], 0, "outside");
        assert_eq!(*made.get_pixel(30, 20), WHITE, "the hole is not connected with the border");
        assert_eq!(*made.get_pixel(30, 10), RED);
    }

    #[test]
    fn a_picture_with_alpha_or_a_varied_border_stays() {
        let mut picture = ring();
        picture.put_pixel(30, 20, Rgba([0, 0, 0, 0]));
        assert_eq!(without_ground(picture.clone()), picture);
        let stripes = RgbaImage::from_fn(60, 40, |x, _| if x % 20 < 10 { RED } else { WHITE });
        assert_eq!(without_ground(stripes.clone()), stripes);
    }

    #[test]
    fn invisible_margins_are_trimmed() {
        let mut picture = RgbaImage::from_pixel(30, 20, Rgba([9, 9, 9, 0]));
        assert_eq!(trimmed(&picture), None);
        picture.put_pixel(4, 5, RED);
        picture.put_pixel(9, 7, RED);
        assert_eq!(trimmed(&picture).unwrap().dimensions(), (6, 3));
    }

    #[test]
    fn it_stands_at_the_bottom_in_the_middle() {
        let square = in_square(&RgbaImage::from_pixel(240, 60, RED), 128);
        let alpha = |x: usize, y: usize| square[4 * (y * 128 + x) + 3];
        // 120 × 30 pixels above a margin of 4.
        assert_eq!([alpha(64, 123), alpha(64, 94), alpha(4, 110), alpha(123, 110)], [1.0; 4]);
        assert_eq!([alpha(64, 124), alpha(64, 93), alpha(3, 110), alpha(124, 110)], [0.0; 4]);
        assert!((square[4 * (110 * 128 + 64)] - 220.0 / 255.0).abs() < 1e-3);
    }
}
