//! UMT5 (<https://arxiv.org/abs/2304.09151>), the text encoder of Wan: transformers' `UMT5EncoderModel`.
//!
//! A T5 encoder with a relative position bias in every layer.

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use tokenizers::Tokenizer;

use super::tokens::{TOKENIZER, check_tokens, open_tokenizer, tokenize};
use super::{CONFIG, clean};
use crate::checkpoint::{Layer, Source, Tensors};
use crate::kernels::gelu;
use crate::ops::{index_select, matmul};
use crate::{Cancel, Error, Result};

/// Tokens that Wan's transformer reads; shorter prompts are padded.
pub const MAX_TOKENS: usize = 512;

/// The configuration of an encoder. Names and defaults are those of transformers' `UMT5Config`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Umt5Config {
    pub vocab_size: usize,
    pub d_model: usize,
    pub d_kv: usize,
    pub d_ff: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    pub relative_attention_num_buckets: usize,
    pub relative_attention_max_distance: usize,
    pub layer_norm_epsilon: f64,
    /// Only `gated-gelu` is supported.
    pub feed_forward_proj: String,
}

impl Default for Umt5Config {
    fn default() -> Self {
        Self {
            vocab_size: 250_112,
            d_model: 512,
            d_kv: 64,
            d_ff: 1024,
            num_layers: 8,
            num_heads: 6,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
            feed_forward_proj: "gated-gelu".into(),
        }
    }
}

impl Umt5Config {
    /// Checks for impossible sizes and unsupported variants.
    ///
    /// # Errors
    /// [`Error::Request`] names the setting.
    pub fn check(&self) -> Result<()> {
        const MAX_SIZE: usize = 1 << 20;
        let refuse =
            |reason: String| Err(Error::Request(crate::Setting::Model, format!("text encoder: {reason}")));
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("d_model", self.d_model),
            ("d_kv", self.d_kv),
            ("d_ff", self.d_ff),
            ("num_layers", self.num_layers),
            ("num_heads", self.num_heads),
            ("relative_attention_num_buckets", self.relative_attention_num_buckets),
            ("relative_attention_max_distance", self.relative_attention_max_distance),
            ("num_heads × d_kv", self.num_heads.saturating_mul(self.d_kv)),
        ];
        for (name, size) in sizes {
            if !(1..=MAX_SIZE).contains(&size) {
                return refuse(format!("{name} is {size}; it must be from 1 to {MAX_SIZE}"));
            }
        }
        let exact = self.relative_attention_num_buckets / 4;
        if exact == 0 || self.relative_attention_max_distance <= exact {
            return refuse(format!(
                "relative_attention_num_buckets is {} and relative_attention_max_distance {}; \
                 at least 4 are needed, and more than a quarter of them",
                self.relative_attention_num_buckets, self.relative_attention_max_distance
            ));
        }
        if self.feed_forward_proj != "gated-gelu" {
            return refuse(format!(
                "feed_forward_proj is {:?}; only \"gated-gelu\" is supported",
                self.feed_forward_proj
            ));
        }
        Ok(())
    }

    /// The bias bucket of a key `distance` tokens after the query. Near tokens have their own buckets; distant tokens
    /// share buckets, whose width grows with the distance.
    fn bucket(&self, distance: i64) -> u32 {
        let half = self.relative_attention_num_buckets / 2;
        let sign = if distance > 0 { half } else { 0 };
        let far = distance.unsigned_abs() as usize;
        let exact = half / 2;
        let bucket = if far < exact {
            far
        } else {
            let range = (self.relative_attention_max_distance as f64 / exact as f64).ln() as f32;
            let offset = (far as f32 / exact as f32).ln() / range * (half - exact) as f32;
            (exact + offset as usize).min(half - 1)
        };
        (sign + bucket) as u32
    }
}

/// UMT5 with its tokenizer.
pub struct Umt5 {
    tokenizer: Tokenizer,
    encoder: Umt5Encoder,
    source: Source,
}

impl Umt5 {
    /// Opens `text_encoder/` and `tokenizer/` of `source`.
    ///
    /// # Errors
    /// [`Error::NotFound`] and [`Error::Invalid`] for missing, damaged or unsupported files. Weights are loaded by
    /// [`encode`](Self::encode).
    pub fn open(source: &Source, dtype: DType, device: &Device, cancel: &Cancel) -> Result<Self> {
        if !source.exists(TOKENIZER) && source.exists("tokenizer/spiece.model") {
            return Err(source.invalid(
                "tokenizer/spiece.model",
                "this tokenizer format is not supported; put the tokenizer.json of google/umt5-xxl beside it",
            ));
        }
        let tokenizer = open_tokenizer(source, MAX_TOKENS)?;

        let config: Umt5Config = source.json(CONFIG)?;
        config.check().map_err(|e| source.invalid(CONFIG, e))?;
        let weights = source.tensors("text_encoder", "model", dtype, device, true, cancel)?;
        Ok(Self { tokenizer, encoder: Umt5Encoder::load(weights, &config)?, source: source.clone() })
    }

