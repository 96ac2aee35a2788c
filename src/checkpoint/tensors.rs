//! The tensors of a part of a model, as its layers take them.

use std::ops::Deref;

use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::weights::Weights;
use crate::checkpoint::Layer;
use crate::ops::index_select;

/// Tensors by their names: candle's [`VarBuilder`], and what it has no word for, which is to leave numbers in the file and
/// as the file has them.
#[derive(Clone)]
pub struct Tensors {
    builder: VarBuilder<'static>,
    /// The file, where it is known.
    weights: Option<Weights>,
    /// Whether linear layers are to compute with the blocks of a GGUF file.
    blocks: bool,
}

impl Tensors {
    pub(super) fn new(weights: Weights, dtype: DType, device: &Device, blocks: bool) -> Self {
        let builder = VarBuilder::from_backend(Box::new(weights.clone()), dtype, device.clone());
        Self { builder, weights: Some(weights), blocks }
    }

    /// Those whose names go on from here with `name`.
    pub fn pp(&self, name: impl ToString) -> Self {
        Self { builder: self.builder.pp(name), ..self.clone() }
    }

    /// The same, to be taken as numbers of `dtype`.
    pub fn to_dtype(&self, dtype: DType) -> Self {
        Self { builder: self.builder.to_dtype(dtype), ..self.clone() }
    }

    /// The layer `name` from `n_in` numbers to `n_out`, with a bias.
    pub(crate) fn linear(&self, n_in: usize, n_out: usize, name: &str) -> Result<Layer> {
        let at = self.pp(name);
        match at.quantised(n_in, n_out)? {
            Some(layer) => layer.with_bias(at.builder.to_dtype(DType::F32).get(n_out, "bias")?),
            None => Ok(Layer::Plain(candle_nn::linear(n_in, n_out, at.builder)?)),
        }
    }

    /// The same without a bias.
    pub(crate) fn linear_no_bias(&self, n_in: usize, n_out: usize, name: &str) -> Result<Layer> {
        let at = self.pp(name);
        match at.quantised(n_in, n_out)? {
            Some(layer) => Ok(layer),
            None => Ok(Layer::Plain(candle_nn::linear_no_bias(n_in, n_out, at.builder)?)),
        }
    }

    /// The same for a layer that is used once and let go, which a CPU need not have in memory.
    pub(crate) fn passing_linear(&self, n_in: usize, n_out: usize, name: &str) -> Result<Layer> {
        let at = self.pp(name);
        let weights = self.weights.as_ref().filter(|_| self.device().is_cpu() && self.dtype() == DType::F32);
        let mapped = weights.map(|weights| weights.mapped(&at.weight(), [n_out, n_in])).transpose()?;
        match mapped.flatten() {
            Some(weight) => Ok(Layer::Mapped(weight)),
            None => self.linear_no_bias(n_in, n_out, name),
        }
    }

    /// The name of the `weight` here.
    fn weight(&self) -> String {
        format!("{}.weight", self.builder.prefix())
    }

    /// The layer whose `weight` is here, if the file has it in blocks and it is to stay so.
    fn quantised(&self, n_in: usize, n_out: usize) -> Result<Option<Layer>> {
        let Some(weights) = self.weights.as_ref().filter(|_| self.blocks) else { return Ok(None) };
        let name = self.weight();
        let Some(blocks) = weights.quantised(&name, self.device())? else { return Ok(None) };
        if blocks.weight.shape().dims() != [n_out, n_in] {
            bail!("{name} is of {:?}, not of [{n_out}, {n_in}]", blocks.weight.shape());
        }
        Ok(Some(Layer::quantised(blocks)))
    }

    /// The rows `places` of `weight`, which has `rows` rows of `width`: f32 `[places, width]`. The others are not read.
    pub(crate) fn rows(&self, rows: usize, width: usize, places: &[u32]) -> Result<Tensor> {
        match &self.weights {
            Some(weights) => weights.rows(&self.weight(), (rows, width), places)?.to_device(self.device()),
            None => {
                let places = Tensor::new(places, self.device())?;
                index_select(&self.get((rows, width), "weight")?, &places, 0)?.to_dtype(DType::F32)
            }
        }
    }
}

impl Deref for Tensors {
    type Target = VarBuilder<'static>;

    fn deref(&self) -> &Self::Target {
        &self.builder
    }
}

