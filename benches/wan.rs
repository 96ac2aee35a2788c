//! The parts of Wan 2.1 T2V 1.3B at full size, with random weights: a step of the transformer in `f32` or `int8`, and a clip
//! through Wan's decoder (`vae`) or the tiny one (`taehv`). `make bench-peers` also runs `benches/wan.py`, which measures the
//! same with torch. `quantized` compares int8 with f32.
//!
//!     cargo bench --bench wan -- int8 256x256x17
//!
//! `umt5` runs a prompt through four of the 24 layers of the text encoder, whose weights are memory-mapped.
//!
//!     cargo bench --bench wan -- umt5 24

mod memory;
mod processor;
mod weights;

use std::collections::HashMap;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use memory::memory;
use processor::processor_seconds;
use soragen::autoencoder::{AutoencoderKlWan, Taehv, TaehvConfig, WanConfig};
use soragen::checkpoint::{Parts, Source};
use soragen::text::{Umt5Config, Umt5Encoder};
use soragen::transformer::{Config, WanTransformer};
use soragen::{Cancel, Precision};
use weights::Weights;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const TEXT: usize = 512;

/// Latent channels, frames, rows and columns.
type Latents = [usize; 4];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let part = arguments.first().map_or("f32", String::as_str);
    if part == "umt5" {
        return umt5(arguments.get(1).map_or(Ok(24), |tokens| tokens.parse())?);
    }
    let size = arguments.get(1).map_or("256x256x17", String::as_str);
    let sizes = size.split('x').map(str::parse).collect::<std::result::Result<Vec<usize>, _>>()?;
    let [width, height, frames] = sizes[..] else {
        return Err("the size must be WIDTHxHEIGHTxFRAMES".into());
    };
    let latents = [16, frames.div_ceil(4), height / 8, width / 8];
    let what = format!("soragen {part} {size}");
    match part {
        "f32" => step(&what, Precision::F32, latents),
        "int8" => step(&what, Precision::Int8, latents),
        // Frame by frame, as with a causal model.
        "vae" => {
            let decoder = AutoencoderKlWan::load(weights(), &WanConfig::default())?;
            decode(&what, latents, |frames| {
                let mut state = Default::default();
                frames.iter().try_for_each(|x| decoder.decode(x, &mut state, &Cancel::new()).map(|_| ()))
            })
        }
        "taehv" => {
            let decoder = Taehv::load(weights(), &TaehvConfig::of_wan(&WanConfig::default()))?;
            decode(&what, latents, |frames| {
                let mut state = Default::default();
                frames.iter().try_for_each(|x| decoder.decode(x, &mut state, &Cancel::new()).map(|_| ()))
            })
        }
        "quantized" => quantized(&what, latents),
        _ => Err(format!("{part} is unknown; use f32, int8, quantized, vae, taehv or umt5").into()),
    }
}

fn config() -> Config {
    Config {
        num_attention_heads: 12,
        attention_head_dim: 128,
        ffn_dim: 8960,
        num_layers: 30,
        ..Config::default()
    }
}

/// The error of int8 after four steps from noise, in the latents and in the frames of the tiny decoder.
fn quantized(what: &str, [channels, frames, rows, columns]: Latents) -> Result<()> {
    const STEPS: u32 = 4;
    let config = config();
    let (weights, prompt) = (weights(), random(&[1, TEXT, config.text_dim])?);
    let noise = random(&[1, channels, frames, rows, columns])?;
    let decoder = Taehv::load(weights.clone(), &TaehvConfig::of_wan(&WanConfig::default()))?;
    let generate = |precision| -> Result<(Tensor, Tensor)> {
        let transformer = WanTransformer::load(weights.clone(), &config, precision)?;
        let context = transformer.context(&prompt, &Cancel::new())?;
        let mut latents = noise.clone();
        for step in 0..STEPS {
            let time = 1000.0 * f64::from(STEPS - step) / f64::from(STEPS);
            let velocity = transformer.forward(&latents, &[time], &context, &Cancel::new())?;
            latents = (latents - (velocity / f64::from(STEPS))?)?;
        }
        let decoded = decoder.decode(
            &latents.squeeze(0)?.transpose(0, 1)?.contiguous()?,
            &mut Default::default(),
            &Cancel::new(),
        )?;
        Ok((latents, decoded))
    };
    let (exact, approximate) = (generate(Precision::F32)?, generate(Precision::Int8)?);
    let power = |x: &Tensor| -> Result<f32> { Ok(x.sqr()?.mean_all()?.to_scalar()?) };
    let signal = power(&exact.0)? / power(&(approximate.0 - &exact.0)?)?;
    let psnr = 1.0 / power(&(approximate.1 - &exact.1)?)?;
    println!(
        "{what}: signal-to-noise ratio of the latents {:.1} dB, PSNR of the frames {:.1} dB",
        10.0 * signal.log10(),
        10.0 * psnr.log10()
    );
    Ok(())
}

