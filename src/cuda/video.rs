//! Frames in f32 to 8-bit video, with the bytes that the CPU conversion writes.

use candle_core::{DType, Layout, Result, Shape, Tensor, bail};

use super::kernel::{Kernel, Launch, Operand, Source, apply, blocks};
use crate::yuv::{ChromaSiting, YuvMatrix};

static SOURCE: Source = Source { name: "video", text: include_str!("kernels/video.cu") };

/// The place of the samples in the memory of a frame, in bytes, as a `GstVideoMeta` gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "the element offers NV12 alone in the memory of a GPU")]
pub(crate) enum VideoFormat {
    /// 3 bytes per pixel.
    Rgb { pitch: usize },
    /// A plane of luma, then one of pairs of chroma.
    Nv12 { pitch: usize, chroma_offset: usize, chroma_pitch: usize },
    /// A plane for each component.
    I420 { pitch: usize, blue_offset: usize, red_offset: usize, chroma_pitch: usize },
}

/// A conversion of frames to bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Video {
    pub(crate) format: VideoFormat,
    /// The bytes from one frame to the next.
    pub(crate) frame_size: usize,
    pub(crate) matrix: YuvMatrix,
    pub(crate) siting: ChromaSiting,
}

/// The frames `x`, f32 `[T, 3, H, W]` in \[0, 1\], in the format of `video`: u8 `[T, frame_size]`. Bytes between rows and planes are
/// undefined.
pub(crate) fn to_video(x: &Tensor, video: Video) -> Result<Tensor> {
    video.check(x)?;
    apply(&video, x)
}

/// Offsets of the two components of chroma, its pitch, and the distance of two samples.
struct Chroma {
    blue: usize,
    red: usize,
    pitch: usize,
    step: usize,
}

impl Video {
    /// Rejects frames that are not RGB in f32, or do not fit.
    fn check(&self, x: &Tensor) -> Result<()> {
        let (_, channels, height, width) = x.dims4()?;
        if channels != 3 || x.dtype() != DType::F32 || width == 0 || height == 0 {
            bail!("video of {x:?}");
        }
        if self.end(height, width) > self.frame_size {
            bail!("a frame of {width}x{height} as {:?} has more than {} bytes", self.format, self.frame_size);
        }
        Ok(())
    }

    fn pitch(&self) -> usize {
        match self.format {
            VideoFormat::Rgb { pitch }
            | VideoFormat::Nv12 { pitch, .. }
            | VideoFormat::I420 { pitch, .. } => pitch,
        }
    }

    fn chroma(&self) -> Option<Chroma> {
        match self.format {
            VideoFormat::Rgb { .. } => None,
            VideoFormat::Nv12 { chroma_offset, chroma_pitch, .. } => {
                Some(Chroma { blue: chroma_offset, red: chroma_offset + 1, pitch: chroma_pitch, step: 2 })
            }
            VideoFormat::I420 { blue_offset, red_offset, chroma_pitch, .. } => {
                Some(Chroma { blue: blue_offset, red: red_offset, pitch: chroma_pitch, step: 1 })
            }
        }
    }

    /// The byte after the last one that is written.
    fn end(&self, height: usize, width: usize) -> usize {
        let line = if self.chroma().is_none() { 3 * width } else { width };
        let luma = (height - 1) * self.pitch() + line;
        let chroma = self.chroma().map_or(0, |chroma| {
            let last = (height.div_ceil(2) - 1) * chroma.pitch + (width.div_ceil(2) - 1) * chroma.step;
            chroma.blue.max(chroma.red) + last + 1
        });
        luma.max(chroma)
    }

