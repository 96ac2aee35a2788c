//! Numbered PNG files, one per frame.

use std::path::{Path, PathBuf};

use gstsoraprovenance::Destination;
use image::RgbImage;
use soragen::Size;

use super::{OutputInfo, PartialFile};
use crate::error::{Error, Result};

pub struct Writer {
    pattern: Pattern,
    size: Size,
    written: u64,
}

/// A file name with a placeholder for the frame number, such as `frame-%05d.png`.
struct Pattern {
    folder: PathBuf,
    before: String,
    digits: usize,
    after: String,
}

impl Pattern {
    fn parse(path: &Path) -> Result<Self> {
        let invalid = || {
            let name = path.display();
            Error::Usage(format!("{name}: the name needs a frame number, such as frame-%05d.png"))
        };
        let name = path.file_name().and_then(|n| n.to_str()).ok_or_else(invalid)?;
        let (before, rest) = name.split_once('%').ok_or_else(invalid)?;
        let (digits, after) = rest.split_once('d').ok_or_else(invalid)?;
        let digits = if digits.is_empty() { 1 } else { digits.parse().map_err(|_| invalid())? };
        if after.contains('%') || digits > 20 {
            return Err(invalid());
        }
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        Ok(Self { folder, before: before.into(), digits, after: after.into() })
    }

    fn path(&self, number: u64) -> PathBuf {
        let Self { folder, before, digits, after } = self;
        folder.join(format!("{before}{number:0digits$}{after}"))
    }
}

/// Returns an error if the name has no placeholder for the frame number, or the first file cannot be written.
pub fn check(path: &Path) -> Result<()> {
    Destination::of(&Pattern::parse(path)?.path(0))?;
    Ok(())
}

impl Writer {
    pub fn new(path: &Path, info: &OutputInfo) -> Result<Self> {
        Ok(Self { pattern: Pattern::parse(path)?, size: info.size, written: 0 })
    }
}

impl super::Writer for Writer {
    fn write(&mut self, frame: &[u8]) -> Result<()> {
        let path = self.pattern.path(self.written);
        let image = RgbImage::from_raw(self.size.width, self.size.height, frame.to_vec())
            .ok_or_else(|| Error::file(&path, "the frame has the wrong size"))?;
        let file = PartialFile::new(&path)?;
        image.save_with_format(file.partial(), image::ImageFormat::Png).map_err(|e| Error::file(&path, e))?;
        file.keep()?;
        self.written += 1;
        Ok(())
    }

    // Every image is complete, and may have replaced an older one, so images are kept even after an error.
    fn finish(self: Box<Self>) -> Result<bool> {
        Ok(self.written > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_number_replaces_the_placeholder() {
        let pattern = Pattern::parse(Path::new("a/frame-%05d.png")).unwrap();
        assert_eq!(pattern.path(42), Path::new("a/frame-00042.png"));
        assert_eq!(Pattern::parse(Path::new("%d.png")).unwrap().path(7), Path::new("7.png"));
    }

    #[test]
    fn a_name_without_a_valid_placeholder_is_an_error() {
        for name in ["frame.png", "%s.png", "%05d-%05d.png", "%999999d.png", "%-5d.png"] {
            assert!(Pattern::parse(Path::new(name)).is_err(), "{name}");
        }
    }
}
