//! Tensors by name, as layers load them.

use std::ops::Deref;

use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::layer::Layer;
use super::loader::Loader;
use crate::Cancel;
use crate::ops::index_select;

/// Candle's [`VarBuilder`], with layers that stay in their file: quantized, or memory-mapped.
#[derive(Clone)]
pub struct Tensors {
    builder: VarBuilder<'static>,
    /// `None` for tensors that do not come from a file.
    loader: Option<Loader>,
    /// Whether linear layers compute with the quantized blocks of a GGUF file.
    quantized: bool,
}

impl Tensors {
    pub(super) fn new(loader: Loader, dtype: DType, device: &Device, quantized: bool) -> Self {
        Self { builder: builder(&loader, dtype, device), loader: Some(loader), quantized }
    }

    /// The same tensors; loading them stops after a cancel of `cancel`.
    pub fn with_cancel(&self, cancel: &Cancel) -> Self {
        let Some(loader) = &self.loader else { return self.clone() };
        let loader = Loader { cancel: cancel.clone(), ..loader.clone() };
        let (builder, prefix) = (builder(&loader, self.dtype(), self.device()), self.builder.prefix());
        let builder = if prefix.is_empty() { builder } else { builder.set_prefix(prefix) };
        Self { builder, loader: Some(loader), quantized: self.quantized }
    }

    /// The tensors whose names continue with `name`.
    pub fn pp(&self, name: impl ToString) -> Self {
        Self { builder: self.builder.pp(name), ..self.clone() }
    }

    /// The same tensors, loaded as `dtype`.
    pub fn to_dtype(&self, dtype: DType) -> Self {
        Self { builder: self.builder.to_dtype(dtype), ..self.clone() }
    }

    /// Loads the linear layer `name` with a bias.
    pub(crate) fn linear(&self, n_in: usize, n_out: usize, name: &str) -> Result<Layer> {
        let at = self.pp(name);
        match at.quantized_layer(n_in, n_out)? {
            Some(layer) => layer.with_bias(at.builder.to_dtype(DType::F32).get(n_out, "bias")?),
            None => Ok(Layer::Plain(candle_nn::linear(n_in, n_out, at.builder)?)),
        }
    }

    /// Loads the linear layer `name` without a bias.
    pub(crate) fn linear_no_bias(&self, n_in: usize, n_out: usize, name: &str) -> Result<Layer> {
        let at = self.pp(name);
        match at.quantized_layer(n_in, n_out)? {
            Some(layer) => Ok(layer),
            None => Ok(Layer::Plain(candle_nn::linear_no_bias(n_in, n_out, at.builder)?)),
        }
    }

    /// As [`linear_no_bias`](Self::linear_no_bias), for a layer that is used once: on a CPU it stays in its file.
    pub(crate) fn mapped_linear(&self, n_in: usize, n_out: usize, name: &str) -> Result<Layer> {
        let at = self.pp(name);
        let loader = self.loader.as_ref().filter(|_| self.device().is_cpu() && self.dtype() == DType::F32);
        let mapped = loader.map(|loader| loader.mapped(&at.weight(), [n_out, n_in])).transpose()?;
        match mapped.flatten() {
            Some(weight) => Ok(Layer::Mapped(weight)),
            None => self.linear_no_bias(n_in, n_out, name),
        }
    }

    /// The full name of `weight`.
    fn weight(&self) -> String {
        format!("{}.weight", self.builder.prefix())
    }

    /// The layer with the tensor `weight`, if it stays in quantized blocks.
    fn quantized_layer(&self, n_in: usize, n_out: usize) -> Result<Option<Layer>> {
        let Some(loader) = self.loader.as_ref().filter(|_| self.quantized) else { return Ok(None) };
        let name = self.weight();
        let Some(blocks) = loader.quantized(&name, self.device())? else { return Ok(None) };
        if blocks.weight.shape().dims() != [n_out, n_in] {
            bail!("{name} has the shape {:?}, not [{n_out}, {n_in}]", blocks.weight.shape());
        }
        Ok(Some(Layer::quantized(blocks)))
    }

    /// The rows `indices` of `weight` `[rows, width]`: f32 `[indices, width]`. Other rows are not read.
    pub(crate) fn rows(&self, rows: usize, width: usize, indices: &[u32]) -> Result<Tensor> {
        match &self.loader {
            Some(loader) => loader.rows(&self.weight(), (rows, width), indices)?.to_device(self.device()),
            None => {
                let indices = Tensor::new(indices, self.device())?;
                index_select(&self.get((rows, width), "weight")?, &indices, 0)?.to_dtype(DType::F32)
            }
        }
    }
}

fn builder(loader: &Loader, dtype: DType, device: &Device) -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(loader.clone()), dtype, device.clone())
}

impl Deref for Tensors {
    type Target = VarBuilder<'static>;

    fn deref(&self) -> &Self::Target {
        &self.builder
    }
}

