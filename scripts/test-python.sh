#!/bin/sh
# Tests the Python package: scripts/test-python.sh [all]. Without `all` it needs Python and NumPy only.
set -eu
cd "$(dirname "$0")/.."

# With the features of the whole workspace nothing is compiled twice.
cargo build --workspace --features soragen-python/testing
cp target/debug/lib_soragen.so python/soragen/_soragen.abi3.so
export PYTHONPATH="$PWD/python:$PWD/python/tests" SORAGEN="$PWD/target/debug/soragen"

if [ "${1:-}" != all ]; then
    exec python3 -m unittest discover -s python/tests -p test_package.py
fi
python=${PYTHON:-python3}
venv=target/python
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/pip" install -q numpy safetensors "ray[serve]>=2.60,<3" tqdm fastapi python-multipart "pillow>=12" prometheus-client openai schemathesis httpx
for test in test_package test_ray test_serve; do
    "$venv/bin/python" -m unittest -v "$test"
done
