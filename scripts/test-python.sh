#!/bin/sh
# Tests the Python package: scripts/test-python.sh [all]. Without `all` it needs Python and NumPy only.
set -eu
cd "$(dirname "$0")/.."

# With the features of the whole workspace the engine is not compiled twice.
cargo build --workspace --exclude soragen-studio --features soragen-python/testing
target=${CARGO_TARGET_DIR:-target}
target=$(cd "$target" && pwd)
cp "$target/debug/lib_soragen.so" python/soragen/_soragen.abi3.so
export PYTHONPATH="$PWD/python:$PWD/python/tests" SORAGEN="$target/debug/soragen"

if [ "${1:-}" = all ]; then
    venv=$target/python
    [ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/pip" install -q numpy safetensors "ray[serve]>=2.60,<3" tqdm fastapi python-multipart "pillow>=12" \
        prometheus-client openai schemathesis httpx psutil
    for test in test_package test_ray test_serve; do
        "$venv/bin/python" -W ignore -m unittest -v "$test"
    done
    exit
fi
# Debian's NumPy belongs to Debian's Python.
for python in "${PYTHON:-python3}" /usr/bin/python3; do
    if "$python" -c "import numpy" 2>/dev/null; then
        exec "$python" -m unittest -v test_package
    fi
done
echo "test-python: NumPy is missing" >&2
exit 1
