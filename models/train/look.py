"""Draws a contact sheet of videos of the built-in model, with the `soragen` command.

    python look.py --soragen ../../target/release/soragen --out ../sheet.png
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from clips import FRAME_RATE
from sheet import sheet
from train_transformer import LOOK_AT

SECONDS = 6
# Prompts from the training data, and held-out ones.
PROMPTS = (
    *LOOK_AT, "a hot air balloon over the mountains", "a robot dances in the rain", "a fish swims under water",
    "a red car drives at sunset",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--soragen", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rows = []
    for prompt in PROMPTS:
        with tempfile.TemporaryDirectory() as folder:
            frames = Path(folder) / "%05d.png"
            options = ["-o", str(frames), "--duration", str(SECONDS), "--seed", str(args.seed)]
            subprocess.run([args.soragen, "render", prompt, *options], check=True)
            files = sorted(Path(folder).glob("*.png"))[::FRAME_RATE]
            rows.append(np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files]))
    sheet(args.out, rows, list(PROMPTS))


if __name__ == "__main__":
    main()
