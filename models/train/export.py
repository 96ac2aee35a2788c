"""Exports the trained parts in f16, in the diffusers layout of the built-in model's folder.

    python export.py --state DIR --out ../builtin
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import autoencoder
import text
import transformer
from bank import SIDE
from checkpoint import FILE, FOLDERS
from clips import FLOATS, HEIGHTS, SUBJECTS, standing
from motions import MOTIONS, WALK
from scenes import LATENT, PLACES, TIMES, WEATHERS
from train_transformer import STAGES


def write(folder: Path, config: dict, state: dict[str, torch.Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    halves = {name: weight.detach().half().contiguous() for name, weight in state.items()}
    save_file(halves, folder / FILE)


def parts(state: Path, out: Path) -> None:
    """The trained parts."""
    for name, stages in (("autoencoder", ("decoder",)), ("transformer", STAGES)):
        files = [file for file in (state / f"{stage}.pt" for stage in stages) if file.exists()]
        if files:
            # Results of earlier stages are outdated.
            found = torch.load(files[-1], map_location="cpu")
            config = transformer.CONFIG if name == "transformer" else autoencoder.config(autoencoder.blocks_of(found))
            write(out / FOLDERS[name], config, found)


def world() -> dict:
    """What the engine needs to know of the training data: how subjects move and where they stand."""
    places = [place(np.random.default_rng(0)) for place in PLACES]
    return {
        "side": SIDE, "max_references": SUBJECTS, "step": LATENT, "pan": WALK,
        "afloat": LATENT * (sum(HEIGHTS) // 2 // LATENT), "top": LATENT,
        "motions": {name: dataclasses.asdict(motion) for name, motion in MOTIONS.items()},
        "places": {p.name: {"phrases": p.phrases, "ground": standing(p.ground), "floats": FLOATS.get(p.name)} for p in places},
        "settings": [phrase for kind in (*TIMES.values(), *WEATHERS.values()) for phrase in kind.phrases if phrase],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, default=Path(__file__).parent.parent / ".state")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "builtin")
    args = parser.parse_args()
    parts(args.state, args.out)
    (args.out / "world.json").write_text(json.dumps(world(), indent=1) + "\n")
    encoder = args.out / "text_encoder"
    if not (encoder / "model.gguf").exists():
        encoder.mkdir(parents=True, exist_ok=True)
        (args.out / "tokenizer").mkdir(exist_ok=True)
        (encoder / "config.json").write_text(json.dumps(text.config().to_dict(), indent=2) + "\n")
        text.write_gguf(encoder / "model.gguf")
        shutil.copy(text.folder() / "tokenizer.json", args.out / "tokenizer" / "tokenizer.json")


if __name__ == "__main__":
    main()
