//! A weights backend without weights that records which tensors a loader requests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::{SimpleBackend, VarBuilder};

/// Names and shapes of tensors.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// A backend that lists `known` and returns zeros of the requested shape for every name.
struct Recorder {
    known: Shapes,
    asked: Arc<Mutex<Shapes>>,
}

impl SimpleBackend for Recorder {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let twice = self.asked.lock().unwrap().insert(name.to_owned(), shape.dims().to_vec());
        assert!(twice.is_none(), "{name} is loaded twice");
        // A broadcast scalar: a model of any size needs no memory.
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

/// Asserts that `load` requests exactly the tensors of `known`, with their shapes.
pub fn assert_loads(what: &str, known: &Shapes, load: impl FnOnce(VarBuilder<'static>)) {
    let asked = Arc::new(Mutex::new(Shapes::new()));
    let recorder = Recorder { known: known.clone(), asked: asked.clone() };
    load(VarBuilder::from_backend(Box::new(recorder), DType::BF16, Device::Cpu));
    let asked = asked.lock().unwrap();
    for (name, shape) in known {
        assert_eq!(asked.get(name), Some(shape), "{what}: shape of {name}");
    }
    for name in asked.keys() {
        assert!(known.contains_key(name), "{what}: {name} is requested but not in the model");
    }
}
