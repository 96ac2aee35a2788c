//! An invisible mark in the pictures, by which they can be told: spread spectrum on luma.
//!
//! A keyed pattern of ±1 chips, each a cell of 6×6 pixels, is laid over every picture as a tile of 24×24
//! chips, repeated. A sixth of the chips is known to whoever has the key and serves to find the tile again
//! at another size and cut; the others carry 64 bits of payload, protected by a (128, 64) code that is
//! decoded softly. No weights are needed and the original is not.
//!
//! It outlives what videos ordinarily go through: encoding, scaling, cropping, another frame rate. It does
//! not withstand someone who sets out to remove or to forge it; the public key is public.

mod activity;
mod detect;
mod embed;
mod key;
mod pattern;
mod payload;
mod residual;
mod spectrum;

pub use detect::{Detection, Detector, MARKED, MAX_SCALE, MIN_SCALE};
pub use embed::{Embedder, Plane};
pub use key::WatermarkKey;
pub use payload::GenerationId;

#[cfg(test)]
mod tests;
