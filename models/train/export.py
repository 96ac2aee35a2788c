"""Exports the trained parts in the diffusers layout of the built-in model's folder: the transformer in 8 bits, the autoencoder in f16.

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
from gguf.constants import GGMLQuantizationType as Quant
from safetensors.torch import save_file

import autoencoder
import quantized
import text
import transformer
from bank import SIDE
from checkpoint import FILE, FOLDERS
from clips import FLOATS, HEIGHTS, SUBJECTS, standing
from motions import CAMERA_PAN, MOTIONS
from scenes import LATENT, PLACES, REWORDED, TIMES, WEATHERS
from train_transformer import STAGES


def write(folder: Path, config: dict, state: dict[str, torch.Tensor]) -> None:
    """In f16."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    halves = {name: weight.detach().half().contiguous() for name, weight in state.items()}
    save_file(halves, folder / FILE)


def kind(name: str, weight: torch.Tensor) -> Quant:
    """8 bits for the linear layers of the blocks, which are most of the model."""
    return Quant.Q8_0 if weight.ndim == 2 and name.startswith("blocks.") else Quant.F16


def write_quantized(folder: Path, config: dict, state: dict[str, torch.Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = quantized.to_four(state)
    kinds = {name: kind(name, weight) for name, weight in weights.items()}
    (folder / FILE).unlink(missing_ok=True)
    quantized.write((folder / FILE).with_suffix(".gguf"), "wan", weights, kinds)


def parts(state: Path, out: Path) -> None:
    """The trained parts."""
    for name, stages in (("autoencoder", ("decoder",)), ("transformer", STAGES)):
        files = [file for file in (state / f"{stage}.pt" for stage in stages) if file.exists()]
        if files:
            # Results of earlier stages are outdated.
            found = torch.load(files[-1], map_location="cpu")
            if name == "transformer":
                write_quantized(out / FOLDERS[name], transformer.CONFIG, found)
            else:
                write(out / FOLDERS[name], autoencoder.config(autoencoder.blocks_of(found)), found)


def world() -> dict:
    """What the engine needs to know of the training data: how subjects move and where they stand."""
    places = [place(np.random.default_rng(0)) for place in PLACES]
    return {
        "side": SIDE, "max_references": SUBJECTS, "step": LATENT, "pan": CAMERA_PAN,
        "afloat": LATENT * (sum(HEIGHTS) // 2 // LATENT), "top": LATENT,
        "motions": {name: dataclasses.asdict(motion) for name, motion in MOTIONS.items()},
        "places": {p.name: {"phrases": p.phrases, "ground": standing(p.ground), "floats": FLOATS.get(p.name)} for p in places},
        "reworded": REWORDED,
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
        text.write(encoder / "model.gguf")
        shutil.copy(text.folder() / "tokenizer.json", args.out / "tokenizer" / "tokenizer.json")


if __name__ == "__main__":
    main()
