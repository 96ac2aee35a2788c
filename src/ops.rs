//! Tensor operations with the restrictions of all devices.
//!
//! The CPU multiplies strided matrices, accepts an empty list of indices and convolves images of any size. CUDA rejects most
//! strided matrices, faults on an empty list of indices, and silently returns wrong values for large tensors. Debug builds
//! reject here, also on the CPU, whatever CUDA cannot compute. Sizes depend on the model and the request, so that all builds
//! check them.

use candle_core::{Device, Module, Result, Tensor, bail};
use candle_nn::Linear;

/// Maximum number of elements in the unfolded input of a convolution, the matrix that candle multiplies on CUDA. Wrong
/// results were observed from 354 million on.
const MAX_UNFOLDED: usize = 128 << 20;

/// Maximum number of elements in a tensor: CUDA kernels index with 32 bits.
const MAX_ELEMENTS: usize = i32::MAX as usize;

/// The matrix product `a` × `b` of contiguous tensors.
pub(crate) fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    debug_assert!(a.is_contiguous(), "strided left operand {:?}", a.layout());
    debug_assert!(b.is_contiguous(), "strided right operand {:?}", b.layout());
    debug_assert!(a.elem_count() > 0 && b.elem_count() > 0, "empty operand");
    let (rows, columns) = (a.dims().iter().rev().skip(1), b.dims().last().unwrap_or(&0));
    check_count(rows.product(), *columns)?;
    a.matmul(b)
}

/// Applies `layer` to the contiguous `x`.
pub(crate) fn linear(layer: &Linear, x: &Tensor) -> Result<Tensor> {
    let weight = layer.weight();
    debug_assert!(x.is_contiguous(), "strided operand {:?}", x.layout());
    debug_assert!(weight.is_contiguous(), "strided weight {:?}", weight.layout());
    debug_assert!(x.elem_count() > 0, "empty operand");
    check_count(x.elem_count() / weight.dim(1)?, weight.dim(0)?)?;
    layer.forward(x)
}

/// The entries `indices` (u32 `[n]`) of the contiguous `x` along `dim`.
///
/// The caller must check the indices: the CPU returns an error for an index out of range, CUDA faults.
pub(crate) fn index_select(x: &Tensor, indices: &Tensor, dim: usize) -> Result<Tensor> {
    debug_assert!(x.is_contiguous(), "strided operand {:?}", x.layout());
    debug_assert!(indices.elem_count() > 0, "no indices to select");
    check_count(x.elem_count() / x.dim(dim)?.max(1), indices.elem_count())?;
    x.index_select(indices, dim)
}

/// Elements that a convolution on `device` may unfold its input to. cuDNN unfolds nothing.
pub(crate) fn max_unfolded(device: &Device) -> usize {
    if cfg!(feature = "cudnn") && device.is_cuda() { usize::MAX } else { MAX_UNFOLDED }
}

/// Convolves `x` `[T, C, H, W]` with `weight` `[out, C, kernel, kernel]` and `padding` zeros on each side. Both are contiguous.
pub(crate) fn conv2d(x: &Tensor, weight: &Tensor, stride: usize, padding: usize) -> Result<Tensor> {
    debug_assert!(x.is_contiguous(), "strided operand {:?}", x.layout());
    debug_assert!(weight.is_contiguous(), "strided weight {:?}", weight.layout());
    debug_assert!(x.elem_count() > 0, "empty operand");
    let ((frames, channels, height, width), (n_out, _, rows, columns)) = (x.dims4()?, weight.dims4()?);
    let (height, width) = (height + 2 * padding, width + 2 * padding);
    if height < rows || width < columns {
        bail!("an image of {width}x{height} is smaller than the kernel of {columns}x{rows}");
    }
    let pixels = frames * ((height - rows) / stride + 1) * ((width - columns) / stride + 1);
    if pixels.saturating_mul(channels * rows * columns) > max_unfolded(x.device()) {
        bail!("a convolution of {x:?} with {weight:?} is too large");
    }
    check_count(pixels, n_out)?;
    x.conv2d(weight, padding, stride, 1, 1)
}