    /// Writes one frame of 8-bit levels `[3, H, W]`.
    fn write(&self, levels: &[f32], height: usize, width: usize, out: &mut [u8]) {
        // `as` saturates.
        let byte = |weights: [f32; 3], [r, g, b]: [f32; 3], offset: f32| {
            (weights[0] * r + weights[1] * g + weights[2] * b + offset + 0.5) as u8
        };
        let pixel = |y: usize, x: usize| [0, 1, 2].map(|c| levels[(c * height + y) * width + x]);
        let Some(chroma) = self.chroma() else {
            for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
                out[y * self.pitch() + 3 * x..][..3].copy_from_slice(&pixel(y, x).map(|level| level as u8));
            }
            return;
        };
        for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            out[y * self.pitch() + x] = byte(self.matrix.luma, pixel(y, x), self.matrix.black);
        }
        for (y, x) in (0..height.div_ceil(2)).flat_map(|y| (0..width.div_ceil(2)).map(move |x| (y, x))) {
            // The pixels at the edge are repeated.
            let around =
                |i: usize, size: usize| [(2 * i).saturating_sub(1), 2 * i, (2 * i + 1).min(size - 1)];
            let weighted = |w: [f32; 3], v: [f32; 3]| w[0] * v[0] + w[1] * v[1] + w[2] * v[2];
            let lines = around(y, height);
            let colours = [0, 1, 2].map(|c| {
                let column = |x: usize| weighted(self.siting.rows, lines.map(|y| pixel(y, x)[c]));
                weighted(self.siting.columns, around(x, width).map(column))
            });
            let at = y * chroma.pitch + x * chroma.step;
            out[chroma.blue + at] = byte(self.matrix.blue, colours, 128.0);
            out[chroma.red + at] = byte(self.matrix.red, colours, 128.0);
        }
    }
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Arguments {
    x: u64,
    out: u64,
    x_frame_stride: i64,
    x_channel_stride: i64,
    x_row_stride: i64,
    x_column_stride: i64,
    out_frame_stride: i64,
    luma_offset: i64,
    blue_offset: i64,
    red_offset: i64,
    luma_pitch: i64,
    chroma_pitch: i64,
    chroma_step: u32,
    width: u32,
    height: u32,
    frames: u32,
    luma: [f32; 3],
    blue: [f32; 3],
    red: [f32; 3],
    black: f32,
    rows: [f32; 3],
    columns: [f32; 3],
}

impl Kernel for Video {
    type Arguments = Arguments;

