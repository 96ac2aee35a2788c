"""Abstract moving shapes and gradients, so that the autoencoder generalizes to any image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SHAPES = 8


@torch.no_grad()
def textures(count: int, times: Tensor, height: int, width: int) -> Tensor:
    """RGB f32 `[count, T, 3, height, width]` in [0, 1] at `times` `[T]` seconds."""
    device, length = times.device, len(times)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, device=device)

    # A background of twice the size, with few or many colours and some grain; the view moves over it.
    cells = [uniform(0, 1, 1, 3, int(torch.randint(2, 24, ())), int(torch.randint(2, 32, ()))) for _ in range(count)]
    ground = torch.cat([F.interpolate(c, (2 * height, 2 * width), mode="bicubic") for c in cells])
    ground = (ground + uniform(0, 0.05, count, 1, 1, 1) * torch.randn_like(ground)).clamp(0, 1)
    y, x = torch.linspace(-0.5, 0.5, height, device=device), torch.linspace(-0.5, 0.5, width, device=device)
    moved = uniform(-0.2, 0.2, count, 2)[:, None] * times[None, :, None]
    grid = torch.stack(torch.broadcast_tensors(x[None, None, None] + moved[..., :1, None], y[None, None, :, None] + moved[..., 1:, None]), -1)
    view = F.grid_sample(ground, grid.flatten(1, 2), padding_mode="reflection", align_corners=False)
    view = view.unflatten(2, (length, height)).transpose(1, 2)
    # Rotated rectangles and ellipses with their own motion.
    rows, columns = torch.arange(height, device=device)[:, None] + 0.5, torch.arange(width, device=device) + 0.5
    for _ in range(SHAPES):
        speed, place = uniform(-60, 60, count, 2)[:, None], uniform(0, 1, count, 2)[:, None]
        place = (place + speed * times[None, :, None] / torch.tensor([width, height], device=device)) % 1
        dx, dy = columns - width * place[..., :1, None], rows - height * place[..., 1:, None]
        turn = uniform(0, 3.15, count, 1, 1, 1)
        a = (turn.cos() * dx - turn.sin() * dy) / uniform(4, 30, count, 1, 1, 1)
        b = (turn.sin() * dx + turn.cos() * dy) / uniform(4, 30, count, 1, 1, 1)
        far = torch.where(uniform(0, 1, count, 1, 1, 1) < 0.5, (a * a + b * b).sqrt(), torch.maximum(a.abs(), b.abs()))
        there = uniform(0, 1, count, 1, 1, 1) < 0.5
        mask = ((1 - far) * 12 + 0.5).clamp(0, 1)[:, :, None] * there[:, :, None]
        view = view * (1 - mask) + mask * uniform(0, 1, count, 1, 3, 1, 1)
    return view
