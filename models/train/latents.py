"""Footage as latents, with what its captions mean: what the transformer learns from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from autoencoder import TIME_FACTOR, Autoencoder
from footage import CAPTIONS, Footage
from text import TextEncoder
from transformer import SINK, WINDOW
from world import AT_ONCE

# No caption is longer; the last place stands for all those behind it.
TOKENS = 40
# Captions that are read at a time.
READ_AT_ONCE = 1024


@dataclass
class Latents:
    """f16 `[N, F, C, H, W]`, and of each the features of its captions, f16 `[N, CAPTIONS, TOKENS, TEXT_DIM]`."""

    video: Tensor
    features: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, footage: Footage, vae: Autoencoder, text: TextEncoder) -> Latents:
        # A CPU has its caches for few.
        at_once = AT_ONCE if footage.frames.is_cuda else 160
        video = []
        for frames in footage.frames.split(max(1, at_once // footage.frames.shape[1])):
            with torch.autocast(frames.device.type, torch.bfloat16):
                video.append(vae.encode(frames / 255).half())
        tokens = text.tokens(footage.captions, TOKENS)
        assert (tokens[:, -1] == 0).all(), "a caption is too long"
        features = torch.cat([text.features(some).half() for some in tokens.split(READ_AT_ONCE)])
        return cls(torch.cat(video), features.unflatten(0, (-1, CAPTIONS)))

    def batch(self, size: int) -> tuple[Tensor, Tensor, bool]:
        """Latents `[size, F, C, H, W]` of as many frames as are attended to, features `[size, S, TEXT_DIM]`, and whether they
        begin the clip; where they do not, the clip's first stands before them all the same."""
        device = self.video.device
        rows = torch.randint(len(self.video), (size,), device=device)
        features = self.features[rows, torch.randint(CAPTIONS, (size,), device=device)].float()
        length = self.video.shape[1]
        begins = length == 1 or bool(torch.rand(()) < 0.5)
        first = SINK if begins else int(torch.randint(SINK + 1, length - WINDOW, ()))
        frames = [*range(min(SINK, length)), *range(first, min(first + WINDOW + 1, length))]
        return self.video[rows[:, None], torch.tensor(frames, device=device)].float(), features, begins


def length_in_frames(latents: int) -> int:
    """How many frames that many latent frames are."""
    return 1 + TIME_FACTOR * (latents - 1)
