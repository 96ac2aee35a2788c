"""Samples videos like the engine, to inspect the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from autoencoder import Autoencoder
from options import mixed
from transformer import CHANNELS, Cache, Transformer

HEIGHT, WIDTH = 24, 40  # size of a latent frame


def denoise(predict: Callable[[Tensor, float], Tensor], x: Tensor, timesteps: list[float]) -> Iterator[Tensor]:
    """Yields `x` after each step; `predict` returns the clean prediction."""
    for t, after in zip(timesteps, [*timesteps[1:], 0.0]):
        video = predict(x, t)
        x = video + (x - video) * (after / t)
        yield x


@torch.no_grad()
def latents(
    model: Transformer, prompts: Tensor, empty: Tensor, frames: int, timesteps: list[float], guidance: float,
    context_noise: float = 0.0, seed: int = 0, first: Tensor | None = None, noise: Tensor | None = None,
    autocast: bool = True, first_timesteps: list[float] | None = None,
) -> Tensor:
    """Samples `[B, frames, C, H, W]` for features `[B, S, TEXT_DIM]`. `first` `[B, 1, C, H, W]` are latents of an image,
    `noise` replaces the noise of the seed, `first_timesteps` are other timesteps for the first frame."""
    generator = torch.Generator().manual_seed(seed)
    features = [prompts] if guidance == 1 else [prompts, empty.expand(len(prompts), -1, -1)]
    texts = [model.text(f) for f in features]
    caches = [[Cache() for _ in model.blocks] for _ in texts]
    made = []

    def predict(x: Tensor, t: float) -> Tensor:
        p = [model.chunk(x, t, text, cache, False) for text, cache in zip(texts, caches)]
        return p[0] if len(p) == 1 else p[1] + guidance * (p[0] - p[1])

    with mixed(prompts.device, autocast):
        for frame in range(frames):
            x = torch.randn(len(prompts), 1, CHANNELS, HEIGHT, WIDTH, generator=generator).to(prompts.device)
            if noise is not None:
                x = noise[:, frame : frame + 1]
            if frame == 0 and first is not None:
                x = first
            else:
                steps = first_timesteps if frame == 0 and first_timesteps else timesteps
                *_, x = denoise(predict, x, steps)
            made.append(x)
            if frame + 1 == frames:  # the last frame is not in any past
                break
            for text, cache in zip(texts, caches):
                model.chunk(x, context_noise, text, cache, True)
    return torch.cat(made, 1)


@torch.no_grad()
def decode(autoencoder: Autoencoder, made: Tensor, autocast: bool = True) -> Tensor:
    """f32 `[B, T, H, W, 3]` in [0, 1]."""
    with mixed(made.device, autocast):
        return torch.cat([autoencoder.decode(z[None]).float().clamp(0, 1) for z in made]).permute(0, 1, 3, 4, 2)


def schedule(steps: int, shift: float) -> list[float]:
    """Descending timesteps from 1000, without the final 0."""
    even = [1 - i / steps for i in range(steps)]
    return [1000 * shift * s / (1 + (shift - 1) * s) for s in even]
