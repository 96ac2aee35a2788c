//! Drawings in SVG.

use std::sync::Arc;

use image::RgbaImage;
use once_cell::sync::Lazy;
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{ImageHrefResolver, Options, Tree, fontdb};

/// Longer side of the rendered picture in pixels: four times what the built-in model sees.
const SIDE: f32 = 512.0;
/// The largest file. XML of more than this takes seconds to parse.
const MAX_BYTES: usize = 8 << 20;

/// The fonts of this machine.
static FONTS: Lazy<Arc<fontdb::Database>> = Lazy::new(|| {
    let mut fonts = fontdb::Database::new();
    fonts.load_system_fonts();
    Arc::new(fonts)
});

/// Whether a file is SVG, damaged or not.
pub fn is_svg(bytes: &[u8]) -> bool {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    text.starts_with(b"<") && has(bytes, b"<svg")
}

/// Fonts take a while to load, and most drawings need none.
fn has_text(bytes: &[u8]) -> bool {
    has(bytes, b"<text")
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Renders a drawing; files that it names are not read.
pub fn render(bytes: &[u8]) -> Result<RgbaImage, String> {
    if bytes.len() > MAX_BYTES {
        return Err(format!("the drawing is larger than {} MiB", MAX_BYTES >> 20));
    }
    let options = Options {
        fontdb: if has_text(bytes) { FONTS.clone() } else { Arc::default() },
        image_href_resolver: ImageHrefResolver {
            resolve_string: Box::new(|_, _| None),
            ..ImageHrefResolver::default()
        },
        ..Options::default()
    };
    let tree = Tree::from_data(bytes, &options).map_err(|e| format!("not a drawing in SVG: {e}"))?;
    let scale = SIDE / tree.size().width().max(tree.size().height());
    let side = |length: f32| (length * scale).round().max(1.0) as u32;
    let (width, height) = (side(tree.size().width()), side(tree.size().height()));
    let mut canvas = Pixmap::new(width, height).ok_or("the drawing has no size")?;
    resvg::render(&tree, Transform::from_scale(scale, scale), &mut canvas.as_mut());
    let pixels = canvas.pixels().iter().flat_map(|pixel| {
        let pixel = pixel.demultiply();
        [pixel.red(), pixel.green(), pixel.blue(), pixel.alpha()]
    });
    RgbaImage::from_raw(width, height, pixels.collect()).ok_or_else(|| "the drawing has no size".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawing_is_rendered_and_reads_no_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret.png");
        RgbaImage::from_pixel(4, 4, image::Rgba([255, 0, 0, 255])).save(&file).unwrap();
        let text = format!(
            r#"<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"
            viewBox="0 0 20 10"><rect x="0" y="0" width="10" height="10" fill="lime"/>
            <image x="10" y="0" width="10" height="10" xlink:href="{}"/></svg>"#,
            file.display()
        );
        assert!(is_svg(text.as_bytes()));
        let picture = render(text.as_bytes()).unwrap();
        assert_eq!(picture.dimensions(), (512, 256));
        assert_eq!(picture.get_pixel(128, 128).0, [0, 255, 0, 255]);
        assert_eq!(picture.get_pixel(384, 128)[3], 0, "the file was read");
    }

    #[test]
    fn damaged_drawings_are_errors() {
        for text in ["<svg", "<svg xmlns='http://www.w3.org/2000/svg' width='0' height='0'/>", "<svg><rect"] {
            assert!(is_svg(text.as_bytes()));
            render(text.as_bytes()).unwrap_err();
        }
        assert!(!is_svg(b"\x89PNG") && !is_svg(b"") && !is_svg(b"<html><body>"));
    }
}
