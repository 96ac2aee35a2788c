//! Pictures of subjects that pages have uploaded. A page cannot name other files of this machine.

use std::path::{Path, PathBuf};

use soragen::{Reference, ReferencePicture};

use crate::error::Result;
use crate::temporary_folder;

/// The largest picture, in bytes.
pub const LARGEST: usize = 16 << 20;
/// Before the name of an uploaded picture, and of one that the command line has, for the page.
const PREFIX: &str = "upload:";
const OWN: &str = "file:";
const LONGEST_NAME: usize = 60;
/// Pictures in the folder.
const MOST: usize = 100;

/// The pictures that a page can name.
pub struct Uploads {
    /// It lives as long as the studio.
    folder: tempfile::TempDir,
    /// Files that the command line names.
    own: Vec<PathBuf>,
}

impl Uploads {
    /// `references` is the property `reference` of the command line.
    ///
    /// # Errors
    /// [`Error::File`](crate::error::Error::File) if the folder cannot be made.
    pub fn new(references: Option<&str>) -> Result<Self> {
        let own = Reference::split_list(references.unwrap_or_default());
        let own = own.filter(|name| !Reference::is_of_bank(name));
        Ok(Self { folder: temporary_folder()?, own: own.map(PathBuf::from).collect() })
    }

    /// Keeps a picture, in place of one with the same name. Returns what the page calls it, or why it is no picture.
    pub fn add(&self, name: &str, bytes: &[u8]) -> Result<String, String> {
        let name = safe(name);
        ReferencePicture::decode(&name, bytes)?;
        let count = self.folder.path().read_dir().map_or(0, Iterator::count);
        if count >= MOST && !self.folder.path().join(&name).exists() {
            return Err(format!("there are {MOST} pictures already; start the studio again"));
        }
        std::fs::write(self.folder.path().join(&name), bytes).map_err(|error| error.to_string())?;
        Ok(format!("{PREFIX}{name}"))
    }

    /// The property `reference` for what the page says, or why it cannot be that.
    pub fn property(&self, text: &str) -> Result<String, String> {
        let paths: Vec<_> =
            Reference::split_list(text).map(|part| self.path(part)).collect::<Result<_, _>>()?;
        Ok(paths.join(";"))
    }

    fn path(&self, part: &str) -> Result<String, String> {
        if Reference::is_of_bank(part) {
            return Ok(part.into());
        }
        if let Some(own) = self.own.iter().find(|own| named(own) == part) {
            return Ok(own.to_string_lossy().into_owned());
        }
        let name = part.strip_prefix(PREFIX).filter(|name| safe(name) == *name);
        let file = name.map(|name| self.folder.path().join(name)).filter(|file: &PathBuf| file.is_file());
        let file =
            file.ok_or("a reference from the page is a drawing, as in bank:fox, or an uploaded picture")?;
        Ok(file.to_string_lossy().into_owned())
    }

    /// What the page sees of the property `reference`.
    pub fn shown(&self, property: &str) -> String {
        let shown = |part: &str| match Path::new(part) {
            _ if Reference::is_of_bank(part) => part.to_string(),
            path => match path.strip_prefix(self.folder.path()) {
                Ok(name) => format!("{PREFIX}{}", name.display()),
                Err(_) => named(path),
            },
        };
        Reference::split_list(property).map(shown).collect::<Vec<_>>().join(";")
    }
}

/// What a page sees of a file that the command line names.
fn named(path: &Path) -> String {
    format!("{OWN}{}", path.file_name().unwrap_or_default().to_string_lossy())
}

/// `name` as the name of a file.
fn safe(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
    let name: String = name.chars().map(plain).take(LONGEST_NAME).collect();
    let name = name.trim_start_matches('.');
    if name.is_empty() { "picture".into() } else { name.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SVG: &[u8] =
        b"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 4 4'><circle cx='2' cy='2' r='1'/></svg>";

    #[test]
    fn a_page_names_drawings_and_its_own_pictures_only() {
        let uploads = Uploads::new(Some("/home/me/own.png; bank:owl")).unwrap();
        let name = uploads.add("../my logo.svg", SVG).unwrap();
        assert_eq!(name, "upload:-my-logo.svg");
        let property = uploads.property(&format!("bank:fox; {name};")).unwrap();
        assert!(property.starts_with("bank:fox;/"), "{property}");
        assert_eq!(uploads.shown(&property), format!("bank:fox;{name}"));
        assert_eq!(uploads.property(" ").unwrap(), "");
        assert_eq!(uploads.shown("/home/me/own.png; bank:owl"), "file:own.png;bank:owl");
        assert_eq!(uploads.property("file:own.png").unwrap(), "/home/me/own.png");
        for file in [
            "/etc/passwd",
            "fox.png",
            "upload:other.png",
            "upload:../passwd",
            "upload:",
            "bank:fox;/etc/passwd",
        ] {
            assert!(uploads.property(file).is_err(), "{file}");
        }
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        let uploads = Uploads::new(None).unwrap();
        assert!(uploads.add("a.png", b"text").is_err());
        assert!(uploads.property("upload:a.png").is_err());
    }
}
