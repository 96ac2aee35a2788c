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
OWN = Path(__file__).parent / "own"
# Prompts, and pictures that a user brings. The drawings of the first six were never trained.
ROWS: tuple[tuple[str, Path | None], ...] = (
    ("an owl flies over the snow at night", None), ("a unicorn walks to the right at sunset", None),
    ("a dinosaur jumps in the mountains", None), ("a tractor drives through a field in the rain", None),
    ("a snowman nods in falling snow", None), ("a fish swims to the left under water", None),
    ("a logo moves from side to side in the city", OWN / "logo.svg"), ("a monster jumps on the beach", OWN / "monster.svg"),
    ("a dog and a cat in a green meadow", None), ("a fox runs next to a rabbit through the forest", None),
    ("a red fox runs over the snow", None), ("a rocket flies among the stars", None),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--soragen", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--options", action="append", default=[], help="additional option of soragen render, such as --options=--model=DIR")
    args = parser.parse_args()
    rows = []
    for prompt, own in ROWS:
        with tempfile.TemporaryDirectory() as folder:
            frames = Path(folder) / "%05d.png"
            options = ["-o", str(frames), "--duration", str(SECONDS), "--seed", str(args.seed), *args.options]
            options += ["--reference", str(own)] if own else []
            subprocess.run([args.soragen, "render", prompt, *options], check=True)
            files = sorted(Path(folder).glob("*.png"))[::FRAME_RATE]
            rows.append(np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files]))
    sheet(args.out, rows, [prompt for prompt, _ in ROWS])


if __name__ == "__main__":
    main()
