# To be sourced at the root of the repository: sets CUDA_HOME and PATH to a CUDA toolkit. If none is installed, the compiler is
# downloaded once as Python wheels into target/.

# Drivers of CUDA 13.0 refuse what a newer compiler makes.
version=13.0
wheels="nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88
    nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 nvidia-cuda-nvrtc==13.0.88"

fail() {
    echo "$(basename "$0" .sh): $1" >&2
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
if command -v nvcc >/dev/null; then
    CUDA_HOME=${CUDA_HOME:-$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")}
else
    CUDA_HOME=${CUDA_HOME:-/usr/local/cuda}
    if ! [ -x "$CUDA_HOME/bin/nvcc" ]; then
        CUDA_HOME=$PWD/target/cuda-toolkit/$version
        [ -d "$CUDA_HOME" ] || fetch "$CUDA_HOME"
    fi
    export PATH="$CUDA_HOME/bin:$PATH"
fi
export CUDA_HOME
export CUDA_PATH="$CUDA_HOME"
