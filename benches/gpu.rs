//! Self-Forcing on Wan 2.1 1.3B with random weights on a GPU, in stages. Each prints one line of JSON when it is done.
//!
//!     cargo bench --features cuda --bench gpu -- --device cuda forward decode chunk
//!
//! `forward` is a pass over a chunk of 3 latent frames with 3, 12 and 18 cached ones: the time until the call returns, and until the
//! GPU is done. If both are alike, the host is the limit. `decode` is a chunk through TAEHV and through Wan's decoder. `chunk` is what a
//! video needs for 12 frames: four steps, the pass for the cache, and TAEHV, also with the decoder on a thread of its own. `weights` only
//! loads the transformer. `--width`, `--height`, `--layers` and `--rounds` change the sizes, for a trial on a CPU.

mod weights;

use std::sync::mpsc::sync_channel;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use soragen::autoencoder::{AutoencoderKlWan, Taehv, TaehvConfig, WanConfig};
use soragen::transformer::{Config, Context, KvCache, KvCacheConfig, Positions, WanTransformer};
use soragen::{Cancel, Precision};
use weights::Weights;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Latent frames of a chunk, and steps.
const CHUNK: usize = 3;
const STEPS: usize = 4;
/// Latent frames that the window keeps besides a chunk.
const WINDOW: usize = 18;

struct Options {
    device: String,
    width: usize,
    height: usize,
    layers: usize,
    rounds: usize,
    stages: Vec<String>,
}

fn main() -> Result<()> {
    let mut options =
        Options { device: "auto".into(), width: 832, height: 480, layers: 30, rounds: 5, stages: Vec::new() };
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--device" => options.device = value()?,
            "--width" => options.width = value()?.parse()?,
            "--height" => options.height = value()?.parse()?,
            "--layers" => options.layers = value()?.parse()?,
            "--rounds" => options.rounds = value()?.parse()?,
            _ => options.stages.push(argument),
        }
    }
    let bench = Bench::new(options)?;
    for stage in &bench.options.stages {
        match stage.as_str() {
            "weights" => bench.weights()?,
            "forward" => bench.forward()?,
            "decode" => bench.decode()?,
            "chunk" => bench.chunk()?,
            _ => return Err(format!("{stage} is no stage; use weights, forward, decode or chunk").into()),
        }
    }
    Ok(())
}

struct Bench {
    options: Options,
    device: Device,
    dtype: DType,
    precision: Precision,
}

impl Bench {
    fn new(options: Options) -> Result<Self> {
        let device = soragen::open_device(&options.device)?;
        let (dtype, precision) = match device.is_cpu() {
            true => (DType::F32, Precision::F32),
            false => (DType::BF16, Precision::Bf16),
        };
        Ok(Self { options, device, dtype, precision })
    }

