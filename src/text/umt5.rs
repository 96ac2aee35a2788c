//! UMT5 (<https://arxiv.org/abs/2304.09151>), the text encoder of Wan: transformers' `UMT5EncoderModel`.
//!
//! A T5 encoder in which every layer has a relative position bias of its own.

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use tokenizers::Tokenizer;

use super::{TOKENIZER, check_tokens, clean, cut, tokenizer};
use crate::checkpoint::Layer;
use crate::checkpoint::{Source, Tensors};
use crate::kernels::gelu;
use crate::ops::{index_select, matmul};
use crate::{Cancel, Error, Result};

const CONFIG: &str = "text_encoder/config.json";

/// Tokens that Wan's transformer is given, whatever the prompt's length.
pub const MAX_TOKENS: usize = 512;

/// The sizes of an encoder; the names and defaults are those of transformers' `UMT5Config`.
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
    /// Refuses sizes that make no encoder, and kinds of it that are not supported.
    ///
    /// # Errors
    /// [`Error::Request`] names the setting.
    pub fn check(&self) -> Result<()> {
        const MOST: usize = 1 << 20;
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
            if !(1..=MOST).contains(&size) {
                return refuse(format!("{name} is {size}, not from 1 to {MOST}"));
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

    /// The number of the bias between a query and a key `distance` tokens after it. Near ones have their
    /// own, those further away share, the more the further.
    fn bucket(&self, distance: i64) -> u32 {
        let half = self.relative_attention_num_buckets / 2;
        let sign = if distance > 0 { half } else { 0 };
        let far = distance.unsigned_abs() as usize;
        let exact = half / 2;
        let bucket = if far < exact {
            far
        } else {
            let range = (self.relative_attention_max_distance as f64 / exact as f64).ln() as f32;
            let place = (far as f32 / exact as f32).ln() / range * (half - exact) as f32;
            (exact + place as usize).min(half - 1)
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
    /// [`Error::NotFound`] and [`Error::Invalid`] if files are missing, damaged or of an unsupported kind.
    pub fn open(source: &Source, dtype: DType, device: &Device) -> Result<Self> {
        if !source.exists(TOKENIZER) && source.exists("tokenizer/spiece.model") {
            return Err(source.invalid(
                "tokenizer/spiece.model",
                "tokenizers of this format are not read; put the tokenizer.json of google/umt5-xxl beside it",
            ));
        }
        let tokenizer = tokenizer(source, MAX_TOKENS)?;

        let config: Umt5Config = source.json(CONFIG)?;
        config.check().map_err(|e| source.invalid(CONFIG, e))?;
        let weights = source.tensors("text_encoder", "model", dtype, device, true)?;
        Ok(Self { tokenizer, encoder: Umt5Encoder::load(weights, &config)?, source: source.clone() })
    }

    /// The prompt, cleaned, as token numbers with the end of the sentence, at most [`MAX_TOKENS`].
    pub fn tokens(&self, prompt: &str) -> Result<Vec<u32>> {
        cut(&self.tokenizer, &clean(prompt))
    }

    /// The last hidden state `[1, 512, d_model]`, zero after the prompt's last token.
    ///
    /// # Errors
    /// [`Error::Cancelled`] within a layer of a cancel; [`Error::Invalid`] if the weights are not those of the
    /// configuration.
    pub fn encode(&self, prompt: &str, cancel: &Cancel) -> Result<Tensor> {
        Self::pad(&self.read(prompt, cancel)?)
    }

    /// The last hidden state of the prompt's tokens alone, `[1, tokens, d_model]`.
    pub(super) fn read(&self, prompt: &str, cancel: &Cancel) -> Result<Tensor> {
        let hidden = self.encoder.forward(&self.tokens(prompt)?, cancel);
        hidden.map_err(|e| self.source.unfit("text_encoder", e))
    }

    /// With zeros after it, as Wan's transformer is given it.
    pub(super) fn pad(hidden: &Tensor) -> Result<Tensor> {
        Ok(hidden.pad_with_zeros(1, 0, MAX_TOKENS.saturating_sub(hidden.dim(1)?))?)
    }
}

/// The encoder alone. It is larger than the rest of a model together and runs once a prompt, so that its layers are
/// taken from their file one after the other, and no two are in memory at once; of its table of words the prompt's alone
/// are. Layers that a GGUF file has in blocks are computed with as they are, and a CPU takes those of 16 or 8 bits from the file
/// as it multiplies.
///
/// What flows from layer to layer is f32 whatever the weights are, since in f16 it would overflow.
pub struct Umt5Encoder {
    config: Umt5Config,
    weights: Tensors,
}

impl Umt5Encoder {
    /// Takes the weights that `config` calls for, in their number format, when they are needed.
    pub fn load(weights: impl Into<Tensors>, config: &Umt5Config) -> Result<Self> {
        config.check()?;
        Ok(Self { config: config.clone(), weights: weights.into() })
    }

    /// Loads every layer once and lets it go; of one that stays in its file, it looks at its size.
    ///
    /// # Errors
    /// [`Error::Compute`] if weights are missing or of another shape.
    pub fn check(&self) -> Result<()> {
        drop(self.table().get((self.config.vocab_size, self.config.d_model), "weight")?);
        drop(self.final_layer_norm()?);
        (0..self.config.num_layers).try_for_each(|i| self.block(i).map(drop))
    }

    /// Where the table of words is.
    fn table(&self) -> Tensors {
        let name =
            if self.weights.contains_tensor("shared.weight") { "shared" } else { "encoder.embed_tokens" };
        self.weights.pp(name)
    }

    /// f32 `[tokens, d_model]`.
    fn words(&self, tokens: &[u32]) -> Result<Tensor> {
        Ok(self.table().rows(self.config.vocab_size, self.config.d_model, tokens)?)
    }

    fn block(&self, i: usize) -> Result<Block> {
        Block::load(&self.weights.pp("encoder.block").pp(i), &self.config)
    }

    fn final_layer_norm(&self) -> Result<Norm> {
        Norm::load(&self.weights.pp("encoder.final_layer_norm"), &self.config)
    }

    /// `[1, tokens, d_model]`, in the weights' number format.
    ///
    /// # Errors
    /// [`Error::Request`] for tokens that the encoder does not know, or none at all; [`Error::Compute`] if weights are
    /// missing or of another shape.
    pub fn forward(&self, tokens: &[u32], cancel: &Cancel) -> Result<Tensor> {
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

        let mut x = self.words(tokens)?.unsqueeze(0)?;
        for i in 0..self.config.num_layers {
            cancel.check()?;
            x = self.block(i)?.forward(&x, &buckets, dtype)?;
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
    attention_norm: Norm,
    wi_0: Layer,
    wi_1: Layer,
    wo: Layer,
    feed_forward_norm: Norm,
    heads: usize,
}

impl Block {
    fn load(tensors: &Tensors, config: &Umt5Config) -> Result<Self> {
        let (dim, inner) = (config.d_model, config.num_heads * config.d_kv);
        let (attention, feed_forward) = (tensors.pp("layer.0"), tensors.pp("layer.1"));
        let (layer, dense) = (attention.pp("SelfAttention"), feed_forward.pp("DenseReluDense"));
        let table = (config.relative_attention_num_buckets, config.num_heads);
        // The products in here are beyond f16.
        let wide = if tensors.dtype() == DType::F16 { dense.to_dtype(DType::F32) } else { dense.clone() };
        Ok(Self {
            q: layer.passing_linear(dim, inner, "q")?,
            k: layer.passing_linear(dim, inner, "k")?,
            v: layer.passing_linear(dim, inner, "v")?,
            o: layer.passing_linear(inner, dim, "o")?,
            relative_attention_bias: layer
                .to_dtype(DType::F32)
                .get(table, "relative_attention_bias.weight")?,
            attention_norm: Norm::load(&attention.pp("layer_norm"), config)?,
            wi_0: dense.passing_linear(dim, config.d_ff, "wi_0")?,
            wi_1: dense.passing_linear(dim, config.d_ff, "wi_1")?,
            wo: wide.passing_linear(config.d_ff, dim, "wo")?,
            feed_forward_norm: Norm::load(&feed_forward.pp("layer_norm"), config)?,
            heads: config.num_heads,
        })
    }

    fn forward(&self, x: &Tensor, buckets: &Tensor, dtype: DType) -> Result<Tensor> {
        let attended = self.attend(&self.attention_norm.forward(x)?.to_dtype(dtype)?, buckets)?;
        let x = (x + attended.to_dtype(DType::F32)?)?;

        let normed = self.feed_forward_norm.forward(&x)?.to_dtype(dtype)?;
        let wide = self.wo.dtype();
        let gate = gelu(&self.wi_0.forward(&normed)?.to_dtype(wide)?)?;
        let fed = self.wo.forward(&(gate * self.wi_1.forward(&normed)?.to_dtype(wide)?)?)?;
        Ok((x + fed.to_dtype(DType::F32)?)?)
    }

    /// Attention of `x` `[1, tokens, d_model]`. Queries are not scaled.
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
        let found = matmul(&weights, &value)?.transpose(1, 2)?.contiguous()?.reshape((1, tokens, ()))?;
        Ok(self.o.forward(&found)?)
    }
}

/// Root mean square norm with a weight, in f32.
struct Norm {
    weight: Tensor,
    eps: f32,
}

impl Norm {
    fn load(tensors: &Tensors, config: &Umt5Config) -> Result<Self> {
        let weight = tensors.to_dtype(DType::F32).get(config.d_model, "weight")?;
        Ok(Self { weight, eps: config.layer_norm_epsilon as f32 })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(candle_nn::ops::rms_norm(x, &self.weight, self.eps)?)
    }
}
