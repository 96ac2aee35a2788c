//! An invisible watermark: a spread-spectrum pattern on luma.
//!
//! A keyed pattern of ±1 chips, each a cell of 6×6 pixels, is added to every frame as a repeated tile of 24×24 chips. A sixth
//! of the chips depends on the key alone (synchronisation); the detector uses them to locate the tile in a scaled or cropped
//! video. The others carry 64 bits of payload, protected by a (128, 64) code with soft decoding. Detection needs neither the
//! original video nor neural network weights.
//!
//! The watermark survives ordinary processing: encoding, scaling, cropping, frame rate conversion. It does not withstand a
//! deliberate attempt to remove or forge it, and everyone has the public key.

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
