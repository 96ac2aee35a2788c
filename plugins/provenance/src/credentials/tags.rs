// SPDX-License-Identifier: MPL-2.0

//! Removes prompts from the tags of an MP4. `soragen` sends the prompt as title and the whole request as comment;
//! muxers write these as tags, and some also as XMP.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use gst::glib::markup_escape_text;
use serde_json::Value;

use super::{boxes, xmp};
use crate::{Error, Result};

/// Limit of the size of `moov` and `uuid` boxes; the `moov` of a 24-hour video is smaller.
const MAX_BYTES: u64 = 1 << 28;
/// Identifies the comment that `soragen` sends.
const REQUEST: &[u8] = b"\"negative_prompt\":";

/// Removes prompts from the tags of an MP4. Tags that hold a prompt or the request are overwritten by `free` boxes, so
/// that no offset in the file changes. This includes prompts of the request that were never shown. Other tags stay.
///
/// # Errors
/// [`Error::NotMp4`] if the file is truncated or not an MP4.
pub fn remove_prompts(file: &mut File, prompts: &[String]) -> Result<()> {
    let failed = |e: std::io::Error| Error::NotMp4(e.to_string());
    let mut parts = Vec::new();
    for boxes::FileBox { kind, content: range, .. } in boxes::top_level(file)? {
        if !matches!(&kind, b"moov" | b"uuid") {
            continue;
        }
        if range.end - range.start > MAX_BYTES {
            return Err(Error::NotMp4(format!("its {} box is too long", kind.escape_ascii())));
        }
        let mut content = vec![0; (range.end - range.start) as usize];
        file.seek(SeekFrom::Start(range.start)).map_err(failed)?;
        file.read_exact(&mut content).map_err(failed)?;
        parts.push((kind, range.start, content));
    }
    let mut prompts = prompts.to_vec();
    prompts.extend(parts.iter().flat_map(|(.., content)| requested_prompts(content)));
    for (kind, start, mut content) in parts {
        let changed = match &kind {
            b"moov" => clear_tags(&mut content, false, &prompts),
            _ if content.starts_with(&xmp::XMP_BOX) && is_private_xmp(&content, &prompts) => {
                // A `uuid` box with an unknown UUID is ignored by readers.
                content.fill(0);
                true
            }
            _ => false,
        };
        if changed {
            file.seek(SeekFrom::Start(start)).map_err(failed)?;
            file.write_all(&content).map_err(failed)?;
        }
    }
    Ok(())
}

/// Prompts and negative prompts of the requests in `content`.
fn requested_prompts(content: &[u8]) -> Vec<String> {
    let places = content.windows(REQUEST.len()).enumerate().filter(|(_, part)| *part == REQUEST);
    let requests = places.filter_map(|(at, _)| {
        let start = content[..at].iter().rposition(|byte| *byte == b'{')?;
        serde_json::Deserializer::from_slice(&content[start..]).into_iter::<Value>().next()?.ok()
    });
    let texts = requests.flat_map(|request| {
        ["prompt", "negative_prompt"].map(|name| request[name].as_str().unwrap_or_default().to_owned())
    });
    texts.filter(|text| !text.is_empty()).collect()
}

/// Overwrites tags with prompts in the boxes of `content`. `tags` means that these boxes are themselves tags. Returns
/// whether something changed.
fn clear_tags(content: &mut [u8], tags: bool, prompts: &[String]) -> bool {
    let (mut at, mut changed) = (0, false);
    while let Some([a, b, c, d, kind @ ..]) = content.get(at..at + 8).and_then(|head| head.first_chunk::<8>())
    {
        let (size, kind) = (u32::from_be_bytes([*a, *b, *c, *d]) as usize, *kind);
        let Some(end) = at.checked_add(size).filter(|end| size >= 8 && *end <= content.len()) else { break };
        let inner = &mut content[at + 8..end];
        changed |= match &kind {
            b"trak" => clear_tags(inner, false, prompts),
            b"udta" | b"ilst" => clear_tags(inner, true, prompts),
            // In MP4 `meta` starts with version and flags, in QuickTime it does not.
            b"meta" if inner.starts_with(&[0; 4]) => clear_tags(&mut inner[4..], false, prompts),
            b"meta" => clear_tags(inner, false, prompts),
            _ if tags && is_private(&kind, inner, prompts) => {
                inner.fill(0);
                content[at + 4..at + 8].copy_from_slice(b"free");
                true
            }
            _ => false,
        };
        at = end;
    }
    changed
}

