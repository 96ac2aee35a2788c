"""Many small operations in one kernel, where there is a GPU: reading and writing is all that they cost."""

from __future__ import annotations

from collections.abc import Callable

import torch


def fused(function: Callable) -> Callable:
    """Compiled at its first call for each shape; on a CPU that takes longer than it saves."""
    return torch.compile(function) if torch.cuda.is_available() else function
