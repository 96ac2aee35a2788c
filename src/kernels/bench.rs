//! Single kernels with prepared inputs, for `benches/kernels.rs`.

use super::attention::{PackedKv, attend};
use super::conv2d::{Conv2d, ConvEpilogue, Weights};
use super::linear::{Linear, WeightFormat};
use super::{Arch, Epilogue, norm};

/// A kernel to measure.
pub struct Kernel {
    /// Its name and sizes.
    pub name: String,
    /// Floating-point operations of one run; a multiply-add counts as two.
    pub operations: u64,
    /// Runs the kernel on the calling thread.
    pub run: Box<dyn FnMut()>,
}

/// The kernels in the sizes of Wan 2.1, with the instruction set of the kernels.
pub fn kernels() -> Vec<Kernel> {
    let Some(arch) = *super::ARCH else { return Vec::new() };
    let mut kernels = Vec::new();
    for (channels, side) in [(96, 64), (192, 32), (384, 16)] {
        kernels.push(conv(arch, channels, side));
    }
    for (format, name) in [(WeightFormat::F32, "f32"), (WeightFormat::Int8, "int8")] {
        kernels.push(linear(arch, format, name));
    }
    for (paired, name) in [(false, "f32"), (true, "bf16")] {
        kernels.push(attention(arch, paired, name));
    }
    kernels.push(rms_norm(arch));
    kernels
}

fn values(count: usize) -> Vec<f32> {
    let wave = |i: usize| ((i * 7919) % 10_007) as f32 / 5_003.5 - 1.0;
    (0..count).map(wave).collect()
}

/// A causal convolution over three frames.
fn conv(arch: Arch, channels: usize, side: usize) -> Kernel {
    let weight = values(27 * channels * channels);
    let weights =
        Weights { weight: &weight, bias: None, n_out: channels, n_in: channels, sources: 3, kernel: 3 };
    let conv = Conv2d::new(arch, weights, 1, 1);
    let size = side * side * channels;
    let (frames, mut out) = (values(3 * size), vec![0.0; size]);
    Kernel {
        name: format!("convolution of 3x3x3, {channels} channels, {side}x{side}"),
        operations: (2 * 27 * channels * size) as u64,
        run: Box::new(move || {
            let sources = vec![frames.chunks_exact(size).collect()];
            conv.run(&sources, (side, side), (side, side), &mut out, ConvEpilogue::default());
        }),
    }
}

fn linear(arch: Arch, format: WeightFormat, name: &str) -> Kernel {
    let (rows, n_in, n_out) = (192, 1536, 1536);
    let layer = Linear::new(arch, format, (n_in, n_out), &values(n_in * n_out), None);
    let (x, mut out) = (values(rows * n_in), vec![0.0; rows * n_out]);
    Kernel {
        name: format!("linear layer, {name}, {rows} tokens of {n_in}"),
        operations: (2 * rows * n_in * n_out) as u64,
        run: Box::new(move || layer.run(&x, &mut out, Epilogue::Store)),
    }
}

fn attention(arch: Arch, paired: bool, name: &str) -> Kernel {
    let (heads, head_dim, queries, tokens) = (12, 128, 64, 1280);
    let dim = heads * head_dim;
    let kv = PackedKv::packed(arch, paired, (heads, head_dim), &values(tokens * dim), &values(tokens * dim));
    let (query, mut out) = (values(queries * dim), vec![0.0; queries * dim]);
    Kernel {
        name: format!("attention, {name}, {queries} queries, {tokens} keys, {heads} heads of {head_dim}"),
        operations: (4 * queries * tokens * dim) as u64,
        run: Box::new(move || attend(&query, &[&kv], &mut out)),
    }
}

fn rms_norm(arch: Arch) -> Kernel {
    let (pixels, channels) = (64 * 64, 96);
    let (x, weight) = (values(pixels * channels), values(channels));
    let mut out = vec![0.0; pixels * channels];
    Kernel {
        name: format!("RMS norm and SiLU, {channels} channels, 64x64"),
        operations: (pixels * channels) as u64,
        run: Box::new(move || norm::unit_rows(arch, &x, &weight, true, &mut out)),
    }
}
