"""The noise of `src/noise.rs`: ChaCha8 and the ziggurat of rand_distr, for scripts that need more than the recorded noise.

    python noise.py     compares it with tests/fixtures/miniature/noise.safetensors
"""

import math
import struct
from pathlib import Path

import torch
from safetensors.torch import load_file

RECORD = Path(__file__).parent.parent / "fixtures" / "miniature" / "noise.safetensors"
MASK = 0xFFFFFFFF


def blocks(key):
    """The output of ChaCha8 (https://cr.yp.to/chacha.html) for a key of 32 bytes, as numbers of 64 bits."""
    constants, counter = list(struct.unpack("<4I", b"expand 32-byte k")), 0
    while True:
        state = [*constants, *struct.unpack("<8I", key), counter & MASK, counter >> 32, 0, 0]
        x = list(state)

        def quarter(a, b, c, d):
            for left, right, target, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                x[left] = (x[left] + x[right]) & MASK
                mixed = x[target] ^ x[left]
                x[target] = (mixed << bits | mixed >> 32 - bits) & MASK

        for _ in range(4):
            for i in range(4):
                quarter(i, 4 + i, 8 + i, 12 + i)
            for i in range(4):
                quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
        words = [(a + b) & MASK for a, b in zip(x, state)]
        yield from (low | high << 32 for low, high in zip(words[::2], words[1::2]))
        counter += 1


def density(x):
    return math.exp(-x * x / 2)


# 256 layers of equal area: their right ends, and the density there.
TAIL, AREA = 3.654152885361008796, 0.00492867323399
ENDS = [AREA / density(TAIL), TAIL]
while len(ENDS) < 256:
    ENDS.append(math.sqrt(-2 * math.log(AREA / ENDS[-1] + density(ENDS[-1]))))
ENDS.append(0.0)
HEIGHTS = [density(x) for x in ENDS]


def normal(bits):
    while True:
        word = next(bits)
        layer, unit = word & 0xFF, (word >> 12) * 2.0**-51 - 1
        x = unit * ENDS[layer]
        if abs(x) < ENDS[layer + 1]:
            return x
        if layer == 0:
            x, y = 1.0, 0.0
            while -2 * y < x * x:
                # Open01: 52 bits and a half.
                x, y = (math.log(((next(bits) >> 12) + 0.5) * 2.0**-52) for _ in range(2))
                x /= TAIL
            return x - TAIL if unit < 0 else TAIL - x
        uniform = (next(bits) >> 11) * 2.0**-53
        if HEIGHTS[layer + 1] + (HEIGHTS[layer] - HEIGHTS[layer + 1]) * uniform < density(x):
            return x


def noise(seed, scene, first_latent, step, shape):
    """Standard normal noise of `shape`, as `NoiseKey::normal`."""
    bits = blocks(struct.pack("<4Q", seed, scene, first_latent, step))
    return torch.tensor([normal(bits) for _ in range(math.prod(shape))]).reshape(shape)


if __name__ == "__main__":
    recorded = load_file(RECORD)["noise"]
    for (i, seed) in enumerate([7, 9]):
        for scene in range(2):
            for first in range(16):
                for step in range(4):
                    drawn = noise(seed, scene, first, step, (36,))
                    torch.testing.assert_close(drawn, recorded[i, scene, first, step], rtol=1e-6, atol=1e-6)
    print("all", recorded.numel(), "numbers are equal to 1e-6")
