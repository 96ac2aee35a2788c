"""Creates small torch.save files in tests/fixtures/pickles, and the same tensors as safetensors.

    python make_pickles.py
"""

import os
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_file

FOLDER = Path(__file__).parent.parent / "fixtures" / "pickles"


class Evil:
    """A pickle that runs a command."""

    def __reduce__(self):
        return os.system, ("touch PICKLE-WAS-RUN",)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    torch.manual_seed(0)
    both = torch.randn(4, 6)
    tensors = OrderedDict(
        {
            "blocks.0.self_attn.q.weight": torch.randn(3, 5),
            "blocks.0.self_attn.q.bias": torch.randn(3).bfloat16(),
            "blocks.0.norm3.weight": torch.randn(3).half(),
            # A view into another tensor's storage with an offset.
            "head.head.weight": both[2:],
            "head.head.bias": torch.arange(5),
        }
    )
    torch.save(tensors, FOLDER / "plain.pth")
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, FOLDER / "plain.safetensors")
    wrapped = {f"model._fsdp_wrapped_module.{name}": tensor for name, tensor in tensors.items()}
    other = {name: tensor + 1 for name, tensor in wrapped.items()}
    torch.save({"step": 7, "generator": other, "generator_ema": wrapped}, FOLDER / "student.pt")
    torch.save({"generator": wrapped}, FOLDER / "generator.pt")
    torch.save({"a.self_attn.weight": torch.randn(4, 4).t()[1:3]}, FOLDER / "view.pt")
    torch.save({"weight": torch.randn(2), "evil": Evil()}, FOLDER / "evil.pt")
    torch.save(tensors, FOLDER / "old.pt", _use_new_zipfile_serialization=False)
