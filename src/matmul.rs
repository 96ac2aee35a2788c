//! Matrix products as every device accepts them.
//!
//! A CPU multiplies strided matrices, CUDA refuses most of them. Debug builds refuse them everywhere.

use candle_core::{Module, Result, Tensor};
use candle_nn::Linear;

/// `a` × `b`, both contiguous.
pub(crate) fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    debug_assert!(a.is_contiguous(), "strided left operand {:?}", a.layout());
    debug_assert!(b.is_contiguous(), "strided right operand {:?}", b.layout());
    debug_assert!(a.elem_count() > 0 && b.elem_count() > 0, "empty operand");
    a.matmul(b)
}

/// `layer` of the contiguous `x`.
pub(crate) fn linear(layer: &Linear, x: &Tensor) -> Result<Tensor> {
    debug_assert!(x.is_contiguous(), "strided operand {:?}", x.layout());
    debug_assert!(x.elem_count() > 0, "empty operand");
    layer.forward(x)
}
