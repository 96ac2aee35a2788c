//! Whether a picture file is complete. Decoders fill what is missing with grey and report nothing.

use image::ImageFormat;

/// Whether the file with these `bytes` of `format` ends where its format says. Formats that this does not know count as
/// complete: their decoders report a missing end.
pub fn is_complete(format: ImageFormat, bytes: &[u8]) -> bool {
    match format {
        ImageFormat::Jpeg => jpeg_has_end(bytes).unwrap_or(false),
        ImageFormat::Png => png_has_end(bytes).unwrap_or(false),
        // RIFF: the size of all that follows its first eight bytes.
        ImageFormat::WebP => u32_at(bytes, 4, u32::from_le_bytes).is_some_and(|size| has(bytes, 8, size)),
        _ => true,
    }
}

/// Finds the marker EOI (ITU-T T.81, annex B). `None` if the bytes end before it.
fn jpeg_has_end(bytes: &[u8]) -> Option<bool> {
    const EOI: u8 = 0xd9;
    const SOS: u8 = 0xda;
    // After SOI.
    let mut at = 2;
    loop {
        // Fill bytes may precede a marker.
        let marker = bytes.get(at..)?.iter().position(|byte| *byte != 0xff)?;
        let kind = bytes[at + marker];
        at += marker + 1;
        if kind == EOI {
            return Some(true);
        }
        let length = u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?);
        at += usize::from(length);
        if kind == SOS {
            // Compressed data: 0xff is followed by 0, or by a restart marker.
            let data = bytes.get(at..)?;
            at += data
                .windows(2)
                .position(|two| two[0] == 0xff && !matches!(two[1], 0 | 0xd0..=0xd7 | 0xff))?;
        }
    }
}

/// Finds the chunk IEND (<https://www.w3.org/TR/png/#11IEND>). `None` if the bytes end before it.
fn png_has_end(bytes: &[u8]) -> Option<bool> {
    // After the signature.
    let mut at = 8;
    loop {
        let length = u32_at(bytes, at, u32::from_be_bytes)?;
        if bytes.get(at + 4..at + 8)? == b"IEND" {
            return Some(true);
        }
        // Length, name and checksum.
        at = at.checked_add(12)?.checked_add(length as usize)?;
    }
}

fn u32_at(bytes: &[u8], at: usize, parse: fn([u8; 4]) -> u32) -> Option<u32> {
    Some(parse(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// Whether `size` bytes follow the first `start`.
fn has(bytes: &[u8], start: usize, size: u32) -> bool {
    bytes.len().saturating_sub(start) >= size as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_in_a_thumbnail_or_in_data_is_not_the_end() {
        let picture = [
            &[0xff, 0xd8][..],
            // APP1 with a thumbnail that has its own end.
            &[0xff, 0xe1, 0, 6, 0xff, 0xd8, 0xff, 0xd9],
            // Fill bytes, then SOS and data with a stuffed 0xff, a restart, and an end.
            &[0xff, 0xff, 0xda, 0, 3, 0, 1, 0xff, 0, 0xd9, 0xff, 0xd3, 7],
        ]
        .concat();
        assert!(!is_complete(ImageFormat::Jpeg, &picture));
        // A second scan, then the end, and what some programs append.
        let more = [0xff, 0xda, 0, 3, 0, 5, 0xff, 0xd9, 1, 2];
        assert!(is_complete(ImageFormat::Jpeg, &[&picture[..], &more].concat()));
        for end in 0..picture.len() {
            assert!(!is_complete(ImageFormat::Jpeg, &picture[..end]), "{end}");
        }
    }
}
