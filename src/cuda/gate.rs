//! The residual connections of a block.

use candle_core::{DType, Layout, Result, Shape, Tensor, bail};

use super::kernel::{Kernel, Launch, Operand, Source, apply, blocks, is_float, rows, suffix};
use super::norm::group_rows;

static SOURCE: Source = Source { name: "gate", text: include_str!("kernels/gate.cu") };

/// `x` + (`change` + `bias`) × `gate`, computed in f32, in the type of `x`.
///
/// `x` and `change` are contiguous, `[.., dim]`; `change` has the type of `x`, or any if that is f32. `bias` is `[dim]` in the type of
/// `change`, of the linear layer that computed it. `gate` is f32 `[M, dim]` or `[M, 1, dim]`, also a view; consecutive equal groups of
/// the rows of `x` use one row each.
pub(crate) fn residual(
    x: &Tensor,
    change: &Tensor,
    bias: Option<&Tensor>,
    gate: Option<&Tensor>,
) -> Result<Tensor> {
    let gate = gate.map(group_rows).transpose()?;
    apply(&Gate { change: change.reshape(x.shape())?, bias: bias.cloned(), gate }, x)
}

#[derive(Debug)]
struct Gate {
    change: Tensor,
    bias: Option<Tensor>,
    /// f32 `[M, dim]`.
    gate: Option<Tensor>,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Arguments {
    x: u64,
    change: u64,
    out: u64,
    gate: u64,
    bias: u64,
    gate_stride: i64,
    group: u32,
    tokens: u32,
    dim: u32,
    aligned: u32,
}

impl Kernel for Gate {
    type Arguments = Arguments;

    fn source(&self) -> &'static Source {
        &SOURCE
    }

    fn others(&self) -> Vec<&Tensor> {
        [Some(&self.change), self.bias.as_ref(), self.gate.as_ref()].into_iter().flatten().collect()
    }

    fn supports(&self, x: &Tensor) -> bool {
        let (change, dtype) = (&self.change, self.change.dtype());
        is_float(x.dtype())
            && is_float(dtype)
            && (x.dtype() == DType::F32 || dtype == x.dtype())
            && x.is_contiguous()
            && change.is_contiguous()
            && self.bias.as_ref().is_none_or(|bias| bias.dtype() == dtype && bias.is_contiguous())
            && self.gate.as_ref().is_none_or(|x| x.dtype() == DType::F32 && x.layout().stride()[1] == 1)
    }

    fn result(&self, x: &Layout, dtype: DType) -> Result<(Shape, DType)> {
        Ok((x.shape().clone(), dtype))
    }

    fn launch(&self, x: Operand, others: &[Operand], out: Operand) -> Result<Launch<Arguments>> {
        const BLOCK: u32 = 256;
        let (tokens, dim) = (rows(x.layout), x.layout.dims().last().copied().unwrap_or(1));
        let Some((change, rest)) = others.split_first() else {
            bail!("a residual connection without a change")
        };
        let (bias, gate) = rest.split_at(usize::from(self.bias.is_some()));
        let (bias, gate) = (bias.first(), gate.first());
        let groups = gate.map_or(1, |gate| gate.layout.dims()[0]);
        if groups == 0 || !tokens.is_multiple_of(groups) {
            bail!("{tokens} tokens in {groups} groups");
        }
        let fits = |operand: Option<&Operand>| {
            operand.is_none_or(|operand| operand.layout.dims().last() == Some(&dim))
        };
        if !fits(bias) || !fits(gate) {
            bail!("the bias or the gate does not have {dim} channels");
        }
        let operands = [Some(&x), Some(change), Some(&out), bias, gate];
        let aligned = operands.into_iter().flatten().all(Operand::is_aligned);
        let address = |operand: Option<&Operand>| operand.map_or(0, |operand| operand.address);
        Ok(Launch {
            entry: format!("gate_{}_{}", suffix(x.dtype)?, suffix(change.dtype)?),
            grid: blocks(tokens * dim.div_ceil(8), BLOCK)?,
            block: BLOCK,
            shared: 0,
            arguments: Arguments {
                x: x.address,
                change: change.address,
                out: out.address,
                gate: address(gate),
                bias: address(bias),
                gate_stride: gate.map_or(0, |gate| gate.stride(0)),
                group: (tokens / groups) as u32,
                tokens: tokens as u32,
                dim: dim as u32,
                aligned: aligned.into(),
            },
        })
    }

    fn plain(&self, x: &Tensor) -> Result<Tensor> {
        let mut change = self.change.to_dtype(DType::F32)?;
        if let Some(bias) = &self.bias {
            change = change.broadcast_add(&bias.to_dtype(DType::F32)?)?;
        }
        if let Some(gate) = &self.gate {
            let (groups, dim) = gate.dims2()?;
            change = change.reshape((groups, (), dim))?.broadcast_mul(&gate.unsqueeze(1)?)?;
        }
        (x.to_dtype(DType::F32)? + change.reshape(x.shape())?)?.to_dtype(x.dtype())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::shim::{DTYPES, KERNEL, PLAIN, compare, random, run};

    #[test]
    fn the_kernel_equals_candle() {
        for (groups, tokens, dim) in [(1, 3, 256), (2, 5, 1536), (3, 2, 44), (2, 3, 7)] {
            for (x_type, change_type) in DTYPES
                .map(|dtype| (dtype, dtype))
                .into_iter()
                .chain([(DType::F32, DType::BF16), (DType::F32, DType::F16)])
            {
                let x = random((groups, tokens, dim), x_type);
                let modulation = random((groups, 6, dim), DType::F32);
                let gate = group_rows(&modulation.narrow(1, 2, 1).unwrap()).unwrap();
                for (bias, gate) in [(true, Some(&gate)), (false, Some(&gate)), (true, None), (false, None)] {
                    let change = random((groups, tokens, dim), change_type);
                    let bias = bias.then(|| random(dim, change_type));
                    let kernel = Gate { change, bias, gate: gate.cloned() };
                    assert!(kernel.supports(&x));
                    compare(&run(&kernel, &x), &kernel.plain(&x).unwrap(), KERNEL, "gate");
                }
            }
        }
    }

    /// `gated` of the transformer's block.
    #[test]
    fn the_plain_form_is_that_of_the_block() {
        let x = random((2, 3, 16), DType::BF16);
        let change = random((2, 3, 16), DType::BF16);
        let gate = random((2, 6, 16), DType::F32).narrow(1, 2, 1).unwrap();
        let full = change.to_dtype(DType::F32).unwrap().broadcast_mul(&gate).unwrap();
        let sum = (x.to_dtype(DType::F32).unwrap() + full).unwrap().to_dtype(DType::BF16).unwrap();
        compare(&residual(&x, &change, None, Some(&gate)).unwrap(), &sum, PLAIN, "block");
    }
}
