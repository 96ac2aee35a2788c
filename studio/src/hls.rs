//! HLS: the stream in pieces of a few seconds, in a folder that the server shows, for those without WebRTC.

use gst::prelude::*;

use crate::error::Result;
use crate::temporary_folder;

/// Name of the list of the pieces.
pub const PLAYLIST: &str = "stream.m3u8";
/// The branch, for the description of the pipeline. A full disk must not stop the tee.
pub const BRANCH: &str = "tee. ! errorignore ! queue leaky=downstream max-size-buffers=16 ! videoconvert ! \
    x264enc tune=zerolatency speed-preset=veryfast ! h264parse ! hlssink2 name=hls target-duration=2 playlist-length=5 max-files=8";

/// The folder of the pieces, which lives as long as the studio.
pub struct Hls {
    folder: tempfile::TempDir,
}

impl Hls {
    /// # Errors
    /// [`Error::File`](crate::error::Error::File) if the folder cannot be made.
    pub fn new(sink: &gst::Element) -> Result<Self> {
        let folder = temporary_folder()?;
        let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        sink.set_property("location", path("%05d.ts"));
        sink.set_property("playlist-location", path(PLAYLIST));
        Ok(Self { folder })
    }

    /// A file of the stream, and its type. With a `token` the pieces in the list have it.
    pub fn file(&self, name: &str, token: Option<&str>) -> Option<(&'static str, Vec<u8>)> {
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '.') || name.starts_with('.') {
            return None;
        }
        let bytes = std::fs::read(self.folder.path().join(name)).ok()?;
        if name != PLAYLIST {
            return Some(("video/mp2t", bytes));
        }
        let list = match token {
            Some(token) => with_token(&String::from_utf8_lossy(&bytes), token).into_bytes(),
            None => bytes,
        };
        Some(("application/vnd.apple.mpegurl", list))
    }
}

fn with_token(list: &str, token: &str) -> String {
    let line = |line: &str| match line.is_empty() || line.starts_with('#') {
        true => format!("{line}\n"),
        false => format!("{line}?token={token}\n"),
    };
    list.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_have_the_token() {
        let list = "#EXTM3U\n#EXTINF:2,\n00001.ts\n";
        assert_eq!(with_token(list, "abc"), "#EXTM3U\n#EXTINF:2,\n00001.ts?token=abc\n");
    }
}
