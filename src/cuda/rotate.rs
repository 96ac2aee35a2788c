//! Queries and keys: RMS norm over all heads together, and rotary position embedding.

use candle_core::{DType, Layout, Result, Shape, Tensor, bail};

use super::kernel::{
    Kernel, Launch, MAX_ROW, Operand, Source, apply, apply_into, is_float, row_stride, row_threads, rows,
    suffix,
};

static SOURCE: Source = Source { name: "rotate", text: include_str!("kernels/rotate.cu") };

/// The rotary embedding of tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Angles<'a> {
    /// f32 `[tokens, head_dim / 2]`, or `[tokens, heads × head_dim / 2]` if the heads differ.
    pub(crate) cosines: &'a Tensor,
    pub(crate) sines: &'a Tensor,
}

/// RMS norm of `x` `[.., heads × head_dim]` with `weight` (f32 `[heads × head_dim]`), unless that is `None`; then the rotation of the
/// pairs (2i, 2i + 1) of every head, unless `angles` is `None`. Computed in f32, rounded once. `x` can be a part of the rows of a
/// fused projection. The result is `[tokens, heads, head_dim]` in the type of `x`.
pub(crate) fn normalise_rotate(
    x: &Tensor,
    weight: Option<&Tensor>,
    angles: Option<Angles>,
    heads: usize,
    eps: f64,
) -> Result<Tensor> {
    apply(&Rotate::new(weight, angles, heads, eps)?, x)
}

/// Like [`normalise_rotate`], with the result in the rows from `first` on of `out` `[capacity, heads, head_dim]`, which is contiguous
/// and does not share memory with `x`.
pub(crate) fn normalise_rotate_into(
    x: &Tensor,
    weight: Option<&Tensor>,
    angles: Option<Angles>,
    heads: usize,
    eps: f64,
    out: &Tensor,
    first: usize,
) -> Result<()> {
    apply_into(&Rotate::new(weight, angles, heads, eps)?, x, out, first)
}

#[derive(Debug)]
struct Rotate {
    weight: Option<Tensor>,
    angles: Option<[Tensor; 2]>,
    heads: usize,
    eps: f64,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Arguments {
    x: u64,
    out: u64,
    weight: u64,
    cosines: u64,
    sines: u64,
    x_stride: i64,
    out_token_stride: i64,
    out_head_stride: i64,
    angle_stride: i64,
    angle_head_stride: i64,
    heads: u32,
    head_dim: u32,
    eps: f32,
    aligned: u32,
}

impl Rotate {
    fn new(weight: Option<&Tensor>, angles: Option<Angles>, heads: usize, eps: f64) -> Result<Self> {
        let angles = angles.map(|angles| [angles.cosines.clone(), angles.sines.clone()]);
        Ok(Self { weight: weight.cloned(), angles, heads, eps })
    }
}

impl Kernel for Rotate {
    type Arguments = Arguments;

    fn source(&self) -> &'static Source {
        &SOURCE
    }

    fn others(&self) -> Vec<&Tensor> {
        self.weight.iter().chain(self.angles.iter().flatten()).collect()
    }

    fn supports(&self, x: &Tensor) -> bool {
        let dense = |x: &Tensor| x.dtype() == DType::F32 && x.is_contiguous();
        is_float(x.dtype())
            && row_stride(x.layout()).is_some()
            && x.dims().last().is_some_and(|dim| *dim <= MAX_ROW)
            && self.others().into_iter().all(dense)
    }

    fn result(&self, x: &Layout, dtype: DType) -> Result<(Shape, DType)> {
        let dim = x.dims().last().copied().unwrap_or(0);
        if self.heads == 0 || !dim.is_multiple_of(2 * self.heads) {
            bail!("{dim} channels in {} heads", self.heads);
        }
        Ok((Shape::from((rows(x), self.heads, dim / self.heads)), dtype))
    }

    fn launch(&self, x: Operand, others: &[Operand], out: Operand) -> Result<Launch<Arguments>> {
        let (tokens, dim) = (rows(x.layout), x.layout.dims().last().copied().unwrap_or(0));
        let head_dim = dim / self.heads;
        let (weight, angles) = others.split_at(usize::from(self.weight.is_some()));
        let weight = weight.first();
        if let Some(weight) = weight
            && weight.layout.dims() != [dim]
        {
            bail!("a norm of {:?} for {dim} channels", weight.layout.shape());
        }
        let pairs = angles.first().map_or(head_dim / 2, |cosines| cosines.layout.dims()[1]);
        for angles in angles {
            if angles.layout.dims() != [tokens, pairs] || (pairs != head_dim / 2 && pairs != dim / 2) {
                bail!("angles of {:?} for {tokens} tokens of {dim} channels", angles.layout.shape());
            }
        }
        // 16 bytes at a time, which are of one head.
        let aligned = x.is_aligned()
            && out.is_aligned()
            && head_dim.is_multiple_of(8)
            && others.iter().all(|operand| operand.address.is_multiple_of(16));
        let address = |operand: Option<&Operand>| operand.map_or(0, |operand| operand.address);
        Ok(Launch {
            entry: format!("rotate_{}", suffix(x.dtype)?),
            grid: [tokens as u32, 1, 1],
            block: row_threads(dim),
            shared: 0,
            arguments: Arguments {
                x: x.address,
                out: out.address,
                weight: address(weight),
                cosines: address(angles.first()),
                sines: address(angles.last()),
                x_stride: row_stride(x.layout).unwrap_or(dim) as i64,
                out_token_stride: out.stride(0),
                out_head_stride: out.stride(1),
                angle_stride: pairs as i64,
                angle_head_stride: if pairs == head_dim / 2 { 0 } else { head_dim as i64 / 2 },
                heads: self.heads as u32,
                head_dim: head_dim as u32,
                eps: self.eps as f32,
                aligned: aligned.into(),
            },
        })
    }

