// SPDX-License-Identifier: MPL-2.0

//! Signed provenance by the standard of the C2PA (<https://spec.c2pa.org>), known as content credentials: who says
//! that a file was generated, by what and when, and that it is as it was then.

mod boxes;
mod certificates;
mod command;
mod ingredient;
mod manifest;
mod origin;
mod reading;
mod signer;
mod tags;
mod xmp;

pub use certificates::{TestChain, test_chain};
pub use ingredient::Ingredient;
pub use manifest::sign;
pub use origin::Origin;
pub use reading::{Report, State, read};
pub use signer::{Signer, Signing};

use crate::Result;

/// What IPTC calls media that a trained model made.
const TRAINED: &str = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia";
/// The assertion with what the standard has no place for.
const GENERATION: &str = "io.github.soragen.generation";
/// How the invisible mark is named as a soft binding.
const WATERMARK: &str = "io.github.soragen.spread-spectrum.2";
const MP4: &str = "video/mp4";

/// How manifests are made and read: without a network.
fn context(trust_anchors: Option<&str>) -> Result<c2pa::Context> {
    let mut settings =
        serde_json::json!({ "verify": { "remote_manifest_fetch": false, "ocsp_fetch": false } });
    if let Some(anchors) = trust_anchors {
        settings["trust"] = serde_json::json!({ "trust_anchors": anchors });
    }
    Ok(c2pa::Context::new().with_settings(settings)?)
}
