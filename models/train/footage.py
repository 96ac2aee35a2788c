"""Drawn clips as full frames, the training data of the autoencoder and of the transformer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clips import FRAME_RATE
from scenes import HEIGHT, WIDTH
from world import AT_ONCE, World

CAPTIONS = 6
# Latest start of a part of a clip, in seconds.
LATEST = 8


@dataclass
class Footage:
    """RGB u8 `[N, T, 3, HEIGHT, WIDTH]`, and `CAPTIONS` captions per clip, grouped by clip. In scrolling clips, bool `[N]`, new
    content comes into view."""

    frames: Tensor
    captions: list[str]
    scrolls: Tensor

    @classmethod
    def draw(cls, world: World, count: int, length: int, seed: int, begins: int) -> Footage:
        """Draws `count` clips of `length` frames: the first `begins` from their beginning, the others from a random time."""
        rng, steps = np.random.default_rng([7, seed]), np.arange(length) / FRAME_RATE
        starts = np.where(np.arange(count) < begins, 0, rng.uniform(0, LATEST, count))
        frames = torch.empty(count, length, 3, HEIGHT, WIDTH, dtype=torch.uint8, device=world.device)
        captions, scrolls, at_once = [], [], max(1, AT_ONCE // length)
        for i in range(0, count, at_once):
            times = starts[i : i + at_once, None] + steps
            clips = [world.clip(rng) for _ in times]
            frames[i : i + at_once] = (255 * world.frames(clips, times)).round()
            captions += [clip.caption(rng) for clip in clips for _ in range(CAPTIONS)]
            scrolls += [clip.scrolls for clip in clips]
        return cls(frames, captions, torch.tensor(scrolls, device=world.device))

    def cuttings(self, count: int, length: int, height: int, width: int) -> Tensor:
        """Crops, f32 `[count, length, 3, height, width]` in [0, 1], mostly near the centre, where the subject is."""
        device, (clips, frames) = self.frames.device, self.frames.shape[:2]

        def corner(middle: float, room: int) -> Tensor:
            return ((middle + 0.3 * torch.randn(count, 1, 1, 1, 1, device=device)).clamp(0, 1) * room).long()

        def each(n: int) -> Tensor:
            return torch.arange(n, device=device)

        clip = torch.randint(clips, (count, 1, 1, 1, 1), device=device)
        time = torch.randint(frames - length + 1, (count, 1, 1, 1, 1), device=device) + each(length)[:, None, None, None]
        y = corner(0.6, HEIGHT - height) + each(height)[:, None]
        x = corner(0.5, WIDTH - width) + each(width)
        return self.frames[clip, time, each(3)[:, None, None], y, x] / 255