/// Whether an XMP packet has a prompt or the request, plain or escaped.
fn is_private_xmp(packet: &[u8], prompts: &[String]) -> bool {
    let packet = String::from_utf8_lossy(packet);
    let has = |text: &str| packet.contains(text) || packet.contains(markup_escape_text(text).as_str());
    prompts.iter().any(|prompt| !prompt.is_empty() && has(prompt)) || has(&String::from_utf8_lossy(REQUEST))
}

/// Whether a tag has a prompt or the request.
fn is_private(kind: &[u8; 4], text: &[u8], prompts: &[String]) -> bool {
    if kind == b"XMP_" {
        return is_private_xmp(text, prompts);
    }
    prompts.iter().any(|prompt| !prompt.is_empty() && text.ends_with(prompt.as_bytes()))
        || text.windows(REQUEST.len()).any(|part| part == REQUEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_box(kind: &[u8; 4], content: &[&[u8]]) -> Vec<u8> {
        let content = content.concat();
        [&(8 + content.len() as u32).to_be_bytes(), &kind[..], &content].concat()
    }

    /// An MP4 with these tags.
    fn tagged(tags: &[(&[u8; 4], &str)]) -> Vec<u8> {
        let data = |text: &str| a_box(b"data", &[&[0, 0, 0, 1, 0, 0, 0, 0], text.as_bytes()]);
        let tags: Vec<_> = tags.iter().map(|(kind, text)| a_box(kind, &[&data(text)])).collect();
        let meta =
            a_box(b"meta", &[&[0; 4], &a_box(b"hdlr", &[&[0; 4]]), &a_box(b"ilst", &[&tags.concat()])]);
        let moov = a_box(b"moov", &[&a_box(b"mvhd", &[b"a red fox"]), &a_box(b"udta", &[&meta])]);
        [a_box(b"ftyp", &[b"iso6"]), moov, a_box(b"mdat", &[b"a red fox"])].concat()
    }

    fn cleared(bytes: &[u8]) -> Vec<u8> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        remove_prompts(&mut file, &["a red fox".into()]).unwrap();
        let mut out = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn prompts_are_removed_and_other_tags_stay() {
        let others = [(b"\xa9too", "soragen"), (b"\xa9nam", "The Fox")];
        assert_eq!(cleared(&tagged(&others)), tagged(&others));
        let request = r#"{"negative_prompt":"rain","prompt":"a red fox"}"#;
        let all = tagged(&[others[0], (b"\xa9nam", "a red fox"), others[1], (b"\xa9cmt", request)]);
        let out = cleared(&all);
        assert_eq!(out.len(), all.len());
        let text = String::from_utf8_lossy(&out);
        assert!(text.contains("soragen") && text.contains("The Fox") && !text.contains("rain"), "{text}");
        // The remaining matches are not tags.
        assert_eq!(text.matches("a red fox").count(), 2, "{text}");
        assert_eq!(text.matches("free").count(), 2, "{text}");
    }

    #[test]
    fn prompts_that_were_not_shown_and_prompts_in_xmp_are_removed() {
        let request = r#"{"negative_prompt":"a grey sky","prompt":"a \"blue\" cat","seed":1}"#;
        let shown = tagged(&[(b"\xa9nam", "a \"blue\" cat"), (b"\xa9cmt", request)]);
        let packet =
            |text: &str| a_box(b"uuid", &[&xmp::XMP_BOX, b"<dc:title>", text.as_bytes(), b"</dc:title>"]);
        let all = [&shown[..], &packet("a &quot;blue&quot; cat"), &packet("The Fox")].concat();
        let out = cleared(&all);
        assert_eq!(out.len(), all.len());
        let text = String::from_utf8_lossy(&out);
        assert!(!text.contains("blue") && !text.contains("grey") && text.contains("The Fox"), "{text}");
        let packet = |text: &str| a_box(b"moov", &[&a_box(b"udta", &[&a_box(b"XMP_", &[text.as_bytes()])])]);
        let film = |text: &str| [&a_box(b"ftyp", &[b"qt  "])[..], &packet(text)].concat();
        assert!(!String::from_utf8_lossy(&cleared(&film("<x>a red fox</x>"))).contains("fox"));
        assert_eq!(cleared(&film("<x>a red hen</x>")), film("<x>a red hen</x>"));
    }

    #[test]
    fn invalid_boxes_are_not_changed() {
        for content in [&b"abc"[..], &[0; 20], &[0xff; 20], b"\0\0\0\x0cudta\0\0\0\x09"] {
            assert!(!clear_tags(&mut content.to_vec(), true, &["a".into()]));
        }
    }
}
