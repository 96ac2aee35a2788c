"""Samples videos like the engine, to inspect the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from autoencoder import Autoencoder
from transformer import CHANNELS, Cache, References, Transformer, remembered

HEIGHT, WIDTH = 24, 40  # size of a latent frame
# Steps of a frame after others, and of the first one.
STEPS, FIRST_STEPS, SHIFT = 3, 4, 5.0


def denoise(predict: Callable[[Tensor, float], Tensor], x: Tensor, timesteps: list[float]) -> Iterator[Tensor]:
    """Yields `x` after each step; `predict` returns the clean prediction."""
    for t, after in zip(timesteps, [*timesteps[1:], 0.0]):
        video = predict(x, t)
        x = video + (x - video) * (after / t)
        yield x


@torch.no_grad()
def latents(
    model: Transformer, features: Tensor, frames: int, references: References | None = None, seed: int = 0,
    first: Tensor | None = None, noise: Tensor | None = None, steps: tuple[int, int] = (STEPS, FIRST_STEPS),
    camera: Tensor | None = None,
) -> Tensor:
    """Samples `[B, frames, C, H, W]` for features `[B, S, TEXT_DIM]`. `references` have a place for every frame. `first`
    `[B, 1, C, H, W]` are latents of an image, `noise` replaces the noise of the seed, `steps` are those of later and first frames,
    `camera` `[B, frames]` is where it is, in pixels to the right."""
    generator = torch.Generator().manual_seed(seed)
    text, caches, made = model.text(features), [Cache() for _ in model.blocks], []
    known = model.remember(references, text) if references else None
    for frame in range(frames):
        seen = None if camera is None else camera[:, remembered([*range(frame)]) + [frame]]
        shown, views = (references.at([frame]), known.at([frame])) if references else (None, None)
        x = torch.randn(len(features), 1, CHANNELS, HEIGHT, WIDTH, generator=generator)
        if noise is not None:
            x = noise[:, frame : frame + 1]
        if frame == 0 and first is not None:
            x = first
        else:
            def predict(x: Tensor, t: float) -> Tensor:
                return model.chunk(x, t, text, caches, False, shown, views, seen)  # noqa: B023

            *_, x = denoise(predict, x, schedule(steps[frame == 0]))
        made.append(x)
        if frame + 1 < frames:  # the last frame is not in any past
            model.chunk(x, 0.0, text, caches, True, shown, views, seen)
    return torch.cat(made, 1)


@torch.no_grad()
def decode(autoencoder: Autoencoder, made: Tensor) -> Tensor:
    """f32 `[B, T, H, W, 3]` in [0, 1]."""
    return torch.cat([autoencoder.decode(z[None]).float().clamp(0, 1) for z in made]).permute(0, 1, 3, 4, 2)


def schedule(steps: int, shift: float = SHIFT) -> list[float]:
    """Descending timesteps from 1000, without the final 0."""
    even = [1 - i / steps for i in range(steps)]
    return [1000 * shift * s / (1 + (shift - 1) * s) for s in even]
