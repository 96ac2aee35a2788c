// SPDX-License-Identifier: MPL-2.0

//! The caps that a model can output, and their fixation.

use gst_video::{VideoCapsBuilder, VideoFormat, VideoFormatInfo, VideoInfo};
use soragen::{ModelInfo, Size, Sizes};

use super::frame_time::Rate;
use super::properties::UriCaps;
use crate::video::convert::{FORMATS, supports_chroma_site, supports_colorimetry};
use crate::video::cuda;

/// The caps of the pad template.
pub fn template() -> gst::Caps {
    VideoCapsBuilder::new().format_list(FORMATS).build()
}

/// The caps of the pad template of an element that may leave frames on a GPU.
pub fn template_with_cuda() -> gst::Caps {
    let mut caps = template();
    caps.merge(VideoCapsBuilder::new().features([cuda::FEATURE]).format(VideoFormat::Nv12).build());
    caps
}

/// The caps that a model with these sizes can output on a GPU.
pub fn of_sizes_in_cuda(sizes: &Sizes) -> gst::Caps {
    let mut caps = with_formats(sizes, &[VideoFormat::Nv12], 1);
    caps.make_mut().set_features_simple(Some(gst::CapsFeatures::new([cuda::FEATURE])));
    caps
}

/// The caps that a model with these sizes can output.
pub fn of_sizes(sizes: &Sizes) -> gst::Caps {
    with_formats(sizes, &FORMATS, 1)
}

/// The caps of a video that goes into a model with these sizes.
pub fn of_input(sizes: &Sizes) -> gst::Caps {
    // 0/1 is a variable rate.
    with_formats(sizes, &VideoFormat::iter_raw().collect::<Vec<_>>(), 0)
}

fn with_formats(sizes: &Sizes, formats: &[VideoFormat], least_rate: i32) -> gst::Caps {
    let builder = || {
        VideoCapsBuilder::new()
            .format_list(formats.iter().copied())
            .framerate_range(gst::Fraction::new(least_rate, i32::MAX)..=gst::Fraction::new(i32::MAX, 1))
            .pixel_aspect_ratio(gst::Fraction::new(1, 1))
            .field("interlace-mode", "progressive")
    };
    let side = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    match sizes {
        Sizes::Exact(sizes) => {
            let mut caps = gst::Caps::new_empty();
            for size in sizes {
                caps.merge(builder().width(side(size.width)).height(side(size.height)).build());
            }
            caps
        }
        Sizes::Multiple { step, min, max, .. } => builder()
            .field("width", gst::IntRange::with_step(side(*min), side(*max), side(*step)))
            .field("height", gst::IntRange::with_step(side(*min), side(*max), side(*step)))
            .build(),
    }
}

/// The caps that a URI restricts the output to, in any memory.
pub fn of_uri(uri_caps: &UriCaps) -> gst::Caps {
    let mut caps = VideoCapsBuilder::new().any_features();
    for (name, side) in [("width", uri_caps.width), ("height", uri_caps.height)] {
        if let Some(side) = side.and_then(|side| i32::try_from(side).ok()) {
            caps = caps.field(name, side);
        }
    }
    if let Some((numerator, denominator)) = uri_caps.framerate {
        caps = caps.framerate(gst::Fraction::new(numerator as i32, denominator as i32));
    }
    caps.build()
}

/// Checks that the model can output the size of the URI.
///
/// # Errors
/// With the possible sizes; negotiation would only say that there is no common format.
pub fn check_size(uri_caps: &UriCaps, info: &ModelInfo) -> soragen::Result<()> {
    if of_sizes(&info.sizes).can_intersect(&of_uri(uri_caps)) {
        return Ok(());
    }
    let side = |side: Option<u32>| side.map_or("any".into(), |side| side.to_string());
    Err(soragen::Error::Request(
        soragen::Setting::Size,
        format!(
            "{} cannot generate {}x{}; use {}",
            info.name,
            side(uri_caps.width),
            side(uri_caps.height),
            info.sizes
        ),
    ))
}

