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

use crate::{Error, Result, Size, picture};
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
    /// The file that it was read from.
    file: Option<Arc<Path>>,
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
        Self::split_list(text).map(Self::open).collect()
    }

    /// The names in a list that is separated by `;`.
    pub fn split_list(text: &str) -> impl Iterator<Item = &str> {
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

    /// The file that it was read from, if it was.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Bank(_) => None,
            Self::Picture(picture) => picture.file.as_deref(),
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
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let picture =
            Self::decode(&name, &bytes).map_err(|reason| Error::Invalid { path: path.into(), reason })?;
        Ok(Self { file: Some(path.into()), ..picture })
    }

    /// The picture in the bytes of a file, called `name`; a reason if they are damaged, unsupported or too many, or if nothing in the
    /// picture is visible.
    pub fn decode(name: &str, bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() as u64 > MAX_BYTES {
            return Err(format!("the file is larger than {} MiB; scale the picture down", MAX_BYTES >> 20));
        }
        let picture = match svg::is_svg(bytes) {
            true => svg::render(bytes)?,
            false => picture::decode(bytes)?.into_rgba8(),
        };
        Self::new(name, picture).ok_or_else(|| "nothing is visible in the picture".into())
    }

    /// A picture of a subject, called `name`; `None` if nothing in it is visible.
    pub fn new(name: &str, picture: RgbaImage) -> Option<Self> {
        let picture = premultiplied(picture);
        let subject = ground::without_ground(picture.clone());
        // A picture of one colour has no ground.
        let picture = ground::trimmed(&subject).or_else(|| ground::trimmed(&picture))?;
        Some(Self { name: name.into(), file: None, picture: Arc::new(picture) })
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

    /// The picture in the middle of white, as VACE models see it: `[3, H, W]` in \[−1, 1\]. `step` is the number of pixels of a latent.
    pub(crate) fn on_white(&self, size: Size, step: u32) -> Vec<f32> {
        picture::on_white(&self.picture, size, step)
    }

    /// The picture in a square of `side` pixels, as a model sees it: `[side, side, 4]`, red, green and blue premultiplied, all in
    /// \[0, 1\]. It stands at the bottom, in the middle.
    pub fn in_square(&self, side: u32) -> Vec<f32> {
        ground::in_square(&self.picture, side)
    }
}

#[cfg(test)]
mod tests {
    use image::{Rgba, RgbaImage};

    use super::*;

    #[test]
    fn files_of_all_formats_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let picture = RgbaImage::from_fn(40, 30, |x, _| Rgba([200, 30, 20, if x < 10 { 0 } else { 255 }]));
        for name in ["a.png", "a.webp"] {
            picture.save(path(name)).unwrap();
            assert_eq!(ReferencePicture::read(&path(name)).unwrap().size(), (30, 30), "{name}");
        }
        image::DynamicImage::from(picture).into_rgb8().save(path("a.jpg")).unwrap();
        assert_eq!(ReferencePicture::read(&path("a.jpg")).unwrap().size(), (40, 30), "one colour");
        let svg = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 4 2'><rect width='2' height='2' fill='red'/></svg>";
        std::fs::write(path("a.svg"), svg).unwrap();
        let drawing = Reference::open(path("a.svg").to_str().unwrap()).unwrap();
        assert_eq!((drawing.name().as_str(), drawing.file()), ("a.svg", Some(&*path("a.svg"))));
        let Reference::Picture(drawing) = drawing else { panic!("a picture") };
        assert_eq!(drawing.size(), (256, 256));
    }

    #[test]
    fn an_unusable_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("text.png"), "not a picture").unwrap();
        RgbaImage::new(9, 9).save(path("nothing.png")).unwrap();
        let error = |name: &str| Reference::open(path(name).to_str().unwrap()).unwrap_err();
        assert!(matches!(error("missing.png"), Error::NotFound { .. }));
        for (name, reason) in [("text.png", "not a picture"), ("nothing.png", "nothing is visible")] {
            let error = error(name);
            assert!(matches!(error, Error::Invalid { .. }) && error.to_string().contains(reason), "{error}");
        }
    }

    #[test]
    fn names_and_digests_identify_a_reference() {
        let list = Reference::open_list(" bank:Steam-Train ; bank:owl;; ").unwrap();
        assert_eq!(list.iter().map(Reference::name).collect::<Vec<_>>(), ["bank:steam-train", "bank:owl"]);
        let square = |colour: u8| {
            ReferencePicture::new("a.png", RgbaImage::from_pixel(9, 9, Rgba([colour, 0, 0, 255])))
        };
        let digest = |colour| Reference::Picture(square(colour).unwrap()).digest();
        assert_eq!(digest(9), digest(9));
        assert_ne!(digest(9), digest(10));
        assert_ne!(list[0].digest(), list[1].digest());
    }
}
