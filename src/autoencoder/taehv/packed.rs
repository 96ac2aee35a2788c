//! The layers for the CPU kernels: frames stay channels-last throughout, and consecutive linear layers are merged.

use candle_core::{DType, Device, Tensor};

use super::Layer;
use crate::autoencoder::conv2d::PlainConv2d as Plain;
use crate::autoencoder::stream::Stream;
use crate::kernels::conv2d::{Conv2d, ConvEpilogue, Sources, Weights};
use crate::kernels::{self, Arch, layout};
use crate::{Error, Result};

/// Frames `[T, H, W, C]`.
struct FeatureMap {
    data: Vec<f32>,
    frames: usize,
    height: usize,
    width: usize,
    channels: usize,
}

impl FeatureMap {
    fn frames(&self) -> std::slice::ChunksExact<'_, f32> {
        self.data.chunks_exact((self.height * self.width * self.channels).max(1))
    }
}

#[derive(Clone, Debug)]
enum Step {
    Clamp,
    /// A convolution of each group of `pool` frames to one frame.
    Conv {
        conv: Conv2d,
        pool: usize,
        stride: usize,
        relu: bool,
    },
    /// Each convolution makes one output frame of each input frame, upsampled by `scale`.
    Grow {
        convs: Vec<Conv2d>,
        scale: usize,
        relu: bool,
    },
    MemBlock(Box<[Conv2d; 3]>),
}

/// The packed layers of an encoder or decoder.
#[derive(Clone, Debug)]
pub(super) struct Packed(Vec<Step>);

impl Packed {
    pub(super) fn new(arch: Arch, layers: &[Layer]) -> Result<Self> {
        let mut steps = Vec::new();
        let mut layers = layers.iter();
        while let Some(layer) = layers.next() {
            let relu = |rest: &mut std::slice::Iter<Layer>| {
                let relu = matches!(rest.as_slice().first(), Some(Layer::Relu));
                relu.then(|| rest.next());
                relu
            };
            steps.push(match layer {
                Layer::Clamp => Step::Clamp,
                Layer::Conv(conv) => {
                    let (packed, stride) = (pack(arch, conv, 1)?, conv.stride());
                    Step::Conv { conv: packed, pool: 1, stride, relu: relu(&mut layers) }
                }
                Layer::TemporalPool(pool, conv) => {
                    Step::Conv { conv: pack(arch, conv, *pool)?, pool: *pool, stride: 1, relu: false }
                }
                Layer::Upsample | Layer::Identity => {
                    // `Taehv::load` always puts these two layers here.
                    let (Some(Layer::TemporalGrow(frames, point)), Some(Layer::Conv(conv))) =
                        (layers.next(), layers.next())
                    else {
                        return Err(candle_core::Error::Msg(
                            "a TAEHV stage does not end in a convolution".into(),
                        )
                        .into());
                    };
                    let scale = if matches!(layer, Layer::Upsample) { 2 } else { 1 };
                    let convs = (0..*frames).map(|i| merged(arch, point, i, *frames, conv, scale));
                    Step::Grow { convs: convs.collect::<Result<_>>()?, scale, relu: relu(&mut layers) }
                }
                Layer::MemBlock([a, b, c]) => {
                    Step::MemBlock(Box::new([pack(arch, a, 2)?, pack(arch, b, 1)?, pack(arch, c, 1)?]))
                }
                Layer::Relu | Layer::TemporalGrow(..) => {
                    return Err(candle_core::Error::Msg("unexpected order of TAEHV layers".into()).into());
                }
            });
        }
        Ok(Self(steps))
    }

    /// Runs the layers on `x`, f32 `[T, C, H, W]`. Returns `[T, H, W, C]`.
    pub(super) fn run(&self, x: &Tensor, stream: &mut Stream) -> Result<Tensor> {
        let (frames, channels, height, width) = x.dims4()?;
        let data = layout::transposed(&kernels::to_vec(x)?, (channels, height * width));
        let mut map = FeatureMap { data, frames, height, width, channels };
        for step in &self.0 {
            stream.cancel.check()?;
            map = step.run(map, stream)?;
        }
        Ok(Tensor::from_vec(map.data, (map.frames, map.height, map.width, map.channels), &Device::Cpu)?)
    }
}

