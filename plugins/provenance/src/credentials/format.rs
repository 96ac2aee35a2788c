// SPDX-License-Identifier: MPL-2.0

//! The file types that can have a manifest, by content.

use std::io::{Read, Result, Seek};
use std::path::Path;

use c2pa::Reader;

/// File types whose content has no mark. They are known by their names.
const NAMED: [&str; 4] = ["svg", "mp3", "c2pa", "pdf"];

/// The MIME type of a file; `None` if the file cannot have a manifest. Leaves the position at the start.
pub fn of(stream: &mut (impl Read + Seek), path: &Path) -> Result<Option<String>> {
    stream.rewind()?;
    let mut head = Vec::new();
    stream.by_ref().take(16).read_to_end(&mut head)?;
    stream.rewind()?;
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    let by_name = || c2pa::format_from_path(path).filter(|_| NAMED.contains(&extension.as_str()));
    let format = by_content(&head).map(str::to_owned).or_else(by_name);
    Ok(format.filter(|format| Reader::supported_mime_types().contains(format)))
}

/// The MIME type of a file that starts with `head`.
fn by_content(head: &[u8]) -> Option<&'static str> {
    Some(match head {
        [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => match brand {
            [b'q', b't', b' ', b' ', ..] => "video/quicktime",
            [b'a', b'v', b'i', b'f', ..] => "image/avif",
            [b'h', b'e', b'i', b'c', ..] | [b'm', b'i', b'f', b'1', ..] => "image/heic",
            _ => "video/mp4",
        },
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => "image/png",
        [0xff, 0xd8, 0xff, ..] => "image/jpeg",
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => "image/gif",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "image/webp",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => "audio/wav",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'A', b'V', b'I', b' ', ..] => "video/avi",
        [b'I', b'I', b'*' | b'+', 0, ..] | [b'M', b'M', 0, b'*' | b'+', ..] => "image/tiff",
        [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => "image/jxl",
        [b'f', b'L', b'a', b'C', ..] => "audio/flac",
        [b'I', b'D', b'3', ..] => "audio/mpeg",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn the_content_decides_and_not_the_name() {
        let of = |head: &[u8], name: &str| of(&mut Cursor::new(head), Path::new(name)).unwrap();
        let mp4 = b"\0\0\0\x18ftypisom";
        for name in ["film.mp4", "film", "film.jpg", "film.MP4", "film.mkv"] {
            assert_eq!(of(mp4, name).as_deref(), Some("video/mp4"), "{name}");
        }
        assert_eq!(of(b"\x89PNG\r\n\x1a\n", "film.mp4").as_deref(), Some("image/png"));
        assert_eq!(of(b"RIFF\0\0\0\0AVI ", "film").as_deref(), Some("video/avi"));
        assert_eq!(of(b"<svg>", "film.SVG").as_deref(), Some("image/svg+xml"));
        for (head, name) in
            [(&b"no video"[..], "film.mp4"), (b"", "film.png"), (b"\x1aE\xdf\xa3", "film.mkv")]
        {
            assert_eq!(of(head, name), None, "{name}");
        }
    }
}