    fn random_weights(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(Weights::new()), self.dtype, self.device.clone())
    }

    fn random(&self, shape: &[usize]) -> Result<Tensor> {
        Ok(Tensor::randn(0f32, 1.0, shape, &self.device)?.to_dtype(self.dtype)?)
    }

    fn latents(&self) -> Result<Tensor> {
        self.random(&[1, 16, CHUNK, self.options.height / 8, self.options.width / 8])
    }

    fn transformer(&self) -> Result<(WanTransformer, Context)> {
        let config = Config {
            num_attention_heads: 12,
            attention_head_dim: 128,
            ffn_dim: 8960,
            num_layers: self.options.layers,
            ..Config::default()
        };
        let transformer = WanTransformer::load(self.random_weights(), &config, self.precision)?;
        let context = transformer.context(&self.random(&[1, 512, config.text_dim])?, &Cancel::new())?;
        Ok((transformer, context))
    }

    fn cache() -> KvCache {
        let positions = Positions::Relative;
        KvCache::new(KvCacheConfig {
            chunk: CHUNK,
            window: WINDOW,
            sink: 0,
            shots: None,
            positions,
            ring: None,
        })
    }

    /// The times in milliseconds of `run`: until it returns, and until the GPU is done. The medians.
    fn timed(&self, mut run: impl FnMut() -> Result<()>) -> Result<[f64; 2]> {
        run()?;
        self.device.synchronize()?;
        let mut times = Vec::new();
        for _ in 0..self.options.rounds {
            let start = Instant::now();
            run()?;
            let returned = start.elapsed();
            self.device.synchronize()?;
            times.push([returned, start.elapsed()]);
        }
        Ok([0, 1].map(|which| {
            let mut each: Vec<f64> = times.iter().map(|pair| pair[which].as_secs_f64() * 1e3).collect();
            each.sort_by(f64::total_cmp);
            each[each.len() / 2]
        }))
    }

    fn print(&self, stage: &str, figures: &str) {
        let Options { width, height, layers, .. } = self.options;
        println!(r#"{{"stage": "{stage}", "size": "{width}x{height}", "layers": {layers}, {figures}}}"#);
    }

    fn weights(&self) -> Result<()> {
        let start = Instant::now();
        self.transformer()?;
        self.device.synchronize()?;
        self.print("weights", &format!(r#""seconds": {:.2}"#, start.elapsed().as_secs_f64()));
        Ok(())
    }

    fn forward(&self) -> Result<()> {
        let (transformer, context) = self.transformer()?;
        let (latents, cancel) = (self.latents()?, Cancel::new());
        let mut cache = Self::cache();
        while cache.frames() < WINDOW {
            transformer.cache_chunk(&latents, &[0.0], &context, &mut cache, &cancel)?;
            if ![3, 12, 18].contains(&cache.frames()) {
                continue;
            }
            let [returned, done] = self.timed(|| {
                Ok(transformer.forward_chunk(&latents, &[500.0], &context, &cache, &cancel).map(drop)?)
            })?;
            let cached = cache.frames();
            let figures =
                format!(r#""cached": {cached}, "returned_ms": {returned:.2}, "done_ms": {done:.2}"#);
            self.print("forward", &figures);
        }
        Ok(())
    }

    fn tiny_decoder(&self) -> Result<Taehv> {
        Ok(Taehv::load(self.random_weights(), &TaehvConfig::of_wan(&WanConfig::default()))?)
    }

    fn decode(&self) -> Result<()> {
        let frames = self.latents()?.squeeze(0)?.transpose(0, 1)?.contiguous()?;
        let cancel = Cancel::new();
        let tiny = self.tiny_decoder()?;
        let mut state = Default::default();
        let [returned, done] = self.timed(|| Ok(tiny.decode(&frames, &mut state, &cancel).map(drop)?))?;
        self.print(
            "decode",
            &format!(r#""decoder": "taehv", "returned_ms": {returned:.2}, "done_ms": {done:.2}"#),
        );
        let full = AutoencoderKlWan::load(self.random_weights(), &WanConfig::default())?;
        let mut state = Default::default();
        let [returned, done] = self.timed(|| Ok(full.decode(&frames, &mut state, &cancel).map(drop)?))?;
        self.print(
            "decode",
            &format!(r#""decoder": "wan", "returned_ms": {returned:.2}, "done_ms": {done:.2}"#),
        );
        Ok(())
    }

    /// The latents of the next chunk, with its keys and values in `cache`.
    fn denoise(
        &self,
        transformer: &WanTransformer,
        context: &Context,
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let cancel = Cancel::new();
        let mut latents = self.latents()?;
        for step in 0..STEPS {
            let t = 1000.0 * (STEPS - step) as f64 / STEPS as f64;
            let velocity = transformer.forward_chunk(&latents, &[t], context, cache, &cancel)?;
            latents = (latents - (velocity.to_dtype(self.dtype)? / STEPS as f64)?)?;
        }
        transformer.cache_chunk(&latents, &[0.0], context, cache, &cancel)?;
        Ok(latents.squeeze(0)?.transpose(0, 1)?.contiguous()?)
    }

    fn chunk(&self) -> Result<()> {
        let (transformer, context) = self.transformer()?;
        let (decoder, cancel) = (self.tiny_decoder()?, Cancel::new());
        let mut cache = Self::cache();
        // The window is full from here on.
        for _ in 0..WINDOW / CHUNK {
            self.denoise(&transformer, &context, &mut cache)?;
        }
        let mut state = Default::default();
        let mut render = |latents: &Tensor| -> Result<usize> {
            let frames = decoder.decode(latents, &mut state, &cancel)?.to_dtype(DType::F32)?;
            let samples: Vec<f32> = frames.flatten_all()?.to_vec1()?;
            Ok(samples.into_iter().map(soragen::to_u8).filter(|sample| *sample > 0).count())
        };
        render(&self.denoise(&transformer, &context, &mut cache)?)?;
        let rounds = self.options.rounds;
        let start = Instant::now();
        for _ in 0..rounds {
            render(&self.denoise(&transformer, &context, &mut cache)?)?;
        }
        let serial = start.elapsed();
        let start = Instant::now();
        std::thread::scope(|scope| -> Result<()> {
            let (sender, chunks) = sync_channel::<Tensor>(0);
            let render = &mut render;
            let rendering =
                scope.spawn(move || chunks.iter().try_for_each(|latents| render(&latents).map(drop)));
            for _ in 0..rounds {
                let latents = self.denoise(&transformer, &context, &mut cache)?;
                self.device.synchronize()?;
                sender.send(latents)?;
            }
            drop(sender);
            rendering.join().map_err(|_| "the rendering thread panicked")?
        })?;
        let overlapped = start.elapsed();
        let rate = |time: std::time::Duration| (4 * CHUNK * rounds) as f64 / time.as_secs_f64();
        self.print(
            "chunk",
            &format!(r#""frames_per_second": {:.2}, "overlapped": {:.2}"#, rate(serial), rate(overlapped)),
        );
        Ok(())
    }
}