/// Rejects a tensor of `a` × `b` elements if that exceeds the limit.
pub(crate) fn check_count(a: usize, b: usize) -> Result<()> {
    if a.saturating_mul(b) > MAX_ELEMENTS {
        bail!("a tensor of {a} × {b} elements is too large; request fewer or smaller frames");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Shape};

    fn zeros(shape: impl Into<Shape>) -> Tensor {
        Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
    }

    /// One value repeated, hence not contiguous.
    fn strided(shape: impl Into<Shape>) -> Tensor {
        zeros(()).broadcast_as(shape).unwrap()
    }

    fn is_rejected<T>(result: Result<T>) -> bool {
        result.err().is_some_and(|e| e.to_string().contains("too large"))
    }

    #[test]
    fn supported_sizes_are_computed() {
        assert_eq!(matmul(&zeros((2, 3, 4)), &zeros((2, 4, 5))).unwrap().dims(), [2, 3, 5]);
        assert_eq!(linear(&Linear::new(zeros((5, 4)), None), &zeros((2, 3, 4))).unwrap().dims(), [2, 3, 5]);
        let indices = Tensor::new(&[1u32, 0, 1], &Device::Cpu).unwrap();
        assert_eq!(index_select(&zeros((2, 4)), &indices, 0).unwrap().dims(), [3, 4]);
        assert_eq!(conv2d(&zeros((2, 3, 9, 9)), &zeros((5, 3, 3, 3)), 2, 0).unwrap().dims(), [2, 5, 4, 4]);
        assert!(conv2d(&zeros((1, 1, 2, 9)), &zeros((1, 1, 3, 3)), 1, 0).is_err());
    }

    #[test]
    fn tensors_above_the_limits_are_rejected() {
        assert!(check_count(1 << 16, 1 << 14).is_ok());
        assert!(is_rejected(check_count(1 << 16, 1 << 15)));
        assert!(is_rejected(check_count(usize::MAX, 2)));
        // One frame of 1280×720 and 96 channels: it unfolds to 796 million elements, and CUDA's result was wrong.
        let frame = zeros((1, 96, 722, 1282));
        assert!(is_rejected(conv2d(&frame, &zeros((1, 96, 3, 3)), 1, 0)));
        assert!(is_rejected(matmul(&zeros((1 << 16, 1)), &zeros((1, 1 << 15)))));
        assert!(is_rejected(linear(&Linear::new(zeros((1 << 15, 1)), None), &zeros((1, 1 << 16, 1)))));
    }

    #[cfg(debug_assertions)]
    mod rejected_in_debug_builds {
        use super::*;

        #[test]
        #[should_panic(expected = "strided left operand")]
        fn a_strided_left_operand() {
            let _ = matmul(&zeros((4, 3)).t().unwrap(), &zeros((4, 5)));
        }

        #[test]
        #[should_panic(expected = "strided right operand")]
        fn a_strided_right_operand() {
            let _ = matmul(&zeros((3, 4)), &strided((4, 5)));
        }

        #[test]
        #[should_panic(expected = "empty operand")]
        fn an_empty_operand() {
            let _ = matmul(&zeros((0, 4)), &zeros((4, 5)));
        }

        #[test]
        #[should_panic(expected = "strided operand")]
        fn a_linear_layer_of_a_strided_operand() {
            let _ = linear(&Linear::new(zeros((5, 4)), None), &zeros((2, 4, 3)).transpose(1, 2).unwrap());
        }

        #[test]
        #[should_panic(expected = "empty operand")]
        fn a_linear_layer_of_an_empty_operand() {
            let _ = linear(&Linear::new(zeros((5, 4)), None), &zeros((1, 0, 4)));
        }

        #[test]
        #[should_panic(expected = "strided weight")]
        fn a_strided_weight() {
            let _ = linear(&Linear::new(zeros((4, 5)).t().unwrap(), None), &zeros((3, 4)));
        }

        #[test]
        #[should_panic(expected = "no indices")]
        fn selecting_no_indices() {
            let indices = Tensor::zeros(0, DType::U32, &Device::Cpu).unwrap();
            let _ = index_select(&zeros((2, 4)), &indices, 0);
        }

        #[test]
        #[should_panic(expected = "strided operand")]
        fn selecting_from_a_strided_operand() {
            let indices = Tensor::new(&[0u32], &Device::Cpu).unwrap();
            let _ = index_select(&zeros((4, 2)).t().unwrap(), &indices, 0);
        }

        #[test]
        #[should_panic(expected = "strided operand")]
        fn convolving_a_strided_operand() {
            let _ = conv2d(&strided((1, 3, 4, 4)), &zeros((5, 3, 3, 3)), 1, 0);
        }

        #[test]
        #[should_panic(expected = "strided weight")]
        fn convolving_with_a_strided_weight() {
            let _ = conv2d(&zeros((1, 3, 4, 4)), &strided((5, 3, 3, 3)), 1, 0);
        }
    }
}
