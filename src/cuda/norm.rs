//! Layer norms over the last dimension.

use candle_core::{DType, Layout, Result, Shape, Tensor, bail};

use super::kernel::{
    Kernel, Launch, MAX_ROW, Operand, Source, apply, is_float, row_stride, row_threads, rows, suffix,
};

static SOURCE: Source = Source { name: "norm", text: include_str!("kernels/norm.cu") };

/// norm(`x`) × (1 + `scale`) + `shift`, computed in f32, in the type `out`: that of `x`, or 16 bits of an `x` in f32.
///
/// `x` is `[.., dim]`. `scale` and `shift` are f32 `[M, dim]` or `[M, 1, dim]`, also views; consecutive equal groups of the rows of
/// `x` use one row each.
pub(crate) fn norm_modulate(
    x: &Tensor,
    scale: &Tensor,
    shift: &Tensor,
    eps: f64,
    out: DType,
) -> Result<Tensor> {
    apply(&Norm { scale: group_rows(scale)?, shift: group_rows(shift)?, offset: 1.0, eps, out }, x)
}

/// norm(`x`) × `weight` + `bias`, both f32 `[dim]`; otherwise like [`norm_modulate`].
pub(crate) fn norm_affine(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    out: DType,
) -> Result<Tensor> {
    apply(&Norm { scale: weight.unsqueeze(0)?, shift: bias.unsqueeze(0)?, offset: 0.0, eps, out }, x)
}

/// `[M, dim]` of `[M, 1, dim]`.
pub(super) fn group_rows(x: &Tensor) -> Result<Tensor> {
    match x.rank() {
        3 => x.squeeze(1),
        _ => Ok(x.clone()),
    }
}

#[derive(Debug)]
struct Norm {
    /// f32 `[M, dim]`.
    scale: Tensor,
    shift: Tensor,
    /// Is added to the scale.
    offset: f32,
    eps: f64,
    out: DType,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Arguments {
    x: u64,
    out: u64,
    scale: u64,
    shift: u64,
    x_stride: i64,
    scale_stride: i64,
    shift_stride: i64,
    group: u32,
    dim: u32,
    eps: f32,
    offset: f32,
    aligned: u32,
}

impl Kernel for Norm {
    type Arguments = Arguments;

    fn source(&self) -> &'static Source {
        &SOURCE
    }

    fn others(&self) -> Vec<&Tensor> {
        vec![&self.scale, &self.shift]
    }

    fn supports(&self, x: &Tensor) -> bool {
        let rows_of = |x: &Tensor| x.dtype() == DType::F32 && x.layout().stride()[1] == 1;
        is_float(x.dtype())
            && is_float(self.out)
            && (x.dtype() == DType::F32 || x.dtype() == self.out)
            && row_stride(x.layout()).is_some()
            && x.dims().last().is_some_and(|dim| *dim <= MAX_ROW)
            && rows_of(&self.scale)
            && rows_of(&self.shift)
    }

    fn result(&self, x: &Layout, _: DType) -> Result<(Shape, DType)> {
        Ok((x.shape().clone(), self.out))
    }

    fn launch(&self, x: Operand, others: &[Operand], out: Operand) -> Result<Launch<Arguments>> {
        let [scale, shift] = others else { bail!("a norm has a scale and a shift") };
        let (tokens, dim) = (rows(x.layout), x.layout.shape().dims().last().copied().unwrap_or(1));
        let groups = scale.layout.dims()[0];
        if scale.layout.dims() != [groups, dim] || shift.layout.dims() != [groups, dim] {
            bail!("a modulation of {:?} for {:?}", scale.layout.shape(), x.layout.shape());
        }
        if groups == 0 || !tokens.is_multiple_of(groups) {
            bail!("{tokens} tokens in {groups} groups");
        }
        let aligned = [x, *scale, *shift, out].iter().all(Operand::is_aligned);
        Ok(Launch {
            entry: format!("norm_{}_{}", suffix(x.dtype)?, suffix(self.out)?),
            grid: [tokens as u32, 1, 1],
            block: row_threads(dim),
            shared: 0,
            arguments: Arguments {
                x: x.address,
                out: out.address,
                scale: scale.address,
                shift: shift.address,
                x_stride: row_stride(x.layout).unwrap_or(dim) as i64,
                scale_stride: scale.stride(0),
                shift_stride: shift.stride(0),
                group: (tokens / groups) as u32,
                dim: dim as u32,
                eps: self.eps as f32,
                offset: self.offset,
                aligned: aligned.into(),
            },
        })
    }

