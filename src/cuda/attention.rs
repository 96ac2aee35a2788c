//! Scaled dot-product attention without a mask.

use candle_core::{DType, Layout, Result, Shape, Tensor, bail};

use super::kernel::{Kernel, Launch, Operand, Source, apply, suffix};
use crate::ops::matmul;

static SOURCE: Source = Source { name: "attention", text: include_str!("kernels/attention.cu") };

/// Queries and keys of a tile, and threads of a block, as in the source.
const QUERIES: usize = 128;
const KEYS: usize = 64;
const THREADS: u32 = 256;

/// softmax(`query` × `key`ᵀ / √head_dim) × `value` for every head.
///
/// `query` is `[queries, heads, head_dim]`, `key` and `value` are `[keys, heads, head_dim]`. They can be views, such as the filled
/// rows of a ring or parts of a fused projection, as long as the channels of a head are adjacent. The result is contiguous, `[queries,
/// heads, head_dim]`. The kernel is for 16 bits and heads of 64 or 128 channels.
pub(crate) fn attention(query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
    let (_, heads, head_dim) = query.dims3()?;
    for kv in [key, value] {
        if kv.dims() != [key.dim(0)?, heads, head_dim] || kv.dtype() != query.dtype() {
            bail!("attention of {query:?} to {kv:?}");
        }
    }
    apply(&Attention { key: key.clone(), value: value.clone() }, query)
}

#[derive(Debug)]
struct Attention {
    key: Tensor,
    value: Tensor,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Arguments {
    query: u64,
    key: u64,
    value: u64,
    out: u64,
    query_token_stride: i64,
    query_head_stride: i64,
    key_token_stride: i64,
    key_head_stride: i64,
    value_token_stride: i64,
    value_head_stride: i64,
    out_token_stride: i64,
    out_head_stride: i64,
    queries: u32,
    keys: u32,
    scale: f32,
    unused: u32,
}

impl Kernel for Attention {
    type Arguments = Arguments;

    fn source(&self) -> &'static Source {
        &SOURCE
    }

    fn others(&self) -> Vec<&Tensor> {
        vec![&self.key, &self.value]
    }

    fn supports(&self, query: &Tensor) -> bool {
        // Rows are copied 16 bytes at a time.
        let aligned = |x: &&Tensor| {
            let (layout, strides) = (x.layout(), x.layout().stride());
            layout.start_offset().is_multiple_of(8)
                && strides[2] == 1
                && strides[..2].iter().all(|stride| stride.is_multiple_of(8))
        };
        matches!(query.dtype(), DType::BF16 | DType::F16)
            && matches!(query.dims(), [_, _, 64 | 128])
            && self.key.dims()[0] > 0
            && [query, &self.key, &self.value].iter().all(aligned)
    }

    fn result(&self, query: &Layout, dtype: DType) -> Result<(Shape, DType)> {
        Ok((query.shape().clone(), dtype))
    }

    fn launch(&self, query: Operand, others: &[Operand], out: Operand) -> Result<Launch<Arguments>> {
        let [key, value] = others else { bail!("attention has keys and values") };
        let (queries, heads, head_dim) = query.layout.shape().dims3()?;
        let keys = key.layout.dims()[0];
        let stages = 2;
        Ok(Launch {
            entry: format!("attention_{}_{head_dim}", suffix(query.dtype)?),
            // The blocks of a head follow one another, so that its keys and values stay in the cache.
            grid: [queries.div_ceil(QUERIES) as u32, heads as u32, 1],
            block: THREADS,
            shared: (stages * 2 * KEYS * head_dim * query.dtype.size_in_bytes()) as u32,
            arguments: Arguments {
                query: query.address,
                key: key.address,
                value: value.address,
                out: out.address,
                query_token_stride: query.stride(0),
                query_head_stride: query.stride(1),
                key_token_stride: key.stride(0),
                key_head_stride: key.stride(1),
                value_token_stride: value.stride(0),
                value_head_stride: value.stride(1),
                out_token_stride: out.stride(0),
                out_head_stride: out.stride(1),
                queries: queries as u32,
                keys: keys as u32,
                scale: std::f32::consts::LOG2_E / (head_dim as f32).sqrt(),
                unused: 0,
            },
        })
    }

