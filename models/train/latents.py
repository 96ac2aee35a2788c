"""Clips as latents with features of their captions, the training data of the transformer."""

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

# No caption is longer; the last token stands for all padding tokens.
TOKENS = 40
# Captions per batch of the text encoder.
READ_AT_ONCE = 1024


@dataclass
class Batch:
    """A batch of clips with as many frames as the attention window. If they do not start at the beginning of the clip, the
    first frame of the clip comes before them."""

    of: Latents
    where: tuple[Tensor, Tensor]
    features: Tensor  # [N, S, TEXT_DIM]
    begins: bool

    @property
    def start(self) -> int:
        """First frame with a loss: later frames are never generated without a past, nor after only the first frame of the clip."""
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
        """Predictions of the transformer for these clips."""
        clips, frames = self.where
        self.of.own[clips, frames[self.start :]] = own[:, self.start :].half()


@dataclass
class Latents:
    """f16 `[N, F, C, H, W]`, and the features of their captions, f16 `[N, CAPTIONS, TOKENS, TEXT_DIM]`. In scrolling clips,
    bool `[N]`, new content comes into view."""

    video: Tensor
    features: Tensor
    scrolls: Tensor

    def __post_init__(self) -> None:
        # The transformer's last predictions for these clips, and the past it used for them.
        self.own = self.video.clone() if self.video.shape[1] > 1 else self.video

    @classmethod
    @torch.no_grad()
    def of(cls, footage: Footage, vae: Autoencoder, text: TextEncoder) -> Latents:
        # Small batches fit the caches of a CPU.
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
        # Clips longer than the attention window are used for their later frames.
        begins = length <= SINK + WINDOW + 1
        rows = torch.randint(len(self.video), (size,), device=device)
        features = self.features[rows, torch.randint(CAPTIONS, (size,), device=device)].float()
        first = SINK if begins else int(torch.randint(SINK + 1, length - WINDOW, ()))
        frames = [*range(min(SINK, length)), *range(first, min(first + WINDOW + 1, length))]
        return Batch(self, (rows[:, None], torch.tensor(frames, device=device)), features, begins)


def length_in_frames(latents: int) -> int:
    """Number of frames of this many latent frames."""
    return 1 + TIME_FACTOR * (latents - 1)
