"""Compares frames of the engine with frames of torch, with the shipped weights, the same noise and the same references.

    python compare.py --soragen ../../target/release/soragen
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import sample
import transformer
from bank import SIDE
from canvas import WIDTH
from checkpoint import NOWHERE, autoencoder, load
from clips import FRAME_RATE, standing
from latents import references
from overlay import Overlays
from pictures import Picture
from scenes import LATENT, PER_LATENT
from text import TextEncoder

# More frames than the attention window.
LATENTS = 9
# Prompt, drawing, and its path: latent frame, and upper left corner in latents (row, column).
CASES = (
    ("in a green meadow", "owl", ((0, 5, 6),)), ("on the grass", "fox", ((0, 5, -4), (8, 5, 12))),
    ("in the countryside", "automobile", ((0, 5, 19), (4, 1, 11), (8, 5, 15))),
)
GROUND, TOP = standing(160) // LATENT, 1  # rows of what stands in a meadow, and of what is at the top

Corners = tuple[tuple[int, int, int], ...]


def in_torch(prompt: str, drawing: str, path: Corners, noise: torch.Tensor) -> torch.Tensor:
    """Frames `[T, H, W, 3]` of the shipped weights from noise `[1, LATENTS, C, H, W]`."""
    model, vae = transformer.Transformer().eval(), autoencoder(NOWHERE)
    load(model, NOWHERE, "transformer")
    times, *corners = np.transpose(path)
    corner = np.stack([np.interp(np.arange(LATENTS), times, each) for each in corners], -1).astype(np.int64)
    # It looks where it goes, as its last or else its first movement.
    steps = [step for step in np.diff(corner[:, 1], prepend=corner[:1, 1]) if step]
    facing, shown = (steps or [-1])[0], torch.zeros(1, LATENTS, 2, dtype=torch.bool)
    for i, step in enumerate(np.diff(corner[:, 1], prepend=corner[:1, 1])):
        facing = step or facing
        shown[0, i, int(facing > 0)] = True
    picture = Picture(drawing, (), "")
    places = torch.from_numpy(corner)[None, :, None].expand(1, LATENTS, 2, 2)
    overlay = Overlays(vae, [picture]).draw([0, 1], places[0], shown[0])[None].float()
    pictures, alpha = (x.float() for x in references(vae, [picture]))
    placed = transformer.References(pictures, alpha, places, shown, torch.ones(1, dtype=torch.bool), overlay)
    return sample.decode(vae, sample.latents(model, TextEncoder()([prompt]), LATENTS, placed, noise=noise))[0]


def motion_path(path: Corners) -> str:
    """The same path for the engine."""
    points = [(time * PER_LATENT / FRAME_RATE, column * LATENT / (WIDTH - SIDE), (GROUND - row) / (GROUND - TOP)) for time, row, column in path]
    return " | ".join(f"{seconds} {x} {height}" for seconds, x, height in points)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--soragen", type=Path, required=True)
    parser.add_argument("--options", action="append", default=[], help="additional option of soragen render, such as --options=--model=DIR")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for seed, (prompt, drawing, path) in enumerate(CASES):
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(1, LATENTS, transformer.CHANNELS, sample.HEIGHT, sample.WIDTH, generator=generator)
            expected = in_torch(prompt, drawing, path, noise)
            start, end = Path(folder) / "noise.safetensors", Path(folder) / "frames.safetensors"
            save_file({"latents": noise.transpose(1, 2).contiguous()}, start)
            command = [args.soragen, "render", prompt, "--frames", str(4 * LATENTS - 3), "-o", end, "--cache-dir", ""]
            subject = ["--reference", f"bank:{drawing}", "--motion-path", motion_path(path)]
            subprocess.run([*command, *subject, "--initial-latents", start, *args.options], check=True)
            error = (load_file(end)["frames"] - expected).square().mean()
            print(f"{drawing} {prompt}: {-10 * torch.log10(error):.1f} dB")


if __name__ == "__main__":
    main()
