"""Compares frames of the engine with frames of torch, with the shipped weights, the same noise and the same references.

    python compare.py --soragen ../../target/release/soragen
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

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
# Prompt, drawing, its left edge in the first latent frame, and how far it goes to the right in each, in latents.
CASES = (("in a green meadow", "owl", 6, 0), ("on the grass", "fox", 1, 2), ("in the countryside", "automobile", 9, 1))
MEADOW = standing(160)  # upper edge in pixels of what stands in a meadow


def in_torch(prompt: str, drawing: str, left: int, step: int, noise: torch.Tensor) -> torch.Tensor:
    """Frames `[T, H, W, 3]` of the shipped weights from noise `[1, LATENTS, C, H, W]`."""
    model, vae = transformer.Transformer().eval(), autoencoder(NOWHERE)
    load(model, NOWHERE, "transformer")
    picture, side = Picture(drawing, (), ""), int(step > 0)
    pictures, alpha = references(vae, [picture])
    columns = left + step * torch.arange(LATENTS)
    place = torch.stack([torch.full_like(columns, MEADOW // LATENT), columns], -1)[None, :, None]
    shown = torch.ones(1, LATENTS, 1, dtype=torch.bool)
    overlay = Overlays(vae, [picture]).draw([side], place[0], shown[0])[None].float()
    placed = transformer.References(
        pictures[:, side : side + 1].float(), alpha[:, side : side + 1].float(), place, shown, shown[:, 0, 0], overlay,
    )
    return sample.decode(vae, sample.latents(model, TextEncoder()([prompt]), LATENTS, placed, noise=noise))[0]


def path(left: int, step: int) -> str:
    """The same path for the engine."""
    ends = (left * LATENT / (WIDTH - SIDE), (left + step * (LATENTS - 1)) * LATENT / (WIDTH - SIDE))
    return f"0 {ends[0]} ground | {(LATENTS - 1) * PER_LATENT / FRAME_RATE} {ends[1]} ground"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--soragen", type=Path, required=True)
    parser.add_argument("--options", action="append", default=[], help="additional option of soragen render, such as --options=--model=DIR")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for seed, (prompt, drawing, left, step) in enumerate(CASES):
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(1, LATENTS, transformer.CHANNELS, sample.HEIGHT, sample.WIDTH, generator=generator)
            expected = in_torch(prompt, drawing, left, step, noise)
            start, end = Path(folder) / "noise.safetensors", Path(folder) / "frames.safetensors"
            save_file({"latents": noise.transpose(1, 2).contiguous()}, start)
            command = [args.soragen, "render", prompt, "--frames", str(4 * LATENTS - 3), "-o", end, "--cache-dir", ""]
            subject = ["--reference", f"bank:{drawing}", "--motion-path", path(left, step)]
            subprocess.run([*command, *subject, "--initial-latents", start, *args.options], check=True)
            error = (load_file(end)["frames"] - expected).square().mean()
            print(f"{drawing} {prompt}: {-10 * torch.log10(error):.1f} dB")


if __name__ == "__main__":
    main()
