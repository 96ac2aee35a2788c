//! What tells that the frames were generated: to programs and to viewers.

use std::borrow::Cow;

use soragen::Size;
use soragen::label::Labeller;
use soragen::watermark::{Embedder, Plane};

/// The invisible mark and the visible label, if there are any.
pub struct Marks {
    pub watermark: Option<Embedder>,
    pub label: Option<Labeller>,
}

impl Marks {
    /// Frame `number`, of shot `shot`, RGB f32 `[H, W, 3]`, with what it is marked with: all its samples are whole steps
    /// of 8 bits then.
    pub fn on<'a>(&self, frame: &'a [f32], size: Size, number: u64, shot: u64) -> Cow<'a, [f32]> {
        if self.watermark.is_none() && self.label.is_none() {
            return frame.into();
        }
        let mut data: Vec<u8> = frame.iter().map(|&sample| soragen::to_u8(sample)).collect();
        if let Some(label) = &self.label {
            label.draw(&mut data, number);
        }
        if let Some(marker) = &self.watermark {
            marker.embed(&mut Plane::rgb(&mut data, size), shot);
        }
        data.into_iter().map(|sample| f32::from(sample) / 255.0).collect()
    }
}
