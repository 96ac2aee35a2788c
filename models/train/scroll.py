"""How far does the background move from one frame to another?

Compares the lower part of two frames without the subjects, shifted by whole latents. A ground without marks looks the same at every shift,
and waves look the same after a wavelength: drawn clips show how often that misleads.
"""

from __future__ import annotations

import cv2
import numpy as np

from bank import SIDE
from scenes import LATENT

FARTHEST = 10  # latents
LOWER = 0.55  # part of the height above the compared part
MARGIN = 8  # pixels around subjects


def seen(shape: tuple[int, ...], centres: list[tuple[int, int]]) -> np.ndarray:
    """Where there is no subject, bool `[H, W]`; `centres` are those of subjects in pixels."""
    mask = np.ones(shape[:2], bool)
    for x, y in centres:
        half = SIDE // 2 + MARGIN
        mask[max(y - half, 0) : max(y + half, 0), max(x - half, 0) : max(x + half, 0)] = False
    return mask


def scrolled(before: np.ndarray, after: np.ndarray, centres: tuple[list[tuple[int, int]], list[tuple[int, int]]]) -> int:
    """Pixels that the camera moves to the right between two frames `[H, W, 3]` in [0, 1] with subjects at these centres."""
    top, errors = int(LOWER * before.shape[0]), {}
    # Edges, since large areas of one colour fit everywhere.
    edges = [cv2.Sobel(cv2.GaussianBlur(frame, (0, 0), 1), cv2.CV_32F, 1, 0)[top:] for frame in (before.astype(np.float32), after.astype(np.float32))]
    masks = [seen(frame.shape, some)[top:] for frame, some in zip((before, after), centres)]
    for latents in range(-FARTHEST, FARTHEST + 1):
        by = latents * LATENT
        cut = [slice(max(by, 0), before.shape[1] + min(by, 0)), slice(max(-by, 0), before.shape[1] - max(by, 0))]
        both = masks[0][:, cut[0]] & masks[1][:, cut[1]]
        a, b = (edge[:, part][both] for edge, part in zip(edges, cut))
        if both.sum() > 500:
            errors[by] = ((a - b) ** 2).sum() / max((a**2).sum() + (b**2).sum(), 1e-6)
    return min(errors, key=lambda by: (errors[by], abs(by))) if errors else 0
