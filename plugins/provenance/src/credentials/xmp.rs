// SPDX-License-Identifier: MPL-2.0

//! The same in few words for programs that read XMP: IPTC's digital source type and its properties for generated
//! media (<https://iptc.org/std/photometadata/specification>, 2025.1), and what China's GB 45438-2025 asks for.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use gst::glib::markup_escape_text;
use serde_json::json;

use super::{Origin, TRAINED, boxes};
use crate::{Error, Result};

/// The box for XMP in ISO base media files (XMP specification, part 3).
pub(super) const XMP_BOX: [u8; 16] =
    [0xbe, 0x7a, 0xcf, 0xcb, 0x97, 0xa9, 0x42, 0xe8, 0x9c, 0x71, 0x99, 0x94, 0x91, 0xe3, 0xaf, 0xac];

/// The packet that says of a video what made it at `time`.
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

/// Whether a document of XML 1.0 may have the character in it, written in whatever way.
fn is_xml(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// The label of GB 45438-2025 that is not seen: that it was generated (`Label` 1), by whom, and under which number, which is that of
/// the mark. Who spreads it fills in the rest.
fn implicit_label(origin: &Origin) -> String {
    let ids: Vec<_> = origin.marks.iter().map(ToString::to_string).collect();
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
    let boxes = boxes::top(file)?;
    let before: Vec<_> = boxes.iter().take_while(|(kind, _)| kind != b"mfra").collect();
    if !before.iter().any(|(kind, _)| kind == b"moov") {
        return Err(Error::NotMp4("there is no moov in it".into()));
    }
    Ok(before.last().map_or(0, |(_, place)| place.end))
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
    fn the_label_that_china_asks_for_is_in_it() {
        let label = |origin: &Origin| {
            let packet = packet(origin, "", false);
            let text = packet.split("<TC260:AIGC>").nth(1).and_then(|rest| rest.split('<').next()).unwrap();
            serde_json::from_str::<serde_json::Value>(&text.replace("&quot;", "\"")).unwrap()
        };
        let mut origin = Origin { marks: vec![GenerationId::new(0x12)], ..Origin::default() };
        assert_eq!(label(&origin)["ContentProducer"], "soragen");
        origin.provider = Some("a studio".into());
        let label = label(&origin);
        assert_eq!((&label["Label"], &label["ContentProducer"]), (&json!("1"), &json!("a studio")));
        assert_eq!(label["ProduceID"], "0000000012");
        assert_eq!(label.as_object().unwrap().len(), 7);
    }
}
