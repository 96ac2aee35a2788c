// SPDX-License-Identifier: MPL-2.0

//! What a live source shows while there is no video.

use std::path::Path;
use std::sync::Arc;

use soragen::{Error, RgbImage, Setting, Size, stretch_frame};

/// The picture of the property `slate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slate {
    Black,
    Picture(Arc<RgbImage>),
}

impl Slate {
    /// Reads the value of the property: `none`, `black` or `file:PATH`.
    ///
    /// # Errors
    /// [`Error::Request`] for another value, and those of [`soragen::read_image`].
    pub fn open(text: &str) -> soragen::Result<Option<Self>> {
        match text {
            "" | "none" => Ok(None),
            "black" => Ok(Some(Self::Black)),
            text => match text.strip_prefix("file:") {
                Some(path) => Ok(Some(Self::Picture(Arc::new(soragen::read_image(Path::new(path))?)))),
                None => Err(Error::Request(
                    Setting::Slate,
                    format!("{text:?} is no slate; use none, black or file:PATH with the path of a picture"),
                )),
            },
        }
    }

    /// The picture at `size`, 8-bit RGB `[H, W, 3]`: whole, in the middle of a black frame.
    pub fn frame(&self, size: Size) -> Arc<[u8]> {
        let mut frame = vec![0; size.samples()];
        if let Self::Picture(picture) = self {
            let inner = inside(Size { width: picture.width(), height: picture.height() }, size);
            // A picture without pixels has nothing to show.
            let scaled = stretch_frame(picture, inner).unwrap_or_default();
            let (left, top) = ((size.width - inner.width) / 2, (size.height - inner.height) / 2);
            let (row, whole) = (3 * inner.width as usize, 3 * size.width as usize);
            let rows = frame.chunks_exact_mut(whole).skip(top as usize);
            for (to, from) in rows.zip(scaled.chunks_exact(row)) {
                to[3 * left as usize..][..row].copy_from_slice(from);
            }
        }
        frame.into()
    }
}

/// The largest size with the proportions of `picture` inside `frame`.
fn inside(picture: Size, frame: Size) -> Size {
    let [width, height] = [picture.width, picture.height].map(|side| f64::from(side.max(1)));
    let scale = (f64::from(frame.width) / width).min(f64::from(frame.height) / height);
    let fit = |side: f64, most: u32| ((side * scale).round() as u32).clamp(1, most.max(1));
    Size { width: fit(width, frame.width), height: fit(height, frame.height) }
}

#[cfg(test)]
mod tests {
    use soragen::DynamicImage;

    use super::*;

    #[test]
    fn a_picture_is_shown_whole() {
        let white = DynamicImage::from(RgbImage::from_pixel(8, 4, [255; 3].into())).into_rgb8();
        let slate = Slate::Picture(Arc::new(white));
        let columns = |size: Size| -> Vec<bool> {
            let frame = slate.frame(size);
            let middle = (size.height / 2 * size.width) as usize;
            (0..size.width as usize).map(|x| frame[3 * (middle + x)] > 0).collect()
        };
        assert!(columns(Size { width: 16, height: 16 }).iter().all(|&white| white));
        let wide = columns(Size { width: 16, height: 4 });
        assert!((0..16).all(|x| wide[x] == (4..12).contains(&x)), "{wide:?}");
        let frame = slate.frame(Size { width: 16, height: 16 });
        assert_eq!((frame[0], frame[3 * 16 * 8], frame.len()), (0, 255, 16 * 16 * 3));
    }

    #[test]
    fn a_slate_is_none_black_or_a_file() {
        assert_eq!(Slate::open("none").unwrap(), None);
        assert_eq!(Slate::open("black").unwrap(), Some(Slate::Black));
        assert!(Slate::Black.frame(Size { width: 2, height: 2 }).iter().all(|&sample| sample == 0));
        assert!(matches!(Slate::open("white"), Err(Error::Request(Setting::Slate, _))));
        assert!(matches!(Slate::open("file:no/such.png"), Err(Error::NotFound { .. })));
    }
}
