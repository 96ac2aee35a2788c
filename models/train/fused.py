"""Many small operations in one kernel: reading and writing is most of what they cost."""

from __future__ import annotations

from collections.abc import Callable

import torch


def fused(function: Callable, dynamic: bool | None = False) -> Callable:
    """Compiled at its first call, and again where a shape is another, unless `dynamic`: for what is called very often."""
    return torch.compile(function, dynamic=dynamic)
