// SPDX-License-Identifier: MPL-2.0

//! Input images and videos with their own manifest.

use std::fs::File;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use c2pa::Builder;
use serde_json::json;

use crate::{Error, Result};

/// An input file with a manifest, which becomes part of the video's manifest.
#[derive(Clone, PartialEq, Eq)]
pub struct Ingredient {
    format: String,
    content: Content,
}

#[derive(Clone, PartialEq, Eq)]
enum Content {
    /// Of an image.
    Bytes(Vec<u8>),
    /// A video, which may be larger than the memory.
    File(PathBuf),
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
        Ok(report.map(|_| Self { format, content: Content::Bytes(bytes) }))
    }

    /// A video, which is read again when the manifest is signed. Returns `None` if it has no manifest.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_video(path: &Path) -> Result<Option<Self>> {
        let mut file = File::open(path).map_err(Error::io(path))?;
        let format = super::format::of(&mut file, path).map_err(Error::io(path))?;
        let Some(format) = format else { return Ok(None) };
        let report = super::report::read_stream(&format, file, None)?;
        Ok(report.map(|_| Self { format, content: Content::File(path.into()) }))
    }

    /// Adds the file to a manifest under `label`: as what the video was made from, or as the video that was changed.
    pub(super) fn add_to(&self, builder: &mut Builder, label: &str) -> Result<()> {
        // The file name may be private.
        let (title, relationship) = match &self.content {
            Content::Bytes(_) => ("a picture that it was made from", "inputTo"),
            Content::File(_) => ("the video before", "parentOf"),
        };
        let definition = json!({ "title": title, "relationship": relationship, "label": label }).to_string();
        match &self.content {
            Content::Bytes(bytes) => {
                builder.add_ingredient_from_stream(definition, &self.format, &mut Cursor::new(bytes))?
            }
            Content::File(path) => {
                let mut file = File::open(path).map_err(Error::io(path))?;
                builder.add_ingredient_from_stream(definition, &self.format, &mut file)?
            }
        };
        Ok(())
    }
}

/// Omits the data of an image and the name of a video from logs.
impl std::fmt::Debug for Ingredient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ingredient({})", self.format)
    }
}
