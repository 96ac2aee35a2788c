//! Operations as every device accepts them.
//!
//! A CPU multiplies strided matrices, looks up no rows at all and convolves images of any size. CUDA refuses
//! most strided matrices, faults on an empty list of rows and, where a tensor is large, returns wrong numbers
//! without a word. Debug builds refuse here whatever CUDA would not compute, on the CPU too; sizes, which a
//! model and a request decide, are refused in all builds.

use candle_core::{Module, Result, Tensor, bail};
use candle_nn::Linear;

/// Most elements that a convolution may unfold its input to, which is how candle makes a matrix product of
/// it on CUDA. From 354 million on its results were seen to be wrong.
pub(crate) const MAX_UNFOLDED: usize = 128 << 20;

/// Most elements of a tensor: CUDA's kernels index with 32 bits.
const MAX_ELEMENTS: usize = i32::MAX as usize;

/// `a` × `b`, both contiguous.
pub(crate) fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    debug_assert!(a.is_contiguous(), "strided left operand {:?}", a.layout());
    debug_assert!(b.is_contiguous(), "strided right operand {:?}", b.layout());
    debug_assert!(a.elem_count() > 0 && b.elem_count() > 0, "empty operand");
    let (rows, columns) = (a.dims().iter().rev().skip(1), b.dims().last().unwrap_or(&0));
    check_count(rows.product(), *columns)?;
    a.matmul(b)
}

/// `layer` of the contiguous `x`.
pub(crate) fn linear(layer: &Linear, x: &Tensor) -> Result<Tensor> {
    let weight = layer.weight();
    debug_assert!(x.is_contiguous(), "strided operand {:?}", x.layout());
    debug_assert!(weight.is_contiguous(), "strided weight {:?}", weight.layout());
    debug_assert!(x.elem_count() > 0, "empty operand");
    check_count(x.elem_count() / weight.dim(1)?, weight.dim(0)?)?;
    layer.forward(x)
}

/// The entries `places` (u32 `[n]`) of the contiguous `x` along `dim`.
///
/// Whoever calls sees to it that there are such entries: a CPU tells, CUDA faults.
pub(crate) fn index_select(x: &Tensor, places: &Tensor, dim: usize) -> Result<Tensor> {
    debug_assert!(x.is_contiguous(), "strided operand {:?}", x.layout());
    debug_assert!(places.elem_count() > 0, "no places to select");
    check_count(x.elem_count() / x.dim(dim)?.max(1), places.elem_count())?;
    x.index_select(places, dim)
}

/// `x` `[T, C, H, W]` convolved with `weight` `[out, C, kernel, kernel]`, both contiguous, without padding.
pub(crate) fn conv2d(x: &Tensor, weight: &Tensor, stride: usize) -> Result<Tensor> {
    debug_assert!(x.is_contiguous(), "strided operand {:?}", x.layout());
    debug_assert!(weight.is_contiguous(), "strided weight {:?}", weight.layout());
    debug_assert!(x.elem_count() > 0, "empty operand");
    let ((frames, channels, height, width), (n_out, _, rows, columns)) = (x.dims4()?, weight.dims4()?);
    if height < rows || width < columns {
        bail!("an image of {width}x{height} is smaller than the kernel of {columns}x{rows}");
    }
    let pixels = frames * ((height - rows) / stride + 1) * ((width - columns) / stride + 1);
    if pixels.saturating_mul(channels * rows * columns) > MAX_UNFOLDED {
        bail!("a convolution of {x:?} with {weight:?} is too large in one piece");
    }
    check_count(pixels, n_out)?;
    x.conv2d(weight, 0, stride, 1, 1)
}

/// Refuses a tensor of `a` × `b` numbers where that is too many.
pub(crate) fn check_count(a: usize, b: usize) -> Result<()> {
    if a.saturating_mul(b) > MAX_ELEMENTS {
        bail!("a tensor of {a} times {b} numbers is too large; ask for fewer or smaller frames");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Shape};

    fn zeros(shape: impl Into<Shape>) -> Tensor {
        Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
    }

    /// One number repeated, hence not contiguous.
    fn strided(shape: impl Into<Shape>) -> Tensor {
        zeros(()).broadcast_as(shape).unwrap()
    }

    fn refused<T>(result: Result<T>) -> bool {
        result.err().is_some_and(|e| e.to_string().contains("too large"))
    }

    #[test]
    fn what_fits_is_computed() {
        assert_eq!(matmul(&zeros((2, 3, 4)), &zeros((2, 4, 5))).unwrap().dims(), [2, 3, 5]);
        assert_eq!(linear(&Linear::new(zeros((5, 4)), None), &zeros((2, 3, 4))).unwrap().dims(), [2, 3, 5]);
        let places = Tensor::new(&[1u32, 0, 1], &Device::Cpu).unwrap();
        assert_eq!(index_select(&zeros((2, 4)), &places, 0).unwrap().dims(), [3, 4]);
        assert_eq!(conv2d(&zeros((2, 3, 9, 9)), &zeros((5, 3, 3, 3)), 2).unwrap().dims(), [2, 5, 4, 4]);
        assert!(conv2d(&zeros((1, 1, 2, 9)), &zeros((1, 1, 3, 3)), 1).is_err());
    }

    #[test]
    fn what_is_too_large_is_refused() {
        assert!(check_count(1 << 16, 1 << 14).is_ok());
        assert!(refused(check_count(1 << 16, 1 << 15)));
        assert!(refused(check_count(usize::MAX, 2)));
        // One frame of 1280×720 and 96 channels, whose unfolded form of 796 million CUDA got wrong.
        let frame = zeros((1, 96, 722, 1282));
        assert!(refused(conv2d(&frame, &zeros((1, 96, 3, 3)), 1)));
        assert!(refused(matmul(&zeros((1 << 16, 1)), &zeros((1, 1 << 15)))));
        assert!(refused(linear(&Linear::new(zeros((1 << 15, 1)), None), &zeros((1, 1 << 16, 1)))));
    }

    #[cfg(debug_assertions)]
    mod refused_in_debug_builds {
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
        fn a_linear_layer_of_nothing() {
            let _ = linear(&Linear::new(zeros((5, 4)), None), &zeros((1, 0, 4)));
        }

        #[test]
        #[should_panic(expected = "strided weight")]
        fn a_strided_weight() {
            let _ = linear(&Linear::new(zeros((4, 5)).t().unwrap(), None), &zeros((3, 4)));
        }

        #[test]
        #[should_panic(expected = "no places")]
        fn selecting_nothing() {
            let nothing = Tensor::zeros(0, DType::U32, &Device::Cpu).unwrap();
            let _ = index_select(&zeros((2, 4)), &nothing, 0);
        }

        #[test]
        #[should_panic(expected = "strided operand")]
        fn selecting_from_a_strided_operand() {
            let places = Tensor::new(&[0u32], &Device::Cpu).unwrap();
            let _ = index_select(&zeros((4, 2)).t().unwrap(), &places, 0);
        }

        #[test]
        #[should_panic(expected = "strided operand")]
        fn convolving_a_strided_operand() {
            let _ = conv2d(&strided((1, 3, 4, 4)), &zeros((5, 3, 3, 3)), 1);
        }

        #[test]
        #[should_panic(expected = "strided weight")]
        fn convolving_with_a_strided_weight() {
            let _ = conv2d(&zeros((1, 3, 4, 4)), &strided((5, 3, 3, 3)), 1);
        }
    }
}
