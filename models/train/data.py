"""Batches of the pieces that `latents.py` wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from overlay import Overlays
from transformer import SINK, WINDOW, References


@dataclass
class Batch:
    """A batch of clips with as many frames as the attention window. If they do not start at the beginning of the clip, the
    first frame of the clip comes before them."""

    of: Source
    rows: Tensor  # [B]
    frames: list[int]
    features: Tensor  # [B, S, TEXT_DIM]
    references: References
    camera: Tensor  # [B, F], pixels to the right

    @property
    def begins(self) -> bool:
        return len(self.frames) == 1 or self.frames[SINK] == SINK

    @property
    def start(self) -> int:
        """First frame with a loss: later frames are never generated without a past, nor after only the first frame of the clip."""
        return 0 if self.begins else SINK + 1

    def frames_of(self, video: Tensor) -> Tensor:
        """f32 `[B, F, C, H, W]`."""
        return video[self.rows[:, None], torch.tensor(self.frames)].float()

    def remember(self, own: Tensor) -> None:
        """Predictions of the transformer for these clips, `[B, F, C, H, W]`."""
        self.of.own[self.rows[:, None], torch.tensor(self.frames[self.start :])] = own[:, self.start :].half()


class Source:
    """All pieces of a kind, as `latents.piece` describes them."""

    def __init__(self, folder: Path, references: dict[str, Tensor], overlays: Overlays) -> None:
        files = sorted(folder.glob("*.pt"))
        if not files:
            raise SystemExit(f"no data in {folder}: run latents.py {folder.name}")
        pieces = [torch.load(file) for file in files]
        for name in ("video", "features", "references", "places", "shown", "speed"):
            setattr(self, name, torch.cat([piece[name] for piece in pieces]))
        self.pictures, self.overlays = references, overlays
        self.known: dict[int, Tensor] = {}  # overlays of the clips
        # The transformer's last predictions for these clips, and the past it used for them.
        self.own = self.video.clone() if self.video.shape[1] > 1 else self.video
        # One and several references, so that few are drawn for nothing.
        several = self.references[:, 1] >= 0
        self.groups = [rows for rows in (several.logical_not().nonzero()[:, 0], several.nonzero()[:, 0]) if len(rows)]

    def __len__(self) -> int:
        return len(self.video)

    def overlay(self, row: int) -> Tensor:
        """f16 `[F, C + 4, H, W]` of a clip."""
        if row not in self.known:
            self.known[row] = self.overlays.draw(self.references[row].tolist(), self.places[row], self.shown[row])
        return self.known[row]

    def batch(self, size: int, no_reference: float = 0.0, no_place: float = 0.0) -> Batch:
        """Draws a batch. The last two are probabilities."""
        shares = torch.tensor([len(group) for group in self.groups], dtype=torch.float32)
        group = self.groups[int(torch.multinomial(shares, 1))]
        rows = group[torch.randint(len(group), (size,))]
        length = self.video.shape[1]
        first = int(torch.randint(SINK, max(length - WINDOW, SINK + 1), ()))
        frames = [*range(min(SINK, length)), *range(first, min(first + WINDOW + 1, length))]
        features = self.features[rows, torch.randint(self.features.shape[1], (size,))].float()
        which = self.references[rows]
        which = which[:, : 1 + int((which[:, 1] >= 0).any())]
        count = which.shape[1]
        shown = self.shown[rows][:, frames, :count]
        placed = torch.rand(size) >= no_place
        # Without a place the model also chooses which side it shows when.
        shown = torch.where(placed[:, None, None], shown, (which >= 0)[:, None])
        seen = torch.rand(size) >= no_reference
        shown = shown & seen[:, None, None]
        overlay = torch.stack([self.overlay(row)[frames] for row in rows.tolist()]).float()
        overlay = torch.where((placed & seen)[:, None, None, None, None], overlay, 0.0)
        references = References(
            self.pictures["latents"][which].float(), self.pictures["alpha"][which].float(), self.places[rows][:, frames, :count],
            shown, placed, overlay,
        )
        return Batch(self, rows, frames, features, references, self.speed[rows][:, None] * torch.tensor(frames))


def pictures_of(folder: Path) -> dict[str, Tensor]:
    """`latents` `[N, C, h, w]` and `alpha` `[N, 4, h, w]` of all references; 2 i and 2 i + 1 are the sides of picture i."""
    pieces = [torch.load(file) for file in sorted(folder.glob("*.pt"))]
    if not pieces:
        raise SystemExit(f"no data in {folder}: run latents.py references")
    return {name: torch.cat([piece[name] for piece in pieces]).flatten(0, 1) for name in ("latents", "alpha")}
