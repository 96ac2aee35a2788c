//! The autoencoders compared with the reference, which decodes the whole video at once (`make_pipelines.py`,
//! `make_taehv.py`), and with the tensors of the real models.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use soragen::autoencoder::{Autoencoder, AutoencoderKlWan, Config, Taehv, TaehvConfig, Tiling, WanConfig};
use soragen::checkpoint::Source;
use soragen::{Cancel, Decoder, Error, Setting, Size};
use soragen_tests::fixtures::{PIPELINES, Pipeline, assert_close, json, path, tensors, values};
use soragen_tests::recording::assert_loads;

use crate::shapes::model;

/// f32 sums in another order.
const TOLERANCE: f32 = 3e-5;

fn open(source: &Source) -> Autoencoder {
    Autoencoder::open(source, Decoder::Auto, false, DType::F32, &Device::Cpu, &Cancel::new()).unwrap()
}

fn open_taehv() -> Autoencoder {
    open(&Source::Folder(path("miniature")))
}

/// Decodes the latents in chunks of the given numbers of latent frames, to `[T, H, W, 3]`.
fn decode(autoencoder: &Autoencoder, latents: &Tensor, chunks: &[usize]) -> Tensor {
    let mut state = autoencoder.decoder_state();
    let mut at = 0;
    let frames: Vec<_> = chunks
        .iter()
        .map(|&count| {
            let chunk = latents.narrow(2, at, count).unwrap();
            at += count;
            autoencoder.decode(&chunk, &mut state, &Cancel::new()).unwrap()
        })
        .collect();
    assert_eq!(at, latents.dim(2).unwrap(), "all latents must be decoded");
    Tensor::cat(&frames, 0).unwrap().permute((0, 2, 3, 1)).unwrap()
}

/// The latents of a video that arrives in chunks of these numbers of frames.
fn encode(autoencoder: &Autoencoder, video: &Tensor, chunks: &[usize]) -> Tensor {
    let (mut state, mut at) = (autoencoder.encoder_state(), 0);
    let latents = chunks.iter().map(|&count| {
        let chunk = video.narrow(2, at, count).unwrap();
        at += count;
        autoencoder.encode(&chunk, &mut state, &Cancel::new()).unwrap()
    });
    Tensor::cat(&latents.collect::<Vec<_>>(), 2).unwrap()
}

#[test]
fn decoded_frames_equal_the_reference() {
    for name in PIPELINES {
        let pipeline = Pipeline::open(name);
        let latents = &pipeline.expected["sampled_latents"];
        let frames = decode(&open(&pipeline.source), latents, &[latents.dim(2).unwrap()]);
        assert_close(name, &frames, &pipeline.expected["frames"], TOLERANCE);
    }
    let expected = tensors("miniature/taehv.safetensors");
    let frames = decode(&open_taehv(), &expected["latents"], &[4]);
    assert_close("taehv", &frames, &expected["frames"], TOLERANCE);
}

#[test]
fn a_decoder_with_fewer_blocks_equals_the_reference() {
    let weights = VarBuilder::from_tensors(tensors("decoder.safetensors"), DType::F32, &Device::Cpu);
    let config = TaehvConfig {
        patch_size: 2,
        latent_channels: 6,
        encoder_width: 4,
        decoder_widths: [8, 6, 4, 4],
        decoder_blocks: [1, 2, 0],
        temporal_downscale: [true, true, false],
        temporal_upscale: [false, true, true],
        spatial_downscale: [true, true, false],
        spatial_upscale: [false, true, true],
    };
    let taehv = Taehv::load(weights, &config).unwrap();
    let expected = tensors("decoder.safetensors");
    let (mut state, cancel) = (Default::default(), Cancel::new());
    let frames: Vec<_> = (0..3)
        .map(|i| taehv.decode(&expected["latents"].narrow(0, i, 1).unwrap(), &mut state, &cancel).unwrap())
        .collect();
    assert_close("decoder", &Tensor::cat(&frames, 0).unwrap(), &expected["frames"], TOLERANCE);
}

