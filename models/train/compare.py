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
from clips import standing
from latents import references
from pictures import Picture
from scenes import LATENT
from text import TextEncoder

# More frames than the attention window.
LATENTS = 9
# Prompt, drawing, and where it stands: left edge in latents.
CASES = (("in a green meadow", "owl", 6), ("on the grass", "fox", 12), ("in the countryside", "automobile", 19))
MEADOW = standing(160)  # upper edge in pixels of what stands in a meadow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--soragen", type=Path, required=True)
    parser.add_argument("--options", action="append", default=[], help="additional option of soragen render, such as --options=--model=DIR")
    args = parser.parse_args()
    model, vae = transformer.Transformer().eval(), autoencoder(NOWHERE)
    load(model, NOWHERE, "transformer")
    text = TextEncoder()

    with tempfile.TemporaryDirectory() as folder:
        for seed, (prompt, drawing, left) in enumerate(CASES):
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(1, LATENTS, transformer.CHANNELS, sample.HEIGHT, sample.WIDTH, generator=generator)
            pictures, alpha = references(vae, [Picture(drawing, (), "")])
            place = torch.tensor([MEADOW // LATENT, left]).expand(1, LATENTS, 1, 2)
            shown = torch.ones(1, LATENTS, 1, dtype=torch.bool)
            placed = transformer.References(pictures[:, :1].float(), alpha[:, :1].float(), place, shown, shown[:, 0, 0])
            made = sample.latents(model, text([prompt]), LATENTS, placed, noise=noise)
            expected = sample.decode(vae, made)[0]
            start, end = Path(folder) / "noise.safetensors", Path(folder) / "frames.safetensors"
            save_file({"latents": noise.transpose(1, 2).contiguous()}, start)
            path = f"0 {left * LATENT / (WIDTH - SIDE)} ground"
            command = [args.soragen, "render", prompt, "--frames", str(4 * LATENTS - 3), "-o", end, "--cache-dir", ""]
            subject = ["--reference", f"bank:{drawing}", "--motion-path", path]
            subprocess.run([*command, *subject, "--initial-latents", start, *args.options], check=True)
            error = (load_file(end)["frames"] - expected).square().mean()
            print(f"{drawing} {prompt}: {-10 * torch.log10(error):.1f} dB")


if __name__ == "__main__":
    main()
