#!/bin/sh
# Compiles the kernels in src/cuda/kernels for several GPUs, with nvcc and with NVRTC as at run time, and prints their registers.
# Fails if a kernel does not compile, or keeps values in local memory for want of registers. Needs neither a GPU nor a CUDA toolkit.
set -eu
cd "$(dirname "$0")/.."

architectures=${1:-"80 89 90 120"}

. scripts/cuda-toolkit.sh
kernels=src/cuda/kernels
log=$(mktemp)
trap 'rm -f "$log"' EXIT

for architecture in $architectures; do
    for source in "$kernels"/*.cu; do
        nvcc -std=c++17 -cubin "-arch=sm_$architecture" -Xptxas -v -include "$kernels/device.cuh" \
            -include "$kernels/values.cuh" -o /dev/null "$source" >"$log" 2>&1 || {
            cat "$log" >&2
            fail "$source does not compile for sm_$architecture"
        }
        awk -v "architecture=sm_$architecture" '
            /Compiling entry/ { split($0, parts, "\047"); name = parts[2] }
            /bytes spill stores/ { stack = $1; spilled = $5 + $9 }
            /Used [0-9]+ registers/ {
                for (i = 1; i < NF; i++) if ($i == "Used") registers = $(i + 1)
                printf "%-7s %-20s %4d registers, %d bytes of stack, %d spilled\n", architecture, name, registers, stack, spilled
                failed = failed || stack + spilled > 0
                found = 1
            }
            END { exit failed || !found }
        ' "$log" || fail "$source: see above"
    done
done

library=$(find "$CUDA_HOME/" -name 'libnvrtc.so*' ! -name '*alt*' | sort | tail -n 1)
[ -n "$library" ] || fail "$CUDA_HOME has no libnvrtc"
# NVRTC looks for its own parts there.
export LD_LIBRARY_PATH="$(dirname "$library")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
python3 - "$library" "$kernels" "$architectures" <<'PYTHON'
import ctypes, pathlib, sys

nvrtc, folder = ctypes.CDLL(sys.argv[1]), pathlib.Path(sys.argv[2])
headers = [(folder / name).read_bytes() for name in ("device.cuh", "values.cuh")]
for source in sorted(folder.glob("*.cu")):
    for architecture in sys.argv[3].split():
        text, program = b"".join([*headers, source.read_bytes()]), ctypes.c_void_p()
        options = (ctypes.c_char_p * 2)(b"--std=c++17", b"--gpu-architecture=sm_" + architecture.encode())
        if nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, source.name.encode(), 0, None, None):
            sys.exit("check-kernels: NVRTC takes no program")
        result, size = nvrtc.nvrtcCompileProgram(program, 2, options), ctypes.c_size_t()
        if result:
            nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            nvrtc.nvrtcGetProgramLog(program, log)
            sys.exit(f"check-kernels: {source} with NVRTC for sm_{architecture}: {log.value.decode()}")
        nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
        if not size.value:
            sys.exit(f"check-kernels: {source} with NVRTC for sm_{architecture}: no machine code")
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
print("check-kernels: NVRTC compiles all")
PYTHON
