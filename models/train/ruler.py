"""Which drawing does a frame show? A ruler that agrees with the eye.

A frame is compared with a drawing and its rivals, mirrored and at several sizes, anywhere in it, by colour under the drawing's mask,
relative to the drawing's own contrast. Error 0 is the drawing itself, 0.1 a good likeness, above 0.4 a patch of similar colours.
A classifier that is trained on drawn clips sees colours: it took such patches for the subject.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from bank import SIDE, drawings
from pictures import draw

HALF = 2  # frames are compared at half their size
SIDES = (56, 60, 64, 68, 72)  # of a drawing, at half size
RIVALS, SIMILAR = 40, 10  # per frame, and how many of them are the most similar drawings


@dataclass
class Found:
    error: float
    place: tuple[int, int]  # centre in pixels of the frame
    facing: int


@lru_cache(maxsize=None)
def thumbnails() -> tuple[list[str], np.ndarray]:
    """Names of the bank, and f32 `[N, values]`: small pictures on grey with their alpha."""
    names = [d.name for d in drawings()]
    small = [cv2.resize(draw(name), (16, 16), interpolation=cv2.INTER_AREA) for name in names]
    return names, np.stack([np.concatenate([s[..., :3] + 0.5 * (1 - s[..., 3:]), s[..., 3:]], -1) for s in small])


def rivals(key: str, rng: np.random.Generator) -> list[str]:
    """`RIVALS` other drawings: the most similar ones, and random ones."""
    names, small = thumbnails()
    own = cv2.resize(draw(key), (16, 16), interpolation=cv2.INTER_AREA)
    own = np.concatenate([own[..., :3] + 0.5 * (1 - own[..., 3:]), own[..., 3:]], -1)
    far = np.minimum(((small - own) ** 2).mean((1, 2, 3)), ((small - own[:, ::-1]) ** 2).mean((1, 2, 3)))
    order = [i for i in np.argsort(far) if names[i] != key.split("#")[0]]
    rest = rng.choice(order[SIMILAR:], RIVALS - SIMILAR, replace=False)
    return [names[i] for i in (*order[:SIMILAR], *rest)]


@lru_cache(maxsize=1024)
def template(key: str, side: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Colours and mask of a drawing, f32 `[side, side, 3]` and `[side, side]`, and the variance of the colours."""
    rgba = cv2.resize(draw(key), (side, side), interpolation=cv2.INTER_AREA)
    mask = (rgba[..., 3] > 0.5).astype(np.float32)
    colour = rgba[..., :3] / np.maximum(rgba[..., 3:], 1e-3) * mask[..., None]
    mean = colour.sum((0, 1)) / mask.sum()
    return colour, mask, float(((colour - mean) ** 2 * mask[..., None]).sum() / mask.sum() / 3)


def measure(frame: np.ndarray, keys: list[str]) -> dict[str, Found]:
    """Errors of these drawings in a frame, f32 `[H, W, 3]` in [0, 1]."""
    frame = cv2.resize(frame, (frame.shape[1] // HALF, frame.shape[0] // HALF), interpolation=cv2.INTER_AREA)
    height, width = frame.shape[:2]
    colours, squares = np.fft.rfft2(frame, axes=(0, 1)), np.fft.rfft2((frame**2).sum(-1))
    found = {}
    for key in keys:
        best = Found(9.0, (0, 0), -1)
        for side in SIDES:
            colour, mask, variance = template(key, side)
            for facing in (-1, 1):
                c, m = (colour, mask) if facing < 0 else (colour[:, ::-1], mask[:, ::-1])
                spread = (colours * np.fft.rfft2(c, s=(height, width), axes=(0, 1)).conj()).sum(-1)
                power = squares * np.fft.rfft2(m, s=(height, width)).conj()
                error = np.fft.irfft2(power - 2 * spread, s=(height, width)) + (c**2).sum()
                error = error[: height - side + 1, : width - side + 1] / m.sum() / 3 / (variance + 0.02)
                y, x = np.unravel_index(error.argmin(), error.shape)
                if error[y, x] < best.error:
                    best = Found(float(error[y, x]), (int(HALF * (x + side / 2)), int(HALF * (y + side / 2))), facing)
        found[key] = best
    return found


def judge(frame: np.ndarray, key: str, rng: np.random.Generator) -> tuple[int, Found]:
    """Rank of the drawing among its rivals (1: the nearest), and where it was found."""
    found = measure(frame, [key, *rivals(key, rng)])
    return 1 + sum(other.error < found[key].error for other in found.values()), found[key]


def decibels(frame: np.ndarray, drawn: np.ndarray, key: str, x: int, y: int, facing: int) -> float:
    """PSNR of a frame against the drawn one, on the opaque pixels of the subject whose upper left corner is at `x`, `y`."""
    mask = np.zeros(frame.shape[:2], bool)
    alpha = (draw(key)[..., 3] if facing < 0 else draw(key)[:, ::-1, 3]) > 0.5
    top, left = max(y, 0), max(x, 0)
    part = alpha[top - y : frame.shape[0] - y, left - x : frame.shape[1] - x]
    mask[top : top + part.shape[0], left : left + part.shape[1]] = part[:SIDE, :SIDE]
    return float(-10 * np.log10(max(((frame - drawn)[mask] ** 2).mean(), 1e-8))) if mask.any() else float("nan")
