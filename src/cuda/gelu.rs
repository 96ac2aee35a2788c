//! GELU with the tanh approximation (<https://arxiv.org/abs/1606.08415>).

use candle_core::{DType, Layout, Result, Shape, Tensor, bail};

use super::kernel::{Kernel, Launch, Operand, Source, apply, blocks, is_float, rows, suffix};

static SOURCE: Source = Source { name: "gelu", text: include_str!("kernels/gelu.cu") };

/// GELU of `x` + `bias`, computed in f32, in the type of `x`. `x` is contiguous, `[.., dim]`; `bias` is `[dim]` in the type of `x`, of
/// the linear layer that computed it.
pub(crate) fn gelu(x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    apply(&Gelu { bias: bias.cloned() }, x)
}

#[derive(Debug)]
struct Gelu {
    bias: Option<Tensor>,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Arguments {
    x: u64,
    out: u64,
    bias: u64,
    rows: i64,
    dim: u32,
    aligned: u32,
}

impl Kernel for Gelu {
    type Arguments = Arguments;

    fn source(&self) -> &'static Source {
        &SOURCE
    }

    fn others(&self) -> Vec<&Tensor> {
        self.bias.iter().collect()
    }

    fn supports(&self, x: &Tensor) -> bool {
        is_float(x.dtype())
            && x.is_contiguous()
            && self.bias.as_ref().is_none_or(|bias| bias.dtype() == x.dtype() && bias.is_contiguous())
    }

    fn result(&self, x: &Layout, dtype: DType) -> Result<(Shape, DType)> {
        Ok((x.shape().clone(), dtype))
    }

    fn launch(&self, x: Operand, others: &[Operand], out: Operand) -> Result<Launch<Arguments>> {
        const BLOCK: u32 = 256;
        let (rows, dim) = (rows(x.layout), x.layout.dims().last().copied().unwrap_or(1));
        let bias = others.first();
        if let Some(bias) = bias
            && bias.layout.dims() != [dim]
        {
            bail!("a bias of {:?} for {dim} channels", bias.layout.shape());
        }
        let operands = [Some(&x), Some(&out), bias];
        let aligned = operands.into_iter().flatten().all(Operand::is_aligned);
        Ok(Launch {
            entry: format!("gelu_{}", suffix(x.dtype)?),
            grid: blocks(rows * dim.div_ceil(8), BLOCK)?,
            block: BLOCK,
            shared: 0,
            arguments: Arguments {
                x: x.address,
                out: out.address,
                bias: bias.map_or(0, |bias| bias.address),
                rows: rows as i64,
                dim: dim as u32,
                aligned: aligned.into(),
            },
        })
    }

    fn plain(&self, x: &Tensor) -> Result<Tensor> {
        let mut full = x.to_dtype(DType::F32)?;
        if let Some(bias) = &self.bias {
            full = full.broadcast_add(&bias.to_dtype(DType::F32)?)?;
        }
        crate::kernels::gelu(&full)?.to_dtype(x.dtype())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::shim::{DTYPES, KERNEL, compare, random, run};

    #[test]
    fn the_kernel_equals_candle() {
        for (rows, dim) in [(3, 256), (5, 8960), (3, 44), (7, 3)] {
            for dtype in DTYPES {
                // Also where the exponential overflows.
                let x = (random((1, rows, dim), DType::F32) * 5.0).unwrap().to_dtype(dtype).unwrap();
                for bias in [None, Some(random(dim, dtype))] {
                    let kernel = Gelu { bias };
                    assert!(kernel.supports(&x));
                    compare(&run(&kernel, &x), &kernel.plain(&x).unwrap(), KERNEL, "gelu");
                }
            }
        }
        let ends = Tensor::new(&[[-300f32, -20.0, 20.0, 300.0]], &candle_core::Device::Cpu).unwrap();
        let kernel = Gelu { bias: None };
        assert_eq!(run(&kernel, &ends).to_vec2::<f32>().unwrap(), [[0.0, 0.0, 20.0, 300.0]]);
    }
}
