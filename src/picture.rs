//! The picture that a video starts from.

use candle_core::{DType, Device, Tensor};
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;

use crate::{Error, Result, Size};

/// `image` scaled to cover `size` (Lanczos) and cropped at the centre, as an autoencoder wants it:
/// f32 `[1, 3, 1, H, W]` in \[−1, 1\].
///
/// An image of the same shape as `size` is only scaled, so that it comes out as from diffusers'
/// `VideoProcessor.preprocess`; any other loses its edges rather than its proportions, as in the original
/// Wan code (`wan/textimage2video.py`).
pub fn to_video(image: &RgbImage, size: Size, device: &Device) -> Result<Tensor> {
    let failed = |e: &dyn std::fmt::Display| Error::Request(format!("the image cannot be scaled: {e}"));
    let source = ImageRef::new(image.width(), image.height(), image.as_raw(), PixelType::U8x3)
        .map_err(|e| failed(&e))?;
    let mut scaled = Image::new(size.width, size.height, PixelType::U8x3);
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3))
        .fit_into_destination(None);
    Resizer::new().resize(&source, &mut scaled, &options).map_err(|e| failed(&e))?;

    let shape = (size.height as usize, size.width as usize, 3);
    let pixels = Tensor::from_vec(scaled.into_vec(), shape, device)?;
    let unit = ((pixels.to_dtype(DType::F32)? * (2.0 / 255.0))? - 1.0)?;
    Ok(unit.permute((2, 0, 1))?.contiguous()?.unsqueeze(1)?.unsqueeze(0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_picture_loses_its_sides() {
        // Black and white halves with red margins, which a square has no room for.
        let image = RgbImage::from_fn(40, 20, |x, _| match x {
            0..10 | 30..40 => image::Rgb([255, 0, 0]),
            10..20 => image::Rgb([0, 0, 0]),
            _ => image::Rgb([255, 255, 255]),
        });
        let video = to_video(&image, Size { width: 20, height: 20 }, &Device::Cpu).unwrap();
        assert_eq!(video.dims(), [1, 3, 1, 20, 20]);
        let green = video.get(0).unwrap().get(1).unwrap().get(0).unwrap().to_vec2::<f32>().unwrap();
        let red = video.get(0).unwrap().get(0).unwrap().get(0).unwrap().to_vec2::<f32>().unwrap();
        assert!(green[10][2] < -0.99 && red[10][2] < -0.99, "black on the left");
        assert!(green[10][17] > 0.99 && red[10][17] > 0.99, "white on the right");
    }
}