#[test]
fn encoded_latents_equal_the_reference() {
    let encode =
        |autoencoder: Autoencoder, video: &Tensor| encode(&autoencoder, video, &[video.dim(2).unwrap()]);
    let expected = tensors("miniature/taehv.safetensors");
    assert_close("taehv", &encode(open_taehv(), &expected["video"]), &expected["latents"], TOLERANCE);

    for name in PIPELINES {
        let Pipeline { source, expected, .. } = Pipeline::open(name);
        let video = ((&expected["frames"] * 2.0).unwrap() - 1.0).unwrap();
        let video = video.permute((3, 0, 1, 2)).unwrap().unsqueeze(0).unwrap();
        assert_close(name, &encode(open(&source), &video), &expected["encoded_frames"], TOLERANCE);
    }

    let pipeline = Pipeline::open("i2v-22");
    let image = image::open(path("pipelines/i2v-22/image.png")).unwrap().into_rgb8();
    let (width, height) = image.dimensions();
    let pixels = image.into_raw().into_iter().map(|sample| f32::from(sample) / 127.5 - 1.0);
    let pixels = Tensor::from_iter(pixels, &Device::Cpu).unwrap();
    let pixels = pixels.reshape((1, 1, height as usize, width as usize, 3)).unwrap();
    let video = pixels.permute((0, 4, 1, 2, 3)).unwrap();
    let latents = encode(open(&pipeline.source), &video);
    assert_close("i2v-22", &latents, &pipeline.expected["image_latents"], TOLERANCE);
}

#[test]
fn a_video_can_be_encoded_in_chunks() {
    const FRAMES: usize = 17;
    let wan = |name| open(&Pipeline::open(name).source);
    for (name, autoencoder) in
        [("wan 2.1", wan("t2v-unipc")), ("wan 2.2", wan("ti2v-22")), ("taehv", open_taehv())]
    {
        let side = 4 * autoencoder.config().spatial_factor();
        // Any values that vary with the position.
        let values = (0..3 * FRAMES * side * side).map(|i| (i as f32 * 0.37).sin());
        let video =
            Tensor::from_iter(values, &Device::Cpu).unwrap().reshape((1, 3, FRAMES, side, side)).unwrap();
        let whole = encode(&autoencoder, &video, &[FRAMES]);
        for chunks in [&[1, 4, 4, 4, 4][..], &[5, 12], &[9, 4, 4], &[1, 16]] {
            assert_close(&format!("{name} {chunks:?}"), &encode(&autoencoder, &video, chunks), &whole, 1e-5);
        }
        let mut state = autoencoder.encoder_state();
        let mut part =
            |count| autoencoder.encode(&video.narrow(2, 0, count).unwrap(), &mut state, &Cancel::new());
        for count in [0, 2, 4] {
            assert!(
                matches!(part(count), Err(Error::Request(Setting::Shape, _))),
                "{name}: {count} first frames"
            );
        }
        part(1).unwrap();
        for count in [0, 1, 5] {
            assert!(
                matches!(part(count), Err(Error::Request(Setting::Shape, _))),
                "{name}: {count} later frames"
            );
        }
    }
}

#[test]
fn the_result_does_not_depend_on_the_chunk_sizes() {
    const FRAMES: usize = 5;
    let wan = |name| open(&Pipeline::open(name).source);
    for (name, autoencoder) in
        [("wan 2.1", wan("t2v-unipc")), ("wan 2.2", wan("ti2v-22")), ("taehv", open_taehv())]
    {
        let channels = autoencoder.config().latent_channels();
        // Any values that vary with the position.
        let latents = (0..channels * FRAMES * 2 * 3).map(|i| (i as f32 * 0.7).sin());
        let latents = Tensor::from_iter(latents, &Device::Cpu).unwrap();
        let latents = latents.reshape((1, channels, FRAMES, 2, 3)).unwrap();
        let at_once = decode(&autoencoder, &latents, &[FRAMES]);
        assert_eq!(at_once.dim(0).unwrap(), 1 + (FRAMES - 1) * autoencoder.config().temporal_factor());
        // All ways to split: bit i is set for a boundary after frame i.
        for boundaries in 0..1u32 << (FRAMES - 1) {
            let mut chunks = vec![1];
            for i in 0..FRAMES - 1 {
                match boundaries >> i & 1 {
                    1 => chunks.push(1),
                    _ => *chunks.last_mut().unwrap() += 1,
                }
            }
            let frames = decode(&autoencoder, &latents, &chunks);
            assert_close(&format!("{name}, {chunks:?}"), &frames, &at_once, 1e-6);
        }
    }
}