    /// The token ids of the cleaned prompt with the end-of-sentence token, at most [`MAX_TOKENS`].
    pub fn tokens(&self, prompt: &str) -> Result<Vec<u32>> {
        tokenize(&self.tokenizer, &clean(prompt))
    }

    /// The last hidden state `[1, 512, d_model]`, zero after the last token of the prompt.
    ///
    /// # Errors
    /// [`Error::Cancelled`] within a layer of a cancel; [`Error::Invalid`] if the weights do not match the
    /// configuration.
    pub fn encode(&self, prompt: &str, cancel: &Cancel) -> Result<Tensor> {
        Self::pad(&self.encode_unpadded(prompt, cancel)?)
    }

    /// As [`encode`](Self::encode), without padding: `[1, tokens, d_model]`.
    pub(super) fn encode_unpadded(&self, prompt: &str, cancel: &Cancel) -> Result<Tensor> {
        let hidden = self.encoder.forward(&self.tokens(prompt)?, cancel);
        hidden.map_err(|e| self.source.mismatch("text_encoder", e))
    }

    /// Pads `hidden` with zeros to [`MAX_TOKENS`].
    pub(super) fn pad(hidden: &Tensor) -> Result<Tensor> {
        Ok(hidden.pad_with_zeros(1, 0, MAX_TOKENS.saturating_sub(hidden.dim(1)?))?)
    }
}

/// The encoder without a tokenizer. It is larger than the rest of a model and runs once per prompt, so only one layer
/// is in memory at a time, and only the embeddings of the prompt's tokens. Layers in GGUF blocks stay quantized; on a
/// CPU, layers in 16 or 8 bits stay memory-mapped.
///
/// Hidden states are f32 whatever the weights are, because they would overflow f16.
pub struct Umt5Encoder {
    config: Umt5Config,
    weights: Tensors,
}

impl Umt5Encoder {
    /// Creates the encoder; each layer is loaded when it is needed, in the data type of `weights`.
    pub fn load(weights: impl Into<Tensors>, config: &Umt5Config) -> Result<Self> {
        config.check()?;
        Ok(Self { config: config.clone(), weights: weights.into() })
    }

    /// Loads every layer once and drops it. Of a memory-mapped layer only the shape is checked.
    ///
    /// # Errors
    /// [`Error::Compute`] for missing weights or other shapes.
    pub fn check(&self) -> Result<()> {
        drop(self.embeddings().get((self.config.vocab_size, self.config.d_model), "weight")?);
        drop(self.final_layer_norm()?);
        (0..self.config.num_layers).try_for_each(|i| self.block(i, &self.weights).map(drop))
    }

    /// The token embeddings.
    fn embeddings(&self) -> Tensors {
        let name =
            if self.weights.contains_tensor("shared.weight") { "shared" } else { "encoder.embed_tokens" };
        self.weights.pp(name)
    }

    fn block(&self, i: usize, weights: &Tensors) -> Result<Block> {
        Block::load(&weights.pp("encoder.block").pp(i), &self.config)
    }

    fn final_layer_norm(&self) -> Result<RmsNorm> {
        RmsNorm::load(&self.weights.pp("encoder.final_layer_norm"), &self.config)
    }

    /// The last hidden state `[1, tokens, d_model]`, in the data type of the weights.
    ///
    /// # Errors
    /// [`Error::Request`] for unknown tokens, or none; [`Error::Compute`] for missing weights or other shapes;
    /// [`Error::Cancelled`].
    pub fn forward(&self, tokens: &[u32], cancel: &Cancel) -> Result<Tensor> {
        let hidden = self.hidden_state(tokens, cancel);
        if hidden.is_err() {
            // A cancelled load is an error of candle.
            cancel.check()?;
        }
        hidden
    }

    fn hidden_state(&self, tokens: &[u32], cancel: &Cancel) -> Result<Tensor> {
        let (device, dtype) = (self.weights.device(), self.weights.dtype());
        check_tokens(tokens, self.config.vocab_size)?;
        let length = tokens.len();
        let positions = 0..length as i64;
        let buckets: Vec<u32> = positions
            .clone()
            .flat_map(|query| positions.clone().map(move |key| key - query))
            .map(|distance| self.config.bucket(distance))
            .collect();
        let buckets = Tensor::from_vec(buckets, length * length, device)?;

        let weights = self.weights.with_cancel(cancel);
        let embeddings = self.embeddings().with_cancel(cancel);
        let mut x = embeddings.rows(self.config.vocab_size, self.config.d_model, tokens)?.unsqueeze(0)?;
        for i in 0..self.config.num_layers {
            cancel.check()?;
            x = self.block(i, &weights)?.forward(&x, &buckets, dtype)?;
        }
        Ok(self.final_layer_norm()?.forward(&x)?.to_dtype(dtype)?)
    }
}

