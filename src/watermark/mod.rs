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
//! detected: 0.35 steps of 255 in flat areas of a frame of 640×480 (earlier 1.4), more where fine detail hides it. Whole steps come
//! from dither. In nineteen clips of three seconds (seven of the eleven of `make robustness`, twelve of the built-in model)
//! the median SSIMULACRA2 of a clip is at least 89 (earlier 53 to 89), the butteraugli 3-norm at most 0.8 (earlier 1.3 to 2.3).
//!
//! A constant pattern of this strength is lost at crf 23 in half of the clips. A period of two seconds makes files 1 % smaller, but
//! needs two seconds for a detection and half of it stays in the mean over 16 frames. Cells of 6 pixels cost twice the bits; cells
//! of 12 have a butteraugli norm of 0.9 at the same strength and are not detected better.
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

pub use detect::{DETECTION_THRESHOLD, Detection, Detector, MAX_SCALE, MIN_SCALE};
pub use embed::{Embedder, Plane, STRENGTHS};
pub use key::WatermarkKey;
pub use pattern::Scheme;
pub use payload::GenerationId;

#[cfg(test)]
mod tests;
