"""Where each of a few steps ought to lead: to where the model itself gets in several (https://arxiv.org/abs/2202.00512)."""

from __future__ import annotations

import torch
from torch import Tensor

from sample import HEIGHT, WIDTH, schedule
from transformer import CHANNELS, Transformer

# Steps of the teacher to one of those that are learned.
FINER = 4


@torch.no_grad()
def landings(teacher: Transformer, features: Tensor, steps: int, shift: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of `features` `[N, S, TEXT_DIM]` first frames on their way from noise `[steps * N, 1, C, H, W]`, their noise levels
    `[steps * N, 1]`, and what has to be predicted there for one step to lead as far as the teacher's do."""
    x = torch.randn(len(features), 1, CHANNELS, HEIGHT, WIDTH, device=features.device)
    points, fine = [x], schedule(steps * FINER, shift)
    for i, (t, after) in enumerate(zip(fine, [*fine[1:], 0.0])):
        level = torch.full((len(x), 1), t, device=x.device)
        video = teacher(None, x, level, level, features)
        x = video + (x - video) * (after / t)
        if (i + 1) % FINER == 0:
            points.append(x)
    way = torch.stack(points)
    levels = torch.tensor([*schedule(steps, shift), 0.0], device=x.device) / 1000
    left = (levels[1:] / levels[:-1]).view(-1, *[1] * x.ndim)
    target = (way[1:] - left * way[:-1]) / (1 - left)
    return way[:-1].flatten(0, 1), levels[:-1].repeat_interleave(len(x))[:, None], target.flatten(0, 1)
