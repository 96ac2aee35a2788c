// SPDX-License-Identifier: MPL-2.0

//! What a file says of itself, and whether it is still as it was signed.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use c2pa::{Reader, ValidationState};
use serde_json::Value;

use super::{GENERATION, TRAINED, WATERMARK};
use crate::{Error, Result};

/// How far a manifest can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The file or the manifest was changed, or the signature is wrong.
    Invalid,
    /// All is as it was signed, by somebody who is not known.
    Valid,
    /// The same, by somebody whose certificate leads to a trust anchor.
    Trusted,
}

/// What the last manifest of a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How far it can be believed.
    pub state: State,
    /// Its unique name.
    pub manifest: String,
    /// Who signed: organization and name in the certificate.
    pub signer: Vec<String>,
    /// Whether it says that a trained model made it.
    pub generated: bool,
    /// When it was made, as it says.
    pub time: Option<String>,
    /// The program that made the manifest, and its version.
    pub software: Option<(String, String)>,
    /// The models, if soragen signed.
    pub models: Vec<String>,
    /// Who ran the generator, if it says so.
    pub provider: Option<String>,
    /// The prompts, if they were to be in it.
    pub prompts: Vec<String>,
    /// The ids of the invisible marks that it is bound to.
    pub marks: Vec<String>,
    /// The manifests of what it was made from.
    pub ingredients: Vec<String>,
    /// The C2PA's codes of what is wrong.
    pub problems: Vec<String>,
}

/// The last manifest in a file; `None` if there is none, or if files of its kind have none. `trust_anchors` are
/// certificates in PEM.
///
/// # Errors
/// [`Error::Io`] if there is no such file, [`Error::Manifest`] for a manifest that is not to be understood.
pub fn read(path: &Path, trust_anchors: Option<&str>) -> Result<Option<Report>> {
    let Some(format) = c2pa::format_from_path(path) else { return Ok(None) };
    if !Reader::supported_mime_types().contains(&format) {
        return Ok(None);
    }
    let file = File::open(path).map_err(Error::io(path))?;
    read_stream(&format, file, trust_anchors)
}

/// The same of what is open already.
pub(super) fn read_stream(
    format: &str,
    stream: impl Read + Seek + Send,
    trust_anchors: Option<&str>,
) -> Result<Option<Report>> {
    match Reader::from_context(super::context(trust_anchors)?).with_stream(format, stream) {
        Ok(reader) => Ok(report(&reader)),
        Err(c2pa::Error::JumbfNotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn report(reader: &Reader) -> Option<Report> {
    let manifest = reader.active_manifest()?;
    let assertions = || manifest.assertions().iter();
    let named = |label: &str| {
        assertions().find(|a| a.label() == label).and_then(|a| a.value().ok()).unwrap_or(&Value::Null)
    };
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|one| Some(one.as_str()?.into())).collect()
    };
    let actions = assertions().filter(|a| a.label().starts_with("c2pa.actions"));
    let created = actions
        .filter_map(|a| a.value().ok()?["actions"].as_array())
        .flatten()
        .find(|action| action["action"] == "c2pa.created");
    let generation = named(GENERATION);
    let binding = named("c2pa.soft-binding");
    let blocks = binding["blocks"].as_array().filter(|_| binding["alg"] == WATERMARK);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let software = created
        .map(|created| &created["softwareAgent"])
        .and_then(|agent| Some((text(&agent["name"])?, text(&agent["version"]).unwrap_or_default())));
    let problems = reader.validation_status().into_iter().flatten().map(|status| status.code().to_owned());
    Some(Report {
        state: match reader.validation_state() {
            ValidationState::Invalid => State::Invalid,
            ValidationState::Valid => State::Valid,
            ValidationState::Trusted => State::Trusted,
        },
        manifest: reader.active_label().unwrap_or_default().into(),
        signer: manifest.issuer().into_iter().chain(manifest.common_name()).collect(),
        generated: created.is_some_and(|created| created["digitalSourceType"] == TRAINED),
        time: created.and_then(|created| text(&created["when"])),
        software,
        models: texts(&generation["models"]),
        provider: text(&generation["provider"]),
        prompts: texts(&generation["prompts"]),
        marks: blocks.into_iter().flatten().filter_map(|block| text(&block["value"])).collect(),
        ingredients: manifest
            .ingredients()
            .iter()
            .filter_map(|i| i.active_manifest().map(Into::into))
            .collect(),
        problems: problems.collect(),
    })
}
