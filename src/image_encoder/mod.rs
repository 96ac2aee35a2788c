//! CLIP's image encoder (<https://arxiv.org/abs/2103.00020>), with which Wan 2.1's image-to-video models read their images:
//! transformers' `CLIPVisionModel` and `CLIPImageProcessor`.
//!
//! It is opened for each scene and drops each layer after its use: in memory is one layer of ViT-H's 32.

use candle_core::{D, DType, Device, Module, Tensor};
use candle_nn::LayerNorm;
use image::RgbImage;
use serde::Deserialize;

use crate::checkpoint::{Layer, Source, Tensors};
use crate::ops::matmul;
use crate::{Cancel, Error, Result, Setting, picture};

/// Its folder in diffusers' layout, and the stem of its weight files.
pub(crate) const FOLDER: &str = "image_encoder";
pub(crate) const STEM: &str = "model";
const CONFIG: &str = "image_encoder/config.json";
const PROCESSOR: &str = "image_processor/preprocessor_config.json";

/// The mean and the standard deviation of red, green and blue in CLIP's training data.
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const DEVIATION: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// The configuration of an encoder. Names and defaults are those of transformers' `CLIPVisionConfig`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ImageEncoderConfig {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_channels: usize,
    pub image_size: usize,
    pub patch_size: usize,
    pub layer_norm_eps: f64,
    /// `gelu`, or `quick_gelu`.
    pub hidden_act: String,
}

impl Default for ImageEncoderConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            layer_norm_eps: 1e-5,
            hidden_act: "quick_gelu".into(),
        }
    }
}

impl ImageEncoderConfig {
    /// Checks for impossible sizes and unsupported variants.
    ///
    /// # Errors
    /// [`Error::Request`] names the setting.
    pub fn check(&self) -> Result<()> {
        const MAX_SIZE: usize = 1 << 16;
        let refuse = |reason: String| Err(Error::Request(Setting::Model, format!("image encoder: {reason}")));
        for (name, size, most) in [
            ("hidden_size", self.hidden_size, MAX_SIZE),
            ("intermediate_size", self.intermediate_size, MAX_SIZE),
            ("num_hidden_layers", self.num_hidden_layers, 1024),
            ("num_attention_heads", self.num_attention_heads, self.hidden_size),
            ("image_size", self.image_size, 2048),
            ("patch_size", self.patch_size, self.image_size),
        ] {
            if !(1..=most).contains(&size) {
                return refuse(format!("{name} is {size}; it must be from 1 to {most}"));
            }
        }
        // The last layer is not used.
        if self.num_hidden_layers < 2 || !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return refuse(format!(
                "num_hidden_layers is {} and num_attention_heads {}; at least two layers are needed, and hidden_size {} must be a \
                 multiple of the heads",
                self.num_hidden_layers, self.num_attention_heads, self.hidden_size
            ));
        }
        if self.num_channels != 3 || !(self.layer_norm_eps.is_finite() && self.layer_norm_eps > 0.0) {
            return refuse("num_channels must be 3 and layer_norm_eps a positive number".into());
        }
        match self.hidden_act.as_str() {
            "gelu" | "quick_gelu" => Ok(()),
            other => refuse(format!("hidden_act is {other:?}; gelu and quick_gelu are supported")),
        }
    }

    /// Tokens of an image: one of the class, and one for every patch.
    pub(crate) fn tokens(&self) -> usize {
        1 + (self.image_size / self.patch_size).pow(2)
    }
}

/// The settings of `CLIPImageProcessor` that the models change.
#[derive(Deserialize)]
#[serde(default)]
struct Processor {
    image_mean: [f32; 3],
    image_std: [f32; 3],
}

impl Default for Processor {
    fn default() -> Self {
        Self { image_mean: MEAN, image_std: DEVIATION }
    }
}

