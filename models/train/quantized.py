"""Weights in GGUF files, which the engine reads."""

from __future__ import annotations

from pathlib import Path

import gguf
import torch
from gguf.constants import GGMLQuantizationType as Quant
from gguf.quants import dequantize, quantize
from torch import Tensor

# Plain types: their rows have any length.
PLAIN = {Quant.F32: torch.float32, Quant.F16: torch.float16}


def write(path: Path, architecture: str, weights: dict[str, Tensor], kinds: dict[str, Quant]) -> None:
    """Writes weights in the type that `kinds` has for their name."""
    writer = gguf.GGUFWriter(path, architecture)
    for name, weight in weights.items():
        kind = kinds[name]
        weight = weight.detach().float().contiguous()
        data = weight.to(PLAIN[kind]).numpy() if kind in PLAIN else quantize(weight.numpy(), kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read(path: Path) -> dict[str, Tensor]:
    """The weights in f32."""
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        shape = [int(side) for side in reversed(tensor.shape)]
        found[tensor.name] = torch.tensor(dequantize(tensor.data, tensor.tensor_type)).reshape(shape)
    return found


def to_four(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A GGUF file has at most four dimensions: removes the time of convolutions, which is 1. The engine adds it."""
    return {name: weight.squeeze(2) if weight.ndim == 5 else weight for name, weight in weights.items()}


def to_five(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.unsqueeze(2) if weight.ndim == 4 else weight for name, weight in weights.items()}