#[test]
fn tiled_decoding_is_close_to_decoding_the_whole_picture() {
    // Lower bounds for tiles of 8 latents that overlap by half. Random weights have a larger receptive field than trained ones.
    for (name, least) in [("t2v-unipc", 33.0), ("ti2v-22", 30.0)] {
        let autoencoder = open(&Pipeline::open(name).source);
        let (channels, factor) =
            (autoencoder.config().latent_channels(), autoencoder.config().spatial_factor());
        let (rows, columns) = (12, 18);
        // Smooth like pictures, and different at every position.
        let latents = (0..channels * 2 * rows * columns).map(|i| {
            let (row, column) = ((i / columns % rows) as f32, (i % columns) as f32);
            (0.4 * row + 0.3 * column + (i / (rows * columns)) as f32).sin()
        });
        let latents = Tensor::from_iter(latents, &Device::Cpu).unwrap();
        let latents = latents.reshape((1, channels, 2, rows, columns)).unwrap();
        let whole = decode(&autoencoder, &latents, &[2]);
        let tiled = |side: usize, stride: usize| {
            let tiling = Tiling {
                tile_sample_min_height: side * factor,
                tile_sample_min_width: side * factor,
                tile_sample_stride_height: stride * factor,
                tile_sample_stride_width: stride * factor,
            };
            let frames = autoencoder.decode_tiled(&latents, &tiling, &Cancel::new()).unwrap();
            frames.permute((0, 2, 3, 1)).unwrap()
        };
        assert_close(&format!("{name}, one tile"), &tiled(18, 12), &whole, 0.0);
        let psnr = |tiled: &Tensor| {
            assert_eq!(tiled.dims(), whole.dims());
            let (tiled, whole) = (values(tiled), values(&whole));
            let square: f64 = tiled.iter().zip(&whole).map(|(a, b)| f64::from(a - b).powi(2)).sum();
            -10.0 * (square / tiled.len() as f64).log10()
        };
        let (narrow, wide) = (psnr(&tiled(8, 7)), psnr(&tiled(8, 4)));
        println!("{name}: {narrow:.1} dB with a small overlap, {wide:.1} dB with half");
        assert!(wide > least && wide > narrow, "{name}: {wide:.1} dB, {narrow:.1} dB");
    }
}

#[test]
fn auto_uses_tiles_if_the_picture_exceeds_the_memory() {
    let source = Pipeline::open("t2v-unipc").source;
    let open = |decoder, streaming| {
        Autoencoder::open(&source, decoder, streaming, DType::F32, &Device::Cpu, &Cancel::new())
            .map_err(|e| e.to_string())
    };
    let size = Size { width: 512, height: 512 };
    let auto = open(Decoder::Auto, false).unwrap();
    assert!(auto.in_tiles(size, Some(1 << 20)) && !auto.in_tiles(size, Some(1 << 40)));
    assert!(!auto.in_tiles(size, None), "the available memory is unknown");
    let small = Size { width: 16, height: 16 };
    assert!(!auto.in_tiles(small, Some(1 << 20)));
    assert!(!open(Decoder::Full, false).unwrap().in_tiles(size, Some(0)));
    assert!(open(Decoder::Tiled, false).unwrap().in_tiles(small, None));
    let error = open(Decoder::Tiled, true).unwrap_err();
    assert!(error.contains("chunk by chunk") && error.contains("tiny"), "{error}");
}

#[test]
fn a_cancel_stops_decoding() {
    let pipeline = Pipeline::open("t2v-unipc");
    let autoencoder = open(&pipeline.source);
    let cancel = Cancel::new();
    cancel.cancel();
    let latents = &pipeline.expected["sampled_latents"];
    let decoded = autoencoder.decode(latents, &mut autoencoder.decoder_state(), &cancel);
    assert!(matches!(decoded, Err(Error::Cancelled)));
}

#[test]
fn an_invalid_config_is_an_error_that_names_the_setting() {
    let config_error = |pipeline: &str, setting: &str, value: serde_json::Value| {
        let mut config = json(&format!("pipelines/{pipeline}/vae/config.json"));
        config[setting] = value;
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("vae")).unwrap();
        std::fs::write(folder.path().join("vae/config.json"), config.to_string()).unwrap();
        Config::read(&Source::Folder(folder.path().into())).unwrap_err().to_string()
    };
    let list = |values: &[i32]| values.into();
    for (setting, value, word) in [
        ("_class_name", "AutoencoderKL".into(), "AutoencoderKL is not supported"),
        ("base_dim", 0.into(), "width"),
        ("z_dim", 1_000_000.into(), "width"),
        ("dim_mult", list(&[]), "dim_mult"),
        ("dim_mult", list(&[1, 2, 0, 4]), "dim_mult"),
        ("dim_mult", list(&[1, 2, 4]), "temperal_downsample"),
        ("num_res_blocks", 0.into(), "num_res_blocks"),
        ("attn_scales", list(&[1]), "attn_scales"),
        ("latents_mean", list(&[0]), "latents_mean"),
        ("latents_std", list(&[1, 1, 0, 1]), "latents_std"),
        ("patch_size", 3.into(), "channels"),
        ("patch_size", 0.into(), "patch_size"),
        ("scale_factor_spatial", 16.into(), "scale_factor_spatial"),
        ("scale_factor_temporal", 8.into(), "scale_factor_temporal"),
    ] {
        let error = config_error("t2v-unipc", setting, value);
        assert!(error.contains(word) && error.contains("vae/config.json"), "{setting}: {error}");
    }
    assert!(config_error("ti2v-22", "dim_mult", list(&[1, 2, 2, 7])).contains("shortcuts"));
}

