//! A numbered picture for each frame.

use std::path::{Path, PathBuf};

use image::RgbImage;
use soragen::Size;

use super::{About, PartialFile};
use crate::error::{Error, Result};

pub struct Writer {
    pattern: Pattern,
    size: Size,
    written: u64,
}

/// A path with the frame's number somewhere in its last part.
struct Pattern {
    folder: PathBuf,
    before: String,
    digits: usize,
    after: String,
}

impl Pattern {
    fn parse(path: &Path) -> Result<Self> {
        let wrong = || {
            let name = path.display();
            Error::Usage(format!("{name}: the name needs the frame's number in it, as in frame-%05d.png"))
        };
        let name = path.file_name().and_then(|n| n.to_str()).ok_or_else(wrong)?;
        let (before, rest) = name.split_once('%').ok_or_else(wrong)?;
        let (digits, after) = rest.split_once('d').ok_or_else(wrong)?;
        let digits = if digits.is_empty() { 1 } else { digits.parse().map_err(|_| wrong())? };
        if after.contains('%') || digits > 20 {
            return Err(wrong());
        }
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        Ok(Self { folder, before: before.into(), digits, after: after.into() })
    }

    fn path(&self, number: u64) -> PathBuf {
        let Self { folder, before, digits, after } = self;
        folder.join(format!("{before}{number:0digits$}{after}"))
    }
}

/// Refuses a name without a place for the frame's number.
pub fn check(path: &Path) -> Result<()> {
    Pattern::parse(path).map(drop)
}

impl Writer {
    pub fn new(path: &Path, about: &About) -> Result<Self> {
        Ok(Self { pattern: Pattern::parse(path)?, size: about.size, written: 0 })
    }
}

impl super::Writer for Writer {
    fn write(&mut self, frame: &[f32]) -> Result<()> {
        let path = self.pattern.path(self.written);
        let bytes = frame.iter().map(|&sample| soragen::to_u8(sample)).collect();
        let image = RgbImage::from_raw(self.size.width, self.size.height, bytes)
            .ok_or_else(|| Error::file(&path, "the frame has another size than asked for"))?;
        let file = PartialFile::new(&path);
        image.save_with_format(file.partial(), image::ImageFormat::Png).map_err(|e| Error::file(&path, e))?;
        file.keep()?;
        self.written += 1;
        Ok(())
    }

    // Every picture is whole, so that those that were made stay whatever comes: there may have been others in their place.
    fn finish(self: Box<Self>) -> Result<bool> {
        Ok(self.written > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_goes_where_the_pattern_says() {
        let pattern = Pattern::parse(Path::new("a/frame-%05d.png")).unwrap();
        assert_eq!(pattern.path(42), Path::new("a/frame-00042.png"));
        assert_eq!(Pattern::parse(Path::new("%d.png")).unwrap().path(7), Path::new("7.png"));
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["frame.png", "%s.png", "%05d-%05d.png", "%999999d.png", "%-5d.png"] {
            assert!(Pattern::parse(Path::new(name)).is_err(), "{name}");
        }
    }
}
