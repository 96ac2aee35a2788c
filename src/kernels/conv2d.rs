//! Convolutions of channels-last frames, `[H, W, C]`.
//!
//! For every tap, a tile of adjacent output pixels gets a list of pointers to the input pixels of that tap. No image is
//! unfolded or padded (Dukhan, "The Indirect Convolution Algorithm", <https://arxiv.org/abs/1907.02129>). The pointers may
//! lead to another frame, which concatenates the channels of two frames; to zeros outside the image; or to an image of half
//! the size, which is then read as if it had been upsampled.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::Arch;
use super::panels::{Panel, Panels, accumulate, load, store};

/// Maximum number of weights applied to all pixels of a group of rows at a time: 128 KiB, which stay in the cache.
const BLOCK: usize = 1 << 15;

/// A convolution with its weights packed.
#[derive(Clone, Debug)]
pub(crate) struct Conv2d {
    n_in: usize,
    n_out: usize,
    stride: usize,
    /// Upsampling factor: 1, or 2 with one phase for each of the four output pixels.
    scale: usize,
    /// Indexed by row and column of an output pixel within its `scale` × `scale` group.
    phases: Vec<Phase>,
    /// A pixel outside the image.
    zeros: Vec<f32>,
}

/// The taps of one output pixel position, and their weights.
#[derive(Clone, Debug)]
struct Phase {
    taps: Vec<Tap>,
    /// Rows: the input channels of tap after tap. Columns: output channels.
    panels: Panels,
}

/// An input pixel of the kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Tap {
    /// Index of the source image.
    source: usize,
    /// Offset from the position of the output pixel.
    dy: isize,
    dx: isize,
}

/// The weights of a convolution in torch's layout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weights<'a> {
    /// `[n_out, sources × n_in, kernel, kernel]`.
    pub(crate) weight: &'a [f32],
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) n_out: usize,
    pub(crate) n_in: usize,
    pub(crate) sources: usize,
    pub(crate) kernel: usize,
}

impl Weights<'_> {
    fn at(&self, out: usize, source: usize, channel: usize, ky: usize, kx: usize) -> f32 {
        let input = source * self.n_in + channel;
        self.weight[((out * self.sources * self.n_in + input) * self.kernel + ky) * self.kernel + kx]
    }
}

/// The inputs of one output frame: one image, or several whose channels are concatenated. An empty slice stands for an image
/// of zeros.
pub(crate) type Sources<'a> = Vec<&'a [f32]>;

/// What happens to the sums before they are stored.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ConvEpilogue<'a> {
    /// Added to the sums, in the shape of the output.
    pub(crate) residual: Option<&'a [f32]>,
    /// Applies `ReLU` after the residual.
    pub(crate) relu: bool,
}

impl Conv2d {
    /// A convolution with `padding` rows and columns of zeros before the first.
    pub(crate) fn new(arch: Arch, weights: Weights, stride: usize, padding: usize) -> Self {
        let Weights { n_out, n_in, sources, kernel, .. } = weights;
        let mut taps = Vec::new();
        for source in 0..sources {
            for ky in 0..kernel {
                for kx in 0..kernel {
                    let off = |k: usize| k as isize - padding as isize;
                    taps.push(Tap { source, dy: off(ky), dx: off(kx) });
                }
            }
        }
        let area = kernel * kernel;
        let panels = Panels::new(arch, (taps.len() * n_in, n_out), weights.bias, |row, out| {
            let (tap, channel) = (row / n_in, row % n_in);
            weights.at(out, tap / area, channel, tap % area / kernel, tap % kernel)
        });
        Self { n_in, n_out, stride, scale: 1, phases: vec![Phase { taps, panels }], zeros: vec![0.0; n_in] }
    }

