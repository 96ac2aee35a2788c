#!/bin/sh
# Compiles the plugin and the tests for CUDA, as far as `cargo check` does: candle's kernels with nvcc, Rust without
# linking. Needs no GPU, and no toolkit: where there is none, the compiler's part of it is fetched as Python
# wheels, once, into target/. Features other than `cuda` may be given: `scripts/check-cuda.sh cuda,cudnn`.
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

# Lays the toolkit out in the folder $1; there is nothing, or all of it.
fetch() {
    command -v python3 >/dev/null || fail "python3 is missing, which fetches the toolkit; install it"
    rm -rf "$1.part"
    mkdir -p "$1.part"
    pip="python3 -m pip"
    $pip --version >/dev/null 2>&1 || {
        python3 -m venv "$1.part/venv" >/dev/null 2>&1 ||
            fail "python3 has neither pip nor venv; install python3-pip or python3-venv (Debian's names)"
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

# Of no GPU here: the architecture to compile for.
export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-90}"
# Apart from ordinary builds, which would be done again after each of these.
export CARGO_TARGET_DIR="target/cuda"
cargo check -p soragen-tests --tests --features cuda
exec cargo check -p gst-plugin-soragen --features "$features"
