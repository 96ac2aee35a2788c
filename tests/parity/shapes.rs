//! Every tensor of the real models is loaded with its shape (`make_shapes.py`).

use serde::de::DeserializeOwned;
use soragen::Precision;
use soragen::text::Umt5Encoder;
use soragen::transformer::WanTransformer;
use soragen_tests::fixtures::json;
use soragen_tests::recording::{Shapes, assert_loads};

/// Configuration and shapes of a real model.
pub fn model<C: DeserializeOwned>(name: &str) -> (C, Shapes) {
    let mut file = json(&format!("shapes/{name}.json"));
    let mut take = |key: &str| file[key].take();
    (serde_json::from_value(take("config")).unwrap(), serde_json::from_value(take("tensors")).unwrap())
}

#[test]
fn transformers_load_all_tensors() {
    for name in [
        "wan2.1-t2v-1.3b",
        "wan2.1-t2v-14b",
        "wan2.2-ti2v-5b",
        "wan2.1-i2v-14b",
        "wan2.1-flf2v-14b",
        "wan2.1-vace-1.3b",
        "wan2.1-vace-14b",
    ] {
        let (config, tensors) = model(name);
        assert_loads(name, &tensors, |vb| drop(WanTransformer::load(vb, &config, Precision::F32).unwrap()));
    }
}

#[test]
fn umt5_loads_all_tensors() {
    let (config, tensors) = model("umt5-xxl");
    assert_loads("umt5-xxl", &tensors, |vb| Umt5Encoder::load(vb, &config).unwrap().check().unwrap());
}
