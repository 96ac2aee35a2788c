//! The glyphs of the label, as line segments.

/// A line segment. Letters have height 1; y points down.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    from: (f32, f32),
    to: (f32, f32),
}

impl Line {
    /// The distance of a point from the segment.
    pub fn distance(&self, (x, y): (f32, f32)) -> f32 {
        let (dx, dy) = (self.to.0 - self.from.0, self.to.1 - self.from.1);
        let (px, py) = (x - self.from.0, y - self.from.1);
        let length = dx * dx + dy * dy;
        let along = if length > 0.0 { ((px * dx + py * dy) / length).clamp(0.0, 1.0) } else { 0.0 };
        (px - along * dx).hypot(py - along * dy)
    }
}

/// The gap between letters, relative to their height.
const GAP: f32 = 0.25;

/// A letter: its width relative to its height, and its strokes, polylines in hundredths of its height.
struct Glyph(f32, &'static [&'static [(u8, u8)]]);

fn glyph(letter: char) -> Glyph {
    match letter {
        'A' => Glyph(0.7, &[&[(0, 100), (35, 0), (70, 100)], &[(13, 65), (57, 65)]]),
        'D' => Glyph(0.65, &[&[(0, 0), (0, 100), (40, 100), (65, 74), (65, 26), (40, 0), (0, 0)]]),
        'E' => Glyph(0.55, &[&[(55, 0), (0, 0), (0, 100), (55, 100)], &[(0, 50), (48, 50)]]),
        'G' => Glyph(
            0.7,
            &[&[
                (70, 20),
                (52, 0),
                (18, 0),
                (0, 22),
                (0, 78),
                (18, 100),
                (52, 100),
                (70, 80),
                (70, 54),
                (40, 54),
            ]],
        ),
        'I' => Glyph(0.1, &[&[(5, 0), (5, 100)]]),
        'N' => Glyph(0.65, &[&[(0, 100), (0, 0), (65, 100), (65, 0)]]),
        'R' => Glyph(
            0.6,
            &[&[(0, 100), (0, 0), (42, 0), (60, 16), (60, 38), (42, 54), (0, 54)], &[(34, 54), (62, 100)]],
        ),
        'T' => Glyph(0.65, &[&[(0, 0), (65, 0)], &[(32, 0), (32, 100)]]),
        '生' => Glyph(
            1.0,
            &[
                &[(28, 5), (10, 42)],
                &[(22, 26), (90, 26)],
                &[(18, 60), (86, 60)],
                &[(53, 0), (53, 97)],
                &[(4, 97), (98, 97)],
            ],
        ),
        '成' => Glyph(
            1.0,
            &[
                &[(14, 25), (94, 25)],
                &[(16, 25), (16, 62), (4, 98)],
                &[(16, 50), (44, 50), (42, 82), (30, 79)],
                &[(54, 0), (58, 42), (72, 78), (90, 97), (97, 76)],
                &[(88, 44), (74, 74), (46, 98)],
                &[(72, 3), (84, 14)],
            ],
        ),
        _ => Glyph(0.25, &[]),
    }
}

/// The line segments of `text` and its total width. A character without a glyph becomes a space.
pub fn lines(text: &str) -> (Vec<Line>, f32) {
    let mut lines = Vec::new();
    let mut length = 0.0;
    for letter in text.chars() {
        if length > 0.0 {
            length += GAP;
        }
        let Glyph(width, strokes) = glyph(letter);
        let point = |&(x, y): &(u8, u8)| (length + f32::from(x) / 100.0, f32::from(y) / 100.0);
        for stroke in strokes {
            lines.extend(stroke.windows(2).map(|ends| Line { from: point(&ends[0]), to: point(&ends[1]) }));
        }
        length += width;
    }
    (lines, length)
}
