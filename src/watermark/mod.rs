//! An invisible watermark: a spread-spectrum pattern on luma.
//!
//! A keyed pattern of chips, each a cell of 8×8 pixels, is added to every frame as a repeated tile of 18×18 chips. A sixth of the
//! chips depends on the key alone (synchronisation); the detector uses them to locate the tile in a scaled or cropped video. The
//! others carry 64 bits of payload, protected by a (128, 64) code with soft decoding. Detection needs neither the original video
//! nor neural network weights.
//!
//! # Invisible, and still detected
//!
//! Every chip oscillates once per second, with one of four phases that the key decides ([`Scheme::Rotating`]). Nothing stands
//! still, and the mean over a second is the video without a watermark. The detector turns each frame back by the angle of its
//! time and sums: the pattern adds up, and what does not move cancels out exactly. Frames that repeat or are missing do not matter,
//! nor does a cut, because the phase of the sum is unknown anyway and follows from the synchronisation chips.
//!
//! That gain pays for a much weaker watermark than that of [`Scheme::Static`], which earlier versions embedded and which is still
//! detected: 0.35 steps of 255 in flat areas of a frame of 640×480 (earlier 1.4), more where fine detail hides it, less per pixel
//! in larger frames. Whole steps come from dither. Measured in the clips of `make robustness` and eight more of the built-in
//! model, medians of the frames of a clip: SSIMULACRA2 is at least 90 (earlier 53 to 89), the butteraugli 3-norm at most 0.8 (earlier
//! 1.3 to 2.3), and the mean of 16 frames changes flat areas by at most 0.3 steps. x264 files at crf 23 are 2 % larger in
//! the median, 7 % at most; with some noisy clips they are smaller, because dither is noise that the encoder drops.
//!
//! What was tried, at the same SSIMULACRA2 and butteraugli norm: a constant pattern has a strength at crf 23 of 8 to 13 instead of
//! 14 to 18. Cells of 6 pixels cost 1.3 to 2 times the bits; cells of 12 have a butteraugli norm of 0.9 and are not detected
//! better. With a period of two seconds, half of the pattern would stay in the mean of 16 frames.
//!
//! The watermark survives ordinary processing: encoding, scaling, cropping, frame rate conversion. It is lost where an encoder
//! has no bits for it: in still, flat colours from crf 26, and in frames of 160×96. It does not withstand a deliberate attempt
//! to remove or forge it, and everyone has the public key.

mod activity;
mod detect;
mod embed;
mod key;
mod pattern;
mod payload;
mod residual;
mod spectrum;
mod template;
mod tensor;

pub use detect::{DETECTION_THRESHOLD, Detection, Detector, MAX_SCALE, MIN_SCALE};
pub use embed::{Embedder, Plane, STRENGTHS};
pub use key::WatermarkKey;
pub use pattern::Scheme;
pub use payload::GenerationId;
pub(crate) use tensor::TensorEmbedder;

#[cfg(test)]
mod tests;
