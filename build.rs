//! With the feature `cuda` on Linux, gives the linker empty libraries in place of those of CUDA: `src/cuda/loader.rs` defines their
//! functions.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    for variable in ["CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let is_linux = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() || !is_linux {
        return Ok(());
    }
    let out = PathBuf::from(env::var("OUT_DIR")?).join("libraries");
    fs::create_dir_all(&out)?;
    for name in ["cuda", "cublas", "cublasLt", "curand", "nvrtc"] {
        fs::write(out.join(format!("lib{name}.a")), "!<arch>\n")?;
    }
    // candle's kernels for GGUF need the runtime; the static one opens the driver by itself.
    let toolkit = ["CUDA_HOME", "CUDA_PATH"].into_iter().find_map(env::var_os);
    let toolkit = toolkit.map_or(PathBuf::from("/usr/local/cuda"), PathBuf::from);
    let runtime =
        ["lib64", "lib", "targets/x86_64-linux/lib"].map(|lib| toolkit.join(lib).join("libcudart_static.a"));
    match runtime.iter().find(|file| file.exists()) {
        Some(file) => fs::copy(file, out.join("libcudart.a"))?,
        None => return Err(format!("no libcudart_static.a in {}; set CUDA_HOME", toolkit.display()).into()),
    };
    println!("cargo::rustc-link-search=native={}", out.display());
    for system in ["dl", "rt", "pthread"] {
        println!("cargo::rustc-link-lib=dylib={system}");
    }
    Ok(())
}