    /// A 3×3 convolution of the input upsampled by 2 (nearest neighbour), with the size of the upsampled image.
    ///
    /// Several of the nine upsampled pixels come from the same input pixel; the sum of their weights applies to it. Four taps
    /// remain, different ones for each of the four output pixels.
    pub(crate) fn upsampled(arch: Arch, weights: Weights) -> Self {
        let Weights { n_out, n_in, .. } = weights;
        let phase = |py: usize, px: usize| {
            // Offset of the input pixel that tap k reads in this phase, from −1 to 1.
            let place = |p: usize, k: usize| (p + k + 1) as isize / 2 - 1;
            let mut taps: Vec<Tap> = Vec::new();
            for ky in 0..3 {
                for kx in 0..3 {
                    let tap = Tap { source: 0, dy: place(py, ky), dx: place(px, kx) };
                    if !taps.contains(&tap) {
                        taps.push(tap);
                    }
                }
            }
            let panels = Panels::new(arch, (taps.len() * n_in, n_out), weights.bias, |row, out| {
                let (tap, channel) = (taps[row / n_in], row % n_in);
                let mut sum = 0.0;
                for ky in (0..3).filter(|&k| place(py, k) == tap.dy) {
                    for kx in (0..3).filter(|&k| place(px, k) == tap.dx) {
                        sum += weights.at(out, 0, channel, ky, kx);
                    }
                }
                sum
            });
            Phase { taps, panels }
        };
        let phases = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(py, px)| phase(py, px)).into();
        Self { n_in, n_out, stride: 1, scale: 2, phases, zeros: vec![0.0; n_in] }
    }

    /// Input channels of one source image.
    pub(crate) fn n_in(&self) -> usize {
        self.n_in
    }

    /// Output channels.
    pub(crate) fn n_out(&self) -> usize {
        self.n_out
    }

    /// Convolves the sources of every frame, `height` × `width` pixels, to `out`, frames of `rows` × `columns` pixels times
    /// the upsampling factor.
    pub(crate) fn run(
        &self,
        frames: &[Sources],
        (height, width): (usize, usize),
        (rows, columns): (usize, usize),
        out: &mut [f32],
        epilogue: ConvEpilogue,
    ) {
        let row = self.scale * columns * self.n_out;
        let rows = self.scale * rows;
        if out.is_empty() {
            return;
        }
        assert_eq!(out.len(), frames.len() * rows * row, "wrong output size");
        // A few rows of one frame per job, so that a panel of weights is used for all of them while it is in the cache.
        let portion = (rows * frames.len()).div_ceil(4 * rayon::current_num_threads()).clamp(1, 8).min(rows);
        let jobs: Vec<_> = out
            .chunks_mut(rows * row)
            .zip(frames)
            .enumerate()
            .flat_map(|(frame, (out, sources))| {
                out.chunks_mut(portion * row)
                    .enumerate()
                    .map(move |(i, out)| (frame, i * portion, sources, out))
            })
            .collect();
        jobs.into_par_iter().for_each(|(frame, first, sources, out)| {
            let start = (frame * rows + first) * row;
            let residual = epilogue.residual.map(|all| &all[start..start + out.len()]);
            let job = Job {
                conv: self,
                sources,
                height,
                width,
                columns,
                first,
                out,
                residual,
                relu: epilogue.relu,
            };
            self.phases[0].panels.arch.dispatch(job);
        });
    }
}

/// A group of output rows of one frame.
struct Job<'a> {
    conv: &'a Conv2d,
    sources: &'a [&'a [f32]],
    height: usize,
    width: usize,
    /// Output pixels per row, divided by the upsampling factor.
    columns: usize,
    /// The first output row.
    first: usize,
    /// The output rows.
    out: &'a mut [f32],
    residual: Option<&'a [f32]>,
    relu: bool,
}

impl WithSimd for Job<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // The number of sums that fit in the registers beside a row of weights and a pixel.
        if S::REGISTER_COUNT >= 32 { self.rows::<S, 8>(simd) } else { self.rows::<S, 4>(simd) }
    }
}

