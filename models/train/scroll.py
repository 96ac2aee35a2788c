"""Does the ground move as it should from one frame to another?

Compares the ground of two frames without the subjects, at every shift. A model's ground is soft, so the question is not where it went, but
whether the movement that is asked for explains the second frame better than none, and better than the opposite one. Drawn clips show how
often that misleads.
"""

from __future__ import annotations

import cv2
import numpy as np

from bank import SIDE
from scenes import LATENT

TOP = 0.78  # part of the height above the compared part
MARGIN = 8  # pixels around subjects
DRIFT = 2 * LATENT  # pixels that waves move by themselves between the frames


def seen(shape: tuple[int, ...], centres: list[tuple[int, int]]) -> np.ndarray:
    """Where there is no subject, bool `[H, W]`; `centres` are those of subjects in pixels."""
    mask = np.ones(shape[:2], bool)
    for x, y in centres:
        half = SIDE // 2 + MARGIN
        mask[max(y - half, 0) : max(y + half, 0), max(x - half, 0) : max(x + half, 0)] = False
    return mask


def errors(before: np.ndarray, after: np.ndarray, centres: tuple[list[tuple[int, int]], list[tuple[int, int]]], farthest: int) -> dict[int, float]:
    """How much two frames `[H, W, 3]` in [0, 1] differ if the camera has moved so many pixels to the right, in steps of a latent."""
    top, found = int(TOP * before.shape[0]), {}
    # Edges, since large areas of one colour fit everywhere.
    smooth = [cv2.GaussianBlur(frame.astype(np.float32), (0, 0), 1) for frame in (before, after)]
    edges = [np.concatenate([cv2.Sobel(frame, cv2.CV_32F, 1, 0), cv2.Sobel(frame, cv2.CV_32F, 0, 1)], -1)[top:] for frame in smooth]
    masks = [seen(frame.shape, some)[top:] for frame, some in zip((before, after), centres)]
    for by in range(-farthest, farthest + 1, LATENT):
        cut = [slice(max(by, 0), before.shape[1] + min(by, 0)), slice(max(-by, 0), before.shape[1] - max(by, 0))]
        both = masks[0][:, cut[0]] & masks[1][:, cut[1]]
        a, b = (edge[:, part][both] for edge, part in zip(edges, cut))
        if both.sum() > 500:
            found[by] = float(((a - b) ** 2).sum() / max((a**2).sum() + (b**2).sum(), 1e-6))
    return found


def explains(found: dict[int, float], moved: int, least: int) -> bool:
    """Whether a camera movement of `moved` pixels explains the frames best, of itself, none, and the opposite; without a movement, whether
    none explains them better than one of at least `least` pixels."""
    rest = min(error for by, error in found.items() if abs(by) < least)
    if moved == 0:
        return rest < min(error for by, error in found.items() if abs(by) >= least)
    own, opposite = (
        min(error for by, error in found.items() if abs(by - to) <= DRIFT and abs(by) >= least) for to in (moved, -moved)
    )
    return own < min(rest, opposite)
