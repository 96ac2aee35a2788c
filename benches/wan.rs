//! The parts of Wan 2.1 T2V 1.3B at their full size, with random weights: one step of the transformer, in `f32` or
//! `int8`, and a clip through the decoder, Wan's own (`vae`) or the tiny one (`taehv`). `make bench-peers` runs each beside
//! `benches/wan.py`, which does the same in torch.
//!
//!     cargo bench --bench wan -- int8 256x256x17

mod processor;

use std::time::Instant;

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use processor::processor_seconds;
use soragen::autoencoder::{AutoencoderKlWan, Taehv, TaehvConfig, WanConfig};
use soragen::transformer::{Config, WanTransformer};
use soragen::{Cancel, Precision};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const TEXT: usize = 512;

/// Latent channels, frames, rows and columns.
type Latents = [usize; 4];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let part = arguments.first().map_or("f32", String::as_str);
    let size = arguments.get(1).map_or("256x256x17", String::as_str);
    let sizes = size.split('x').map(str::parse).collect::<std::result::Result<Vec<usize>, _>>()?;
    let [width, height, frames] = sizes[..] else { return Err("the size is WIDTHxHEIGHTxFRAMES".into()) };
    let latents = [16, frames.div_ceil(4), height / 8, width / 8];
    let what = format!("soragen {part} {size}");
    match part {
        "f32" => step(&what, Precision::F32, latents),
        "int8" => step(&what, Precision::Int8, latents),
        // Frame by frame, as a decoder gets them from a causal model.
        "vae" => {
            let decoder = AutoencoderKlWan::load(weights(), &WanConfig::default())?;
            decode(&what, latents, |frames| {
                let mut memory = Default::default();
                frames.iter().try_for_each(|x| decoder.decode(x, &mut memory, &Cancel::new()).map(|_| ()))
            })
        }
        "taehv" => {
            let decoder = Taehv::load(weights(), &TaehvConfig::of_wan(&WanConfig::default()))?;
            decode(&what, latents, |frames| {
                let mut memory = Default::default();
                frames.iter().try_for_each(|x| decoder.decode(x, &mut memory, &Cancel::new()).map(|_| ()))
            })
        }
        _ => Err(format!("{part} is none of f32, int8, vae, taehv").into()),
    }
}

fn step(what: &str, precision: Precision, [channels, frames, rows, columns]: Latents) -> Result<()> {
    let config = Config {
        num_attention_heads: 12,
        attention_head_dim: 128,
        ffn_dim: 8960,
        num_layers: 30,
        ..Config::default()
    };
    let transformer = WanTransformer::load(weights(), &config, precision)?;
    let context = transformer.context(&random(&[1, TEXT, config.text_dim])?)?;
    let latents = random(&[1, channels, frames, rows, columns])?;
    timed(what, || {
        transformer.forward(&latents, &[500.0], &context, &Cancel::new())?;
        Ok(())
    })
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
    for _ in 0..3 {
        let (start, busy) = (Instant::now(), processor_seconds());
        run()?;
        println!(
            "{what}: {:.2} s elapsed, {:.2} s of processor time",
            start.elapsed().as_secs_f64(),
            processor_seconds() - busy
        );
    }
    Ok(())
}

/// Any weights that are asked for: random, of the size that keeps numbers as large as they were.
struct Weights(Vec<f32>);

impl Weights {
    fn new() -> Self {
        let normal = Tensor::randn(0f32, 1f32, 1 << 20, &Device::Cpu).and_then(|x| x.to_vec1());
        Self(normal.expect("a CPU has random numbers"))
    }
}

impl SimpleBackend for Weights {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let scale = match shape.dims() {
            [_] if name.ends_with("weight") => return Tensor::ones(shape, dtype, device),
            [_] => 0.0,
            [_, rest @ ..] => 1.0 / (rest.iter().product::<usize>() as f32).sqrt(),
            [] => 1.0,
        };
        // A prime number of them at a time, so that no two rows are the same.
        let pool = &self.0[..1_048_573];
        let numbers = pool.iter().cycle().map(|x| x * scale).take(shape.elem_count()).collect();
        Tensor::from_vec(numbers, shape, device)?.to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("the shape of {name} is not known")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}