impl Job<'_> {
    #[inline(always)]
    fn rows<S: Simd, const PIXELS: usize>(mut self, simd: S) {
        let conv = self.conv;
        let row = conv.scale * self.columns * conv.n_out;
        for px in 0..conv.scale {
            for py in 0..conv.scale {
                let phase = &conv.phases[py * conv.scale + px];
                let offset = (conv.scale + py - self.first % conv.scale) % conv.scale;
                for panel in phase.panels.panels() {
                    let tap = conv.n_in * panel.vectors * S::F32_LANES;
                    let taps = (BLOCK / tap).clamp(1, phase.taps.len());
                    for first in (0..phase.taps.len()).step_by(taps) {
                        let part = Part { phase, panel, taps: first..(first + taps).min(phase.taps.len()) };
                        for i in (offset..self.out.len() / row).step_by(conv.scale) {
                            let y = (self.first + i) / conv.scale * conv.stride;
                            match panel.vectors {
                                3 => self.row::<S, PIXELS, 3>(simd, &part, y, i * row, px),
                                2 => self.row::<S, PIXELS, 2>(simd, &part, y, i * row, px),
                                _ => self.row::<S, PIXELS, 1>(simd, &part, y, i * row, px),
                            }
                        }
                    }
                }
            }
        }
    }

    /// Adds a part to the output row that starts at offset `start`, to every `scale`th pixel from `px` on. `y` is the input
    /// row.
    #[inline(always)]
    fn row<S: Simd, const PIXELS: usize, const VECTORS: usize>(
        &mut self,
        simd: S,
        part: &Part,
        y: usize,
        start: usize,
        px: usize,
    ) {
        let conv = self.conv;
        let (n_in, n_out) = (conv.n_in, conv.n_out);
        let Part { phase, panel, ref taps } = *part;
        let weights = phase.panels.weights::<S>(panel);
        let (begins, ends) = (taps.start == 0, taps.end == phase.taps.len());
        let mut bias = [simd.splat_f32s(0.0); VECTORS];
        bias.copy_from_slice(phase.panels.bias::<S>(panel));
        for x in (0..self.columns).step_by(PIXELS) {
            let count = PIXELS.min(self.columns - x);
            let range = |p: usize, v: usize| {
                let pixel = start + ((x + p) * conv.scale + px) * n_out;
                let first = panel.first + v * S::F32_LANES;
                pixel + first..pixel + (first + S::F32_LANES).min(n_out)
            };
            let mut sums = [bias; PIXELS];
            if !begins {
                for (p, sums) in sums.iter_mut().enumerate().take(count) {
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = load(simd, &self.out[range(p, v)]);
                    }
                }
            }
            for t in taps.clone() {
                let tap = phase.taps[t];
                let Some(y) = y.checked_add_signed(tap.dy).filter(|&y| y < self.height) else { continue };
                if self.sources[tap.source].is_empty() {
                    continue;
                }
                let line = &self.sources[tap.source][y * self.width * n_in..][..self.width * n_in];
                let mut pixels = [&conv.zeros[..]; PIXELS];
                for (p, pixel) in pixels.iter_mut().enumerate().take(count) {
                    let at = ((x + p) * conv.stride).wrapping_add_signed(tap.dx);
                    if at < self.width {
                        *pixel = &line[at * n_in..][..n_in];
                    }
                }
                accumulate(simd, &mut sums, &pixels, n_in, &weights[t * n_in * VECTORS..][..n_in * VECTORS]);
            }
            for (p, sums) in sums.iter().enumerate().take(count) {
                for (v, &(mut sum)) in sums.iter().enumerate() {
                    let range = range(p, v);
                    if let Some(residual) = self.residual.filter(|_| ends) {
                        sum = simd.add_f32s(sum, load(simd, &residual[range.clone()]));
                    }
                    if self.relu && ends {
                        sum = simd.max_f32s(sum, simd.splat_f32s(0.0));
                    }
                    store(simd, &mut self.out[range], sum);
                }
            }
        }
    }
}

