#!/bin/sh
# Checks the plugin and the tests for CUDA: candle's kernels are compiled with nvcc, Rust with `cargo check`, without
# linking. Needs neither a GPU nor a CUDA toolkit: if none is installed, the compiler is downloaded once as Python
# wheels into target/. Other features can be passed: `scripts/check-cuda.sh cuda,cudnn`.
set -eu
cd "$(dirname "$0")/.."

version=13.2
wheels="nvidia-cuda-nvcc==13.2.78 nvidia-cuda-crt==13.2.78 nvidia-nvvm==13.2.78
    nvidia-cuda-runtime==13.2.75 nvidia-cuda-cccl==13.2.75"
features=${1:-cuda}

fail() {
    echo "check-cuda: $1" >&2
    exit 1
}

# fetch DIR: installs the toolkit to DIR, atomically.
fetch() {
    command -v python3 >/dev/null || fail "python3 is missing, which downloads the toolkit; install it"
    rm -rf "$1.part"
    mkdir -p "$1.part"
    pip="python3 -m pip"
    $pip --version >/dev/null 2>&1 || {
        python3 -m venv "$1.part/venv" >/dev/null 2>&1 ||
            fail "python3 has neither pip nor venv; install python3-pip or python3-venv (Debian package names)"
        pip=$1.part/venv/bin/pip
    }
    # shellcheck disable=SC2086 # lists
    $pip install -q --no-deps --root-user-action=ignore --only-binary :all: --target "$1.part/wheels" $wheels
    ln -s lib "$1.part/wheels/nvidia/cu13/lib64"
    mv "$1.part/wheels/nvidia/cu13" "$1"
    rm -rf "$1.part"
}

command -v g++ >/dev/null || fail "g++ is missing, which nvcc calls; install it"
if ! command -v nvcc >/dev/null; then
    CUDA_HOME=${CUDA_HOME:-/usr/local/cuda}
    if ! [ -x "$CUDA_HOME/bin/nvcc" ]; then
        CUDA_HOME=$PWD/target/cuda-toolkit/$version
        [ -d "$CUDA_HOME" ] || fetch "$CUDA_HOME"
    fi
    export CUDA_HOME
    export CUDA_PATH="$CUDA_HOME"
    export PATH="$CUDA_HOME/bin:$PATH"
fi

# The architecture to compile for, since no GPU is queried.
export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-90}"
# A separate target folder, so that ordinary builds are not invalidated.
export CARGO_TARGET_DIR="target/cuda"
cargo check -p soragen-tests --tests --features cuda
exec cargo check -p gst-plugin-soragen --features "$features"
