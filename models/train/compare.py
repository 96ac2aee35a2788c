"""Compares frames of the engine with frames of torch, with the shipped weights and the same noise.

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
from checkpoint import NOWHERE, autoencoder, load
from look import PROMPTS
from text import TextEncoder

# More frames than the attention window.
LATENTS = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--soragen", type=Path, required=True)
    args = parser.parse_args()
    model, vae = transformer.Transformer().eval(), autoencoder(NOWHERE)
    load(model, NOWHERE, "transformer")
    text = TextEncoder()

    with tempfile.TemporaryDirectory() as folder:
        for seed, prompt in enumerate(PROMPTS[:3]):
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(1, LATENTS, transformer.CHANNELS, sample.HEIGHT, sample.WIDTH, generator=generator)
            # The engine chooses the reference by the prompt; without one both have the same input.
            made = sample.latents(model, text([prompt]), LATENTS, noise=noise)
            expected = sample.decode(vae, made)[0]
            start, end = Path(folder) / "noise.safetensors", Path(folder) / "frames.safetensors"
            save_file({"latents": noise.transpose(1, 2).contiguous()}, start)
            command = [args.soragen, "render", prompt, "--frames", str(4 * LATENTS - 3), "-o", end, "--cache-dir", "", "--no-reference"]
            subprocess.run([*command, "--initial-latents", start], check=True)
            error = (load_file(end)["frames"] - expected).square().mean()
            print(f"{prompt}: {-10 * torch.log10(error):.1f} dB")


if __name__ == "__main__":
    main()
