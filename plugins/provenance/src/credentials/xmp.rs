// SPDX-License-Identifier: MPL-2.0

//! The same in few words for programs that read XMP: IPTC's digital source type and its properties for generated
//! media (<https://iptc.org/std/photometadata/specification>, 2025.1).

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use gst::glib::markup_escape_text;

use super::{Origin, TRAINED};
use crate::{Error, Result};

/// The box for XMP in ISO base media files (XMP specification, part 3).
const XMP_BOX: [u8; 16] =
    [0xbe, 0x7a, 0xcf, 0xcb, 0x97, 0xa9, 0x42, 0xe8, 0x9c, 0x71, 0x99, 0x94, 0x91, 0xe3, 0xaf, 0xac];
/// Boxes at the top of a file; one of an hour in fragments of a tenth of a second has fewer.
const MAX_BOXES: usize = 100_000;

/// The packet that says of a video what made it at `time`.
pub fn packet(origin: &Origin, time: &str, with_prompts: bool) -> String {
    let (software, version) = origin.software();
    let escaped = |text: &str| markup_escape_text(text).to_string();
    let mut properties = vec![
        ("xmp:CreatorTool", format!("{software} {version}")),
        ("xmp:CreateDate", time.to_string()),
        ("Iptc4xmpExt:DigitalSourceType", TRAINED.to_string()),
        ("Iptc4xmpExt:AISystemUsed", format!("{software}, {}", origin.models.join(", "))),
        ("Iptc4xmpExt:AISystemVersionUsed", version.to_string()),
    ];
    if with_prompts && !origin.prompts.is_empty() {
        properties.push(("Iptc4xmpExt:AIPromptInformation", origin.prompts.join(" | ")));
    }
    let properties: String =
        properties.iter().map(|(name, value)| format!("\n   {name}=\"{}\"", escaped(value))).collect();
    format!(
        "<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\n\
         <x:xmpmeta xmlns:x=\"adobe:ns:meta/\">\n \
         <rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\n  \
         <rdf:Description rdf:about=\"\"\n   xmlns:xmp=\"http://ns.adobe.com/xap/1.0/\"\n   \
         xmlns:Iptc4xmpExt=\"http://iptc.org/std/Iptc4xmpExt/2008-02-29/\"{properties}/>\n \
         </rdf:RDF>\n</x:xmpmeta>\n<?xpacket end=\"r\"?>"
    )
}

/// Adds `packet` to an MP4: at its end, where nothing has to move for it, but for the index of fragments, which
/// is found from the end of the file and stays there.
///
/// # Errors
/// [`Error::NotMp4`].
pub fn embed(file: &mut File, packet: &str) -> Result<()> {
    let failed = |e: std::io::Error| Error::NotMp4(e.to_string());
    let place = end_of_media(file)?;
    let mut rest = Vec::new();
    file.seek(SeekFrom::Start(place)).map_err(failed)?;
    file.read_to_end(&mut rest).map_err(failed)?;
    file.seek(SeekFrom::Start(place)).map_err(failed)?;
    let length = u32::try_from(8 + XMP_BOX.len() + packet.len())
        .map_err(|_| Error::NotMp4("the prompts are too long for it".into()))?;
    let parts: [&[u8]; 5] = [&length.to_be_bytes(), b"uuid", &XMP_BOX, packet.as_bytes(), &rest];
    for part in parts {
        file.write_all(part).map_err(failed)?;
    }
    Ok(())
}

/// Where the boxes end, or the index of fragments begins.
fn end_of_media(file: &mut File) -> Result<u64> {
    let failed = |e: std::io::Error| Error::NotMp4(e.to_string());
    let not = |reason: &str| Err(Error::NotMp4(reason.into()));
    let length = file.metadata().map_err(failed)?.len();
    let (mut at, mut described) = (0, false);
    for _ in 0..MAX_BOXES {
        if at == length {
            return if described { Ok(at) } else { not("there is no moov in it") };
        }
        let mut head = [0; 16];
        let known = (length - at).min(16) as usize;
        file.seek(SeekFrom::Start(at)).map_err(failed)?;
        file.read_exact(&mut head[..known]).map_err(failed)?;
        let [a, b, c, d, kind @ .., _, _, _, _, _, _, _, _] = head;
        let size = match u32::from_be_bytes([a, b, c, d]) {
            1 => u64::from_be_bytes([
                head[8], head[9], head[10], head[11], head[12], head[13], head[14], head[15],
            ]),
            size => size.into(),
        };
        if at == 0 && &kind != b"ftyp" {
            return not("it does not begin with ftyp");
        }
        if &kind == b"mfra" {
            return Ok(at);
        }
        described |= &kind == b"moov";
        match at.checked_add(size).filter(|end| size >= 8 && *end <= length) {
            Some(end) => at = end,
            None => return not("a box of it is longer than it is"),
        }
    }
    not("it has too many boxes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_box(kind: &str, content: &[u8]) -> Vec<u8> {
        [&(8 + content.len() as u32).to_be_bytes(), kind.as_bytes(), content].concat()
    }

    fn embedded(bytes: &[u8]) -> Result<Vec<u8>> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        embed(&mut file, "packet")?;
        let mut out = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut out).unwrap();
        Ok(out)
    }

    #[test]
    fn it_comes_last_but_for_the_index_of_fragments() {
        let start = [a_box("ftyp", b"iso6"), a_box("moov", &[1; 9]), a_box("mdat", &[])].concat();
        let xmp = a_box("uuid", &[&XMP_BOX[..], b"packet"].concat());
        let mfra = a_box("mfra", &[2; 30]);
        assert_eq!(embedded(&start).unwrap(), [&start[..], &xmp].concat());
        assert_eq!(embedded(&[&start[..], &mfra].concat()).unwrap(), [&start[..], &xmp, &mfra].concat());
        // A size of 64 bits.
        let long = [&1u32.to_be_bytes()[..], b"mdat", &20u64.to_be_bytes(), b"abcd"].concat();
        let file = [&start[..], &long].concat();
        assert_eq!(embedded(&file).unwrap(), [&file[..], &xmp].concat());
    }

    #[test]
    fn what_is_no_mp4_is_told() {
        let ftyp = a_box("ftyp", b"iso6");
        let huge = [&1u32.to_be_bytes()[..], b"mdat", &u64::MAX.to_be_bytes()].concat();
        for (bytes, reason) in [
            (vec![], "moov"),
            (b"this is no video".to_vec(), "ftyp"),
            (ftyp.clone(), "moov"),
            ([&ftyp[..], &a_box("mdat", b"abc")[..7]].concat(), "longer"),
            ([&ftyp[..], &huge].concat(), "longer"),
            ([&ftyp[..], &[0; 8]].concat(), "longer"),
        ] {
            let error = embedded(&bytes).unwrap_err().to_string();
            assert!(error.contains(reason), "{reason} in {error}");
        }
    }

    #[test]
    fn a_packet_is_xml_whatever_the_prompt_is() {
        let origin = Origin {
            models: vec!["a \"model\"".into()],
            prompts: vec!["<b> & \"c\"".into()],
            ..Origin::default()
        };
        let with = packet(&origin, "2026-11-25T12:00:00Z", true);
        assert!(
            with.contains("&lt;b&gt; &amp; &quot;c&quot;") && with.contains("a &quot;model&quot;"),
            "{with}"
        );
        assert!(!packet(&origin, "", false).contains("&lt;b&gt;"));
    }
}