impl From<VarBuilder<'static>> for Tensors {
    fn from(builder: VarBuilder<'static>) -> Self {
        Self { builder, loader: None, quantized: false }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::{GgmlDType, QTensor, gguf_file};

    use super::*;
    use crate::checkpoint::Source;

    /// A GGUF file with one layer, and the layer's weight as f32.
    fn file(folder: &std::path::Path, dtype: GgmlDType) -> (Source, Tensor) {
        let values: Vec<f32> = (0..6 * 64).map(|i| (i as f32 * 0.7).sin()).collect();
        let weight = Tensor::from_vec(values, (6, 64), &Device::Cpu).unwrap();
        let weight = QTensor::quantize(&weight, dtype).unwrap();
        let bias =
            QTensor::quantize(&Tensor::arange(0_f32, 6.0, &Device::Cpu).unwrap(), GgmlDType::F32).unwrap();
        std::fs::create_dir_all(folder.join("part")).unwrap();
        let mut file = std::fs::File::create(folder.join("part/model.gguf")).unwrap();
        gguf_file::write(&mut file, &[], &[("layer.weight", &weight), ("layer.bias", &bias)]).unwrap();
        (Source::Folder(folder.into()), weight.dequantize(&Device::Cpu).unwrap())
    }

    fn values(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn a_layer_stays_quantized_if_the_caller_asks() {
        let folder = tempfile::tempdir().unwrap();
        for (dtype, quantized, stays) in [
            (GgmlDType::Q8_0, true, true),
            (GgmlDType::Q4_0, true, true),
            (GgmlDType::Q8_0, false, false),
            // F16 is not quantized.
            (GgmlDType::F16, true, false),
        ] {
            let (source, weight) = file(folder.path(), dtype);
            let tensors =
                source.tensors("part", "model", DType::F32, &Device::Cpu, quantized, &Cancel::new()).unwrap();
            let layer = tensors.linear(64, 6, "layer").unwrap();
            assert_eq!(matches!(layer, Layer::Quantized { .. }), stays, "{dtype:?}");
            let x = (Tensor::ones((2, 64), DType::F32, &Device::Cpu).unwrap() * 0.5).unwrap();
            let output = values(&layer.forward(&x).unwrap());
            let plain = x.matmul(&weight.t().unwrap()).unwrap();
            let bias = Tensor::arange(0_f32, 6.0, &Device::Cpu).unwrap();
            let plain = values(&plain.broadcast_add(&bias).unwrap());
            for (value, plain) in output.iter().zip(&plain) {
                assert!((value - plain).abs() < 2e-2, "{dtype:?}: {value}, not {plain}");
            }
            assert!(tensors.linear(6, 64, "layer").is_err(), "the shape differs");
        }
    }

    #[test]
    fn a_mapped_layer_stays_in_its_file() {
        use DType::{BF16, F8E4M3, F16, F32};

        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("part")).unwrap();
        let sine = |shape: (usize, usize), step: f32| {
            let values = (0..shape.0 * shape.1).map(|i| (i as f32 * step).sin()).collect();
            Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
        };
        let (weight, x) = (sine((7, 1100), 0.7), sine((5, 1100), 0.3));
        let scales = Tensor::arange(1_f32, 8.0, &Device::Cpu).unwrap();
        for (dtype, scale, stays) in [
            (BF16, None, true),
            (F16, None, true),
            (F8E4M3, None, true),
            (F8E4M3, Some(scales.get(2).unwrap()), true),
            (F8E4M3, Some(scales), true),
            // f32 in the file is no smaller than in memory.
            (F32, None, false),
        ] {
            let stored = weight.to_dtype(dtype).unwrap();
            let mut tensors = std::collections::HashMap::from([("layer.weight", stored.clone())]);
            let mut expanded = stored.to_dtype(F32).unwrap();
            if let Some(scale) = scale {
                let rows = if scale.rank() == 0 { scale.reshape((1, 1)) } else { scale.reshape((7, 1)) };
                expanded = expanded.broadcast_mul(&rows.unwrap()).unwrap();
                tensors.insert("layer.scale_weight", scale);
            }
            candle_core::safetensors::save(&tensors, folder.path().join("part/model.safetensors")).unwrap();
            let source = Source::Folder(folder.path().into());
            let tensors = source.tensors("part", "model", F32, &Device::Cpu, true, &Cancel::new()).unwrap();
            let layer = tensors.mapped_linear(1100, 7, "layer").unwrap();
            assert_eq!(matches!(layer, Layer::Mapped(_)), stays, "{dtype:?}");
            let output = layer.forward(&x.reshape((1, 5, 1100)).unwrap()).unwrap();
            assert_eq!(output.dims(), [1, 5, 7]);
            let plain = values(&x.matmul(&expanded.t().unwrap()).unwrap());
            for (value, plain) in values(&output).iter().zip(&plain) {
                assert!((value - plain).abs() < 1e-3, "{dtype:?}: {value}, not {plain}");
            }
            assert!(tensors.mapped_linear(7, 1100, "layer").is_err(), "the shape differs");
            // In another data type the layer is loaded.
            let narrow = tensors.to_dtype(BF16).mapped_linear(1100, 7, "layer").unwrap();
            assert!(matches!(narrow, Layer::Plain(_)));
        }
    }

    #[test]
    fn rows_equal_those_of_the_whole_matrix() {
        let folder = tempfile::tempdir().unwrap();
        for dtype in [GgmlDType::F32, GgmlDType::F16, GgmlDType::Q8_0, GgmlDType::Q5_1] {
            let (source, weight) = file(folder.path(), dtype);
            let tensors = source
                .tensors("part", "model", DType::F32, &Device::Cpu, true, &Cancel::new())
                .unwrap()
                .pp("layer");
            let indices = [5_u32, 0, 5, 2];
            let rows = tensors.rows(6, 64, &indices).unwrap();
            let expected = weight.index_select(&Tensor::new(&indices, &Device::Cpu).unwrap(), 0).unwrap();
            assert_eq!(rows.dims(), [4, 64]);
            assert!(values(&rows) == values(&expected), "{dtype:?}");
            assert!(tensors.rows(6, 64, &[6]).is_err() && tensors.rows(5, 64, &[0]).is_err());
        }
    }
}
