// SPDX-License-Identifier: MPL-2.0

//! MP4 boxes (ISO/IEC 14496-12).

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;

use crate::{Error, Result};

/// Limit of top-level boxes; an hour in fragments of 0.1 s stays below it.
const MAX_BOXES: usize = 100_000;

/// A top-level box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileBox {
    pub kind: [u8; 4],
    /// Offset of its header.
    pub start: u64,
    /// Byte range of its content.
    pub content: Range<u64>,
}

/// Lists the top-level boxes of a file. A box of size 0 reaches to the end of the file.
///
/// # Errors
/// [`Error::NotMp4`] if the file is truncated or not an MP4.
pub fn top_level(file: &mut File) -> Result<Vec<FileBox>> {
    let failed = |e: std::io::Error| Error::NotMp4(e.to_string());
    let invalid = |reason: &str| Err(Error::NotMp4(reason.into()));
    let length = file.metadata().map_err(failed)?.len();
    let (mut at, mut boxes) = (0, Vec::new());
    while at < length {
        let mut head = [0; 16];
        let known = (length - at).min(16) as usize;
        file.seek(SeekFrom::Start(at)).map_err(failed)?;
        file.read_exact(&mut head[..known]).map_err(failed)?;
        let [a, b, c, d, kind @ .., s, t, u, v, w, x, y, z] = head;
        let (size, header) = match u32::from_be_bytes([a, b, c, d]) {
            0 => (length - at, 8),
            1 => (u64::from_be_bytes([s, t, u, v, w, x, y, z]), 16),
            size => (size.into(), 8),
        };
        if at == 0 && &kind != b"ftyp" {
            return invalid("it does not start with ftyp");
        }
        if kind == [0; 4] {
            return invalid("a box has no type");
        }
        if boxes.len() == MAX_BOXES {
            return invalid("it has too many boxes");
        }
        match at.checked_add(size).filter(|end| size >= header && *end <= length) {
            Some(end) => {
                boxes.push(FileBox { kind, start: at, content: at + header..end });
                at = end;
            }
            None => return invalid("a box is longer than the file"),
        }
    }
    Ok(boxes)
}

/// Writes the size of the last box if it is 0, so that a box can follow it.
///
/// # Errors
/// [`Error::NotMp4`] as in [`top_level`], and if the box is longer than its header can say.
pub fn end_last(file: &mut File) -> Result<()> {
    let failed = |e: std::io::Error| Error::NotMp4(e.to_string());
    let Some(FileBox { start, content, .. }) = top_level(file)?.pop() else { return Ok(()) };
    let mut size = [0; 4];
    file.seek(SeekFrom::Start(start)).map_err(failed)?;
    file.read_exact(&mut size).map_err(failed)?;
    if size != [0; 4] {
        return Ok(());
    }
    let size = u32::try_from(content.end - start).map_err(|_| {
        Error::NotMp4(
            "its last box has no size and more than 4 GiB; write it again with another muxer".into(),
        )
    })?;
    file.seek(SeekFrom::Start(start)).map_err(failed)?;
    file.write_all(&size.to_be_bytes()).map_err(failed)
}
