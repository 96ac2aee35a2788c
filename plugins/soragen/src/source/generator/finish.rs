// SPDX-License-Identifier: MPL-2.0

//! From the engine's samples to labelled, watermarked 8-bit frames.

use soragen::Frames;
use soragen::label::Labeller;
use soragen::watermark::{Embedder, Plane};

use super::queue::RgbFrame;

/// Converts `frames`, which belong to shot `shot`, to 8 bits, draws the label and embeds the watermark.
pub fn finish(frames: &Frames, shot: u64, labeller: &Labeller, embedder: Option<&Embedder>) -> Vec<RgbFrame> {
    (frames.first..)
        .zip(frames.iter())
        .map(|(number, samples)| {
            let mut frame: Vec<u8> = samples.iter().map(|&sample| soragen::to_u8(sample)).collect();
            labeller.draw(&mut frame, number);
            // After the label, so that the watermark covers it as well.
            if let Some(embedder) = embedder {
                embedder.mark(&mut Plane::rgb(&mut frame, frames.size), shot);
            }
            frame.into()
        })
        .collect()
}