    fn plain(&self, query: &Tensor) -> Result<Tensor> {
        plain(query, &self.key, &self.value, MAX_SCORES)
    }
}

/// Queries are processed in parts, so that no tensor of scores has more elements than this: candle's CUDA kernels index with 32 bits,
/// and the scores of a long clip would not fit in memory.
const MAX_SCORES: usize = 128 << 20;

fn plain(query: &Tensor, key: &Tensor, value: &Tensor, max_scores: usize) -> Result<Tensor> {
    let (queries, heads, head_dim) = query.dims3()?;
    // Products of matrices take no strides, so these are copies.
    let query = (query / (head_dim as f64).sqrt())?.transpose(0, 1)?.contiguous()?;
    let key = key.permute((1, 2, 0))?.contiguous()?;
    let value = value.transpose(0, 1)?.contiguous()?;
    let rows = (max_scores / (heads * key.dim(2)?)).max(1);
    let parts = (0..queries).step_by(rows).map(|first| {
        let part = query.narrow(1, first, rows.min(queries - first))?.contiguous()?;
        // Softmax in f32: a CPU would sum the many small weights in the tensor's own data type.
        let scores = matmul(&part, &key)?.to_dtype(DType::F32)?;
        let weights = candle_nn::ops::softmax_last_dim(&scores)?.to_dtype(value.dtype())?;
        matmul(&weights, &value)
    });
    Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 1)?.transpose(0, 1)?.contiguous()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::shim::{random, run, ulp, values};

    #[test]
    fn the_plain_form_does_not_depend_on_the_size_of_the_parts() {
        let random = |tokens| random((tokens, 3, 8), DType::F32);
        let (query, key, value) = (random(7), random(5), random(5));
        let whole = plain(&query, &key, &value, MAX_SCORES).unwrap();
        // 15 scores per query: three queries at a time, one, and one although it exceeds the limit.
        for max_scores in [45, 15, 1] {
            let parts = plain(&query, &key, &value, max_scores).unwrap();
            for (a, b) in values(&whole).iter().zip(&values(&parts)) {
                assert!((a - b).abs() < 1e-6, "{max_scores}: {a} {b}");
            }
        }
    }

    /// For every result: the value in f64, and the error that the rounding of the weights to `bits` can cause.
    fn reference(query: &Tensor, key: &Tensor, value: &Tensor) -> Vec<(f64, f64)> {
        let (queries, heads, head_dim) = query.dims3().unwrap();
        let keys = key.dims()[0];
        let half = if query.dtype() == DType::BF16 { 2f64.powi(-8) } else { 2f64.powi(-11) };
        // Weights below this are subnormal, and have an absolute error.
        let least = if query.dtype() == DType::BF16 { 0.0 } else { 2f64.powi(-25) };
        let [q, k, v] = [query, key, value].map(values);
        let mut all = vec![(0.0, 0.0); queries * heads * head_dim];
        for head in 0..heads {
            for token in 0..queries {
                let row = |x: &[f32], token: usize| -> Vec<f64> {
                    x[(token * heads + head) * head_dim..][..head_dim].iter().map(|x| f64::from(*x)).collect()
                };
                let own = row(&q, token);
                let scores: Vec<f64> = (0..keys)
                    .map(|key| {
                        let dot: f64 = own.iter().zip(row(&k, key)).map(|(a, b)| a * b).sum();
                        dot / (head_dim as f64).sqrt()
                    })
                    .collect();
                let top = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for (key, weight) in weights.iter().enumerate() {
                    for (i, value) in row(&v, key).into_iter().enumerate() {
                        let (result, error) = &mut all[(token * heads + head) * head_dim + i];
                        *result += weight * value / sum;
                        // 1e-6: the sums in f32, and 2^x.
                        *error += ((half + 1e-6 * (1.0 + top.abs())) * weight + least) * value.abs() / sum;
                    }
                }
            }
        }
        all
    }

    /// Each weight is rounded to 16 bits once, by at most half a unit in the last place, and the result once. The difference from
    /// the attention in f64 is within the sum of these errors.
    fn check(query: &Tensor, key: &Tensor, value: &Tensor) {
        let kernel = Attention { key: key.clone(), value: value.clone() };
        assert!(kernel.supports(query));
        let kernel = run(&kernel, query);
        let reference = reference(query, key, value);
        for (i, (got, (expected, error))) in values(&kernel).into_iter().zip(&reference).enumerate() {
            let allowed = error + 0.5 * f64::from(ulp(got, query.dtype())) * 1.001;
            let difference = (f64::from(got) - expected).abs();
            assert!(difference <= allowed, "{query:?} {key:?} {i}: {got}, not {expected} ± {allowed}");
        }
    }

    #[test]
    fn the_kernel_equals_attention_in_f64() {
        for dtype in [DType::BF16, DType::F16] {
            for (queries, keys, heads, head_dim) in [
                (128, 64, 1, 128),
                (130, 200, 2, 128),
                (1, 1, 1, 128),
                (17, 65, 1, 128),
                (128, 128, 1, 64),
                (77, 300, 3, 64),
                (3, 63, 1, 64),
            ] {
                let part = |tokens| random((tokens, heads, head_dim), dtype);
                check(&part(queries), &part(keys), &part(keys));
            }
        }
    }

    #[test]
    fn the_plain_form_equals_attention_in_f64() {
        // In f32: in 16 bits it rounds the scores too.
        let part = |tokens| random((tokens, 3, 20), DType::F32);
        let (query, key, value) = (part(7), part(11), part(11));
        let plain = attention(&query, &key, &value).unwrap();
        for (a, (b, _)) in values(&plain).into_iter().zip(reference(&query, &key, &value)) {
            assert!((f64::from(a) - b).abs() < 1e-5, "{a} {b}");
        }
    }

    #[test]
    fn operands_can_be_views() {
        for head_dim in [64, 128] {
            // A fused projection of 20 tokens, and the filled rows of a ring.
            let fused = random((20, 3 * 2 * head_dim), DType::BF16).reshape((20, 3, 2, head_dim)).unwrap();
            let part = |i| fused.narrow(1, i, 1).unwrap().squeeze(1).unwrap();
            check(&part(0), &part(1), &part(2));
            let ring = random((100, 2, head_dim), DType::BF16);
            let rows = ring.narrow(0, 10, 70).unwrap();
            check(&part(0), &rows, &rows);
            // Heads before tokens.
            let key = random((2, 70, head_dim), DType::BF16).transpose(0, 1).unwrap();
            check(&part(0), &key, &rows);
        }
    }

    #[test]
    fn scores_can_be_large() {
        // The highest score comes late, and the weights of the others vanish.
        for dtype in [DType::BF16, DType::F16] {
            let part = |tokens| random((tokens, 1, 128), DType::F32);
            let scale =
                Tensor::arange(0f32, 140.0, &candle_core::Device::Cpu).unwrap().reshape((140, 1, 1)).unwrap();
            let key = part(140).broadcast_mul(&(scale * 0.1).unwrap()).unwrap().to_dtype(dtype).unwrap();
            let query = (part(40) * 3.0).unwrap().to_dtype(dtype).unwrap();
            check(&query, &key, &part(140).to_dtype(dtype).unwrap());
        }
    }

    #[test]
    fn other_operands_use_the_plain_form() {
        let part = |head_dim, dtype| random((5, 2, head_dim), dtype);
        let supports = |x: &Tensor, kv: &Tensor| Attention { key: kv.clone(), value: kv.clone() }.supports(x);
        let x = part(64, DType::F16);
        assert!(supports(&x, &x));
        assert!(!supports(&part(64, DType::F32), &part(64, DType::F32)));
        assert!(!supports(&part(32, DType::F16), &part(32, DType::F16)));
        let odd = random((5, 2, 68), DType::F16).narrow(2, 4, 64).unwrap();
        assert!(!supports(&x, &odd));
        assert!(attention(&x, &odd, &x).is_ok());
        assert!(attention(&x, &part(64, DType::BF16), &x).is_err());
    }
}
