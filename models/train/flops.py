"""Counts the operations of the built-in model per latent frame (four frames): twice the multiplications of all matrix products and
convolutions.

    python flops.py
"""

from __future__ import annotations

import autoencoder
import sample
from transformer import ALPHA, DIM, FFN_DIM, LAYERS, MAX_TOKENS, PATCH, SINK, TEXT_DIM, WINDOW

TOKENS = sample.HEIGHT * sample.WIDTH // (PATCH[0] * PATCH[1])
REFERENCE = (16 // PATCH[0] + 1) * (16 // PATCH[1] + 1)  # shifted in its tokens
VALUES = autoencoder.LATENT_CHANNELS * PATCH[0] * PATCH[1]
OVERLAY = (autoencoder.LATENT_CHANNELS + ALPHA[0] * ALPHA[1]) * PATCH[0] * PATCH[1]


def one_pass(queries: int, keys: int) -> int:
    """Multiplications of one pass over `queries` tokens that attend to `keys` tokens."""
    linear = 4 * DIM * DIM + 2 * DIM * DIM + 2 * DIM * FFN_DIM
    attention = 2 * DIM * keys + 2 * DIM * MAX_TOKENS
    return queries * (LAYERS * (linear + attention) + 2 * VALUES * DIM)


def transformer(past: int, references: int, steps: int) -> int:
    """Multiplications of all steps of a latent frame, and of the pass that writes it to the cache, after `past` latent frames."""
    keys = (min(past, SINK + WINDOW) + 1) * TOKENS + references * REFERENCE
    overlay = TOKENS * OVERLAY * (DIM + autoencoder.LATENT_CHANNELS) if references else 0
    return (steps + 1) * (one_pass(TOKENS, keys) + overlay)


def reference() -> int:
    """Multiplications once per reference and prompt."""
    return one_pass(REFERENCE, REFERENCE) + LAYERS * 2 * MAX_TOKENS * DIM * DIM + MAX_TOKENS * TEXT_DIM * DIM


def decoder(merged: bool) -> dict[str, int]:
    """Multiplications of each stage of the decoder for one latent frame. With `merged`, as the engine computes them: growth is part
    of the convolution after it, which reads four instead of nine pixels if it reads upsampled ones."""
    height, width, frames, found = sample.HEIGHT, sample.WIDTH, 1, {}
    widths = autoencoder.DECODER_WIDTHS
    found["in"] = 9 * autoencoder.LATENT_CHANNELS * widths[0] * height * width
    for i, (n, after, grow, enlarge, blocks) in enumerate(
        zip(widths, widths[1:], autoencoder.UPSCALE_TIME, autoencoder.UPSCALE_SPACE, autoencoder.DECODER_BLOCKS)
    ):
        found[f"blocks {i}"] = blocks * 9 * 4 * n * n * height * width * frames
        height, width = (side * (2 if enlarge else 1) for side in (height, width))
        found[f"growth {i}"] = 0 if merged else n * n * (2 if grow else 1) * height * width * frames
        frames *= 2 if grow else 1
        found[f"convolution {i}"] = (4 if merged and enlarge else 9) * n * after * height * width * frames
    found["out"] = 9 * widths[-1] * 3 * autoencoder.PATCH**2 * height * width * frames
    return found


def main() -> None:
    for merged in (False, True):
        stages = decoder(merged)
        decoded = 2 * sum(stages.values()) / 1e9
        print(f"decoder {'as the engine merges its layers' if merged else 'layer by layer'}: {decoded:.2f} GFLOP")
        print({name: round(2 * count / 1e9, 2) for name, count in stages.items() if count})
        print("past latent frames | no reference | one | two: GFLOP with the decoder")
        for past in (0, 1, 3, SINK + WINDOW):
            steps = sample.STEPS if past else sample.FIRST_STEPS
            row = (f"{2 * transformer(past, n, steps) / 1e9 + decoded:.2f}" for n in (0, 1, 2))
            print(f"{past} ({steps} steps) | " + " | ".join(row))
    print(f"once for a reference: {2 * reference() / 1e9:.2f} GFLOP")


if __name__ == "__main__":
    main()
