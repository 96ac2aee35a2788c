"""Footage as latents, with what its captions mean: what the transformer learns from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from autoencoder import TIME_FACTOR, Autoencoder
from footage import CAPTIONS, Footage
from options import mixed
from text import TextEncoder
from transformer import SINK, WINDOW
from world import AT_ONCE

# No caption is longer; the last place stands for all those behind it.
TOKENS = 40
# Captions that are read at a time.
READ_AT_ONCE = 1024


@dataclass
class Batch:
    """Of so many clips as many frames as are attended to. Where they do not begin the clip, its first stands before them all
    the same."""

    of: Latents
    where: tuple[Tensor, Tensor]
    features: Tensor  # [N, S, TEXT_DIM]
    begins: bool

    @property
    def start(self) -> int:
        """From which frame on they are learned: later frames are never made without a past, nor after the clip's first alone."""
        return 0 if self.begins else SINK + 1

    @cached_property
    def video(self) -> Tensor:
        """f32 `[N, F, C, H, W]`."""
        return self.of.video[self.where].float()

    @property
    def scrolls(self) -> Tensor:
        """bool `[N]`."""
        return self.of.scrolls[self.where[0][:, 0]]

    @property
    def own(self) -> Tensor:
        return self.of.own[self.where].float()

    def remember(self, own: Tensor) -> None:
        """What the transformer made of them."""
        clips, frames = self.where
        self.of.own[clips, frames[self.start :]] = own[:, self.start :].half()


@dataclass
class Latents:
    """f16 `[N, F, C, H, W]`, and of each the features of its captions, f16 `[N, CAPTIONS, TOKENS, TEXT_DIM]`. Into those
    that scroll, bool `[N]`, comes what was not seen before."""

    video: Tensor
    features: Tensor
    scrolls: Tensor

    def __post_init__(self) -> None:
        # As the transformer made them anew when they were last looked at, with what it took for their past then.
        self.own = self.video.clone() if self.video.shape[1] > 1 else self.video

    @classmethod
    @torch.no_grad()
    def of(cls, footage: Footage, vae: Autoencoder, text: TextEncoder) -> Latents:
        # A CPU has its caches for few.
        at_once = AT_ONCE if footage.frames.is_cuda else 50
        video = []
        for frames in footage.frames.split(max(1, at_once // footage.frames.shape[1])):
            with mixed(frames.device):
                video.append(vae.encode(frames / 255).half())
        tokens = text.tokens(footage.captions, TOKENS)
        assert (tokens[:, -1] == 0).all(), "a caption is too long"
        features = torch.cat([text.features(some).half() for some in tokens.split(READ_AT_ONCE)])
        return cls(torch.cat(video), features.unflatten(0, (-1, CAPTIONS)), footage.scrolls)

    def batch(self, size: int) -> Batch:
        device = self.video.device
        length = self.video.shape[1]
        # Longer ones than are attended to are there for their later frames.
        begins = length <= SINK + WINDOW + 1
        rows = torch.randint(len(self.video), (size,), device=device)
        features = self.features[rows, torch.randint(CAPTIONS, (size,), device=device)].float()
        first = SINK if begins else int(torch.randint(SINK + 1, length - WINDOW, ()))
        frames = [*range(min(SINK, length)), *range(first, min(first + WINDOW + 1, length))]
        return Batch(self, (rows[:, None], torch.tensor(frames, device=device)), features, begins)


def length_in_frames(latents: int) -> int:
    """How many frames that many latent frames are."""
    return 1 + TIME_FACTOR * (latents - 1)
