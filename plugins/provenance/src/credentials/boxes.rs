// SPDX-License-Identifier: MPL-2.0

//! The boxes of an MP4 (ISO/IEC 14496-12).

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use crate::{Error, Result};

/// Boxes at the top of a file; one of an hour in fragments of a tenth of a second has fewer.
const MAX_BOXES: usize = 100_000;

/// What a box is, and what is in it.
pub type Found = ([u8; 4], Range<u64>);

/// The boxes at the top of a file that is whole.
///
/// # Errors
/// [`Error::NotMp4`].
pub fn top(file: &mut File) -> Result<Vec<Found>> {
    let failed = |e: std::io::Error| Error::NotMp4(e.to_string());
    let not = |reason: &str| Err(Error::NotMp4(reason.into()));
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
            return not("it does not begin with ftyp");
        }
        if boxes.len() == MAX_BOXES {
            return not("it has too many boxes");
        }
        match at.checked_add(size).filter(|end| size >= header && *end <= length) {
            Some(end) => {
                boxes.push((kind, at + header..end));
                at = end;
            }
            None => return not("a box of it is longer than it is"),
        }
    }
    Ok(boxes)
}