struct Block {
    q: Layer,
    k: Layer,
    v: Layer,
    o: Layer,
    /// f32 `[buckets, heads]`.
    relative_attention_bias: Tensor,
    attention_norm: RmsNorm,
    wi_0: Layer,
    wi_1: Layer,
    wo: Layer,
    feed_forward_norm: RmsNorm,
    heads: usize,
}

impl Block {
    fn load(tensors: &Tensors, config: &Umt5Config) -> Result<Self> {
        let (dim, inner) = (config.d_model, config.num_heads * config.d_kv);
        let (attention, feed_forward) = (tensors.pp("layer.0"), tensors.pp("layer.1"));
        let (layer, dense) = (attention.pp("SelfAttention"), feed_forward.pp("DenseReluDense"));
        let table = (config.relative_attention_num_buckets, config.num_heads);
        // These products exceed the range of f16.
        let dense_out =
            if tensors.dtype() == DType::F16 { dense.to_dtype(DType::F32) } else { dense.clone() };
        Ok(Self {
            q: layer.mapped_linear(dim, inner, "q")?,
            k: layer.mapped_linear(dim, inner, "k")?,
            v: layer.mapped_linear(dim, inner, "v")?,
            o: layer.mapped_linear(inner, dim, "o")?,
            relative_attention_bias: layer
                .to_dtype(DType::F32)
                .get(table, "relative_attention_bias.weight")?,
            attention_norm: RmsNorm::load(&attention.pp("layer_norm"), config)?,
            wi_0: dense.mapped_linear(dim, config.d_ff, "wi_0")?,
            wi_1: dense.mapped_linear(dim, config.d_ff, "wi_1")?,
            wo: dense_out.mapped_linear(config.d_ff, dim, "wo")?,
            feed_forward_norm: RmsNorm::load(&feed_forward.pp("layer_norm"), config)?,
            heads: config.num_heads,
        })
    }

    fn forward(&self, x: &Tensor, buckets: &Tensor, dtype: DType) -> Result<Tensor> {
        let attention = self.attend(&self.attention_norm.forward(x)?.to_dtype(dtype)?, buckets)?;
        let x = (x + attention.to_dtype(DType::F32)?)?;

        let normed = self.feed_forward_norm.forward(&x)?.to_dtype(dtype)?;
        let wo_dtype = self.wo.dtype();
        let gate = gelu(&self.wi_0.forward(&normed)?.to_dtype(wo_dtype)?)?;
        let output = self.wo.forward(&(gate * self.wi_1.forward(&normed)?.to_dtype(wo_dtype)?)?)?;
        Ok((x + output.to_dtype(DType::F32)?)?)
    }

    /// Self-attention of `x` `[1, tokens, d_model]`. T5 does not scale queries.
    fn attend(&self, x: &Tensor, buckets: &Tensor) -> Result<Tensor> {
        let (_, tokens, _) = x.dims3()?;
        let split = |x: Tensor| x.reshape((1, tokens, self.heads, ()))?.transpose(1, 2);
        let query = split(self.q.forward(x)?)?.contiguous()?;
        let key = split(self.k.forward(x)?)?.transpose(2, 3)?.contiguous()?;
        let value = split(self.v.forward(x)?)?.contiguous()?;

        let bias = index_select(&self.relative_attention_bias, buckets, 0)?;
        let bias = bias.t()?.contiguous()?.reshape((1, self.heads, tokens, tokens))?;
        let scores = (matmul(&query, &key)?.to_dtype(DType::F32)? + bias)?;
        let weights = candle_nn::ops::softmax_last_dim(&scores)?.to_dtype(x.dtype())?;
        let output = matmul(&weights, &value)?.transpose(1, 2)?.contiguous()?.reshape((1, tokens, ()))?;
        Ok(self.o.forward(&output)?)
    }
}

/// RMS norm with a weight, in f32.
struct RmsNorm {
    weight: Tensor,
    eps: f32,
}

impl RmsNorm {
    fn load(tensors: &Tensors, config: &Umt5Config) -> Result<Self> {
        let weight = tensors.to_dtype(DType::F32).get(config.d_model, "weight")?;
        Ok(Self { weight, eps: config.layer_norm_epsilon as f32 })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(candle_nn::ops::rms_norm(x, &self.weight, self.eps)?)
    }
}
