// SPDX-License-Identifier: MPL-2.0

//! C2PA manifests (<https://spec.c2pa.org>), also known as content credentials: signed statements about who generated a
//! file, when and with which model. Later changes of the file invalidate them.

mod boxes;
mod certificates;
mod command;
mod format;
mod ingredient;
mod manifest;
mod origin;
mod report;
mod signer;
mod tags;
mod xmp;

pub use certificates::{TestChain, test_chain};
pub use ingredient::Ingredient;
pub use manifest::sign;
pub use origin::Origin;
pub use report::{ManifestReport, State, read};
pub use signer::{Signer, SigningMethod};

use crate::Result;

/// IPTC digital source type of generated media.
const TRAINED: &str = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia";
/// IPTC digital source type of media that was changed by a model.
const COMPOSITE: &str = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia";
/// Label of the assertion with fields that the standard does not define.
const GENERATION: &str = "io.github.soragen.generation";
/// Soft binding algorithm of the watermark.
const WATERMARK: &str = "io.github.soragen.spread-spectrum.2";
const MP4: &str = "video/mp4";

/// Settings for reading and writing manifests. Network access is disabled.
fn context(trust_anchors: Option<&str>) -> Result<c2pa::Context> {
    let mut settings =
        serde_json::json!({ "verify": { "remote_manifest_fetch": false, "ocsp_fetch": false } });
    if let Some(anchors) = trust_anchors {
        settings["trust"] = serde_json::json!({ "trust_anchors": anchors });
    }
    Ok(c2pa::Context::new().with_settings(settings)?)
}
