// SPDX-License-Identifier: MPL-2.0

//! What a video was made from and says itself where it is from.

use std::io::Cursor;
use std::path::Path;

use c2pa::Builder;
use serde_json::json;

use crate::{Error, Result};

/// A picture with a manifest of its own, which is kept in the video's.
#[derive(Clone, PartialEq, Eq)]
pub struct Ingredient {
    format: String,
    bytes: Vec<u8>,
}

impl Ingredient {
    /// The picture in a file, if it has a manifest.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Manifest`] for one that is not to be understood.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let Some(format) = c2pa::format_from_path(path) else { return Ok(None) };
        if !c2pa::Reader::supported_mime_types().contains(&format) {
            return Ok(None);
        }
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let report = super::reading::read_stream(&format, Cursor::new(&bytes), None)?;
        Ok(report.map(|_| Self { format, bytes }))
    }

    /// Adds it to a manifest, in which it is known by `label`.
    pub(super) fn add_to(&self, builder: &mut Builder, label: &str) -> Result<()> {
        // Its name is nobody else's business.
        let what =
            json!({ "title": "a picture that it starts from", "relationship": "inputTo", "label": label });
        builder.add_ingredient_from_stream(what.to_string(), &self.format, &mut Cursor::new(&self.bytes))?;
        Ok(())
    }
}

/// Pictures are not for logs.
impl std::fmt::Debug for Ingredient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ingredient({}, {} bytes)", self.format, self.bytes.len())
    }
}
