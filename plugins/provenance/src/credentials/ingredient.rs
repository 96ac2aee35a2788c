// SPDX-License-Identifier: MPL-2.0

//! Input images with their own manifest.

use std::io::Cursor;
use std::path::Path;

use c2pa::Builder;
use serde_json::json;

use crate::{Error, Result};

/// An input image with a manifest, which becomes part of the video's manifest.
#[derive(Clone, PartialEq, Eq)]
pub struct Ingredient {
    format: String,
    bytes: Vec<u8>,
}

impl Ingredient {
    /// Reads an image. Returns `None` if it has no manifest.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Manifest`] if the manifest cannot be parsed.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let format = super::format::of(&mut Cursor::new(&bytes), path).map_err(Error::io(path))?;
        let Some(format) = format else { return Ok(None) };
        let report = super::report::read_stream(&format, Cursor::new(&bytes), None)?;
        Ok(report.map(|_| Self { format, bytes }))
    }

    /// Adds the image to a manifest under `label`.
    pub(super) fn add_to(&self, builder: &mut Builder, label: &str) -> Result<()> {
        // The file name may be private.
        let definition =
            json!({ "title": "a picture that it was made from", "relationship": "inputTo", "label": label });
        builder.add_ingredient_from_stream(
            definition.to_string(),
            &self.format,
            &mut Cursor::new(&self.bytes),
        )?;
        Ok(())
    }
}

/// Omits the image data from logs.
impl std::fmt::Debug for Ingredient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ingredient({}, {} bytes)", self.format, self.bytes.len())
    }
}
