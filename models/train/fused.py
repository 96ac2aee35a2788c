"""Many small operations in one kernel: reading and writing is most of what they cost."""

from __future__ import annotations

from collections.abc import Callable

import torch


def fused(function: Callable) -> Callable:
    """Compiled at its first call, and again for another shape: for what is called very often."""
    return torch.compile(function)
