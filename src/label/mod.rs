//! A label that a viewer sees, drawn into the frames.
//!
//! It stands in the upper left corner, white on a dark ground, and is larger for the first two seconds where it is
//! a text: who begins to watch is told at once. The letters are lines, so that nothing has to be installed and they
//! have any size.

mod glyphs;

use crate::Size;
use crate::text_enum::text_enum;

/// Seconds that the large form is shown.
const START: u64 = 2;
/// Height of the letters by the picture's shorter side. China's GB 45438 asks for 5 % at least.
const SMALL: f32 = 0.07;
const LARGE: f32 = 0.12;
/// Letters that are lower cannot be read.
const LOWEST: f32 = 8.0;
/// How much of the picture's width the label takes at most.
const WIDEST: f32 = 0.9;
/// Around the letters, by their height.
const MARGIN: f32 = 0.4;
/// Half of a line's width, by the letters' height.
const HALF_LINE: f32 = 0.065;
/// How much of the picture is left behind the letters.
const GROUND: f32 = 0.35;

/// What the frames are labelled with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Label {
    /// Nothing.
    #[default]
    None,
    /// The letters AI, as the EU's common icon has them.
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

/// A label for videos of one size and rate.
#[derive(Clone, Debug)]
pub struct Labeller {
    size: Size,
    /// Frames that have the first form.
    started: u64,
    start: Option<Stamp>,
    rest: Option<Stamp>,
}

impl Labeller {
    /// Draws `label` on frames of `size`, as many a second as the fraction `rate` says.
    pub fn new(label: Label, size: Size, rate: (u32, u32)) -> Self {
        let stamp = |part| (label != Label::None).then(|| Stamp::new(label.text(), size, part));
        let large = if label == Label::Ai { SMALL } else { LARGE };
        let started = (START * u64::from(rate.0)).div_ceil(u64::from(rate.1.max(1)));
        Self { size, started, start: stamp(large), rest: stamp(SMALL) }
    }

    /// Draws it on frame `number` of a video, RGB of 8 bits `[H, W, 3]`. One of another size is left as it is.
    pub fn draw(&self, picture: &mut [u8], number: u64) {
        let stamp = if number < self.started { &self.start } else { &self.rest };
        let width = self.size.width as usize;
        let Some(stamp) =
            stamp.as_ref().filter(|_| width > 0 && picture.len() == 3 * width * self.size.height as usize)
        else {
            return;
        };
        let rows = picture.chunks_exact_mut(3 * width).zip(stamp.ink.chunks_exact(stamp.width.max(1)));
        for (row, ink) in rows {
            for (pixel, ink) in row.chunks_exact_mut(3).zip(ink) {
                for sample in pixel {
                    let ground = f32::from(*sample) * GROUND;
                    *sample = (ground + (255.0 - ground) * ink).round() as u8;
                }
            }
        }
    }
}

/// A label from the upper left corner on: how much ink there is in every pixel, from 0 to 1.
#[derive(Clone, Debug)]
struct Stamp {
    width: usize,
    ink: Vec<f32>,
}

impl Stamp {
    /// `text` in letters whose height is `part` of the picture's shorter side, or lower where they would not fit.
    fn new(text: &str, size: Size, part: f32) -> Self {
        let (lines, length) = glyphs::lines(text);
        let (picture_width, picture_height) = (size.width as f32, size.height as f32);
        let fits = WIDEST * picture_width / (length + 2.0 * MARGIN);
        let height = (part * picture_width.min(picture_height)).max(LOWEST).min(fits);
        let side = |length: f32, most: u32| ((length * height).ceil() as usize).min(most as usize);
        let width = side(length + 2.0 * MARGIN, size.width);
        let rows = side(1.0 + 2.0 * MARGIN, size.height);
        let ink = |i: usize| {
            let (x, y) = ((i % width) as f32 + 0.5, (i / width) as f32 + 0.5);
            let point = (x / height - MARGIN, y / height - MARGIN);
            let near = lines.iter().map(|line| line.distance(point)).fold(f32::INFINITY, f32::min);
            // From full to none over one pixel.
            ((HALF_LINE - near) * height + 0.5).clamp(0.0, 1.0)
        };
        Self { width, ink: (0..width * rows).map(ink).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { width: 160, height: 96 };

    /// Frame `number`, of 12.5 a second.
    fn drawn(label: Label, size: Size, background: u8, number: u64) -> Vec<u8> {
        let mut picture = vec![background; 3 * size.width as usize * size.height as usize];
        Labeller::new(label, size, (25, 2)).draw(&mut picture, number);
        picture
    }

    /// Rows and columns that were drawn on, counted from the upper left corner.
    fn extent(picture: &[u8], size: Size, background: u8) -> (usize, usize) {
        let width = size.width as usize;
        let changed =
            picture.chunks_exact(3).enumerate().filter(|(_, pixel)| pixel.iter().any(|s| *s != background));
        changed.fold((0, 0), |(rows, columns), (i, _)| (rows.max(i / width + 1), columns.max(i % width + 1)))
    }

    /// Letters of fourteen pixels.
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
    fn it_reads_ai() {
        let picture = drawn(Label::Ai, Size { width: 200, height: 200 }, 255, 99);
        let row = |row: &[u8]| {
            let pixels = row.chunks_exact(3).skip(4).take(18);
            pixels.map(|pixel| if pixel[0] > 170 { '#' } else { '.' }).collect::<String>()
        };
        let seen: Vec<String> = picture.chunks_exact(600).skip(4).take(18).map(row).collect();
        assert_eq!(seen, AI, "\n{}", seen.join("\n"));
    }

    #[test]
    fn it_can_be_read_on_any_ground_and_leaves_the_rest_alone() {
        for label in [Label::Ai, Label::AiGenerated, Label::Cn] {
            for background in [0, 128, 255] {
                let picture = drawn(label, SIZE, background, 99);
                assert_eq!(*picture.iter().max().unwrap(), 255, "white letters");
                let ground = picture[0];
                assert!(255 - ground > 160, "{label:?} on {background}: white on {ground}");
                let (rows, columns) = extent(&picture, SIZE, background);
                assert!(rows < 20 && columns <= 150, "{label:?}: {rows} rows, {columns} columns");
            }
        }
        assert!(drawn(Label::None, SIZE, 77, 0).iter().all(|sample| *sample == 77));
    }

    #[test]
    fn a_text_is_large_for_two_seconds() {
        // 720 pixels: 5 % are 36.
        let size = Size { width: 1280, height: 720 };
        for (label, grows) in [(Label::Ai, false), (Label::AiGenerated, true), (Label::Cn, true)] {
            let rows = |number| extent(&drawn(label, size, 255, number), size, 255).0;
            assert_eq!(rows(0), rows(24));
            assert_eq!(rows(0) > rows(25), grows, "{label:?}");
            assert!(rows(25) as f32 / (1.0 + 2.0 * MARGIN) > 36.0, "{label:?}: letters of 5 % at least");
        }
    }

    #[test]
    fn there_is_no_size_that_it_cannot_be_drawn_on() {
        for (width, height) in [(1, 1), (16, 16), (2, 300), (300, 2), (0, 0)] {
            let size = Size { width, height };
            for label in [Label::Ai, Label::AiGenerated, Label::Cn] {
                drawn(label, size, 9, 0);
            }
        }
        Labeller::new(Label::Ai, SIZE, (0, 0)).draw(&mut [0; 7], 0);
    }
}