/// The encoder of a model, without its weights.
#[derive(Clone, Debug)]
pub struct ImageEncoder {
    source: Source,
    config: ImageEncoderConfig,
    mean: [f32; 3],
    deviation: [f32; 3],
    device: Device,
}

impl ImageEncoder {
    /// Reads the configuration in `image_encoder/` and `image_processor/` of `source`, and checks that the weights are there.
    ///
    /// # Errors
    /// [`Error::NotFound`] and [`Error::Invalid`] for missing, damaged or unsupported files.
    pub fn open(source: &Source, device: &Device) -> Result<Self> {
        let config: ImageEncoderConfig = source.json(CONFIG)?;
        config.check().map_err(|e| source.invalid(CONFIG, e))?;
        source.shapes(FOLDER, STEM)?;
        let processor = match source.exists(PROCESSOR) {
            true => source.json(PROCESSOR)?,
            false => Processor::default(),
        };
        let Processor { image_mean: mean, image_std: deviation } = processor;
        if !mean.iter().chain(&deviation).all(|value| value.is_finite()) || deviation.contains(&0.0) {
            return Err(
                source.invalid(PROCESSOR, "image_mean and image_std must be numbers, image_std not 0")
            );
        }
        Ok(Self { source: source.clone(), config, mean, deviation, device: device.clone() })
    }

    /// The configuration.
    pub fn config(&self) -> &ImageEncoderConfig {
        &self.config
    }

    /// The tokens of `images`, one image after the other, from the last layer but one: f32 `[1, images × tokens, hidden_size]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the weights do not match the configuration; [`Error::Cancelled`] within a layer of a cancel.
    pub fn encode(&self, images: &[&RgbImage], cancel: &Cancel) -> Result<Tensor> {
        let weights = self.source.tensors(FOLDER, STEM, DType::F32, &self.device, false, cancel)?;
        // Files of transformers 5 have no prefix.
        let prefix = "vision_model.embeddings.class_embedding";
        let weights = if weights.contains_tensor(prefix) { weights.pp("vision_model") } else { weights };
        let pixels = images.iter().map(|image| self.pixels(image)).collect::<Result<Vec<_>>>()?;
        let hidden = self.hidden(&Tensor::stack(&pixels, 0)?, &weights, cancel);
        // candle may return a cancel as another error.
        cancel.check()?;
        let hidden = hidden.map_err(|e| self.source.mismatch(FOLDER, e))?;
        let (count, tokens, width) = hidden.dims3()?;
        Ok(hidden.reshape((1, count * tokens, width))?)
    }

    /// `image` as the encoder reads it, f32 `[3, side, side]`.
    fn pixels(&self, image: &RgbImage) -> Result<Tensor> {
        let side = self.config.image_size;
        let square =
            Tensor::from_vec(picture::middle_square(image, side as u32)?, (side, side, 3), &self.device)?;
        let of_channels = |values: [f32; 3]| Tensor::new(&values, &self.device)?.reshape((3, 1, 1));
        let unit = (square.permute((2, 0, 1))?.to_dtype(DType::F32)? * (1.0 / 255.0))?;
        Ok(unit.broadcast_sub(&of_channels(self.mean)?)?.broadcast_div(&of_channels(self.deviation)?)?)
    }

