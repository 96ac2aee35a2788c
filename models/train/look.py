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

SECONDS = 6
# Subjects that were trained, and never trained ones.
PROMPTS = (
    "a red fox runs over the snow", "a whale swims to the left under water", "a yellow taxi drives through the city",
    "a rocket flies among the stars", "a penguin jumps on the grass", "a sailing boat on the sea",
    "a green dragon floats up and down at night", "a cat nods on the beach", "an owl rises and sinks in the forest",
    "a robot paces to and fro in the rain", "a unicorn walks to the right at sunset", "a dinosaur jumps in the mountains",
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
