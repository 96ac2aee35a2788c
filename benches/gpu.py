"""torch beside `gpu.rs`: the same shapes of Self-Forcing on Wan 2.1 1.3B at 480×832, random bf16 weights, on a GPU. One line of JSON a
figure.

    python benches/gpu.py
"""

import json
import time

import torch
import torch.nn.functional as F

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16
HEADS, HEAD, WIDTH, FFN, LAYERS = 12, 128, 1536, 8960, 30
TOKENS = 3 * 30 * 52


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


@torch.no_grad()
def median(run, rounds: int = 5) -> float:
    """Milliseconds."""
    run()
    times = []
    for _ in range(rounds):
        wait()
        start = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - start)
    return 1e3 * sorted(times)[rounds // 2]


def report(stage: str, milliseconds: float, **more) -> None:
    print(json.dumps({"stage": f"torch {stage}", "done_ms": round(milliseconds, 3), **more}), flush=True)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=DEVICE, dtype=DTYPE)


def main() -> None:
    for keys in (2 * TOKENS, 5 * TOKENS, 7 * TOKENS):
        query, key, value = random(1, HEADS, TOKENS, HEAD), random(1, HEADS, keys, HEAD), random(1, HEADS, keys, HEAD)
        took = median(lambda: F.scaled_dot_product_attention(query, key, value))
        report("attention", took, keys=keys, tflops=round(4 * HEADS * TOKENS * keys * HEAD / took / 1e9, 1))
    for inside, outside in ((WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, FFN), (FFN, WIDTH)):
        x, weight, bias = random(TOKENS, inside), random(outside, inside), random(outside)
        took = median(lambda: F.linear(x, weight, bias))
        report("linear", took, shape=[inside, outside], tflops=round(2 * TOKENS * inside * outside / took / 1e9, 1))
    try:
        from diffusers import AutoencoderKLWan
    except ImportError:
        return
    decoder = AutoencoderKLWan().to(DEVICE, DTYPE).eval()
    report("decode", median(lambda: decoder.decode(random(1, 16, 3, 60, 104)), 3), decoder="wan")


if __name__ == "__main__":
    main()
