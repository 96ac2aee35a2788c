//! The visible label, drawn into the frames.
//!
//! It is in the upper left corner, white on a darkened background. A text label is larger for the first two seconds, so that
//! viewers notice it at once. Letters are line segments, which need no font and scale to any size.

mod glyphs;
mod tensor;

use crate::Size;
use crate::text_enum::text_enum;
pub(crate) use tensor::TensorLabeller;

/// Seconds for which the large label is shown.
const LARGE_SECONDS: u64 = 2;
/// Height of the letters relative to the shorter side of the frame. China's GB 45438 requires at least 5 %.
const SMALL: f32 = 0.07;
const LARGE: f32 = 0.12;
/// Minimum height of the letters in pixels; smaller ones are not legible.
const MIN_HEIGHT: f32 = 8.0;
/// Maximum width of the label relative to the frame.
const MAX_WIDTH: f32 = 0.9;
/// Margin around the letters, relative to their height.
const MARGIN: f32 = 0.4;
/// Half of the stroke width, relative to the height of the letters.
const HALF_LINE: f32 = 0.065;
/// Remaining brightness of the background.
const BACKGROUND: f32 = 0.35;

/// The visible label of the frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Label {
    /// No label.
    #[default]
    None,
    /// The letters AI, as in the common icon of the EU.
    Ai,
    /// AI GENERATED, larger for the first two seconds.
    AiGenerated,
    /// AI生成, larger for the first two seconds.
    Cn,
}

text_enum!(Label, Label, {
    None => "none",
    Ai => "ai",
    AiGenerated => "ai-generated",
    Cn => "cn",
});

impl Label {
    fn text(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Ai => "AI",
            Self::AiGenerated => "AI GENERATED",
            Self::Cn => "AI生成",
        }
    }
}

/// Draws a label on the frames of a video.
#[derive(Clone, Debug)]
pub struct Labeller {
    size: Size,
    /// Number of the first frame with the small label.
    large_until: u64,
    large: Option<InkMask>,
    small: Option<InkMask>,
}

impl Labeller {
    /// A labeller for frames of `size`, with `rate` frames per second as a fraction. The first frame with a label is frame `since`.
    pub fn new(label: Label, size: Size, rate: (u32, u32), since: u64) -> Self {
        let mask = |height| (label != Label::None).then(|| InkMask::new(label.text(), size, height));
        let large = if label == Label::Ai { SMALL } else { LARGE };
        let large_frames = (LARGE_SECONDS * u64::from(rate.0)).div_ceil(u64::from(rate.1.max(1)));
        Self { size, large_until: since.saturating_add(large_frames), large: mask(large), small: mask(SMALL) }
    }

    /// Draws the label on frame `number` of the video, 8-bit RGB `[H, W, 3]`. A frame of another size is unchanged.
    pub fn draw(&self, picture: &mut [u8], number: u64) {
        let mask = if number < self.large_until { &self.large } else { &self.small };
        let width = self.size.width as usize;
        let Some(mask) =
            mask.as_ref().filter(|_| width > 0 && picture.len() == 3 * width * self.size.height as usize)
        else {
            return;
        };
        let rows = picture.chunks_exact_mut(3 * width).zip(mask.ink.chunks_exact(mask.width.max(1)));
        for (row, ink) in rows {
            for (pixel, ink) in row.chunks_exact_mut(3).zip(ink) {
                for sample in pixel {
                    let background = f32::from(*sample) * BACKGROUND;
                    *sample = (background + (255.0 - background) * ink).round() as u8;
                }
            }
        }
    }
}

/// The rendered label, aligned to the upper left corner: the amount of ink in every pixel, from 0 to 1.
#[derive(Clone, Debug)]
struct InkMask {
    width: usize,
    ink: Vec<f32>,
}

