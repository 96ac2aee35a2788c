// SPDX-License-Identifier: MPL-2.0

//! MP4 boxes (ISO/IEC 14496-12).

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use crate::{Error, Result};

/// Limit of top-level boxes; an hour in fragments of 0.1 s stays below it.
const MAX_BOXES: usize = 100_000;

/// Type of a box, and the byte range of its content.
pub type BoxRange = ([u8; 4], Range<u64>);

/// Lists the top-level boxes of a file.
///
/// # Errors
/// [`Error::NotMp4`] if the file is truncated or not an MP4.
pub fn top_level(file: &mut File) -> Result<Vec<BoxRange>> {
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
            1 => (u64::from_be_bytes([s, t, u, v, w, x, y, z]), 16),
            size => (size.into(), 8),
        };
        if at == 0 && &kind != b"ftyp" {
            return invalid("it does not start with ftyp");
        }
        if boxes.len() == MAX_BOXES {
            return invalid("it has too many boxes");
        }
        match at.checked_add(size).filter(|end| size >= header && *end <= length) {
            Some(end) => {
                boxes.push((kind, at + header..end));
                at = end;
            }
            None => return invalid("a box is longer than the file"),
        }
    }
    Ok(boxes)
}
