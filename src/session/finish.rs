//! Converts decoded frames to output frames: 8 bits, label, watermark.

use std::time::Duration;

use crate::frames::{RawFrames, to_u8};
use crate::label::{Label, Labeller};
use crate::watermark::{Embedder, Plane};
use crate::{Frames, Size};

/// A label, and the first frame that it is drawn on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabelStart {
    pub label: Label,
    pub since: u64,
}

/// Finishes the frames of one generation.
#[derive(Clone)]
pub struct Finisher {
    label: LabelStart,
    pub(super) labeller: Option<Labeller>,
    size: Size,
    embedder: Option<Embedder>,
    /// Whether the frames get the watermark here.
    pub(super) embeds: bool,
    frame_rate: (u32, u32),
}

impl Finisher {
    pub fn new(
        label: Label,
        embedder: Option<Embedder>,
        embeds: bool,
        size: Size,
        frame_rate: (u32, u32),
    ) -> Self {
        let label = LabelStart { label, since: 0 };
        Self { labeller: labeller(label, size, frame_rate), label, size, embedder, embeds, frame_rate }
    }

    /// Draws this label. Returns whether it is another one.
    pub fn set_label(&mut self, label: LabelStart) -> bool {
        let changed = self.label != label;
        if changed {
            self.label = label;
            self.labeller = labeller(label, self.size, self.frame_rate);
        }
        changed
    }

    /// What embeds the watermark, if there is one.
    pub fn embedder(&self) -> Option<&Embedder> {
        self.embedder.as_ref()
    }

    /// Converts `raw`, frames of the shot with index `shot`, to 8 bits, and adds label and watermark.
    pub fn finish(&self, raw: &RawFrames, shot: u64) -> Frames {
        let mut data: Vec<u8> = raw.data.iter().map(|&sample| to_u8(sample)).collect();
        let frame_len = raw.size.samples();
        for (number, frame) in (raw.first..).zip(data.chunks_exact_mut(frame_len)) {
            if let Some(labeller) = &self.labeller {
                labeller.draw(frame, number);
            }
            if let Some(embedder) = self.embedder.as_ref().filter(|_| self.embeds) {
                embedder.embed(&mut Plane::rgb(frame, raw.size), shot, self.time(number));
            }
        }
        Frames { first: raw.first, size: raw.size, data }
    }

    /// The time of a frame from the start of the video. It depends on the number only, so that a seek gives the same frames.
    pub fn time(&self, number: u64) -> Duration {
        let (numerator, denominator) = self.frame_rate;
        let seconds = number as f64 * f64::from(denominator) / f64::from(numerator);
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    }
}

fn labeller(LabelStart { label, since }: LabelStart, size: Size, rate: (u32, u32)) -> Option<Labeller> {
    (label != Label::None).then(|| Labeller::new(label, size, rate, since))
}