/// Fixates size and frame rate to the values nearest to the model's, format and colours to the first ones that the conversion
/// can make, and the colorimetry to that of the size.
pub fn fixate(caps: &mut gst::Caps, default_size: Size, default_rate: Rate) {
    if let Some(possible) = caps.iter().position(is_possible) {
        let caps = caps.make_mut();
        (0..possible).for_each(|_| caps.remove_structure(0));
    }
    caps.truncate();
    let Some(structure) = caps.make_mut().structure_mut(0) else { return };
    structure.fixate_field_nearest_int("width", default_size.width as i32);
    structure.fixate_field_nearest_int("height", default_size.height as i32);
    let rate = gst::Fraction::new(default_rate.0 as i32, default_rate.1 as i32);
    structure.fixate_field_nearest_fraction("framerate", rate);

    let formats = options(structure, "format");
    if let Some(format) = formats.iter().find(|format| has_colours(structure, format)).or(formats.first()) {
        structure.set("format", format.as_str());
    }
    let rgb = structure.get::<&str>("format").is_ok_and(is_rgb);
    let side = |name| structure.get::<i32>(name).ok().and_then(|side| u32::try_from(side).ok()).unwrap_or(0);
    let size = Size { width: side("width"), height: side("height") };
    let colorimetry = match (rgb, size.is_high_definition()) {
        (true, _) => "sRGB",
        (false, true) => "bt709",
        (false, false) => "bt601",
    };
    choose(structure, "colorimetry", colorimetry, |value| supports_colorimetry(value, rgb));
    if !rgb {
        choose(structure, "chroma-site", "mpeg2", supports_chroma_site);
    }
    if structure.has_field("multiview-mode") {
        choose(structure, "multiview-mode", "mono", is_mono);
    }
}

/// Sets the field `name` to `default` if it may have that value, else to the first one that is `supported`.
fn choose(structure: &mut gst::StructureRef, name: &str, default: &str, supported: impl Fn(&str) -> bool) {
    let options = options(structure, name);
    let chosen = match options.is_empty() || options.iter().any(|option| option == default) {
        true => Some(default),
        false => options.iter().map(String::as_str).find(|option| supported(option)),
    };
    if let Some(chosen) = chosen {
        structure.set(name, chosen);
    }
}

/// The strings that the field `name` may have; none if there is no such field.
fn options(structure: &gst::StructureRef, name: &str) -> Vec<String> {
    let Ok(value) = structure.value(name) else { return Vec::new() };
    match value.get::<gst::List>() {
        Ok(list) => list.iter().filter_map(|value| value.get().ok()).collect(),
        Err(_) => value.get().into_iter().collect(),
    }
}

fn is_rgb(format: &str) -> bool {
    format.parse::<VideoFormat>().is_ok_and(|format| VideoFormatInfo::from_format(format).is_rgb())
}

fn is_mono(mode: &str) -> bool {
    mode == "mono"
}

/// Whether the conversion can make the colours of `structure` in `format`.
fn has_colours(structure: &gst::StructureRef, format: &str) -> bool {
    let rgb = is_rgb(format);
    let (colours, sites) = (options(structure, "colorimetry"), options(structure, "chroma-site"));
    (colours.is_empty() || colours.iter().any(|value| supports_colorimetry(value, rgb)))
        && (rgb || sites.is_empty() || sites.iter().any(|site| supports_chroma_site(site)))
}

/// Whether the conversion can make the fields of `structure` that the caps of the model do not have.
pub fn is_possible(structure: &gst::StructureRef) -> bool {
    let modes = options(structure, "multiview-mode");
    let formats = options(structure, "format");
    (modes.is_empty() || modes.iter().any(|mode| is_mono(mode)))
        && (formats.is_empty() || formats.iter().any(|format| has_colours(structure, format)))
}

/// Whether caps with these `features` are for memory of a GPU.
pub fn is_on_gpu(features: &gst::CapsFeaturesRef) -> bool {
    features.contains(cuda::FEATURE)
}

/// Whether some of `caps` are for memory of a GPU.
pub fn has_gpu(caps: &gst::Caps) -> bool {
    caps.iter_with_features().any(|(_, features)| is_on_gpu(features))
}

/// Leaves those of `caps` that are on a GPU, or those that are not. Leaves all if there would be none.
pub fn choose_memory(caps: gst::Caps, on_gpu: bool) -> gst::Caps {
    let owned = caps.iter_with_features().filter(|(_, features)| is_on_gpu(features) == on_gpu);
    let chosen: gst::Caps =
        owned.map(|(structure, features)| (structure.to_owned(), features.to_owned())).collect();
    if chosen.is_empty() { caps } else { chosen }
}

/// The frame rate of `video`.
pub fn rate(video: &VideoInfo) -> Rate {
    (video.fps().numer() as u32, video.fps().denom() as u32)
}