    /// The output of the last layer but one, `[N, tokens, hidden_size]`.
    fn hidden(&self, pixels: &Tensor, weights: &Tensors, cancel: &Cancel) -> Result<Tensor> {
        let ImageEncoderConfig {
            hidden_size, patch_size, image_size, layer_norm_eps, num_hidden_layers, ..
        } = self.config;
        let embeddings = weights.pp("embeddings");
        let (count, side) = (pixels.dim(0)?, image_size / patch_size);
        // The kernel of the convolution equals its stride: it is a linear layer over each patch.
        let patches = pixels
            .narrow(2, 0, side * patch_size)?
            .narrow(3, 0, side * patch_size)?
            .reshape((count, 3, side, patch_size, side, patch_size))?
            .permute((0, 2, 4, 1, 3, 5))?
            .contiguous()?
            .reshape((count * side * side, 3 * patch_size * patch_size))?;
        let kernel = embeddings.get((hidden_size, 3, patch_size, patch_size), "patch_embedding.weight")?;
        let kernel = kernel.reshape((hidden_size, ()))?.t()?.contiguous()?;
        let patches = matmul(&patches, &kernel)?.reshape((count, side * side, hidden_size))?;
        let class = embeddings.get(hidden_size, "class_embedding")?;
        let class = class.broadcast_as((count, 1, hidden_size))?.contiguous()?;
        let positions = embeddings.get((self.config.tokens(), hidden_size), "position_embedding.weight")?;
        let embedded = Tensor::cat(&[class, patches], 1)?.broadcast_add(&positions)?;
        let norm =
            |name: &str| candle_nn::layer_norm(hidden_size, layer_norm_eps, (*weights.pp(name)).clone());
        let mut x = norm("pre_layrnorm")?.forward(&embedded)?;
        for i in 0..num_hidden_layers - 1 {
            cancel.check()?;
            let layer = EncoderLayer::load(&weights.pp("encoder.layers").pp(i), &self.config)?;
            x = layer.forward(&x)?;
        }
        Ok(x)
    }
}

/// One layer: self attention, then two linear layers, each after a layer norm.
struct EncoderLayer {
    norm_1: LayerNorm,
    query: Layer,
    key: Layer,
    value: Layer,
    output: Layer,
    norm_2: LayerNorm,
    layer_in: Layer,
    layer_out: Layer,
    heads: usize,
    quick: bool,
}

impl EncoderLayer {
    fn load(weights: &Tensors, config: &ImageEncoderConfig) -> Result<Self> {
        let (dim, wide) = (config.hidden_size, config.intermediate_size);
        let attention = weights.pp("self_attn");
        let norm =
            |name: &str| candle_nn::layer_norm(dim, config.layer_norm_eps, (*weights.pp(name)).clone());
        Ok(Self {
            norm_1: norm("layer_norm1")?,
            query: attention.linear(dim, dim, "q_proj")?,
            key: attention.linear(dim, dim, "k_proj")?,
            value: attention.linear(dim, dim, "v_proj")?,
            output: attention.linear(dim, dim, "out_proj")?,
            norm_2: norm("layer_norm2")?,
            layer_in: weights.linear(dim, wide, "mlp.fc1")?,
            layer_out: weights.linear(wide, dim, "mlp.fc2")?,
            heads: config.num_attention_heads,
            quick: config.hidden_act == "quick_gelu",
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = (x + self.attention(&self.norm_1.forward(x)?)?)?;
        let hidden = self.layer_in.forward(&self.norm_2.forward(&x)?)?;
        let hidden = match self.quick {
            true => (&hidden * candle_nn::ops::sigmoid(&(&hidden * 1.702)?)?)?,
            false => hidden.gelu_erf()?,
        };
        Ok((x + self.layer_out.forward(&hidden)?)?)
    }

    fn attention(&self, x: &Tensor) -> Result<Tensor> {
        let (count, tokens, dim) = x.dims3()?;
        let head_dim = dim / self.heads;
        let split = |layer: &Layer| -> Result<Tensor> {
            let projected = layer.forward(x)?.reshape((count, tokens, self.heads, head_dim))?;
            Ok(projected.transpose(1, 2)?.contiguous()?)
        };
        let (query, key, value) = (split(&self.query)?, split(&self.key)?, split(&self.value)?);
        let query = (query * (1.0 / (head_dim as f64).sqrt()))?;
        let scores = matmul(&query, &key.transpose(D::Minus1, D::Minus2)?.contiguous()?)?;
        let attended = matmul(&candle_nn::ops::softmax_last_dim(&scores)?, &value)?;
        Ok(self.output.forward(&attended.transpose(1, 2)?.contiguous()?.reshape((count, tokens, dim))?)?)
    }
}
