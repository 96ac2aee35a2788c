"""Where training goes on from: its own last state, or else a milestone, or else the weights that are shipped."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

# Weights that are further than those shipped, and not fit to ship yet.
MILESTONES = Path(__file__).parent / "milestone"
SHIPPED = Path(__file__).parent.parent / "builtin"
# A state that has nothing: what is shipped is wanted.
NOWHERE = Path("nowhere")
FOLDERS = {"autoencoder": "vae", "transformer": "transformer"}
FILE = "diffusion_pytorch_model.safetensors"


def load(model: nn.Module, state: Path, name: str) -> bool:
    """Fills `model`; says whether there was anything to fill it with."""
    further = [] if state == NOWHERE else [MILESTONES / f"{name}.safetensors"]
    files = [state / f"{name}.pt", *further, SHIPPED / FOLDERS[name] / FILE]
    file = next((file for file in files if file.exists()), None)
    if file is None:
        return False
    weights = torch.load(file, map_location="cpu") if file.suffix == ".pt" else load_file(file)
    model.load_state_dict({key: weight.float() for key, weight in weights.items()})
    return True


@torch.no_grad()
def guide(transformer: nn.Module) -> None:
    """Adds to it what guidance changed the last time: the weights that are shipped, less what they were before it."""
    before = load_file(MILESTONES / "transformer.safetensors")
    after = load_file(SHIPPED / FOLDERS["transformer"] / FILE)
    for name, parameter in transformer.named_parameters():
        parameter += (after[name].float() - before[name].float()).to(parameter.device)


def save(weights: dict[str, torch.Tensor], state: Path, name: str) -> None:
    """Whole or not at all."""
    state.mkdir(parents=True, exist_ok=True)
    partial = state / f"{name}.part"
    torch.save(weights, partial)
    partial.rename(state / f"{name}.pt")