/// The frame size of `video`.
pub fn size(video: &VideoInfo) -> Size {
    Size { width: video.width(), height: video.height() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { width: 832, height: 480 };

    fn fixated(caps: &str) -> gst::Structure {
        gst::init().unwrap();
        let mut caps: gst::Caps = caps.parse().unwrap();
        fixate(&mut caps, SIZE, (16, 1));
        caps.structure(0).unwrap().to_owned()
    }

    #[test]
    fn open_fields_get_the_values_of_the_model() {
        let caps = fixated(
            "video/x-raw,format=I420,width=[16,4096],height=[16,4096],framerate=[1/2147483647,2147483647/1]",
        );
        assert_eq!(caps.get::<i32>("width").unwrap(), 832);
        assert_eq!(caps.get::<i32>("height").unwrap(), 480);
        assert_eq!(caps.get::<gst::Fraction>("framerate").unwrap(), gst::Fraction::new(16, 1));
        assert_eq!(caps.get::<&str>("chroma-site").unwrap(), "mpeg2");
    }

    #[test]
    fn the_nearest_possible_value_is_chosen() {
        let caps = fixated("video/x-raw,format=I420,width=[16,640],height={240,720},framerate={25/1,50/1}");
        assert_eq!(caps.get::<i32>("width").unwrap(), 640);
        assert!([240, 720].contains(&caps.get::<i32>("height").unwrap()), "both are 240 away");
        assert_eq!(caps.get::<gst::Fraction>("framerate").unwrap(), gst::Fraction::new(25, 1));
    }

    #[test]
    fn colorimetry_depends_on_format_and_height() {
        for (caps, colorimetry) in [
            ("video/x-raw,format=RGB,width=832,height=480,framerate=16/1", "sRGB"),
            ("video/x-raw,format=NV12,width=832,height=480,framerate=16/1", "bt601"),
            ("video/x-raw,format=NV12,width=1280,height=720,framerate=16/1", "bt709"),
            ("video/x-raw,format=NV12,width=832,height=480,framerate=16/1,colorimetry=bt709", "bt709"),
            (
                "video/x-raw,format=NV12,width=832,height=480,framerate=16/1,colorimetry={bt709,bt601}",
                "bt601",
            ),
        ] {
            assert_eq!(fixated(caps).get::<&str>("colorimetry").unwrap(), colorimetry, "{caps}");
        }
        assert!(
            !fixated("video/x-raw,format=RGB,width=832,height=480,framerate=16/1").has_field("chroma-site")
        );
    }

    #[test]
    fn colours_of_downstream_are_chosen_if_the_conversion_can_make_them() {
        let size = "width=832,height=480,framerate=16/1";
        for (fields, format, colorimetry, site) in [
            ("format=I420,chroma-site=jpeg", "I420", "bt601", "jpeg"),
            ("format=I420,chroma-site={dv,cosited}", "I420", "bt601", "cosited"),
            ("format=I420,chroma-site={jpeg,mpeg2}", "I420", "bt601", "mpeg2"),
            ("format=NV12,colorimetry={bt2100-pq,bt709}", "NV12", "bt709", "mpeg2"),
            ("format={RGB,NV12},colorimetry=1:4:0:0", "RGB", "1:4:0:0", ""),
            ("format={I420,BGRx},colorimetry=sRGB", "BGRx", "sRGB", ""),
            ("format={I420,BGRx},chroma-site=dv", "BGRx", "sRGB", "dv"),
            ("format={RGB,I420}", "RGB", "sRGB", ""),
        ] {
            let caps = fixated(&format!("video/x-raw,{size},{fields}"));
            assert_eq!(caps.get::<&str>("format").unwrap(), format, "{fields}");
            assert_eq!(caps.get::<&str>("colorimetry").unwrap(), colorimetry, "{fields}");
            assert_eq!(caps.get::<&str>("chroma-site").unwrap_or_default(), site, "{fields}");
        }
        let second = fixated(&format!(
            "video/x-raw,{size},format=I420,multiview-mode=left;video/x-raw,{size},format=NV12,multiview-mode={{left,mono}}"
        ));
        assert_eq!(second.get::<&str>("format").unwrap(), "NV12");
        assert_eq!(second.get::<&str>("multiview-mode").unwrap(), "mono");
        for impossible in ["colorimetry=bt2100-pq", "chroma-site=dv", "multiview-mode=side-by-side"] {
            assert!(
                !is_possible(&fixated(&format!("video/x-raw,{size},format=I420,{impossible}"))),
                "{impossible}"
            );
        }
    }

    #[test]
    fn a_uri_restricts_the_caps() {
        gst::init().unwrap();
        let caps = of_uri(&UriCaps { width: Some(320), height: None, framerate: Some((25, 1)) });
        let structure = caps.structure(0).unwrap();
        assert_eq!(structure.get::<i32>("width").unwrap(), 320);
        assert_eq!(structure.get::<gst::Fraction>("framerate").unwrap(), gst::Fraction::new(25, 1));
        let exact = of_sizes(&Sizes::Exact(vec![SIZE]));
        assert!(!exact.can_intersect(&caps));
        assert!(exact.can_intersect(&of_uri(&UriCaps::default())));
    }
}
