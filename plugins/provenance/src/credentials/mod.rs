// SPDX-License-Identifier: MPL-2.0

//! Signed provenance by the standard of the C2PA (<https://spec.c2pa.org>), known as content credentials: who says
//! that a file was generated, by what and when, and that it is as it was then.

mod certificates;
mod manifest;
mod origin;
mod reading;
mod signer;
mod xmp;

pub use certificates::{TestChain, test_chain};
pub use manifest::sign;
pub use origin::Origin;
pub use reading::{Report, State, read};
pub use signer::{Signer, Signing};

/// What IPTC calls media that a trained model made.
const TRAINED: &str = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia";
/// The assertion with what the standard has no place for.
const GENERATION: &str = "io.github.soragen.generation";
/// How the invisible mark is named as a soft binding.
const WATERMARK: &str = "io.github.soragen.spread-spectrum.1";
const MP4: &str = "video/mp4";