#[test]
fn the_tensors_of_the_real_models_are_requested() {
    for name in ["wan2.1-vae", "wan2.2-vae"] {
        let (config, tensors) = model::<WanConfig>(name);
        assert_loads(name, &tensors, |vb| drop(AutoencoderKlWan::load(vb, &config).unwrap()));
    }
    for name in ["taew2_1", "taew2_2"] {
        let (config, tensors) = model::<WanConfig>(name);
        assert_loads(name, &tensors, |vb| drop(Taehv::load(vb, &TaehvConfig::of_wan(&config)).unwrap()));
    }
}

#[test]
fn the_tiny_decoder_replaces_the_full_one() {
    let pipeline = Pipeline::open("t2v-unipc");
    let folder = tempfile::tempdir().unwrap();
    let vae = folder.path().join("vae");
    std::fs::create_dir(&vae).unwrap();
    for file in ["config.json", "diffusion_pytorch_model.safetensors"] {
        std::fs::copy(pipeline.source.path(&format!("vae/{file}")), vae.join(file)).unwrap();
    }
    let source = Source::Folder(folder.path().into());
    let open = |decoder, streaming| {
        Autoencoder::open(&source, decoder, streaming, DType::F32, &Device::Cpu, &Cancel::new())
            .map_err(|e| e.to_string())
    };
    let error = open(Decoder::Tiny, false).unwrap_err();
    assert!(error.contains("taew2_1.safetensors") && error.contains("madebyollin"), "{error}");
    let latents = &pipeline.expected["sampled_latents"];
    let whole = |autoencoder: Autoencoder| decode(&autoencoder, latents, &[latents.dim(2).unwrap()]);
    let full = whole(open(Decoder::Auto, true).unwrap());

    // The tensors of the real TAEHV with arbitrary values and the number of latent channels of this model.
    let Config::Wan(config) = Config::read(&source).unwrap() else { panic!("a Wan autoencoder") };
    let (_, shapes) = model::<WanConfig>("taew2_1");
    let tensors: std::collections::HashMap<_, _> = shapes
        .into_iter()
        .map(|(name, mut shape)| {
            for dim in shape.iter_mut().filter(|dim| **dim == 16) {
                *dim = config.z_dim;
            }
            let count: usize = shape.iter().product();
            let values = (0..count).map(|i| (i as f32 * 0.7).sin() * 0.03);
            (name, Tensor::from_iter(values, &Device::Cpu).unwrap().reshape(shape).unwrap())
        })
        .collect();
    candle_core::safetensors::save(&tensors, folder.path().join("taew2_1.safetensors")).unwrap();
    let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let taehv = Taehv::load(weights, &TaehvConfig::of_wan(&config)).unwrap();
    let sequence = latents.squeeze(0).unwrap().transpose(0, 1).unwrap().contiguous().unwrap();
    let tiny = taehv.decode(&sequence, &mut Default::default(), &Cancel::new()).unwrap();
    let tiny = tiny.permute((0, 2, 3, 1)).unwrap();

    assert_close("tiny", &whole(open(Decoder::Tiny, false).unwrap()), &tiny, 0.0);
    assert_close("auto, streaming", &whole(open(Decoder::Auto, true).unwrap()), &tiny, 0.0);
    assert_close("auto, whole clip", &whole(open(Decoder::Auto, false).unwrap()), &full, 0.0);
    assert_close("full", &whole(open(Decoder::Full, true).unwrap()), &full, 0.0);

    let miniature = Source::Folder(path("miniature"));
    let error = Autoencoder::open(&miniature, Decoder::Full, true, DType::F32, &Device::Cpu, &Cancel::new())
        .unwrap_err();
    assert!(error.to_string().contains("tiny"), "{error}");
}
