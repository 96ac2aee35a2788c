// SPDX-License-Identifier: MPL-2.0

//! XMP metadata: the IPTC digital source type and properties of generated media
//! (<https://iptc.org/std/photometadata/specification>, 2025.1), and the implicit label of China's GB 45438-2025.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use gst::glib::markup_escape_text;
use serde_json::json;

use super::{Origin, TRAINED, boxes};
use crate::{Error, Result};

/// UUID of the XMP box in ISO base media files (XMP specification, part 3).
pub(super) const XMP_BOX: [u8; 16] =
    [0xbe, 0x7a, 0xcf, 0xcb, 0x97, 0xa9, 0x42, 0xe8, 0x9c, 0x71, 0x99, 0x94, 0x91, 0xe3, 0xaf, 0xac];

/// The XMP packet of a video that was created at `time` (RFC 3339).
pub fn packet(origin: &Origin, time: &str, with_prompts: bool) -> String {
    let (software, version) = origin.software();
    let escaped = |text: &str| markup_escape_text(&text.replace(|c| !is_xml(c), "")).to_string();
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
    let aigc = escaped(&implicit_label(origin));
    format!(
        "<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\n\
         <x:xmpmeta xmlns:x=\"adobe:ns:meta/\">\n \
         <rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\n  \
         <rdf:Description rdf:about=\"\"\n   xmlns:xmp=\"http://ns.adobe.com/xap/1.0/\"\n   \
         xmlns:Iptc4xmpExt=\"http://iptc.org/std/Iptc4xmpExt/2008-02-29/\"\n   \
         xmlns:TC260=\"http://www.tc260.org.cn/ns/AIGC/1.0/\"{properties}>\n   \
         <TC260:AIGC>{aigc}</TC260:AIGC>\n  \
         </rdf:Description>\n \
         </rdf:RDF>\n</x:xmpmeta>\n<?xpacket end=\"r\"?>"
    )
}

/// Whether XML 1.0 allows the character, even escaped.
fn is_xml(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// The implicit label of GB 45438-2025: generated (`Label` 1), the producer, and the watermark id as the number of the
/// content. Distributors fill in the other fields.
fn implicit_label(origin: &Origin) -> String {
    let ids: Vec<_> = origin.generation_ids.iter().map(ToString::to_string).collect();
    json!({
        "Label": "1",
        "ContentProducer": origin.provider.as_deref().unwrap_or(origin.software().0),
        "ProduceID": ids.join(","),
        "ReservedCode1": "",
        "ContentPropagator": "",
        "PropagateID": "",
        "ReservedCode2": "",
    })
    .to_string()
}

/// Adds `packet` at the end of an MP4, where no offset changes. A fragment index (`mfra`) stays last, because readers
/// locate it from the end of the file.
///
/// # Errors
/// [`Error::NotMp4`] if the file is truncated or not an MP4.
pub fn embed(file: &mut File, packet: &str) -> Result<()> {
    let failed = |e: std::io::Error| Error::NotMp4(e.to_string());
    let place = end_of_media(file)?;
    let mut rest = Vec::new();
    file.seek(SeekFrom::Start(place)).map_err(failed)?;
    file.read_to_end(&mut rest).map_err(failed)?;
    file.seek(SeekFrom::Start(place)).map_err(failed)?;
    let length = u32::try_from(8 + XMP_BOX.len() + packet.len())
        .map_err(|_| Error::NotMp4("the XMP packet is too long; the prompts are too long".into()))?;
    let parts: [&[u8]; 5] = [&length.to_be_bytes(), b"uuid", &XMP_BOX, packet.as_bytes(), &rest];
    for part in parts {
        file.write_all(part).map_err(failed)?;
    }
    Ok(())
}

/// The offset at which the fragment index begins, or the end of the file.
fn end_of_media(file: &mut File) -> Result<u64> {
    let boxes = boxes::top_level(file)?;
    let before: Vec<_> = boxes.iter().take_while(|(kind, _)| kind != b"mfra").collect();
    if !before.iter().any(|(kind, _)| kind == b"moov") {
        return Err(Error::NotMp4("it has no moov box".into()));
    }
    Ok(before.last().map_or(0, |(_, range)| range.end))
}

#[cfg(test)]
mod tests {
    use soragen::watermark::GenerationId;

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
    fn the_packet_is_last_except_for_the_fragment_index() {
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
    fn an_invalid_mp4_is_an_error() {
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
    fn a_packet_is_valid_xml_for_any_prompt() {
        let origin = Origin {
            models: vec!["a \"model\"".into()],
            prompts: vec!["<b> &\u{1} \"c\"\u{ffff}".into()],
            ..Origin::default()
        };
        let with = packet(&origin, "2026-11-25T12:00:00Z", true);
        assert!(
            with.contains("&lt;b&gt; &amp; &quot;c&quot;") && with.contains("a &quot;model&quot;"),
            "{with}"
        );
        assert!(!packet(&origin, "", false).contains("&lt;b&gt;"));
    }

    #[test]
    fn the_packet_has_the_label_of_gb_45438() {
        let label = |origin: &Origin| {
            let packet = packet(origin, "", false);
            let text = packet.split("<TC260:AIGC>").nth(1).and_then(|rest| rest.split('<').next()).unwrap();
            serde_json::from_str::<serde_json::Value>(&text.replace("&quot;", "\"")).unwrap()
        };
        let mut origin = Origin { generation_ids: vec![GenerationId::new(0x12)], ..Origin::default() };
        assert_eq!(label(&origin)["ContentProducer"], "soragen");
        origin.provider = Some("a studio".into());
        let label = label(&origin);
        assert_eq!((&label["Label"], &label["ContentProducer"]), (&json!("1"), &json!("a studio")));
        assert_eq!(label["ProduceID"], "0000000012");
        assert_eq!(label.as_object().unwrap().len(), 7);
    }
}