fn step(what: &str, precision: Precision, [channels, frames, rows, columns]: Latents) -> Result<()> {
    let config = config();
    let transformer = WanTransformer::load(weights(), &config, precision)?;
    let context = transformer.context(&random(&[1, TEXT, config.text_dim])?, &Cancel::new())?;
    let latents = random(&[1, channels, frames, rows, columns])?;
    timed(what, || {
        transformer.forward(&latents, &[500.0], &context, &Cancel::new())?;
        Ok(())
    })
}

fn umt5(tokens: u32) -> Result<()> {
    let config = Umt5Config {
        vocab_size: 1024,
        d_model: 4096,
        d_ff: 10240,
        num_layers: 4,
        num_heads: 64,
        ..Umt5Config::default()
    };
    let folder = tempfile::tempdir()?;
    std::fs::create_dir(folder.path().join("text_encoder"))?;
    std::fs::write(folder.path().join("model_index.json"), "{}")?;
    let file = folder.path().join("text_encoder/model.safetensors");
    candle_core::safetensors::save(&umt5_weights(&config)?, file)?;
    let source = Source::parse(&folder.path().to_string_lossy(), &Parts::default())?;
    let weights = source.tensors("text_encoder", "model", DType::F32, &Device::Cpu, true, &Cancel::new())?;
    let encoder = Umt5Encoder::load(weights, &config)?;
    let prompt: Vec<u32> = (1..=tokens).collect();
    timed(&format!("soragen umt5 {tokens}"), || Ok(encoder.forward(&prompt, &Cancel::new()).map(drop)?))
}

/// Random weights in bf16, the usual format of the files.
fn umt5_weights(config: &Umt5Config) -> Result<HashMap<String, Tensor>> {
    let (dim, inner, fed) = (config.d_model, config.num_heads * config.d_kv, config.d_ff);
    let mut shapes = vec![("shared".to_string(), vec![config.vocab_size, dim])];
    shapes.push(("encoder.final_layer_norm".into(), vec![dim]));
    for i in 0..config.num_layers {
        let mut add = |name: &str, shape: &[usize]| {
            shapes.push((format!("encoder.block.{i}.layer.{name}"), shape.to_vec()));
        };
        for name in ["q", "k", "v"] {
            add(&format!("0.SelfAttention.{name}"), &[inner, dim]);
        }
        add("0.SelfAttention.o", &[dim, inner]);
        add(
            "0.SelfAttention.relative_attention_bias",
            &[config.relative_attention_num_buckets, config.num_heads],
        );
        add("0.layer_norm", &[dim]);
        add("1.DenseReluDense.wi_0", &[fed, dim]);
        add("1.DenseReluDense.wi_1", &[fed, dim]);
        add("1.DenseReluDense.wo", &[dim, fed]);
        add("1.layer_norm", &[dim]);
    }
    let random = Weights::new();
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let name = format!("{name}.weight");
        let tensor = random.get(shape.into(), &name, Default::default(), DType::BF16, &Device::Cpu)?;
        Ok((name, tensor))
    };
    shapes.into_iter().map(tensor).collect()
}

fn decode(
    what: &str,
    [channels, frames, rows, columns]: Latents,
    run: impl Fn(&[Tensor]) -> soragen::Result<()>,
) -> Result<()> {
    let latents = (0..frames).map(|_| random(&[1, channels, rows, columns])).collect::<Result<Vec<_>>>()?;
    timed(what, || Ok(run(&latents)?))
}

fn random(shape: &[usize]) -> Result<Tensor> {
    Ok(Tensor::randn(0f32, 1f32, shape, &Device::Cpu)?)
}

fn weights() -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(Weights::new()), DType::F32, Device::Cpu)
}

fn timed(what: &str, run: impl Fn() -> Result<()>) -> Result<()> {
    let mebibytes = |name| memory(name).map_or(f64::NAN, |bytes| bytes as f64 / f64::from(1 << 20));
    let before = mebibytes("VmRSS");
    for _ in 0..3 {
        let (start, busy) = (Instant::now(), processor_seconds());
        run()?;
        println!(
            "{what}: {:.2} s elapsed, {:.2} s of processor time",
            start.elapsed().as_secs_f64(),
            processor_seconds() - busy
        );
    }
    println!("{what}: {before:.0} MiB before, peak {:.0} MiB", mebibytes("VmHWM"));
    Ok(())
}
