//! Loads tensors for candle's [`VarBuilder`](candle_nn::VarBuilder), until the caller cancels.

use std::sync::Arc;

use candle_core::{DType, Device, Error, Result, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;

use super::mapped::MappedMatrix;
use super::weights::{QuantizedBlocks, Weights};
use crate::{Cancel, Result as EngineResult};

/// Runs before a tensor is loaded; an error stops the load.
pub type BeforeLoad = Arc<dyn Fn(&Cancel) -> EngineResult<()> + Send + Sync>;

/// The weights of one part of a model. Every method that loads a tensor first checks for a cancel.
#[derive(Clone)]
pub struct Loader {
    pub weights: Weights,
    pub cancel: Cancel,
    pub before_load: BeforeLoad,
}

impl Loader {
    fn check(&self) -> Result<()> {
        let checked = self.cancel.check().and_then(|()| (self.before_load)(&self.cancel));
        checked.map_err(|error| Error::Msg(error.to_string()))
    }

    /// As [`Weights::quantized`].
    pub fn quantized(&self, name: &str, device: &Device) -> Result<Option<QuantizedBlocks>> {
        self.check()?;
        self.weights.quantized(name, device)
    }

    /// As [`Weights::mapped`].
    pub fn mapped(&self, name: &str, shape: [usize; 2]) -> Result<Option<MappedMatrix>> {
        self.check()?;
        self.weights.mapped(name, shape)
    }

    /// As [`Weights::rows`].
    pub fn rows(&self, name: &str, shape: (usize, usize), indices: &[u32]) -> Result<Tensor> {
        self.check()?;
        self.weights.rows(name, shape, indices)
    }
}

impl SimpleBackend for Loader {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let tensor = self.get_unchecked(name, dtype, device)?;
        if tensor.shape() == &shape {
            return Ok(tensor);
        }
        if self.weights.is_gguf() && tensor.elem_count() == shape.elem_count() {
            return tensor.reshape(shape);
        }
        Err(Error::UnexpectedShape {
            msg: format!("shape mismatch for {name}"),
            expected: shape,
            got: tensor.shape().clone(),
        }
        .bt())
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        self.check()?;
        self.weights.load(name, dtype, device, &self.cancel)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.weights.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::safetensors::save;

    use super::*;
    use crate::checkpoint::Source;

    #[test]
    fn no_tensor_is_loaded_after_a_cancel() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("part")).unwrap();
        let tensor = Tensor::zeros((2, 4), DType::BF16, &Device::Cpu).unwrap();
        let file = folder.path().join("part/model.safetensors");
        save(&std::collections::HashMap::from([("a.weight", tensor)]), file).unwrap();
        let (source, cancel) = (Source::Folder(folder.path().into()), Cancel::new());
        let weights = source.weights("part", "model", DType::F32, &Device::Cpu, &cancel).unwrap();
        let tensors = source.tensors("part", "model", DType::F32, &Device::Cpu, true, &cancel).unwrap();
        assert!(weights.get((2, 4), "a.weight").is_ok());
        cancel.cancel();
        for error in [
            weights.get((2, 4), "a.weight").unwrap_err(),
            tensors.get((2, 4), "a.weight").unwrap_err(),
            tensors.linear_no_bias(4, 2, "a").unwrap_err(),
            tensors.mapped_linear(4, 2, "a").unwrap_err(),
            tensors.pp("a").rows(2, 4, &[0]).unwrap_err(),
        ] {
            assert_eq!(error.to_string(), "cancelled");
        }
        let other = tensors.with_cancel(&Cancel::new());
        assert!(other.get((2, 4), "a.weight").is_ok());
        assert!(other.pp("a").with_cancel(&cancel).get((2, 4), "weight").is_err());
        assert!(other.pp("a").with_cancel(&Cancel::new()).get((2, 4), "weight").is_ok());
    }
}
