// SPDX-License-Identifier: MPL-2.0

//! XMP metadata: the IPTC digital source type and properties of generated media
//! (<https://iptc.org/std/photometadata/specification>, 2025.1), and the implicit label of China's GB 45438-2025.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use gst::glib::markup_escape_text;
use serde_json::json;

use super::boxes::FileBox;
use super::{Origin, boxes};
use crate::{Error, Result};

/// UUID of the XMP box in ISO base media files (XMP specification, part 3).
pub(super) const XMP_BOX: [u8; 16] =
    [0xbe, 0x7a, 0xcf, 0xcb, 0x97, 0xa9, 0x42, 0xe8, 0x9c, 0x71, 0x99, 0x94, 0x91, 0xe3, 0xaf, 0xac];

/// Limit of the size of a packet.
const MAX_PACKET: u64 = 1 << 28;
/// Start and end of the properties that [`packet`] writes.
const OWN_START: &str = "<rdf:Description rdf:about=\"\"\n   xmlns:xmp=\"http://ns.adobe.com/xap/1.0/\"\n   \
                         xmlns:Iptc4xmpExt=\"http://iptc.org/std/Iptc4xmpExt/2008-02-29/\"\n   \
                         xmlns:TC260=\"http://www.tc260.org.cn/ns/AIGC/1.0/\"";
const OWN_END: &str = "</rdf:Description>";
/// End of all properties in a packet.
const RDF_END: &str = "</rdf:RDF>";

