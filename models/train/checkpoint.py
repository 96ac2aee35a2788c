"""Where training goes on from: its own last state, or else the weights that are shipped."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

SHIPPED = Path(__file__).parent.parent / "builtin"
FOLDERS = {"autoencoder": "vae", "transformer": "transformer"}


def load(model: nn.Module, state: Path, name: str) -> bool:
    """Fills `model`; says whether there was anything to fill it with."""
    file = state / f"{name}.pt"
    shipped = SHIPPED / FOLDERS[name] / "diffusion_pytorch_model.safetensors"
    if file.exists():
        weights = torch.load(file)
    elif shipped.exists():
        weights = {key: weight.float() for key, weight in load_file(shipped).items()}
    else:
        return False
    model.load_state_dict(weights)
    return True


def save(weights: dict[str, torch.Tensor], state: Path, name: str) -> None:
    """Whole or not at all."""
    partial = state / f"{name}.part"
    torch.save(weights, partial)
    partial.rename(state / f"{name}.pt")
