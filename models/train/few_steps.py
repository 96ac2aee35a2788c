"""Targets of progressive distillation (https://arxiv.org/abs/2202.00512): one step reaches the result of several teacher steps."""

from __future__ import annotations

import torch
from torch import Tensor

from sample import HEIGHT, WIDTH, denoise, schedule
from transformer import CHANNELS, Transformer

# Steps of the teacher per distilled step.
FINER = 4


@torch.no_grad()
def landings(teacher: Transformer, features: Tensor, steps: int, shift: float) -> tuple[Tensor, Tensor, Tensor]:
    """For `features` `[N, S, TEXT_DIM]`: first frames at every step from noise on `[steps * N, 1, C, H, W]`, their noise levels
    `[steps * N, 1]`, and the predictions with which one step reaches the result of the teacher's steps."""
    x = torch.randn(len(features), 1, CHANNELS, HEIGHT, WIDTH, device=features.device)

    def predict(x: Tensor, t: float) -> Tensor:
        level = torch.full((len(x), 1), t, device=x.device)
        return teacher(None, x, level, level, features)

    way = torch.stack([x, *denoise(predict, x, schedule(steps * FINER, shift))][::FINER])
    levels = torch.tensor([*schedule(steps, shift), 0.0], device=x.device) / 1000
    left = (levels[1:] / levels[:-1]).view(-1, *[1] * x.ndim)
    target = (way[1:] - left * way[:-1]) / (1 - left)
    return way[:-1].flatten(0, 1), levels[:-1].repeat_interleave(len(x))[:, None], target.flatten(0, 1)