/// The XMP packet of a video that was created at `time` (RFC 3339). It continues an `earlier` packet of another program.
pub fn packet(origin: &Origin, time: &str, with_prompts: bool, earlier: Option<&str>) -> String {
    let (software, version) = origin.software();
    let escaped = |text: &str| markup_escape_text(&text.replace(|c| !is_xml(c), "")).to_string();
    let mut properties = vec![
        ("xmp:CreatorTool", format!("{software} {version}")),
        ("xmp:CreateDate", time.to_string()),
        ("Iptc4xmpExt:DigitalSourceType", origin.source_type().to_string()),
        ("Iptc4xmpExt:AISystemUsed", format!("{software}, {}", origin.models.join(", "))),
        ("Iptc4xmpExt:AISystemVersionUsed", version.to_string()),
    ];
    if with_prompts && !origin.prompts.is_empty() {
        properties.push(("Iptc4xmpExt:AIPromptInformation", origin.prompts.join(" | ")));
    }
    // A property must not occur twice. The program that made the file stays; how the video was made is said by this signature.
    let declarations = properties.iter().map(|(name, _)| *name).chain(["TC260:AIGC"]);
    let earlier = earlier.map(|text| {
        declarations
            .filter(|name| !name.starts_with("xmp:"))
            .fold(text.to_owned(), |text, name| without(&text, name))
    });
    let earlier = earlier.as_deref();
    let is_set = |name: &str| {
        earlier.is_some_and(|text| text.contains(&format!("{name}=")) || text.contains(&format!("<{name}>")))
    };
    let properties: String = properties
        .iter()
        .filter(|(name, _)| !is_set(name))
        .map(|(name, value)| format!("\n   {name}=\"{}\"", escaped(value)))
        .collect();
    let aigc = escaped(&implicit_label(origin));
    let description = format!("{OWN_START}{properties}>\n   <TC260:AIGC>{aigc}</TC260:AIGC>\n  {OWN_END}");
    match earlier.and_then(|text| text.rfind(RDF_END).map(|at| text.split_at(at))) {
        Some((start, end)) => format!("{start}{description}{end}"),
        None => format!(
            "<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\n\
             <x:xmpmeta xmlns:x=\"adobe:ns:meta/\">\n \
             <rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\n  \
             {description}\n {RDF_END}\n</x:xmpmeta>\n<?xpacket end=\"r\"?>"
        ),
    }
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

/// Removes the XMP packets of an MP4 and returns the one of another program, if there is one, without properties that an
/// earlier signature wrote. Boxes become `free` boxes, so that no offset in the file changes.
///
/// # Errors
/// [`Error::NotMp4`] if the file is truncated or not an MP4.
pub fn take(file: &mut File) -> Result<Option<String>> {
    let failed = |e: std::io::Error| Error::NotMp4(e.to_string());
    let mut kept = None;
    for FileBox { kind, start, content } in boxes::top_level(file)? {
        let length = content.end - content.start;
        if &kind != b"uuid" || !(XMP_BOX.len() as u64..MAX_PACKET).contains(&length) {
            continue;
        }
        let mut bytes = vec![0; length as usize];
        file.seek(SeekFrom::Start(content.start)).map_err(failed)?;
        file.read_exact(&mut bytes).map_err(failed)?;
        let Some(text) = bytes.strip_prefix(&XMP_BOX) else { continue };
        let text = without_own(&String::from_utf8_lossy(text));
        if kept.is_none() && text.contains("<rdf:Description") && text.contains(RDF_END) {
            kept = Some(text);
        }
        bytes.fill(0);
        file.seek(SeekFrom::Start(content.start)).map_err(failed)?;
        file.write_all(&bytes).map_err(failed)?;
        file.seek(SeekFrom::Start(start + 4)).map_err(failed)?;
        file.write_all(b"free").map_err(failed)?;
    }
    Ok(kept)
}

/// `text` without the properties that [`packet`] writes.
fn without_own(text: &str) -> String {
    let (mut rest, mut kept) = (text, String::new());
    while let Some((before, own)) = rest.split_once(OWN_START) {
        kept.push_str(before);
        rest = own.split_once(OWN_END).map_or("", |(_, after)| after);
    }
    kept + rest
}

/// `text` without the property `name`, as an attribute or as an element.
fn without(text: &str, name: &str) -> String {
    let mut text = text.to_owned();
    for (start, end) in [
        (format!(" {name}=\""), "\"".to_owned()),
        (format!("\n{name}=\""), "\"".to_owned()),
        (format!("<{name}>"), format!("</{name}>")),
    ] {
        while let Some(at) = text.find(&start) {
            let content = at + start.len();
            let Some(length) = text[content..].find(&end) else { break };
            text.replace_range(at..content + length + end.len(), "");
        }
    }
    text
}

/// Adds `packet` at the end of an MP4, where no offset changes. A fragment index (`mfra`) stays last, because readers
/// locate it from the end of the file.
///
/// # Errors
/// [`Error::NotMp4`] if the file is truncated or not an MP4.
pub fn embed(file: &mut File, packet: &str) -> Result<()> {
    let failed = |e: std::io::Error| Error::NotMp4(e.to_string());
    boxes::end_last(file)?;
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
    let before: Vec<_> = boxes.iter().take_while(|one| &one.kind != b"mfra").collect();
    if !before.iter().any(|one| &one.kind == b"moov") {
        return Err(Error::NotMp4("it has no moov box".into()));
    }
    Ok(before.last().map_or(0, |one| one.content.end))
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
    fn a_last_box_of_size_0_gets_its_size() {
        let start = [a_box("ftyp", b"iso6"), a_box("moov", &[1; 9])].concat();
        let xmp = a_box("uuid", &[&XMP_BOX[..], b"packet"].concat());
        for (kind, content) in [("mdat", &b"frames"[..]), ("mdat", b""), ("free", &[0; 70_000])] {
            let complete = [&start[..], &a_box(kind, content)].concat();
            let mut open = complete.clone();
            open[start.len()..start.len() + 4].fill(0);
            assert_eq!(embedded(&open).unwrap(), [&complete[..], &xmp].concat(), "{kind}");
        }
        // The only box with a size of 0 is `moov`, the last one.
        let mut open = start.clone();
        let moov = a_box("ftyp", b"iso6").len();
        open[moov..moov + 4].fill(0);
        assert_eq!(embedded(&open).unwrap(), [&start[..], &xmp].concat());
    }

    #[test]
    fn another_packet_replaces_the_earlier_one_and_keeps_what_others_wrote() {
        let origin = |model: &str| Origin { models: vec![model.into()], ..Origin::default() };
        let foreign = "<x:xmpmeta xmlns:x=\"adobe:ns:meta/\"><rdf:RDF xmlns:rdf=\"r\">\
                       <rdf:Description xmlns:dc=\"d\" xmp:CreatorTool=\"Painter\"><dc:title>The Fox</dc:title>\
                       </rdf:Description></rdf:RDF></x:xmpmeta>";
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[a_box("ftyp", b"iso6"), a_box("moov", &[1; 9])].concat()).unwrap();
        embed(&mut file, foreign).unwrap();
        let length = |file: &mut File| file.seek(SeekFrom::End(0)).unwrap();
        for model in ["one", "two", "three"] {
            let before = length(&mut file);
            let earlier = take(&mut file).unwrap();
            assert_eq!((length(&mut file), earlier.as_deref()), (before, Some(foreign)), "{model}");
            assert_eq!(take(&mut file).unwrap(), None, "{model}");
            embed(&mut file, &packet(&origin(model), "2026-11-25T12:00:00Z", false, earlier.as_deref()))
                .unwrap();
            let mut bytes = Vec::new();
            file.rewind().unwrap();
            file.read_to_end(&mut bytes).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            for (part, count) in [
                ("<x:xmpmeta", 1),
                ("The Fox", 1),
                ("xmp:CreatorTool", 1),
                ("<TC260:AIGC>", 1),
                ("DigitalSourceType=", 1),
                (&format!("soragen, {model}\""), 1),
            ] {
                assert_eq!(text.matches(part).count(), count, "{model}: {part} in {text}");
            }
        }
        // How the video was made is said by the last signature.
        let camera = foreign.replace("xmlns:dc", "Iptc4xmpExt:DigitalSourceType=\"camera\" xmlns:dc");
        let camera = camera.replace("<dc:title>", "<TC260:AIGC>no</TC260:AIGC><dc:title>");
        let text = packet(&origin("one"), "", false, Some(&camera));
        assert!(text.contains("The Fox") && text.contains("trainedAlgorithmicMedia"), "{text}");
        assert!(!text.contains("camera") && !text.contains(">no<"), "{text}");
        // Without a packet of another program nothing is kept.
        let own = packet(&origin("one"), "", false, None);
        assert!(!without_own(&own).contains("rdf:Description"), "{own}");
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
            ([&ftyp[..], &[0; 8]].concat(), "type"),
            ([&ftyp[..], &a_box("moov", &[]), &[0; 4]].concat(), "type"),
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
        let with = packet(&origin, "2026-11-25T12:00:00Z", true, None);
        assert!(
            with.contains("&lt;b&gt; &amp; &quot;c&quot;") && with.contains("a &quot;model&quot;"),
            "{with}"
        );
        assert!(!packet(&origin, "", false, None).contains("&lt;b&gt;"));
    }

    #[test]
    fn the_packet_has_the_label_of_gb_45438() {
        let label = |origin: &Origin| {
            let packet = packet(origin, "", false, None);
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