impl From<VarBuilder<'static>> for Tensors {
    fn from(builder: VarBuilder<'static>) -> Self {
        Self { builder, weights: None, blocks: false }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::{GgmlDType, QTensor, gguf_file};

    use super::*;
    use crate::checkpoint::Source;

    /// A GGUF with a layer, and its numbers.
    fn file(folder: &std::path::Path, dtype: GgmlDType) -> (Source, Tensor) {
        let numbers: Vec<f32> = (0..6 * 64).map(|i| (i as f32 * 0.7).sin()).collect();
        let weight = Tensor::from_vec(numbers, (6, 64), &Device::Cpu).unwrap();
        let weight = QTensor::quantize(&weight, dtype).unwrap();
        let bias =
            QTensor::quantize(&Tensor::arange(0_f32, 6.0, &Device::Cpu).unwrap(), GgmlDType::F32).unwrap();
        std::fs::create_dir_all(folder.join("part")).unwrap();
        let mut file = std::fs::File::create(folder.join("part/model.gguf")).unwrap();
        gguf_file::write(&mut file, &[], &[("layer.weight", &weight), ("layer.bias", &bias)]).unwrap();
        (Source::Folder(folder.into()), weight.dequantize(&Device::Cpu).unwrap())
    }

    fn numbers(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn a_layer_stays_in_blocks_where_that_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        for (dtype, blocks, stays) in [
            (GgmlDType::Q8_0, true, true),
            (GgmlDType::Q4_0, true, true),
            (GgmlDType::Q8_0, false, false),
            // There are no blocks in it.
            (GgmlDType::F16, true, false),
        ] {
            let (source, weight) = file(folder.path(), dtype);
            let tensors = source.tensors("part", "model", DType::F32, &Device::Cpu, blocks).unwrap();
            let layer = tensors.linear(64, 6, "layer").unwrap();
            assert_eq!(matches!(layer, Layer::Quantised { .. }), stays, "{dtype:?}");
            let x = (Tensor::ones((2, 64), DType::F32, &Device::Cpu).unwrap() * 0.5).unwrap();
            let made = numbers(&layer.forward(&x).unwrap());
            let plain = x.matmul(&weight.t().unwrap()).unwrap();
            let bias = Tensor::arange(0_f32, 6.0, &Device::Cpu).unwrap();
            let plain = numbers(&plain.broadcast_add(&bias).unwrap());
            for (made, plain) in made.iter().zip(&plain) {
                assert!((made - plain).abs() < 2e-2, "{dtype:?}: {made}, not {plain}");
            }
            assert!(tensors.linear(6, 64, "layer").is_err(), "of another shape");
        }
    }

    #[test]
    fn a_passing_layer_stays_in_its_file() {
        use DType::{BF16, F8E4M3, F16, F32};

        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("part")).unwrap();
        let sines = |shape: (usize, usize), step: f32| {
            let numbers = (0..shape.0 * shape.1).map(|i| (i as f32 * step).sin()).collect();
            Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
        };
        let (weight, x) = (sines((7, 1100), 0.7), sines((5, 1100), 0.3));
        let scales = Tensor::arange(1_f32, 8.0, &Device::Cpu).unwrap();
        for (dtype, scale, stays) in [
            (BF16, None, true),
            (F16, None, true),
            (F8E4M3, None, true),
            (F8E4M3, Some(scales.get(2).unwrap()), true),
            (F8E4M3, Some(scales), true),
            // It would be no smaller.
            (F32, None, false),
        ] {
            let stored = weight.to_dtype(dtype).unwrap();
            let mut all = std::collections::HashMap::from([("layer.weight", stored.clone())]);
            let mut numbers_of = stored.to_dtype(F32).unwrap();
            if let Some(scale) = scale {
                let rows = if scale.rank() == 0 { scale.reshape((1, 1)) } else { scale.reshape((7, 1)) };
                numbers_of = numbers_of.broadcast_mul(&rows.unwrap()).unwrap();
                all.insert("layer.scale_weight", scale);
            }
            candle_core::safetensors::save(&all, folder.path().join("part/model.safetensors")).unwrap();
            let source = Source::Folder(folder.path().into());
            let tensors = source.tensors("part", "model", F32, &Device::Cpu, true).unwrap();
            let layer = tensors.passing_linear(1100, 7, "layer").unwrap();
            assert_eq!(matches!(layer, Layer::Mapped(_)), stays, "{dtype:?}");
            let made = layer.forward(&x.reshape((1, 5, 1100)).unwrap()).unwrap();
            assert_eq!(made.dims(), [1, 5, 7]);
            let plain = numbers(&x.matmul(&numbers_of.t().unwrap()).unwrap());
            for (made, plain) in numbers(&made).iter().zip(&plain) {
                assert!((made - plain).abs() < 1e-3, "{dtype:?}: {made}, not {plain}");
            }
            assert!(tensors.passing_linear(7, 1100, "layer").is_err(), "of another shape");
            // Asked for in another number format, it is as ever.
            let narrow = tensors.to_dtype(BF16).passing_linear(1100, 7, "layer").unwrap();
            assert!(matches!(narrow, Layer::Plain(_)));
        }
    }

    #[test]
    fn rows_are_those_of_the_whole() {
        let folder = tempfile::tempdir().unwrap();
        for dtype in [GgmlDType::F32, GgmlDType::F16, GgmlDType::Q8_0, GgmlDType::Q5_1] {
            let (source, weight) = file(folder.path(), dtype);
            let tensors =
                source.tensors("part", "model", DType::F32, &Device::Cpu, true).unwrap().pp("layer");
            let places = [5_u32, 0, 5, 2];
            let rows = tensors.rows(6, 64, &places).unwrap();
            let expected = weight.index_select(&Tensor::new(&places, &Device::Cpu).unwrap(), 0).unwrap();
            assert_eq!(rows.dims(), [4, 64]);
            assert!(numbers(&rows) == numbers(&expected), "{dtype:?}");
            assert!(tensors.rows(6, 64, &[6]).is_err() && tensors.rows(5, 64, &[0]).is_err());
        }
    }
}
