"""Targets of progressive distillation (https://arxiv.org/abs/2202.00512): one step reaches the result of several teacher steps."""

from __future__ import annotations

import torch
from torch import Tensor

from sample import FIRST_STEPS, HEIGHT, WIDTH, denoise, schedule
from transformer import CHANNELS, References, Transformer

# Steps of the teacher per distilled step.
FINER = 4


@torch.no_grad()
def landings(teacher: Transformer, features: Tensor, references: References) -> tuple[Tensor, Tensor, Tensor]:
    """For features `[N, S, TEXT_DIM]`: first frames at one of the steps from noise on `[N, 1, C, H, W]`, their noise levels
    `[N, 1]`, and the predictions with which one step reaches the result of the teacher's steps."""
    x = torch.randn(len(features), 1, CHANNELS, HEIGHT, WIDTH)

    def predict(x: Tensor, t: float) -> Tensor:
        level = torch.full((len(x), 1), t)
        return teacher(None, x, None, level, features, references)

    way = torch.stack([x, *denoise(predict, x, schedule(FIRST_STEPS * FINER))][::FINER])
    levels = torch.tensor([*schedule(FIRST_STEPS), 0.0]) / 1000
    step = torch.randint(FIRST_STEPS, (len(x),))
    now, after, each = levels[step], levels[step + 1], torch.arange(len(x))
    left = (after / now).view(-1, 1, 1, 1, 1)
    return way[step, each], now[:, None], (way[step + 1, each] - left * way[step, each]) / (1 - left)
