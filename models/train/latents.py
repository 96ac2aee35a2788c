"""Clips that were drawn, as latents with the tokens of their captions: what the transformer learns from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autoencoder import TIME_FACTOR, Autoencoder
from clips import FRAME_RATE
from text import TextEncoder
from transformer import SINK, WINDOW
from world import World

CAPTIONS = 6
# No caption is longer; the last place stands for all those behind it.
TOKENS = 40


@dataclass
class Latents:
    """f16 `[N, F, C, H, W]`, and of each the tokens of its captions, `[N, CAPTIONS, TOKENS]`."""

    video: Tensor
    tokens: Tensor

    @classmethod
    @torch.no_grad()
    def draw(
        cls, world: World, vae: Autoencoder, text: TextEncoder, count: int, length: int, seed: int
    ) -> Latents:
        """`count` clips of `length` latent frames."""
        # A CPU has its caches for few.
        at_once = (256 if length == 1 else 32) if world.device.type == "cuda" else 4
        rng = np.random.default_rng([7, seed])
        steps = np.arange(1 + TIME_FACTOR * (length - 1)) / FRAME_RATE
        video, captions = [], []
        for start in range(0, count, at_once):
            clips = [world.clip(rng) for _ in range(min(at_once, count - start))]
            frames = world.frames(clips, rng.uniform(0, 8, (len(clips), 1)) + steps)
            with torch.autocast(world.device.type, torch.bfloat16):
                video.append(vae.encode(frames).half())
            captions += [clip.caption(rng) for clip in clips for _ in range(CAPTIONS)]
        tokens = text.tokens(captions, TOKENS)
        assert (tokens[:, -1] == 0).all(), "a caption is too long"
        return cls(torch.cat(video), tokens.to(torch.int16).unflatten(0, (-1, CAPTIONS)).to(world.device))

    def batch(self, size: int) -> tuple[Tensor, Tensor, bool]:
        """Latents `[size, F, C, H, W]` of as many frames as are attended to, tokens `[size, S]`, and whether they begin the
        clip; where they do not, the clip's first stands before them all the same."""
        device = self.video.device
        rows = torch.randint(len(self.video), (size,), device=device)
        tokens = self.tokens[rows, torch.randint(CAPTIONS, (size,), device=device)].long()
        length = self.video.shape[1]
        begins = length == 1 or bool(torch.rand(()) < 0.5)
        first = SINK if begins else int(torch.randint(SINK + 1, length - WINDOW, ()))
        frames = [*range(min(SINK, length)), *range(first, min(first + WINDOW + 1, length))]
        return self.video[rows][:, frames].float(), tokens, begins
