//! Random weights for models at full size.

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;

/// Random weights of any name and shape, scaled to keep the magnitude of the activations.
pub struct Weights(Vec<f32>);

impl Weights {
    pub fn new() -> Self {
        let normal = Tensor::randn(0f32, 1f32, 1 << 20, &Device::Cpu).and_then(|x| x.to_vec1());
        Self(normal.expect("random values on the CPU"))
    }
}

impl SimpleBackend for Weights {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let scale = match shape.dims() {
            [_] if name.ends_with("weight") => return Tensor::ones(shape, dtype, device),
            [_] => 0.0,
            [_, rest @ ..] => 1.0 / (rest.iter().product::<usize>() as f32).sqrt(),
            [] => 1.0,
        };
        // Cycle with a prime period, so that no two rows are equal.
        let pool = &self.0[..1_048_573];
        let values = pool.iter().cycle().map(|x| x * scale).take(shape.elem_count()).collect();
        Tensor::from_vec(values, shape, device)?.to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("the shape of {name} is unknown")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}
