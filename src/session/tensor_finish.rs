//! Label and watermark on the device of the frames.

use candle_core::{Device, Tensor};

use super::finish::Finisher;
use crate::label::TensorLabeller;
use crate::watermark::TensorEmbedder;
use crate::{Result, Size};

/// A [`Finisher`] for frames of one size on a device. Each sample is within one 8-bit step of the other's.
pub struct TensorFinisher {
    finisher: Finisher,
    labeller: Option<TensorLabeller>,
    embedder: Option<TensorEmbedder>,
}

impl TensorFinisher {
    pub fn new(finisher: &Finisher, size: Size, device: &Device) -> Result<Self> {
        let labeller = finisher.labeller.as_ref().map(|labeller| TensorLabeller::new(labeller, device));
        let embedder = finisher.embedder().filter(|_| finisher.embeds);
        let embedder = embedder.map(|embedder| TensorEmbedder::new(embedder, size, device));
        Ok(Self {
            finisher: finisher.clone(),
            labeller: labeller.transpose()?,
            embedder: embedder.transpose()?,
        })
    }

    /// Rounds `frames`, f32 `[T, 3, H, W]` in \[0, 1\], to 8 bits, and adds label and watermark. The first frame has the number `first`;
    /// all are of the shot with index `shot`. The result may lie a little outside \[0, 1\].
    pub fn finish(&self, frames: &Tensor, first: u64, shot: u64) -> Result<Tensor> {
        let count = frames.dim(0)? as u64;
        let mut levels = rounded(frames)?;
        if let Some(labeller) = &self.labeller {
            levels = labeller.draw(&levels, first)?;
        }
        if let Some(embedder) = &self.embedder {
            let times: Vec<_> = (first..first + count).map(|number| self.finisher.time(number)).collect();
            levels = embedder.embed(&levels, shot, &times)?;
        }
        Ok((levels / 255.0)?)
    }
}

/// 8-bit levels as f32, as [`to_u8`](crate::to_u8) rounds.
fn rounded(frames: &Tensor) -> Result<Tensor> {
    let levels = frames.affine(255.0, 0.5)?.floor()?.relu()?;
    // The lesser of it and 255.
    Ok(levels.affine(-1.0, 255.0)?.relu()?.affine(-1.0, 255.0)?)
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    use super::*;
    use crate::label::Label;
    use crate::watermark::{Embedder, GenerationId, WatermarkKey};
    use crate::{RawFrames, to_u8};

    /// Frames `[T, H, W, 3]` with flat, smooth and noisy parts, and samples outside \[0, 1\].
    fn frames(size: Size, count: usize) -> RawFrames {
        let (width, height) = (size.width as usize, size.height as usize);
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let sample = |i: usize| {
            let (x, y, t) = (i / 3 % width, i / 3 / width % height, i / 3 / width / height);
            let noise = (random.next_u32() >> 8) as f32 / (1 << 24) as f32 - 0.5;
            let smooth = ((x + 2 * y + 5 * t) as f32 / 19.0 + (i % 3) as f32).sin() * 0.6 + 0.5;
            match 3 * x / width {
                0 => 0.4,
                1 => smooth,
                _ => smooth + noise,
            }
        };
        RawFrames { first: 23, size, data: (0..count * size.samples()).map(sample).collect() }
    }

    /// The greatest difference to the 8-bit frames of the CPU, and the number of samples that differ.
    fn difference(size: Size, label: Label, strength: Option<f64>) -> (u8, usize, usize) {
        let raw = frames(size, 4);
        let (id, key) = (GenerationId::new(0xab_cdef_0123), WatermarkKey::public());
        let embedder = strength.map(|strength| Embedder::new(&key, id, strength));
        // The label becomes small after the second of the four frames.
        let finisher = Finisher::new(label, embedder, true, size, (25, 2));
        let expected = finisher.finish(&raw, 3).data;
        let shape = ((), size.height as usize, size.width as usize, 3);
        let planar = Tensor::from_vec(raw.data, shape, &Device::Cpu).unwrap();
        let planar = planar.permute((0, 3, 1, 2)).unwrap();
        let tensor = TensorFinisher::new(&finisher, size, &Device::Cpu).unwrap();
        let finished = tensor.finish(&planar, raw.first, 3).unwrap();
        let finished = finished.permute((0, 2, 3, 1)).unwrap().flatten_all().unwrap();
        let made = finished.to_vec1::<f32>().unwrap().into_iter().map(to_u8);
        let differences: Vec<_> =
            made.zip(&expected).map(|(made, expected)| made.abs_diff(*expected)).collect();
        let count = differences.iter().filter(|difference| **difference > 0).count();
        (differences.iter().copied().max().unwrap_or(0), count, differences.len())
    }

    #[test]
    fn samples_are_within_one_step_of_the_frames_of_the_cpu() {
        for (width, height) in [(160, 96), (64, 48), (330, 190), (24, 8), (9, 17), (7, 5), (832, 480)] {
            let size = Size { width, height };
            for label in [Label::None, Label::Ai, Label::AiGenerated, Label::Cn] {
                for strength in [None, Some(0.5), Some(1.0), Some(2.0)] {
                    if width > 500 && (label != Label::AiGenerated || strength != Some(1.0)) {
                        continue;
                    }
                    let (greatest, differing, all) = difference(size, label, strength);
                    assert!(greatest <= 1, "{size} {label:?} {strength:?}: {greatest} steps");
                    // The order of sums changes few strengths.
                    assert!(
                        differing <= all / 1000,
                        "{size} {label:?} {strength:?}: {differing} of {all} samples differ"
                    );
                }
            }
        }
    }
}
