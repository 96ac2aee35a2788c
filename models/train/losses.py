"""The weighted error of predictions, and noise levels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import sample
from autoencoder import Autoencoder
from data import Batch

SUBJECT = 4.0  # weight of the latents of a subject
REFERENCE = 16  # side of a reference in latents


@torch.no_grad()
def worth(vae: Autoencoder, latents: Tensor) -> Tensor:
    """Visibility of errors per channel, `[C, 1, 1]` with mean 1: the root of the change of the image."""
    seen, picture = [], vae.decode(latents)
    for channel in range(latents.shape[2]):
        other = latents.clone()
        other[:, :, channel] += 0.3 * torch.randn_like(other[:, :, channel])
        seen.append((vae.decode(other) - picture).square().mean().sqrt())
    each = torch.stack(seen)
    return (each / each.mean())[:, None, None]


def emphasis(batch: Batch, height: int, width: int) -> Tensor:
    """Error weights that are higher where subjects are: `[B, F, 1, H, W]`."""
    y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    places = batch.of.places[batch.rows][:, batch.frames]
    top, left = (places[..., i, None, None] for i in (0, 1))
    inside = (y >= top) & (y < top + REFERENCE) & (x >= left) & (x < left + REFERENCE)
    inside = inside & batch.of.shown[batch.rows][:, batch.frames, :, None, None]
    return 1 + (SUBJECT - 1) * inside.any(2)[:, :, None].float()


def movement(latents: Tensor, start: int) -> Tensor:
    """Error weights that are higher where something moves, or details would be learned before motion: `[B, F, 1, H, W]`, with
    mean 1 over the frames from `start` on of each clip."""
    change = latents.diff(dim=1).square().mean(2).sqrt()
    change = F.avg_pool2d(torch.cat([change[:, :1], change], 1), 3, 1, 1, count_include_pad=False)
    mean = change[:, start:].mean((1, 2, 3), keepdim=True).clamp_min(1e-6)
    return 0.5 + 0.5 * (change / mean)[:, :, None]


def noise_levels(shape: tuple[int, ...], shift: float) -> Tensor:
    """Random noise levels, mostly medium, shifted towards noise."""
    sigma = torch.sigmoid(1.2 * torch.randn(shape))
    return shift * sigma / (1 + (shift - 1) * sigma)


def steps_taken(shape: tuple[int, ...]) -> Tensor:
    """The noise levels of the few steps, and sometimes any other."""
    levels = torch.tensor([*sample.schedule(sample.STEPS), *sample.schedule(sample.FIRST_STEPS)[1:]]) / 1000
    few = levels[torch.randint(len(levels), shape)]
    return torch.where(torch.rand(shape) < 0.7, few, noise_levels(shape, 1.5))


def noised(video: Tensor, t: Tensor) -> Tensor:
    """Adds noise to `[B, F, C, H, W]` at the levels `t` `[B, F]` or `[B, 1]`."""
    sigma = t[..., None, None, None]
    return (1 - sigma) * video + sigma * torch.randn_like(video)


def error_of(video: Tensor, target: Tensor, t: Tensor, weight: Tensor) -> Tensor:
    """Error `[B, F]` of predictions at the noise levels `t` `[B, F]`, with these weights.

    An error of the clean prediction is σ times the error of the velocity. The clamp limits the weight of low noise levels.
    """
    return ((video - target).square() * weight).mean((2, 3, 4)) / t.clamp_min(0.2).square()