    fn source(&self) -> &'static Source {
        &SOURCE
    }

    fn others(&self) -> Vec<&Tensor> {
        Vec::new()
    }

    fn supports(&self, x: &Tensor) -> bool {
        x.dtype() == DType::F32
    }

    fn result(&self, x: &Layout, _: DType) -> Result<(Shape, DType)> {
        Ok(((x.dims()[0], self.frame_size).into(), DType::U8))
    }

    fn launch(&self, x: Operand, _: &[Operand], out: Operand) -> Result<Launch<Arguments>> {
        const BLOCK: u32 = 256;
        let (frames, _, height, width) = x.layout.shape().dims4()?;
        let chroma = self.chroma();
        let (entry, threads) = match chroma {
            None => ("video_rgb", height * width),
            Some(_) => ("video_yuv", height.div_ceil(2) * width.div_ceil(2)),
        };
        let chroma = chroma.unwrap_or(Chroma { blue: 0, red: 0, pitch: 0, step: 0 });
        Ok(Launch {
            entry: entry.into(),
            grid: blocks(frames * threads, BLOCK)?,
            block: BLOCK,
            shared: 0,
            arguments: Arguments {
                x: x.address,
                out: out.address,
                x_frame_stride: x.stride(0),
                x_channel_stride: x.stride(1),
                x_row_stride: x.stride(2),
                x_column_stride: x.stride(3),
                out_frame_stride: out.stride(0),
                luma_offset: 0,
                blue_offset: chroma.blue as i64,
                red_offset: chroma.red as i64,
                luma_pitch: self.pitch() as i64,
                chroma_pitch: chroma.pitch as i64,
                chroma_step: chroma.step as u32,
                width: width as u32,
                height: height as u32,
                frames: frames as u32,
                luma: self.matrix.luma,
                blue: self.matrix.blue,
                red: self.matrix.red,
                black: self.matrix.black,
                rows: self.siting.rows,
                columns: self.siting.columns,
            },
        })
    }

    fn plain(&self, x: &Tensor) -> Result<Tensor> {
        let (frames, _, height, width) = x.dims4()?;
        let device = x.device();
        let samples = x.flatten_all()?.to_vec1::<f32>()?;
        // As `to_u8` rounds.
        let levels: Vec<f32> =
            samples.into_iter().map(|sample| f32::from((sample * 255.0 + 0.5) as u8)).collect();
        let mut out = vec![0; frames * self.frame_size];
        for (levels, out) in
            levels.chunks_exact(3 * height * width).zip(out.chunks_exact_mut(self.frame_size))
        {
            self.write(levels, height, width, out);
        }
        Tensor::from_vec(out, (frames, self.frame_size), device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::shim::{random, run_into};
    use crate::yuv::YuvColours;

    /// BT.709 with limited range for high definition, BT.601 otherwise.
    fn matrix(high_definition: bool) -> YuvMatrix {
        colours(high_definition, true, false).matrix()
    }

    fn siting(horizontally_cosited: bool, vertically_cosited: bool) -> ChromaSiting {
        colours(false, horizontally_cosited, vertically_cosited).siting()
    }

    fn colours(high_definition: bool, horizontally_cosited: bool, vertically_cosited: bool) -> YuvColours {
        let (red, blue) = if high_definition { (0.2126, 0.0722) } else { (0.299, 0.114) };
        YuvColours { red, blue, full_range: false, horizontally_cosited, vertically_cosited }
    }

    fn nv12(pitch: usize, height: usize) -> VideoFormat {
        VideoFormat::Nv12 { pitch, chroma_offset: pitch * height, chroma_pitch: pitch }
    }

    #[test]
    fn the_bytes_are_those_of_the_plain_form() {
        for (height, width) in [(4, 6), (16, 34), (5, 7), (1, 1), (3, 2)] {
            // Also outside [0, 1].
            let x = ((random((2, height, width, 3), DType::F32) * 0.5).unwrap() + 0.5).unwrap();
            let planar = x.permute((0, 3, 1, 2)).unwrap();
            let pitch = 3 * width + 5;
            let plane = pitch * height;
            for format in [
                VideoFormat::Rgb { pitch },
                nv12(pitch, height),
                VideoFormat::I420 {
                    pitch,
                    blue_offset: plane,
                    red_offset: plane + 40 * height,
                    chroma_pitch: 40,
                },
            ] {
                for (siting, hd) in [
                    (siting(true, false), false),
                    (siting(false, false), true),
                    (siting(true, true), true),
                    (siting(false, true), false),
                ] {
                    let (matrix, frame_size) = (matrix(hd), 3 * plane + 80 * height);
                    let video = Video { format, frame_size, matrix, siting };
                    for x in [&planar, &planar.contiguous().unwrap()] {
                        let plain = to_video(x, video).unwrap();
                        // Padding is left as it is.
                        let empty = plain.zeros_like().unwrap();
                        let kernel = run_into(&video, x, &empty, &empty);
                        let [kernel, plain] = [kernel, plain].map(|x| x.to_vec2::<u8>().unwrap());
                        assert!(kernel == plain, "{format:?} {siting:?} {height} {width}");
                    }
                }
            }
        }
    }

    #[test]
    fn colours_match_bt601_and_bt709() {
        let colour = |hd, rgb: [f32; 3]| {
            let x = Tensor::new(&rgb, &candle_core::Device::Cpu).unwrap().reshape((1, 3, 1, 1)).unwrap();
            let x = x.broadcast_as((1, 3, 4, 6)).unwrap().contiguous().unwrap();
            let video =
                Video { format: nv12(6, 4), frame_size: 36, matrix: matrix(hd), siting: siting(true, false) };
            let bytes = &to_video(&x, video).unwrap().to_vec2::<u8>().unwrap()[0];
            [bytes[0], bytes[24], bytes[25]]
        };
        assert_eq!(colour(true, [1.0, 1.0, 1.0]), [235, 128, 128]);
        assert_eq!(colour(true, [0.0, 0.0, 0.0]), [16, 128, 128]);
        assert_eq!(colour(true, [1.0, 0.0, 0.0]), [63, 102, 240]);
        assert_eq!(colour(false, [1.0, 0.0, 0.0]), [81, 90, 240]);
        assert_eq!(colour(false, [0.0, 0.0, 1.0]), [41, 240, 110]);
    }

    #[test]
    fn a_frame_must_fit() {
        let x = random((1, 3, 4, 6), DType::F32);
        let video = |frame_size| Video {
            format: nv12(6, 4),
            frame_size,
            matrix: matrix(true),
            siting: siting(true, false),
        };
        assert!(to_video(&x, video(36)).is_ok());
        assert!(to_video(&x, video(35)).is_err());
        assert!(to_video(&x.narrow(1, 0, 2).unwrap(), video(36)).is_err());
    }
}
