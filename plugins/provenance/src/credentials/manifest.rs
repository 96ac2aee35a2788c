// SPDX-License-Identifier: MPL-2.0

//! Creates and signs manifests.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use c2pa::Builder;
use serde_json::{Value, json};

use super::{GENERATION, MP4, Origin, Signer, State, WATERMARK, boxes, tags, xmp};
use crate::{Error, Result};

/// Adds an XMP packet to the MP4 in `from`, signs it, and writes it with its manifest to `to`. `time` is the time of
/// creation in RFC 3339. The prompts are included only if `with_prompts`. An earlier manifest is kept, as the parent of the
/// new one. Returns the unique label of the manifest.
///
/// # Errors
/// [`Error::NoOrigin`] if no model is known, [`Error::NotMp4`], [`Error::Signer`] and [`Error::Manifest`].
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
    let read = |e: std::io::Error| Error::NotMp4(e.to_string());
    boxes::top_level(from)?;
    let has_parent = super::report::read_stream(MP4, &mut *from, None)?.is_some();
    let mut builder = Builder::from_context(super::context(None)?).with_definition(definition(
        origin,
        time,
        with_prompts,
        has_parent || origin.parent.is_some(),
    ))?;
    if has_parent {
        // Before any change of the file, which would make the earlier manifest invalid.
        let parent = json!({ "title": "the video before", "relationship": "parentOf", "label": PARENT });
        from.rewind().map_err(read)?;
        builder.add_ingredient_from_stream(parent.to_string(), MP4, from)?;
    }
    if let Some(parent) = origin.parent.as_ref().filter(|_| !has_parent) {
        parent.add_to(&mut builder, PARENT)?;
    }
    for (label, ingredient) in labels(origin).iter().zip(&origin.ingredients) {
        ingredient.add_to(&mut builder, label)?;
    }
    if !with_prompts {
        tags::remove_prompts(from, &origin.prompts)?;
    }
    let earlier = xmp::take(from)?;
    xmp::embed(from, &xmp::packet(origin, time, with_prompts, earlier.as_deref()))?;
    from.rewind().map_err(read)?;
    builder.sign(signer.as_c2pa(), MP4, from, to)?;
    to.seek(SeekFrom::Start(0)).map_err(read)?;
    // Signing with a wrong key succeeds, so the result is verified.
    match super::report::read_stream(MP4, to, None)? {
        Some(report) if report.state != State::Invalid => Ok(report.manifest),
        report => {
            let problems = report.map(|report| report.problems.join(", ")).unwrap_or_default();
            Err(Error::Signer(format!(
                "the signature is invalid ({problems}); check that the key belongs to the certificate, and that \
                 the certificate is valid today"
            )))
        }
    }
}

/// Label of the ingredient that is the video before: the file that is signed again, or the video that was restyled.
const PARENT: &str = "parent";

/// Labels of the pictures in the manifest.
fn labels(origin: &Origin) -> Vec<String> {
    (1..=origin.ingredients.len()).map(|number| format!("picture-{number}")).collect()
}

/// The manifest definition. The library adds the hash of the file and the signature.
fn definition(origin: &Origin, time: &str, with_prompts: bool, has_parent: bool) -> Value {
    let (software, version) = origin.software();
    let ids: Vec<String> = origin.generation_ids.iter().map(ToString::to_string).collect();
    let agent = json!({ "name": software, "version": version });
    let mut first = json!({
        // A file with a parent was opened, not created.
        "action": if has_parent { "c2pa.opened" } else { "c2pa.created" },
        "when": time,
        "digitalSourceType": origin.source_type(),
        "softwareAgent": agent,
        "description": format!("made by the model {}", origin.models.join(", ")),
    });
    let mut ingredients = labels(origin);
    if has_parent {
        ingredients.insert(0, PARENT.into());
    }
    if !ingredients.is_empty() {
        first["parameters"] = json!({ "ingredientIds": ingredients });
    }
    let mut actions = vec![first];
    if origin.restyled {
        actions.push(json!({
            "action": "c2pa.edited",
            "when": time,
            "digitalSourceType": origin.source_type(),
            "softwareAgent": agent,
        }));
    }
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
