"""Where each of a few steps ought to lead: to where the model itself gets in several (https://arxiv.org/abs/2202.00512)."""

from __future__ import annotations

import torch
from torch import Tensor

from sample import HEIGHT, WIDTH, denoise, schedule
from transformer import CHANNELS, Transformer

# Steps of the teacher to one of those that are learned.
FINER = 4


@torch.no_grad()
def landings(teacher: Transformer, features: Tensor, steps: int, shift: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of `features` `[N, S, TEXT_DIM]` first frames on their way from noise `[steps * N, 1, C, H, W]`, their noise levels
    `[steps * N, 1]`, and what has to be predicted there for one step to lead as far as the teacher's do."""
    x = torch.randn(len(features), 1, CHANNELS, HEIGHT, WIDTH, device=features.device)

    def predict(x: Tensor, t: float) -> Tensor:
        level = torch.full((len(x), 1), t, device=x.device)
        return teacher(None, x, level, level, features)

    way = torch.stack([x, *denoise(predict, x, schedule(steps * FINER, shift))][::FINER])
    levels = torch.tensor([*schedule(steps, shift), 0.0], device=x.device) / 1000
    left = (levels[1:] / levels[:-1]).view(-1, *[1] * x.ndim)
    target = (way[1:] - left * way[:-1]) / (1 - left)
    return way[:-1].flatten(0, 1), levels[:-1].repeat_interleave(len(x))[:, None], target.flatten(0, 1)
