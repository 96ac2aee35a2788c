#!/bin/sh
# Measures soragen on the GPU of this machine, from the folder that `make gpu-bundle` has made. Each stage takes at most a minute, and its
# figures are in gpu-check.json at once, one line of JSON each. `scripts/gpu-check.sh STAGE…` runs some: versions, parity, forward,
# decode, chunk, torch.
set -eu
cd "$(dirname "$0")/.."

out=${OUT:-.}/gpu-check.json
: >>"$out"
python=${PYTHON:-python3}

# torch's wheels have the CUDA libraries; a system without them may have these.
wheels=$($python -c 'import pathlib, nvidia; print(":".join(str(p) for root in nvidia.__path__ for p in pathlib.Path(root).glob("**/lib")))' 2>/dev/null || true)
export LD_LIBRARY_PATH="${wheels:+$wheels:}${LD_LIBRARY_PATH:-}"

stage() {
    case $1 in
    versions)
        nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader |
            sed 's/\(.*\), \(.*\), \(.*\)/{"stage": "versions", "gpu": "\1", "driver": "\2", "memory": "\3"}/'
        ;;
    parity)
        start=$(date +%s)
        if SORAGEN_TESTS=$PWD/tests timeout 60 bin/parity gpu:: >gpu-parity.log 2>&1; then result=passed; else result=failed; fi
        echo "{\"stage\": \"parity\", \"result\": \"$result\", \"seconds\": $(($(date +%s) - start))}"
        grep -o 'psnr.*' gpu-parity.log >&2 || true
        ;;
    forward | decode | chunk) timeout 60 bin/gpu --device cuda "$1" ;;
    torch) PYTHONPATH=python timeout 60 "$python" benches/gpu.py ;;
    *)
        echo "gpu-check: $1 is no stage; use versions, parity, forward, decode, chunk or torch" >&2
        exit 1
        ;;
    esac
}

[ $# -gt 0 ] || set -- versions parity forward decode chunk torch
for name in "$@"; do
    stage "$name" | tee -a "$out" || echo "{\"stage\": \"$name\", \"result\": \"failed\"}" | tee -a "$out"
done
