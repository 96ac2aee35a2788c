"""Overlays: the latents of references at their places, as they move there.

A latent frame shows four frames, so the latents of what moves are not those of what stands still. A reference is encoded as it moves from its
place in one latent frame to its place in the next, over grey. Only the displacement counts, so few encodings are needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from autoencoder import Autoencoder
from bank import SIDE
from clips import turned
from latents import alpha_of, on_grey
from pictures import Picture
from sample import HEIGHT, WIDTH
from scenes import LATENT, PER_LATENT
from transformer import ALPHA, CHANNELS

Displacement = tuple[int, int]  # rows and columns of latents, from the place in the latent frame before
FARTHEST = 4  # in each direction; what goes farther appears at its new place


class Overlays:
    """Draws overlays of `pictures`. The reference 2 i is picture i to the left, 2 i + 1 to the right."""

    def __init__(self, vae: Autoencoder, pictures: Sequence[Picture]) -> None:
        self.vae, self.pictures = vae, pictures
        self.known: dict[tuple[int, Displacement | None], Tensor] = {}

    @torch.no_grad()
    def moved(self, reference: int, by: Displacement | None) -> Tensor:
        """Latents times alpha, and alpha, `[C + 4, h, w]`, from the upper left of both places on; `None` is for a first frame."""
        key = (reference, by)
        if key not in self.known:
            rgba = turned(self.pictures[reference // 2].rgba, 1 if reference % 2 else -1)
            down, right = (LATENT * step for step in by or (0, 0))
            count = 1 if by is None else 1 + PER_LATENT
            frames = np.zeros((count, SIDE + abs(down), SIDE + abs(right), 4), np.float32)
            for i, frame in enumerate(frames):
                y, x = max(0, -down) + down * i // PER_LATENT, max(0, -right) + right * i // PER_LATENT
                frame[y : y + SIDE, x : x + SIDE] = rgba
            video = torch.from_numpy(np.stack([on_grey(frame) for frame in frames])).permute(0, 3, 1, 2)
            alpha = torch.stack([alpha_of(frame) for frame in frames[-PER_LATENT:]]).float().mean(0)
            self.known[key] = torch.cat([self.vae.encode(video[None])[0, -1] * alpha.mean(0), alpha]).half()
        return self.known[key]

    def draw(self, references: list[int], places: Tensor, shown: Tensor) -> Tensor:
        """f16 `[F, C + 4, H, W]` of a clip from its first frame on, with places `[F, N, 2]` and bool `shown` `[F, N]`. A later reference hides
        earlier ones."""
        made = torch.zeros(len(places), CHANNELS + ALPHA[0] * ALPHA[1], HEIGHT, WIDTH).half()
        for frame, slot in shown.nonzero().tolist():
            at, by = places[frame, slot].tolist(), None
            if frame:
                # A subject that turns round was the other reference before.
                same = [slot, *(other for other, number in enumerate(references) if number // 2 == references[slot] // 2)]
                before = next((other for other in same if shown[frame - 1, other]), slot)
                down, right = (places[frame, slot] - places[frame - 1, before]).tolist()
                by = (down, right) if max(abs(down), abs(right)) <= FARTHEST else (0, 0)
            put(made[frame], self.moved(references[slot], by), *(a - max(0, step) for a, step in zip(at, by or (0, 0))))
        return made


def put(overlay: Tensor, picture: Tensor, top: int, left: int) -> None:
    """Puts `picture` `[C + 4, h, w]` over a part of `overlay` `[C + 4, H, W]`."""
    height, width = picture.shape[1:]
    rows, columns = slice(max(top, 0), max(top + height, 0)), slice(max(left, 0), max(left + width, 0))
    under = overlay[:, rows, columns]
    part = picture[:, rows.start - top :, columns.start - left :][:, : under.shape[1], : under.shape[2]]
    under.mul_(1 - part[CHANNELS:].mean(0)).add_(part)
