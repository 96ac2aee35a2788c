"""Starting points of training: its last state, else the shipped weights."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import quantized
from autoencoder import Autoencoder, blocks_of

SHIPPED = Path(__file__).parent.parent / "builtin"
# An empty state: use the shipped weights.
NOWHERE = Path("nowhere")
FOLDERS = {"autoencoder": "vae", "transformer": "transformer"}
FILE = "diffusion_pytorch_model.safetensors"


def weights(state: Path, name: str) -> dict[str, Tensor] | None:
    """The weights in f32, if they exist."""
    files = [state / f"{name}.pt"]
    if name in FOLDERS:
        file = SHIPPED / FOLDERS[name] / FILE
        files += [file.with_suffix(".gguf"), file]
    file = next((file for file in files if file.exists()), None)
    return None if file is None else read(file)


def read(file: Path) -> dict[str, Tensor]:
    """The weights in f32 of a training state, or of the shipped model."""
    if file.suffix == ".pt":
        found = torch.load(file, map_location="cpu")
    else:
        found = quantized.to_five(quantized.read(file)) if file.suffix == ".gguf" else load_file(file)
    return {key: weight.float() for key, weight in found.items()}


def load(model: nn.Module, state: Path, name: str) -> bool:
    """Loads weights into `model`. Returns whether there were any."""
    found = weights(state, name)
    if found is not None:
        model.load_state_dict(found)
    return found is not None


def autoencoder(state: Path) -> Autoencoder:
    """The last decoder of `train_autoencoder.py`, or the shipped autoencoder."""
    found = weights(state, "decoder") or weights(state, "autoencoder")
    model = Autoencoder(blocks_of(found)).eval()
    model.load_state_dict(found)
    return model.to(memory_format=torch.channels_last)


def save(weights: dict[str, Tensor], state: Path, name: str) -> None:
    """Writes the file atomically."""
    state.mkdir(parents=True, exist_ok=True)
    partial = state / f"{name}.part"
    torch.save(weights, partial)
    partial.rename(state / f"{name}.pt")
