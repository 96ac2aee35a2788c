//! References: pictures of subjects that a video shows.
//!
//! A picture with alpha is trimmed. A picture without alpha whose border has one colour loses that colour, from the border inwards;
//! any other picture is shown whole, as a rectangle.

mod ground;
mod svg;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;

use image::RgbaImage;

use crate::{Error, Result, picture};
pub(crate) use ground::premultiplied;

/// The largest file.
const MAX_BYTES: u64 = 64 << 20;
/// Prefix of the name of a drawing in the bank of a model.
const BANK: &str = "bank:";

/// A subject of a video: a picture, or a drawing that the model has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A drawing in the bank of the model, by name.
    Bank(String),
    /// A picture.
    Picture(ReferencePicture),
}

/// A picture of a subject. Clones share the pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferencePicture {
    name: Arc<str>,
    /// Premultiplied, without transparent margins.
    picture: Arc<RgbaImage>,
}

impl Reference {
    /// `bank:NAME`, or else the path of a PNG, WebP, JPEG, BMP or SVG file.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`], and [`Error::Invalid`] for a damaged or unsupported file, or one in which nothing is
    /// visible.
    pub fn open(text: &str) -> Result<Self> {
        match text.strip_prefix(BANK) {
            Some(name) => Ok(Self::Bank(name.trim().to_lowercase())),
            None => Ok(Self::Picture(ReferencePicture::read(Path::new(text))?)),
        }
    }

    /// As [`open`](Self::open), for a list that is separated by `;`.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_list(text: &str) -> Result<Vec<Self>> {
        Self::names(text).map(Self::open).collect()
    }

    /// The files in a list that is separated by `;`.
    pub fn files(text: &str) -> impl Iterator<Item = &str> {
        Self::names(text).filter(|name| !Self::is_of_bank(name))
    }

    fn names(text: &str) -> impl Iterator<Item = &str> {
        text.split(';').map(str::trim).filter(|name| !name.is_empty())
    }

    /// Whether `text` names a drawing in the bank of a model.
    pub fn is_of_bank(text: &str) -> bool {
        text.starts_with(BANK)
    }

    /// What identifies it for people: `bank:NAME`, or the name of the file.
    pub fn name(&self) -> String {
        match self {
            Self::Bank(name) => format!("{BANK}{name}"),
            Self::Picture(picture) => picture.name.to_string(),
        }
    }

    /// Digest of the name in the bank or of the pixels, 64 hexadecimal digits.
    pub fn digest(&self) -> String {
        match self {
            Self::Bank(name) => blake3::hash(format!("{BANK}{name}").as_bytes()).to_string(),
            Self::Picture(picture) => picture.digest(),
        }
    }
}

impl ReferencePicture {
    /// Reads the file `path`.
    ///
    /// # Errors
    /// As [`Reference::open`].
    pub fn read(path: &Path) -> Result<Self> {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
        read.map_err(|source| match source.kind() {
            ErrorKind::NotFound => Error::NotFound {
                path: path.into(),
                hint: "use the path of a picture, or bank:NAME for a drawing of the model".into(),
            },
            _ => Error::Io { path: path.into(), source },
        })?;
        let invalid = |reason: String| Error::Invalid { path: path.into(), reason };
        if bytes.len() as u64 > MAX_BYTES {
            return Err(invalid(format!(
                "the file is larger than {} MiB; scale the picture down",
                MAX_BYTES >> 20
            )));
        }
        let picture = match svg::is_svg(&bytes) {
            true => svg::render(&bytes).map_err(invalid)?,
            false => picture::decode(&bytes).map_err(invalid)?.into_rgba8(),
        };
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Self::new(&name, picture).ok_or_else(|| invalid("nothing is visible in the picture".into()))
    }

    /// A picture of a subject, called `name`; `None` if nothing in it is visible.
    pub fn new(name: &str, picture: RgbaImage) -> Option<Self> {
        let picture = ground::trimmed(&ground::without_ground(picture))?;
        Some(Self { name: name.into(), picture: Arc::new(premultiplied(picture)) })
    }

    /// Width and height without transparent margins.
    pub fn size(&self) -> (u32, u32) {
        self.picture.dimensions()
    }

    fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.picture.width().to_le_bytes()).update(self.picture.as_raw());
        hasher.finalize().to_string()
    }

    /// The picture in a square of `side` pixels, as a model sees it: `[side, side, 4]`, red, green and blue premultiplied, all in
    /// \[0, 1\]. It stands at the bottom, in the middle.
    pub fn in_square(&self, side: u32) -> Vec<f32> {
        ground::in_square(&self.picture, side)
    }
}
