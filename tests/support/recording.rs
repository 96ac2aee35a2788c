//! Weights that are not there: what a loader asks for is written down.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::{SimpleBackend, VarBuilder};

/// Names of tensors, and their shapes.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// A file that lists `known` and holds, at every name, zeros of whatever shape is asked for.
struct Recorder {
    known: Shapes,
    asked: Arc<Mutex<Shapes>>,
}

impl SimpleBackend for Recorder {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let twice = self.asked.lock().unwrap().insert(name.to_owned(), shape.dims().to_vec());
        assert!(twice.is_none(), "{name} is loaded twice");
        // One number, seen from everywhere: a model of any size takes no memory.
        Tensor::zeros((), dtype, device)?.broadcast_as(shape)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let shape = self.known.get(name).cloned().unwrap_or_else(|| panic!("{name} is not in the model"));
        self.get(shape.into(), name, Init::Const(0.0), dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.known.contains_key(name)
    }
}

/// Fails unless `load` asks for every tensor of `known`, by its shape, and for no other.
pub fn assert_loads(what: &str, known: &Shapes, load: impl FnOnce(VarBuilder<'static>)) {
    let asked = Arc::new(Mutex::new(Shapes::new()));
    let recorder = Recorder { known: known.clone(), asked: asked.clone() };
    load(VarBuilder::from_backend(Box::new(recorder), DType::BF16, Device::Cpu));
    let asked = asked.lock().unwrap();
    for (name, shape) in known {
        assert_eq!(asked.get(name), Some(shape), "{what}: {name} in the model, and what was asked for");
    }
    for name in asked.keys() {
        assert!(known.contains_key(name), "{what}: {name} is asked for and not in the model");
    }
}