impl InkMask {
    /// Renders `text`. `height` is relative to the shorter side of the frame; letters become smaller if the text does not fit.
    fn new(text: &str, size: Size, height: f32) -> Self {
        let (lines, length) = glyphs::lines(text);
        let (frame_width, frame_height) = (size.width as f32, size.height as f32);
        let fits = MAX_WIDTH * frame_width / (length + 2.0 * MARGIN);
        let height = (height * frame_width.min(frame_height)).max(MIN_HEIGHT).min(fits);
        let side = |length: f32, max: u32| ((length * height).ceil() as usize).min(max as usize);
        let width = side(length + 2.0 * MARGIN, size.width);
        let rows = side(1.0 + 2.0 * MARGIN, size.height);
        let ink = |i: usize| {
            let (x, y) = ((i % width) as f32 + 0.5, (i / width) as f32 + 0.5);
            let point = (x / height - MARGIN, y / height - MARGIN);
            let near = lines.iter().map(|line| line.distance(point)).fold(f32::INFINITY, f32::min);
            // Antialiasing: ink falls from 1 to 0 over one pixel.
            ((HALF_LINE - near) * height + 0.5).clamp(0.0, 1.0)
        };
        Self { width, ink: (0..width * rows).map(ink).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { width: 160, height: 96 };

    /// Frame `number` of a video with 12.5 frames per second.
    fn drawn(label: Label, size: Size, background: u8, number: u64) -> Vec<u8> {
        let mut picture = vec![background; 3 * size.width as usize * size.height as usize];
        Labeller::new(label, size, (25, 2), 0).draw(&mut picture, number);
        picture
    }

    /// Number of rows and columns of the label, from the upper left corner.
    fn extent(picture: &[u8], size: Size, background: u8) -> (usize, usize) {
        let width = size.width as usize;
        let changed =
            picture.chunks_exact(3).enumerate().filter(|(_, pixel)| pixel.iter().any(|s| *s != background));
        changed.fold((0, 0), |(rows, columns), (i, _)| (rows.max(i / width + 1), columns.max(i % width + 1)))
    }

    /// Letters with a height of 14 pixels.
    const AI: [&str; 18] = [
        "..................",
        "......#........##.",
        ".....###.......##.",
        ".....###.......##.",
        ".....#.#.......##.",
        "....##.##......##.",
        "....##.##......##.",
        "...##...##.....##.",
        "...##...##.....##.",
        "...##...##.....##.",
        "..#########....##.",
        "..#########....##.",
        "..##.....##....##.",
        ".##.......##...##.",
        ".##.......##...##.",
        ".##.......##...##.",
        ".#.........#...#..",
        "..................",
    ];

    #[test]
    fn the_label_shows_the_letters_ai() {
        let picture = drawn(Label::Ai, Size { width: 200, height: 200 }, 255, 99);
        let row = |row: &[u8]| {
            let pixels = row.chunks_exact(3).skip(4).take(18);
            pixels.map(|pixel| if pixel[0] > 170 { '#' } else { '.' }).collect::<String>()
        };
        let seen: Vec<String> = picture.chunks_exact(600).skip(4).take(18).map(row).collect();
        assert_eq!(seen, AI, "\n{}", seen.join("\n"));
    }

    #[test]
    fn the_label_is_legible_on_any_background_and_stays_in_its_corner() {
        for label in [Label::Ai, Label::AiGenerated, Label::Cn] {
            for background in [0, 128, 255] {
                let picture = drawn(label, SIZE, background, 99);
                assert_eq!(*picture.iter().max().unwrap(), 255, "white letters");
                let darkened = picture[0];
                assert!(255 - darkened > 160, "{label:?} on {background}: white on {darkened}");
                let (rows, columns) = extent(&picture, SIZE, background);
                assert!(rows < 20 && columns <= 150, "{label:?}: {rows} rows, {columns} columns");
            }
        }
        assert!(drawn(Label::None, SIZE, 77, 0).iter().all(|sample| *sample == 77));
    }

    #[test]
    fn a_text_label_is_large_for_two_seconds() {
        // 5 % of 720 pixels are 36.
        let size = Size { width: 1280, height: 720 };
        for (label, grows) in [(Label::Ai, false), (Label::AiGenerated, true), (Label::Cn, true)] {
            let rows = |number| extent(&drawn(label, size, 255, number), size, 255).0;
            assert_eq!(rows(0), rows(24));
            assert_eq!(rows(0) > rows(25), grows, "{label:?}");
            assert!(rows(25) as f32 / (1.0 + 2.0 * MARGIN) > 36.0, "{label:?}: letters of at least 5 %");
        }
    }

    #[test]
    fn any_frame_size_is_supported() {
        for (width, height) in [(1, 1), (16, 16), (2, 300), (300, 2), (0, 0)] {
            let size = Size { width, height };
            for label in [Label::Ai, Label::AiGenerated, Label::Cn] {
                drawn(label, size, 9, 0);
            }
        }
        Labeller::new(Label::Ai, SIZE, (0, 0), 0).draw(&mut [0; 7], 0);
    }
}
