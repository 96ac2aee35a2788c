// SPDX-License-Identifier: MPL-2.0

//! What is claimed, and its signature.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use c2pa::Builder;
use serde_json::{Value, json};

use super::{GENERATION, MP4, Origin, Signer, State, TRAINED, WATERMARK, tags, xmp};
use crate::{Error, Result};

/// Signs the MP4 in `from`, which gains an XMP packet, and writes it with its manifest to `to`. `time` is when it
/// was made, as RFC 3339 has it. The prompts are in it only if `with_prompts`. Returns the manifest's unique name.
///
/// # Errors
/// [`Error::NoOrigin`] where nothing says what made it, [`Error::NotMp4`], and what signing and writing come to.
pub fn sign(
    from: &mut File,
    to: &mut File,
    origin: &Origin,
    time: &str,
    with_prompts: bool,
    signer: &Signer,
) -> Result<String> {
    if origin.models.is_empty() {
        return Err(Error::NoOrigin);
    }
    if !with_prompts {
        tags::without_prompts(from, &origin.prompts)?;
    }
    xmp::embed(from, &xmp::packet(origin, time, with_prompts))?;
    let mut builder = Builder::from_context(super::context(None)?).with_definition(definition(
        origin,
        time,
        with_prompts,
    ))?;
    for (label, ingredient) in labels(origin).iter().zip(&origin.ingredients) {
        ingredient.add_to(&mut builder, label)?;
    }
    let read = |e: std::io::Error| Error::NotMp4(e.to_string());
    from.rewind().map_err(read)?;
    builder.sign(signer.as_c2pa(), MP4, from, to)?;
    to.seek(SeekFrom::Start(0)).map_err(read)?;
    // A signature of another key is a signature too.
    match super::reading::read_stream(MP4, to, None)? {
        Some(report) if report.state != State::Invalid => Ok(report.manifest),
        report => {
            let problems = report.map(|report| report.problems.join(", ")).unwrap_or_default();
            Err(Error::Signer(format!(
                "the signature does not hold ({problems}); is the key that of the certificate, and does the \
                 certificate hold today?"
            )))
        }
    }
}

/// What the ingredients are called in the manifest.
fn labels(origin: &Origin) -> Vec<String> {
    (1..=origin.ingredients.len()).map(|number| format!("picture-{number}")).collect()
}

/// The manifest but for what the library adds: the hash of the file and the signature.
fn definition(origin: &Origin, time: &str, with_prompts: bool) -> Value {
    let (software, version) = origin.software();
    let ids: Vec<String> = origin.marks.iter().map(ToString::to_string).collect();
    let agent = json!({ "name": software, "version": version });
    let mut created = json!({
        "action": "c2pa.created",
        "when": time,
        "digitalSourceType": TRAINED,
        "softwareAgent": agent,
        "description": format!("made by the model {}", origin.models.join(", ")),
    });
    if !origin.ingredients.is_empty() {
        created["parameters"] = json!({ "ingredientIds": labels(origin) });
    }
    let mut actions = vec![created];
    let mut generation = json!({ "software": software, "version": version, "models": origin.models });
    if let Some(provider) = &origin.provider {
        generation["provider"] = json!(provider);
    }
    if with_prompts {
        generation["prompts"] = json!(origin.prompts);
    }
    let mut assertions = Vec::new();
    if !ids.is_empty() {
        actions.push(json!({ "action": "c2pa.watermarked.bound", "when": time, "softwareAgent": agent }));
        let blocks: Vec<_> = ids.iter().map(|id| json!({ "scope": {}, "value": id })).collect();
        let binding = json!({ "alg": WATERMARK, "blocks": blocks });
        assertions.push(json!({ "label": "c2pa.soft-binding", "data": binding }));
        generation["generation-ids"] = json!(ids);
    }
    assertions.insert(0, json!({ "label": "c2pa.actions.v2", "data": { "actions": actions } }));
    assertions.push(json!({ "label": GENERATION, "data": generation }));
    json!({
        "claim_generator_info": [agent],
        "format": MP4,
        "assertions": assertions,
    })
}
