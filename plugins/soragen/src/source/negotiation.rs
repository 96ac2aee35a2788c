// SPDX-License-Identifier: MPL-2.0

//! Why downstream's caps and the element's have nothing in common.

use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use soragen::ModelInfo;

use super::caps;
use super::imp::{SoraGen, lock};
use crate::video::convert::FORMATS;

/// Fields that are compared together, and the element that changes them.
const FIELDS: [(&[&str], &str); 8] = [
    (&["format"], "videoconvert"),
    (&["width", "height"], "videoscale"),
    (&["framerate"], "videorate"),
    (&["pixel-aspect-ratio"], "videoscale"),
    (&["interlace-mode"], "interlace"),
    (&["colorimetry"], "videoconvert"),
    (&["chroma-site"], "videoconvert"),
    (&["multiview-mode"], "glviewconvert"),
];

impl SoraGen {
    /// Posts an error that says what downstream accepts and what the model makes, if that is why negotiation failed.
    pub(super) fn post_conflict(&self) {
        let pad = self.obj().src_pad().clone();
        if pad.pad_flags().contains(gst::PadFlags::FLUSHING) {
            return;
        }
        let requested = caps::of_uri(&lock(&self.settings).uri_caps);
        let Some(info) = lock(&self.state).running().map(|running| running.info.clone()) else { return };
        let wanted = pad.peer_query_caps(None);
        let possible = self.caps_of_sizes(&info.sizes).intersect(&requested);
        if let Some(conflict) = conflict(&wanted, &possible, &info) {
            gst::element_imp_error!(self, gst::CoreError::Negotiation, ("{conflict}"));
        }
    }
}

/// What of `wanted` is not in `possible`, and what is; `None` if they have a format in common.
fn conflict(wanted: &gst::Caps, possible: &gst::Caps, info: &ModelInfo) -> Option<String> {
    let common = possible.intersect(wanted);
    if common.iter().any(caps::is_possible) {
        return None;
    }
    // The structure that comes closest says most.
    let all = wanted.iter_with_features().map(|(structure, features)| {
        let raw =
            structure.name() == "video/x-raw" && gst::CAPS_FEATURES_MEMORY_SYSTEM_MEMORY.is_equal(features);
        (!raw, if raw { conflicting(structure, possible) } else { Vec::new() }, structure)
    });
    let (other, fields, structure) = all.min_by_key(|(other, fields, _)| (*other, fields.len()))?;
    let name = &info.name;
    if other || fields.is_empty() {
        let wanted = shortened(&wanted.to_string());
        return Some(format!(
            "the element after it accepts only {wanted}, but {name} makes raw video in system memory, with square pixels, \
             progressive, of {}; put a converter between them",
            info.sizes
        ));
    }
    let (mut asked, mut made, mut converters) = (Vec::new(), Vec::new(), Vec::new());
    for &(names, converter) in &fields {
        asked.extend(names.iter().filter_map(|name| {
            let value = structure.value(*name).ok()?.serialize().ok()?;
            Some(format!("{name}={}", shortened(&value)))
        }));
        made.push(makes(names[0], info));
        if !converters.contains(&converter) {
            converters.push(converter);
        }
    }
    Some(format!(
        "the element after it accepts only {}, but {name} makes {}; ask for that, or put {} between them",
        asked.join(", "),
        made.join(", "),
        converters.join(" and ")
    ))
}

/// The [`FIELDS`] of `structure` that are not in `possible`.
fn conflicting(
    structure: &gst::StructureRef,
    possible: &gst::Caps,
) -> Vec<(&'static [&'static str], &'static str)> {
    let conflicts = |names: &[&str]| {
        let mut alone = gst::Structure::new_empty("video/x-raw");
        for &name in names {
            if let Ok(value) = structure.value(name) {
                alone.set_value(name, value.clone());
            }
        }
        if names == ["colorimetry"] || names == ["chroma-site"] {
            // Whether they are possible depends on the format.
            if let Ok(format) = structure.value("format") {
                alone.set_value("format", format.clone());
            }
        }
        let caps = gst::Caps::builder_full().structure(alone).build();
        !possible.intersect(&caps).iter().any(caps::is_possible)
    };
    FIELDS.iter().copied().filter(|(names, _)| conflicts(names)).collect()
}

/// What the element makes of a field.
fn makes(field: &str, info: &ModelInfo) -> String {
    match field {
        "format" => {
            let formats: Vec<_> = FORMATS.iter().map(|format| format.to_str().to_string()).collect();
            format!("the formats {}", formats.join(", "))
        }
        "width" => format!("the sizes {}", info.sizes),
        "framerate" => {
            let (numerator, denominator) = info.frame_rate;
            format!("any constant frame rate above 0, such as its own {numerator}/{denominator}")
        }
        "pixel-aspect-ratio" => "square pixels (1/1)".into(),
        "interlace-mode" => "progressive frames".into(),
        "colorimetry" => "colours of standard range and gamut, such as bt601, bt709 and sRGB".into(),
        "chroma-site" => "the sites mpeg2, jpeg, cosited and v-cosited".into(),
        _ => "one view (mono)".into(),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}
