"""Muon (https://kellerjordan.github.io/posts/muon/): momentum with orthogonalized matrices.

Without normalization layers the autoencoder is badly conditioned; Muon reaches in minutes what AdamW reaches in an hour.
"""

from __future__ import annotations

import torch
from torch import Tensor

from options import fastest


def orthogonalise(matrices: Tensor, steps: int = 4) -> Tensor:
    """Sets all singular values of `[N, out, in]` near 1, by Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.to(fastest(matrices.device))
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """For weights of at least two dimensions, reshaped to `[out, rest]`."""

    def __init__(self, parameters: list[Tensor], lr: float, momentum: float = 0.9) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            updates: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(buffer, group["momentum"]).flatten(1)
                updates.setdefault(update.shape, []).append((p, update))
            for shape, pairs in updates.items():
                made = orthogonalise(torch.stack([update for _, update in pairs]))
                # Same step size as Adam: every entry changes by about 0.2 of the rate.
                scale = 0.2 * max(shape) ** 0.5
                for (p, _), update in zip(pairs, made):
                    p.add_(update.view_as(p), alpha=-group["lr"] * scale)
