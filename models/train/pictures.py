"""Pictures of subjects: the drawings of the bank, the same in other colours, letters and flat logos.

A reference teaches the model to draw what it has never seen only if names do not suffice, so many pictures have colours or shapes that
their names do not tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

import bank
from bank import CORE, SIDE

LOGOS, RECOLOURED = 300, 500


@dataclass(frozen=True)
class Picture:
    """`key` identifies it: a name of the bank, the same and `#` and a seed if recoloured, or `logo#` and a seed. All face to the left."""

    key: str
    names: tuple[str, ...]
    element: str

    @property
    def rgba(self) -> np.ndarray:
        """f32 `[SIDE, SIDE, 4]` in [0, 1], premultiplied."""
        return draw(self.key)


def trained() -> list[list[Picture]]:
    """The pictures of the training data in groups: often asked for, the bank, recoloured, logos."""
    known = [d for d in bank.drawings() if not d.held_out]
    plain = [Picture(d.name, d.names, d.element) for d in known]
    rng = np.random.default_rng(21)
    again = [plain[i] for i in rng.choice(len(plain), RECOLOURED, replace=False)]
    recoloured = [Picture(f"{p.key}#{i}", p.names, p.element) for i, p in enumerate(again)]
    logos = [Picture(f"logo#{i}", ("logo", "sign", "badge", "symbol"), ("land", "air")[i % 2]) for i in range(LOGOS)]
    return [[p for p in plain if p.key in CORE], plain, recoloured, logos]


def held_out() -> list[Picture]:
    return [Picture(d.name, d.names, d.element) for d in bank.drawings() if d.held_out]


@lru_cache(maxsize=4096)
def draw(key: str) -> np.ndarray:
    name, _, seed = key.partition("#")
    if name == "logo":
        return logo(np.random.default_rng([22, int(seed)]))
    return recolour(bank.picture(name), np.random.default_rng([23, int(seed)])) if seed else bank.picture(name)


def recolour(rgba: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turns all hues by the same angle, and sometimes changes saturation and lightness."""
    alpha = rgba[..., 3:]
    rgb = rgba[..., :3] / np.maximum(alpha, 1e-3)
    hls = cv2.cvtColor(np.ascontiguousarray(rgb.clip(0, 1)), cv2.COLOR_RGB2HLS)
    hls[..., 0] = (hls[..., 0] + rng.uniform(40, 320)) % 360
    hls[..., 2] = np.clip(hls[..., 2] * rng.uniform(0.5, 1.2), 0, 1)
    hls[..., 1] = hls[..., 1] ** rng.uniform(0.7, 1.5)
    return np.concatenate([cv2.cvtColor(hls, cv2.COLOR_HLS2RGB).clip(0, 1) * alpha, alpha], -1)


def logo(rng: np.random.Generator) -> np.ndarray:
    """One or two flat shapes, and often letters."""
    scale = 4
    side = SIDE * scale
    image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    pen, middle = ImageDraw.Draw(image), side / 2

    def colour() -> tuple[int, ...]:
        if rng.random() < 0.25:
            return (*(3 * (int(rng.choice((20, 60, 245, 255))),)), 255)
        return (*cv2.cvtColor(np.uint8([[[rng.integers(180), rng.integers(120, 256), rng.integers(120, 256)]]]), cv2.COLOR_HSV2RGB)[0, 0].tolist(), 255)

    shape, size = int(rng.integers(6)), side * rng.uniform(0.36, 0.46)
    for size in (size, size * rng.uniform(0.6, 0.85))[: 1 + (rng.random() < 0.6)]:
        box = (middle - size, middle - size, middle + size, middle + size)
        if shape == 0:
            pen.ellipse(box, colour())
        elif shape == 1:
            pen.rounded_rectangle(box, size * 0.3, colour())
        elif shape == 2:
            pen.ellipse(box, None, colour(), int(size * 0.35))
        elif shape == 3:
            corners, inner = int(rng.integers(5, 9)), rng.uniform(0.45, 0.8)
            turn = np.arange(2 * corners) * np.pi / corners - np.pi / 2
            radius = np.where(np.arange(2 * corners) % 2, inner, 1) * size
            pen.polygon([(middle + r * np.cos(t), middle + r * np.sin(t)) for r, t in zip(radius, turn)], colour())
        elif shape == 4:
            pen.regular_polygon((middle, middle, size), int(rng.integers(3, 8)), float(rng.uniform(0, 90)), colour())
        else:
            pen.rectangle((middle - size, middle - size * 0.7, middle + size, middle + size * 0.7), colour())
    if rng.random() < 0.7:
        letters = "".join(rng.choice(list("ABCDEFGHJKLMNPRSTUVWXYZ23456789"), int(rng.integers(1, 4))))
        font = ImageFont.load_default(int(side * (0.55, 0.4, 0.3)[len(letters) - 1]))
        pen.text((middle, middle), letters, colour(), font, anchor="mm", stroke_width=int(rng.integers(0, 5)) * 2)
    rgba = np.asarray(image.resize((SIDE, SIDE), Image.BOX), np.float32) / 255
    return bank.premultiplied(rgba)