impl Step {
    fn run(&self, mut x: FeatureMap, stream: &mut Stream) -> Result<FeatureMap> {
        Ok(match self {
            Self::Clamp => {
                x.data.iter_mut().for_each(|x| *x = (*x / 3.0).tanh() * 3.0);
                x
            }
            Self::Conv { conv, pool, stride, relu } => {
                let frames: Vec<_> = x.frames().collect();
                let sources: Vec<Sources> = frames.chunks_exact(*pool).map(<[_]>::to_vec).collect();
                let size = (x.height.div_ceil(*stride), x.width.div_ceil(*stride));
                convolved(conv, &x, &sources, size, ConvEpilogue { relu: *relu, ..Default::default() })
            }
            Self::Grow { convs, scale, relu } => {
                let (height, width, channels) = (x.height * scale, x.width * scale, convs[0].n_out());
                let frames = x.frames * convs.len();
                let mut data = vec![0.0; frames * height * width * channels];
                let mut outs = data.chunks_exact_mut((height * width * channels).max(1));
                for frame in x.frames() {
                    for (conv, out) in convs.iter().zip(&mut outs) {
                        let epilogue = ConvEpilogue { relu: *relu, ..Default::default() };
                        conv.run(&[vec![frame]], (x.height, x.width), (x.height, x.width), out, epilogue);
                    }
                }
                FeatureMap { data, frames, height, width, channels }
            }
            Self::MemBlock(convs) => {
                let [first, second, third] = &**convs;
                let size = (x.height, x.width);
                let slot = stream.slot();
                let before = match slot.take() {
                    Some(before) => kernels::to_vec(&before)?,
                    None => vec![0.0; x.height * x.width * x.channels],
                };
                if before.len() != x.height * x.width * x.channels {
                    return Err(Error::Request(
                        crate::Setting::Shape,
                        "the size of the latents changed within a video".into(),
                    ));
                }
                let past = std::iter::once(&before[..]).chain(x.frames());
                let sources: Vec<Sources> = x.frames().zip(past).map(|(now, past)| vec![now, past]).collect();
                let relu = ConvEpilogue { relu: true, residual: None };
                let y = convolved(first, &x, &sources, size, relu);
                let y = convolved(second, &y, &single_sources(&y), size, relu);
                let y = convolved(
                    third,
                    &y,
                    &single_sources(&y),
                    size,
                    ConvEpilogue { relu: true, residual: Some(&x.data) },
                );
                if let Some(last) = x.frames().last() {
                    *slot = Some(Tensor::from_slice(last, last.len(), &Device::Cpu)?);
                }
                y
            }
        })
    }
}

fn single_sources(x: &FeatureMap) -> Vec<Sources<'_>> {
    x.frames().map(|frame| vec![frame]).collect()
}

fn convolved(
    conv: &Conv2d,
    x: &FeatureMap,
    sources: &[Sources],
    (height, width): (usize, usize),
    epilogue: ConvEpilogue,
) -> FeatureMap {
    let (frames, channels) = (sources.len(), conv.n_out());
    let mut data = vec![0.0; frames * height * width * channels];
    conv.run(sources, (x.height, x.width), (height, width), &mut data, epilogue);
    FeatureMap { data, frames, height, width, channels }
}

/// Packs a convolution whose input channels are those of `sources` concatenated frames.
fn pack(arch: Arch, conv: &Plain, sources: usize) -> Result<Conv2d> {
    let (weight, bias) = conv.weights();
    let (n_out, n_in, kernel, _) = weight.dims4()?;
    let weight = kernels::to_vec(weight)?;
    let bias = bias.map(kernels::to_vec).transpose()?;
    let weights =
        Weights { weight: &weight, bias: bias.as_deref(), n_out, n_in: n_in / sources, sources, kernel };
    Ok(Conv2d::new(arch, weights, conv.stride(), kernel / 2))
}

/// Merges the 1×1 convolution `point`, for output frame `i` of `frames`, and the following `conv` into one convolution.
fn merged(arch: Arch, point: &Plain, i: usize, frames: usize, conv: &Plain, scale: usize) -> Result<Conv2d> {
    let ((point, _), (weight, bias)) = (point.weights(), conv.weights());
    let (n_out, middle, kernel, _) = weight.dims4()?;
    let n_in = point.dim(1)?;
    let point =
        point.narrow(0, i * (point.dim(0)? / frames), middle)?.reshape((middle, n_in))?.contiguous()?;
    // [out, ky, kx, middle] × [middle, in]
    let taps = weight.permute((0, 2, 3, 1))?.contiguous()?.reshape(((), middle))?;
    let weight = crate::ops::matmul(&taps, &point)?.reshape((n_out, kernel, kernel, n_in))?;
    let weight = kernels::to_vec(&weight.permute((0, 3, 1, 2))?.to_dtype(DType::F32)?)?;
    let bias = bias.map(kernels::to_vec).transpose()?;
    let weights = Weights { weight: &weight, bias: bias.as_deref(), n_out, n_in, sources: 1, kernel };
    Ok(match scale {
        1 => Conv2d::new(arch, weights, 1, kernel / 2),
        _ => Conv2d::upsampled(arch, weights),
    })
}

/// Unfolds channels into pixels, `[T, h, w, 3 × patch²]` to `[T, H, W, 3]`, and clamps to \[0, 1\].
pub(super) fn unpatched(x: &Tensor, patch: usize) -> Result<Tensor> {
    let (frames, height, width, channels) = x.dims4()?;
    let data = kernels::to_vec(x)?;
    let colours = channels / (patch * patch);
    let mut out = Vec::with_capacity(data.len());
    for row in data.chunks_exact((width * channels).max(1)) {
        for py in 0..patch {
            for pixel in row.chunks_exact(channels) {
                for px in 0..patch {
                    for colour in 0..colours {
                        out.push(pixel[(colour * patch + py) * patch + px].clamp(0.0, 1.0));
                    }
                }
            }
        }
    }
    Ok(Tensor::from_vec(out, (frames, height * patch, width * patch, colours), &Device::Cpu)?)
}
