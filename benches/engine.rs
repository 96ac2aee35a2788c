//! The speed of the engine compared with the peak of the CPU: `make bench`.
//!
//! `SORAGEN_KERNELS=plain` selects candle's operations instead of the kernels. Times are the best of several rounds. Processor
//! time is printed too, because it is more reliable on a busy machine.

mod peak;
mod processor;

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use peak::peak;
use processor::processor_seconds;
use soragen::autoencoder::{Taehv, TaehvConfig};
use soragen::transformer::{Config, KvCache, KvCacheConfig, Positions, WanTransformer};
use soragen::{Cancel, Length, Model, OpenOptions, Precision, Request, Session};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Frame rate of the built-in model.
const RATE: f64 = 16.0;
/// Video frames per latent frame.
const FRAMES: f64 = 4.0;
/// Transformer passes per latent frame.
const PASSES: f64 = 5.0;

fn main() -> Result<()> {
    println!("peak of one core: {:.0} GFLOP/s in f32; {} threads", peak(), threads());
    let decode = decode()?;
    let pass = transformer()?;
    let second = 1.0 / (decode + PASSES * pass) * FRAMES;
    println!("decode and transformer: {second:.1} frames/s, {:.2} x real time", second / RATE);
    builtin()
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs and prints a measurement. Returns the seconds of the fastest of `rounds`.
fn timed(what: &str, operations: f64, rounds: usize, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    run()?;
    let (mut best, busy) = (f64::INFINITY, processor_seconds());
    for _ in 0..rounds {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    let busy = (processor_seconds() - busy) / rounds as f64;
    println!(
        "{what}: {:.1} ms, {:.1} ms of processor time ({:.0} GFLOP/s per busy core)",
        best * 1e3,
        busy * 1e3,
        operations / busy / 1e9
    );
    Ok(best)
}

/// Decodes one latent frame with an autoencoder of the size of the built-in model's.
fn decode() -> Result<f64> {
    let config = TaehvConfig {
        patch_size: 2,
        latent_channels: 16,
        encoder_width: 64,
        decoder_blocks: [3; 3],
        decoder_widths: [128, 96, 48, 32],
        temporal_downscale: [true, true, false],
        temporal_upscale: [false, true, true],
        spatial_downscale: [true, true, false],
        spatial_upscale: [false, true, true],
    };
    let weights = VarBuilder::zeros(DType::F32, &Device::Cpu);
    let autoencoder = Taehv::load(weights, &config)?;
    let latents = Tensor::zeros((1, 16, 24, 40), DType::F32, &Device::Cpu)?;
    let mut state = Default::default();
    timed("decode of 4 frames of 320x192 (12.6 GFLOP)", 12.6e9, 20, || {
        autoencoder.decode(&latents, &mut state, &Cancel::new())?;
        Ok(())
    })
}

/// One pass over one latent frame, with six cached, through a transformer of the size of the built-in model's.
fn transformer() -> Result<f64> {
    let config = Config {
        patch_size: [1, 4, 4],
        num_attention_heads: 4,
        attention_head_dim: 64,
        text_dim: 384,
        ffn_dim: 1024,
        num_layers: 8,
        ..Config::default()
    };
    let transformer =
        WanTransformer::load(VarBuilder::zeros(DType::F32, &Device::Cpu), &config, Precision::F32)?;
    let cancel = Cancel::new();
    let context = transformer.context(&Tensor::zeros((1, 64, 384), DType::F32, &Device::Cpu)?, &cancel)?;
    let latents = Tensor::zeros((1, 16, 1, 24, 40), DType::F32, &Device::Cpu)?;
    let mut cache = KvCache::new(KvCacheConfig {
        chunk: 1,
        window: 5,
        sink: 1,
        shots: None,
        positions: Positions::Relative,
        ring: None,
    });
    for _ in 0..7 {
        transformer.cache_chunk(&latents, &[0.0], &context, &mut cache, &cancel)?;
    }
    timed("transformer pass over 4 frames (1.1 GFLOP)", 1.1e9, 50, || {
        transformer.forward_chunk(&latents, &[500.0], &context, &cache, &cancel)?;
        Ok(())
    })
}

/// Runs the built-in model from a prompt to frames.
fn builtin() -> Result<()> {
    soragen_builtin::register();
    let start = Instant::now();
    let model = Model::open("builtin", &OpenOptions::default(), &Cancel::new())?;
    let mut request = Request::new("a red fox");
    request.length = Length::Frames(33);
    let mut session = Session::new(model, request)?;
    let (mut frames, mut busy, mut timer) = (0, processor_seconds(), start);
    while let Some(chunk) = session.next_raw_chunk(&Cancel::new(), &mut |_| {})? {
        if frames == 0 {
            println!("built-in model: first frame after {:.2} s", start.elapsed().as_secs_f64());
            (busy, timer) = (processor_seconds(), Instant::now());
        } else {
            frames += chunk.len();
        }
        frames = frames.max(1);
    }
    let (wall, busy) = (timer.elapsed().as_secs_f64(), processor_seconds() - busy);
    let generated = (frames - 1) as f64;
    println!(
        "built-in model: later frames {:.1} frames/s, {:.2} x real time; {:.0} ms of processor time per frame",
        generated / wall,
        generated / wall / RATE,
        busy / generated * 1e3
    );
    Ok(())
}
