#!/bin/sh
# Checks the build for CUDA: the kernels are compiled with nvcc and NVRTC, the plugin is linked and asks for no CUDA library, and a driver on
# host memory counts what the transformer asks of a GPU. Needs neither a GPU nor a CUDA toolkit. With other features, such as
# `scripts/check-cuda.sh cuda,cudnn`, Rust is only checked, not linked.
set -eu
cd "$(dirname "$0")/.."

. scripts/cuda-toolkit.sh
scripts/check-kernels.sh

# The architecture to compile for, since no GPU is queried.
export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-90}"
# A separate target folder, so that the plugin of ordinary builds is not replaced.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target/cuda}"
if [ $# -gt 0 ]; then
    exec cargo check -p gst-plugin-soragen --features "$1"
fi

cargo build --workspace --exclude soragen-studio --features gst-plugin-soragen/cuda
plugin=$CARGO_TARGET_DIR/debug/libgstsoragen.so
needed=$(nm -D --undefined-only "$plugin" | grep -E ' (cu|nvrtc)' || true)
[ -z "$needed" ] || fail "$plugin does not load without CUDA; add these to src/cuda/functions.rs:
$needed"
cargo test --workspace --exclude soragen-studio --features soragen-tests/cuda --test gpu fake
echo "check-cuda: the plugin loads without CUDA"