/// A range of taps and a panel of output channels.
struct Part<'a> {
    phase: &'a Phase,
    panel: Panel,
    taps: Range<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::random;
    use candle_core::{Device, Tensor};

    /// `[T, H, W, C]` to `[T, C, H, W]`.
    fn planes(data: &[f32], (frames, height, width): (usize, usize, usize)) -> Tensor {
        let shape = (frames, height, width, data.len() / (frames * height * width));
        let t = Tensor::from_slice(data, shape, &Device::Cpu).unwrap();
        t.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()
    }

    fn assert_equal(what: &str, out: &[f32], plain: &Tensor) {
        let plain: Vec<f32> = plain.permute((0, 2, 3, 1)).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(out.len(), plain.len(), "{what}");
        let max = plain.iter().fold(1f32, |max, x| max.max(x.abs()));
        for (i, (a, b)) in out.iter().zip(&plain).enumerate() {
            assert!((a - b).abs() <= 3e-6 * max, "{what}: value {i} is {a}, not {b}");
        }
    }

    #[test]
    fn it_equals_the_plain_form() {
        for arch in Arch::all() {
            for (case, (kernel, stride, padding, sources, n_in, n_out)) in [
                (3, 1, 1, 1, 5, 7),
                (3, 1, 1, 2, 16, 16),
                (3, 2, 1, 1, 8, 33),
                (3, 2, 0, 1, 3, 48),
                (1, 1, 0, 1, 12, 65),
                (1, 1, 0, 2, 9, 128),
                (3, 1, 1, 1, 32, 112),
                // Weights of more than one block.
                (3, 1, 1, 3, 144, 50),
            ]
            .into_iter()
            .enumerate()
            {
                for (frames, height, width) in [(1, 1, 1), (2, 3, 5), (1, 9, 8), (3, 4, 21)] {
                    let (out_h, out_w) = match padding * 2 + height < kernel || padding * 2 + width < kernel {
                        true => continue,
                        false => (
                            (height + 2 * padding - kernel) / stride + 1,
                            (width + 2 * padding - kernel) / stride + 1,
                        ),
                    };
                    let what = format!("{arch:?}, case {case}, {frames}x{height}x{width}");
                    let seed = (case * 100 + width) as u32;
                    let weight = random(n_out * sources * n_in * kernel * kernel, seed);
                    let bias = random(n_out, seed + 1);
                    let weights =
                        Weights { weight: &weight, bias: Some(&bias), n_out, n_in, sources, kernel };
                    let size = height * width * n_in;
                    let inputs: Vec<_> =
                        (0..sources).map(|s| random(frames * size, seed + 2 + s as u32)).collect();
                    let residual = random(frames * out_h * out_w * n_out, seed + 9);
                    let images: Vec<Sources> = (0..frames)
                        .map(|t| inputs.iter().map(|x| &x[t * size..][..size]).collect())
                        .collect();
                    let mut out = vec![f32::NAN; residual.len()];
                    let epilogue = ConvEpilogue { residual: Some(&residual), relu: case % 2 == 0 };
                    Conv2d::new(arch, weights, stride, padding).run(
                        &images,
                        (height, width),
                        (out_h, out_w),
                        &mut out,
                        epilogue,
                    );

                    let x: Vec<_> = inputs.iter().map(|x| planes(x, (frames, height, width))).collect();
                    let w =
                        Tensor::from_slice(&weight, (n_out, sources * n_in, kernel, kernel), &Device::Cpu);
                    let b = Tensor::from_slice(&bias, (1, n_out, 1, 1), &Device::Cpu).unwrap();
                    let x = Tensor::cat(&x, 1).unwrap();
                    let y = x.conv2d(&w.unwrap(), padding, stride, 1, 1).unwrap().broadcast_add(&b).unwrap();
                    let y = (y + planes(&residual, (frames, out_h, out_w))).unwrap();
                    assert_equal(&what, &out, &if epilogue.relu { y.relu().unwrap() } else { y });
                }
            }
        }
    }

    #[test]
    fn it_equals_upsampling_followed_by_a_convolution() {
        for arch in Arch::all() {
            for (n_in, n_out, height, width) in [(3, 5, 1, 1), (16, 48, 4, 11), (9, 32, 7, 3)] {
                let weight = random(n_out * n_in * 9, 1);
                let weights = Weights { weight: &weight, bias: None, n_out, n_in, sources: 1, kernel: 3 };
                let x = random(2 * height * width * n_in, 2);
                let images: Vec<Sources> = x.chunks(height * width * n_in).map(|x| vec![x]).collect();
                let mut out = vec![f32::NAN; 2 * 4 * height * width * n_out];
                let size = (height, width);
                Conv2d::upsampled(arch, weights).run(&images, size, size, &mut out, ConvEpilogue::default());

                let x = planes(&x, (2, height, width)).upsample_nearest2d(2 * height, 2 * width).unwrap();
                let w = Tensor::from_slice(&weight, (n_out, n_in, 3, 3), &Device::Cpu).unwrap();
                let plain = x.conv2d(&w, 1, 1, 1, 1).unwrap();
                assert_equal(&format!("{arch:?}, {n_in} to {n_out}, {height}x{width}"), &out, &plain);
            }
        }
    }
}
