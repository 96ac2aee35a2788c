"""Fuses many small operations into one kernel, since memory access dominates their cost."""

from __future__ import annotations

from collections.abc import Callable

import torch


def fused(function: Callable, dynamic: bool | None = False) -> Callable:
    """Compiles a frequently called function at its first call, and again for new shapes unless `dynamic`."""
    return torch.compile(function, dynamic=dynamic)