    fn plain(&self, x: &Tensor) -> Result<Tensor> {
        let (shape, dtype) = self.result(x.layout(), x.dtype())?;
        let mut full = x.to_dtype(DType::F32)?.contiguous()?;
        if let Some(weight) = &self.weight {
            full = candle_nn::ops::rms_norm(&full, weight, self.eps as f32)?;
        }
        let mut full = full.reshape(&shape)?;
        if let Some(angles) = &self.angles {
            // Each row of angles is one of a batch: of a token, or of a head of a token.
            let (tokens, heads, head_dim) = shape.dims3()?;
            let groups = angles[0].elem_count() / (tokens * head_dim / 2).max(1);
            let rows = full.reshape((tokens * groups, heads / groups.max(1), 1, head_dim))?;
            let [cosines, sines] =
                angles.each_ref().map(|angles| angles.reshape((tokens * groups, 1, head_dim / 2)));
            full = candle_nn::rotary_emb::rope_i(&rows, &cosines?, &sines?)?.reshape(&shape)?;
        }
        full.to_dtype(dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::shim::{DTYPES, KERNEL, PLAIN, compare, random, run, run_into};
    use candle_core::Device;

    /// Cosines and sines of random angles.
    fn angles(shape: (usize, usize)) -> (Tensor, Tensor) {
        let angles = (random(shape, DType::F32) * 10.0).unwrap();
        (angles.cos().unwrap(), angles.sin().unwrap())
    }

    /// As the transformer computes it: `Attention::normalise`, `Attention::split` and `Rotation::apply`, without rounding between.
    fn expected(x: &Tensor, rotate: &Rotate) -> Tensor {
        let (shape, dtype) = rotate.result(x.layout(), x.dtype()).unwrap();
        let (tokens, heads, head_dim) = shape.dims3().unwrap();
        let mut full = x.to_dtype(DType::F64).unwrap().reshape((tokens, ())).unwrap();
        if let Some(weight) = &rotate.weight {
            let squares = full.sqr().unwrap().mean_keepdim(1).unwrap();
            let normed = full.broadcast_div(&(squares + rotate.eps).unwrap().sqrt().unwrap()).unwrap();
            full = normed.broadcast_mul(&weight.to_dtype(DType::F64).unwrap()).unwrap();
        }
        let mut values = full.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        if let Some([cosines, sines]) = &rotate.angles {
            let [cosines, sines] = [cosines, sines].map(|x| x.to_vec2::<f32>().unwrap());
            for (i, pair) in values.chunks_exact_mut(2).enumerate() {
                let (token, channel) = (2 * i / (heads * head_dim), 2 * i % (heads * head_dim));
                let own = cosines[token].len() > head_dim / 2 || heads == 1;
                let at = if own { channel / 2 } else { channel % head_dim / 2 };
                let (cos, sin) = (f64::from(cosines[token][at]), f64::from(sines[token][at]));
                (pair[0], pair[1]) = (pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos);
            }
        }
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    }

    #[test]
    fn the_kernel_equals_norm_and_rotation() {
        for (tokens, heads, head_dim) in
            [(3, 2, 128), (2, 12, 128), (1, 40, 128), (4, 3, 64), (5, 3, 12), (2, 1, 10)]
        {
            let dim = heads * head_dim;
            for dtype in DTYPES {
                // The keys in a fused projection.
                let x = random((1, tokens, 3 * dim), dtype).narrow(2, dim, dim).unwrap();
                let weight = (random(dim, DType::F32) + 1.0).unwrap();
                let same = angles((tokens, head_dim / 2));
                let own = angles((tokens, dim / 2));
                let angles = |(cosines, sines): &(Tensor, Tensor)| Some([cosines.clone(), sines.clone()]);
                for (weight, angles) in [
                    (Some(&weight), angles(&same)),
                    (Some(&weight), angles(&own)),
                    (Some(&weight), None),
                    (None, angles(&same)),
                    // Values are only copied.
                    (None, None),
                ] {
                    let rotate = Rotate { weight: weight.cloned(), angles, heads, eps: 1e-6 };
                    assert!(rotate.supports(&x));
                    let expected = expected(&x, &rotate);
                    compare(&run(&rotate, &x), &expected, KERNEL, "kernel");
                    compare(&rotate.plain(&x).unwrap(), &expected, PLAIN, "plain");
                }
            }
        }
    }

    #[test]
    fn the_result_goes_into_a_ring() {
        for (heads, head_dim) in [(2, 64), (2, 6)] {
            let ring = random((7, heads, head_dim), DType::BF16);
            let x = random((3, heads * head_dim), DType::BF16);
            let (cosines, sines) = angles((3, head_dim / 2));
            let weight = random(heads * head_dim, DType::F32);
            let angles = Angles { cosines: &cosines, sines: &sines };
            let rotate = Rotate::new(Some(&weight), Some(angles), heads, 1e-6).unwrap();
            let filled = run_into(&rotate, &x, &ring, &ring.narrow(0, 2, 3).unwrap());
            let rotated = expected(&x, &rotate);
            let around = [ring.narrow(0, 0, 2).unwrap(), rotated, ring.narrow(0, 5, 2).unwrap()];
            let around = Tensor::cat(&around, 0).unwrap();
            compare(&filled, &around, KERNEL, "ring");
            normalise_rotate_into(&x, Some(&weight), Some(angles), heads, 1e-6, &ring, 2).unwrap();
            compare(&ring, &around, PLAIN, "plain");
        }
    }
}
