"""Many small operations in one kernel: reading and writing is most of what they cost."""

from __future__ import annotations

from collections.abc import Callable

import torch


def fused(function: Callable) -> Callable:
    """Compiled at its first call, and again where a shape is another: for what is called very often, in few shapes."""
    return torch.compile(function)
