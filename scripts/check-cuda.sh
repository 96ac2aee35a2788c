#!/bin/sh
# Checks the plugin and the tests for CUDA: the kernels are compiled with nvcc, Rust with `cargo check`, without linking.
# Needs neither a GPU nor a CUDA toolkit. Other features can be passed: `scripts/check-cuda.sh cuda,cudnn`.
set -eu
cd "$(dirname "$0")/.."

features=${1:-cuda}

. scripts/cuda-toolkit.sh
scripts/check-kernels.sh

# The architecture to compile for, since no GPU is queried.
export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-90}"
# A separate target folder, so that ordinary builds are not invalidated.
export CARGO_TARGET_DIR="target/cuda"
cargo check -p soragen-tests --tests --features cuda
exec cargo check -p gst-plugin-soragen --features "$features"
