#!/bin/sh
# Builds what `scripts/gpu-check.sh` needs on a machine with a GPU, which needs neither Rust nor the CUDA toolkit there: the folder
# target/gpu-bundle, at most 60 MB. Needs no GPU.
set -eu
cd "$(dirname "$0")/.."

. scripts/cuda-toolkit.sh
export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-90}"
bundle=target/gpu-bundle
rm -rf "$bundle"
mkdir -p "$bundle/bin" "$bundle/scripts" "$bundle/benches" "$bundle/tests" "$bundle/python"

# executable NAME ARGUMENT…: copies the only executable that `cargo ARGUMENT… --no-run` builds with a name that begins with gpu.
executable() {
    name=$1
    shift
    file=$(cargo "$@" --no-run --message-format=json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | grep "/gpu-" | tail -n 1)
    cp "$file" "$bundle/bin/$name"
    strip "$bundle/bin/$name"
}
executable gpu bench --workspace --exclude soragen-studio --features soragen/cuda --bench gpu
executable frames test --release --workspace --exclude soragen-studio --features soragen-tests/cuda --test gpu

cp scripts/gpu-check.sh "$bundle/scripts"
cp benches/gpu.py "$bundle/benches"
cp -r tests/fixtures "$bundle/tests"
python3 -m pip install -q --no-deps --only-binary :all: --target "$bundle/python" diffusers==0.40.0
size=$(du -sm "$bundle" | cut -f1)
echo "gpu-bundle: $bundle, $size MB; copy it to a machine with a GPU and run scripts/gpu-check.sh"
[ "$size" -le 60 ] || fail "the bundle has $size MB, more than 60"
