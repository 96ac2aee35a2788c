"""Compares frames of the engine with frames of torch, with the shipped weights and the same noise.

    python compare.py --soragen ../../target/release/soragen
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import autoencoder
import sample
import transformer
from checkpoint import NOWHERE, SHIPPED, load
from text import TextEncoder
from train_transformer import LOOK_AT

# More frames than the attention window.
LATENTS = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--soragen", type=Path, required=True)
    args = parser.parse_args()
    settings = json.loads((SHIPPED / "soragen.json").read_text())
    model, vae = transformer.Transformer().eval(), autoencoder.Autoencoder().eval()
    load(model, NOWHERE, "transformer")
    load(vae, NOWHERE, "autoencoder")
    text = TextEncoder()

    with tempfile.TemporaryDirectory() as folder:
        for seed, prompt in enumerate(LOOK_AT[:3]):
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(1, LATENTS, transformer.CHANNELS, sample.HEIGHT, sample.WIDTH, generator=generator)
            made = sample.latents(
                model, text([prompt]), text([""]), LATENTS, settings["causal"]["timesteps"], settings["guidance_scale"],
                settings["causal"]["context_noise"], noise=noise, autocast=False,
                first_timesteps=settings["causal"].get("first_timesteps"),
            )
            expected = sample.decode(vae, made, autocast=False)[0]
            start, end = Path(folder) / "noise.safetensors", Path(folder) / "frames.safetensors"
            save_file({"latents": noise.transpose(1, 2).contiguous()}, start)
            command = [args.soragen, "render", prompt, "--frames", str(4 * LATENTS - 3), "-o", end, "--cache-dir", ""]
            subprocess.run([*command, "--initial-latents", start], check=True)
            error = (load_file(end)["frames"] - expected).square().mean()
            print(f"{prompt}: {-10 * torch.log10(error):.1f} dB")


if __name__ == "__main__":
    main()
