"""Where training goes on from: its own last state, or else a milestone, or else the weights that are shipped."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

# Weights that are further than those shipped, and not fit to ship yet.
MILESTONES = Path(__file__).parent / "milestone"
SHIPPED = Path(__file__).parent.parent / "builtin"
# A state that has nothing: what is shipped is wanted.
NOWHERE = Path("nowhere")
FOLDERS = {"autoencoder": "vae", "transformer": "transformer"}
FILE = "diffusion_pytorch_model.safetensors"


def weights(state: Path, name: str) -> dict[str, Tensor] | None:
    """f32, if there are any."""
    files = [state / f"{name}.pt"]
    if state != NOWHERE:
        files.append(MILESTONES / f"{name}.safetensors")
    if name in FOLDERS:
        files.append(SHIPPED / FOLDERS[name] / FILE)
    file = next((file for file in files if file.exists()), None)
    if file is None:
        return None
    found = torch.load(file, map_location="cpu") if file.suffix == ".pt" else load_file(file)
    return {key: weight.float() for key, weight in found.items()}


def load(model: nn.Module, state: Path, name: str) -> bool:
    """Fills `model`; says whether there was anything to fill it with."""
    found = weights(state, name)
    if found is not None:
        model.load_state_dict(found)
    return found is not None


@torch.no_grad()
def guide(transformer: nn.Module, state: Path) -> None:
    """Adds to it what guidance changed the last time."""
    for name, change in (weights(state, "guidance") or {}).items():
        parameter = transformer.get_parameter(name)
        parameter += change.to(parameter.device)


def save(weights: dict[str, Tensor], state: Path, name: str) -> None:
    """Whole or not at all."""
    state.mkdir(parents=True, exist_ok=True)
    partial = state / f"{name}.part"
    torch.save(weights, partial)
    partial.rename(state / f"{name}.pt")
