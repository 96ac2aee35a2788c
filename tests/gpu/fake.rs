//! What a pass through the transformer asks of a GPU, counted by a driver on host memory (`driver.c`). It runs no kernel. Needs a
//! build with the feature `cuda`, and no GPU; `make check-cuda` runs it.

use std::ffi::c_char;
use std::path::Path;
use std::process::Command;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use libloading::Library;
use soragen::transformer::{Config, KvCache, KvCacheConfig, Positions, WanTransformer};
use soragen::{Cancel, Precision};
use soragen_tests::driver::compile;

/// Set in the process that has the driver.
const VARIABLE: &str = "SORAGEN_FAKE_CUDA";
/// The same functions under the names of the driver and of its libraries.
const LIBRARIES: [&str; 4] = ["libcuda.so.1", "libcublas.so.13", "libcurand.so.10", "libnvrtc.so.13"];

/// Compiles the driver to `folder`, with the functions that do nothing.
fn build_driver(folder: &Path) {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let written = std::fs::read_to_string(tests.join("gpu/driver.c")).unwrap();
    let list = std::fs::read_to_string(tests.join("../src/cuda/functions.rs")).unwrap();
    let names = list.split('"').skip(1).step_by(2).filter(|name| !name.contains('.'));
    let is_written =
        |name: &&str| written.contains(&format!("{name}(")) || written.contains(&format!("({name})"));
    let defaults: String =
        names.filter(|name| !is_written(name)).map(|name| format!("DEFAULT({name})\n")).collect();
    std::fs::write(folder.join("functions.h"), defaults).unwrap();
    let library = folder.join(LIBRARIES[0]);
    compile("gpu/driver.c", &library);
    for name in &LIBRARIES[1..] {
        std::os::unix::fs::symlink(&library, folder.join(name)).unwrap();
    }
}

#[test]
fn a_block_launches_few_kernels_and_a_step_uploads_nothing() {
    if std::env::var_os(VARIABLE).is_some() {
        return count();
    }
    let folder = tempfile::tempdir().unwrap();
    build_driver(folder.path());
    let test = "fake::a_block_launches_few_kernels_and_a_step_uploads_nothing";
    let run = Command::new(std::env::current_exe().unwrap())
        .env(VARIABLE, "1")
        .env("LD_LIBRARY_PATH", folder.path())
        .args([test, "--exact", "--nocapture"])
        .output()
        .unwrap();
    let output = [run.stdout, run.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(run.status.success() && output[0].contains("1 passed"), "{}\n{}", output[0], output[1]);
}

/// What a call asks of the GPU.
#[derive(Debug, Default)]
struct Counts {
    launches: u64,
    uploads: u64,
    copies: u64,
    names: String,
}

fn counted(driver: &Library, run: impl FnOnce()) -> Counts {
    // SAFETY: these are variables and a function of the driver, of these types; no other thread uses it.
    unsafe {
        driver.get::<extern "C" fn()>(b"fake_clear").unwrap()();
        run();
        let number = |name: &[u8]| **driver.get::<*const u64>(name).unwrap();
        let names = *driver.get::<*const c_char>(b"fake_names").unwrap();
        Counts {
            launches: number(b"fake_launches"),
            uploads: number(b"fake_uploads"),
            copies: number(b"fake_copies"),
            names: std::ffi::CStr::from_ptr(names).to_string_lossy().into_owned(),
        }
    }
}

/// A transformer of so many blocks, and what a step and the pass for the cache ask when the window is full.
fn passes(driver: &Library, device: &Device, blocks: usize) -> [Counts; 2] {
    let config = Config {
        num_attention_heads: 2,
        attention_head_dim: 128,
        ffn_dim: 512,
        num_layers: blocks,
        text_dim: 64,
        ..Config::default()
    };
    let weights = VarBuilder::zeros(DType::BF16, device);
    let transformer = WanTransformer::load(weights, &config, Precision::Bf16).unwrap();
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::BF16, device).unwrap();
    let (cancel, latents) = (Cancel::new(), zeros(&[1, 16, 1, 8, 8]));
    let context = transformer.context(&zeros(&[1, 32, 64]), &cancel).unwrap();
    let positions = Positions::Relative;
    let mut cache =
        KvCache::new(KvCacheConfig { chunk: 1, window: 2, sink: 0, shots: None, positions, ring: None });
    let mut counts = None;
    for _ in 0..5 {
        // The first step rotates the cached keys to their new positions.
        let step =
            |t: f64| drop(transformer.forward_chunk(&latents, &[t], &context, &cache, &cancel).unwrap());
        step(1000.0);
        let second = counted(driver, || step(500.0));
        let kept = counted(driver, || {
            transformer.cache_chunk(&latents, &[0.0], &context, &mut cache, &cancel).unwrap();
        });
        counts = Some([second, kept]);
    }
    counts.unwrap()
}

fn count() {
    let device = soragen::open_device("cuda").unwrap();
    // SAFETY: the library is loaded already.
    let driver = unsafe { Library::new(LIBRARIES[0]) }.unwrap();
    let [[two, two_kept], [three, three_kept]] = [2, 3].map(|blocks| passes(&driver, &device, blocks));
    let block = three.launches - two.launches;
    let copies = three.copies - two.copies;
    assert!(block <= 22, "{block} kernels a block:\n{}", three.names);
    assert_eq!(copies, 0, "a block copies nothing on the device");
    assert_eq!(two.uploads, 0, "a step uploads nothing");
    assert_eq!(two_kept.uploads, 0, "nor does the pass for the cache");
    let kept = three_kept.launches - two_kept.launches;
    assert!(kept <= block + 1, "{kept} kernels a block in the pass for the cache:\n{}", three_kept.names);
    println!(
        "{block} kernels a block, {kept} in the pass for the cache; {} in all of two blocks",
        two.launches
    );
}