    fn plain(&self, x: &Tensor) -> Result<Tensor> {
        let (groups, dim) = self.scale.dims2()?;
        let full = x.to_dtype(DType::F32)?.contiguous()?.reshape((groups, (), dim))?;
        // candle's norm, so that the bytes of a video on a CPU stay as they are.
        let ones = Tensor::ones(dim, DType::F32, x.device())?;
        let normed = candle_nn::ops::layer_norm(&full, &ones, &ones.zeros_like()?, self.eps as f32)?;
        let scale = (self.scale.unsqueeze(1)? + f64::from(self.offset))?;
        let scaled = normed.broadcast_mul(&scale)?.broadcast_add(&self.shift.unsqueeze(1)?)?;
        scaled.to_dtype(self.out)?.reshape(x.shape())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::D;

    use super::*;
    use crate::cuda::shim::{DTYPES, KERNEL, PLAIN, compare, random, run};

    /// As the block of the transformer computes it, but in f64: candle sums a row of 5,120 values with an error above 1e-6 in f32.
    fn with_layer_norm(x: &Tensor, norm: &Norm) -> Tensor {
        let dim = x.dim(D::Minus1).unwrap();
        let double = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
        let layer = candle_nn::LayerNorm::new_no_bias(Tensor::full(1f64, dim, x.device()).unwrap(), norm.eps);
        let full = double(x).reshape((norm.scale.dims()[0], (), dim)).unwrap();
        let normed = candle_nn::Module::forward(&layer, &full).unwrap();
        let scale = (double(&norm.scale).unsqueeze(1).unwrap() + f64::from(norm.offset)).unwrap();
        let scaled = normed.broadcast_mul(&scale).unwrap();
        let shifted = scaled.broadcast_add(&double(&norm.shift).unsqueeze(1).unwrap()).unwrap();
        shifted.to_dtype(norm.out).unwrap().reshape(x.shape()).unwrap()
    }

    #[test]
    fn the_kernel_equals_the_layer_norm_of_candle() {
        // Groups, tokens in each, and values in a token: whole vectors, several warps, and rests of 8 and of 2.
        for (groups, tokens, dim) in
            [(1, 3, 256), (2, 5, 1536), (3, 1, 5120), (1, 4, 44), (1, 2, 544), (2, 2, 10), (1, 2, 777)]
        {
            for dtype in DTYPES {
                // Views, as the block has them: rows of the modulation, and a part of a fused projection.
                let modulation = random((groups, 6, dim), DType::F32);
                let row = |n| group_rows(&modulation.narrow(1, n, 1).unwrap()).unwrap();
                let wide = (random((groups, tokens, 2 * dim), dtype) + 0.5).unwrap();
                for x in
                    [wide.narrow(2, dim, dim).unwrap(), wide.narrow(2, 0, dim).unwrap().contiguous().unwrap()]
                {
                    for out in DTYPES.into_iter().filter(|out| *out == dtype || dtype == DType::F32) {
                        let norm = Norm { scale: row(4), shift: row(3), offset: 1.0, eps: 1e-6, out };
                        assert!(norm.supports(&x));
                        let expected = with_layer_norm(&x, &norm);
                        compare(&run(&norm, &x), &expected, KERNEL, "kernel");
                        compare(&norm.plain(&x).unwrap(), &expected, PLAIN, "plain");
                    }
                }
            }
        }
    }

    #[test]
    fn an_affine_norm_has_one_row() {
        let x = random((2, 3, 96), DType::BF16);
        let row = || random((1, 96), DType::F32);
        let norm = Norm { scale: row(), shift: row(), offset: 0.0, eps: 1e-6, out: DType::BF16 };
        compare(&run(&norm, &x), &with_layer_norm(&x, &norm), KERNEL, "affine");
        let plain = norm_affine(
            &x,
            &norm.scale.squeeze(0).unwrap(),
            &norm.shift.squeeze(0).unwrap(),
            1e-6,
            DType::BF16,
        );
        compare(&plain.unwrap(), &with_layer_norm(&x, &norm), PLAIN, "plain");
        assert!(
            norm_modulate(
                &x,
                &random((2, 1, 96), DType::F32),
                &random((2, 96), DType::F32),
                1e-6,
                DType::BF16
            )
            .is_ok()
        );
    }
}
