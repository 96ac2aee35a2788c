"""Antialiased shapes on periodic strips."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

WIDTH, HEIGHT = 320, 192
PERIOD = 640  # period of a strip in pixels

Colour = tuple[float, float, float]
Rng = np.random.Generator


def rgb(text: str) -> Colour:
    return tuple(int(text[i : i + 2], 16) / 255 for i in (0, 2, 4))


def vary(rng: Rng, text: str, amount: float = 0.05) -> Colour:
    """A random variation of the colour."""
    c = np.array(rgb(text)) * (1 + rng.normal(0, amount)) + rng.normal(0, amount / 3, 3)
    return tuple(np.clip(c, 0, 1))


class Canvas:
    SCALE = 2

    def __init__(self) -> None:
        self.pixels = np.zeros((HEIGHT * self.SCALE, PERIOD * self.SCALE, 4), np.float32)

    def polygon(self, points: list[tuple[float, float]], colour: Colour, alpha: float = 1.0) -> Canvas:
        left, right = min(x for x, _ in points), max(x for x, _ in points)
        for offset in (-PERIOD, 0, PERIOD):
            if right + offset < -1 or left + offset > PERIOD + 1:
                continue
            moved = [((x + offset) * self.SCALE * 8, y * self.SCALE * 8) for x, y in points]
            cv2.fillPoly(self.pixels, [np.int32(np.round(moved))], (*(c * alpha for c in colour), alpha), shift=3)
        return self

    def circle(self, x: float, y: float, r: float, colour: Colour, alpha: float = 1.0) -> Canvas:
        return self.ellipse(x, y, r, r, colour, alpha)

    def ellipse(self, x: float, y: float, a: float, b: float, colour: Colour, alpha: float = 1.0) -> Canvas:
        turn = np.linspace(0, 2 * np.pi, 40)
        return self.polygon(list(zip(x + a * np.cos(turn), y + b * np.sin(turn))), colour, alpha)

    def rectangle(self, x: float, y: float, w: float, h: float, colour: Colour, alpha: float = 1.0) -> Canvas:
        return self.polygon([(x, y), (x + w, y), (x + w, y + h), (x, y + h)], colour, alpha)

    def hills(self, rng: Rng, top: float, height: float, colour: Colour, waves: tuple[int, ...] = (1, 2, 3)) -> Canvas:
        """Fills the area below a periodic line."""
        x = np.arange(0, PERIOD + 1, 4)
        y = np.zeros_like(x, dtype=float)
        for k in waves:
            y += rng.uniform(0.4, 1) / k * np.sin(2 * np.pi * k * x / PERIOD + rng.uniform(0, 2 * np.pi))
        y = top + height * y / max(np.abs(y).max(), 1e-6)
        line = list(zip(x.astype(float), y))
        return self.polygon([*line, (PERIOD, HEIGHT + 8), (0, HEIGHT + 8)], colour)

    def strip(self) -> np.ndarray:
        """RGBA u8 `[HEIGHT, PERIOD, 4]`, premultiplied."""
        small = cv2.resize(self.pixels, (PERIOD, HEIGHT), interpolation=cv2.INTER_AREA)
        return np.round(255 * small.clip(0, 1)).astype(np.uint8)


def spread(rng: Rng, count: int, margin: float = 0.1) -> Iterator[float]:
    """Positions of objects along a strip, about evenly spaced."""
    for i in range(count):
        yield (i + rng.uniform(margin, 1 - margin)) * PERIOD / count


def clouds(rng: Rng, colour: Colour, count: int = 5, low: float = 60, alpha: float = 0.9) -> Canvas:
    canvas = Canvas()
    for x in spread(rng, count):
        y, s = rng.uniform(12, low), rng.uniform(0.7, 1.4)
        for dx, dy, r in ((-18, 3, 11), (0, 0, 16), (17, 4, 10)):
            canvas.circle(x + dx * s, y + dy * s, r * s, colour, alpha)
        canvas.rectangle(x - 22 * s, y + 3 * s, 44 * s, 11 * s, colour, alpha)
    return canvas


def trees(rng: Rng, ground: float, count: int, colour: Colour, trunk: Colour, fir: bool) -> Canvas:
    canvas = Canvas()
    for x in spread(rng, count):
        s = rng.uniform(0.7, 1.3)
        y = ground + rng.uniform(-3, 6)
        canvas.rectangle(x - 3 * s, y - 20 * s, 6 * s, 20 * s, trunk)
        if fir:
            for k in range(3):
                w, h = (24 - 5 * k) * s, y - (12 + 17 * k) * s
                canvas.polygon([(x - w, h), (x + w, h), (x, h - 28 * s)], colour)
        else:
            for dx, dy, r in ((-12, -30, 14), (12, -30, 14), (0, -44, 17)):
                canvas.circle(x + dx * s, y + dy * s, r * s, colour)
    return canvas


def bushes(rng: Rng, ground: float, colour: Colour) -> Canvas:
    """Passing objects for places with a bare horizon."""
    canvas = Canvas()
    for x in spread(rng, 7):
        s = rng.uniform(0.8, 1.4)
        for dx, dy, r in ((-12, 0, 10), (0, -7, 12), (12, 0, 10)):
            canvas.circle(x + dx * s, ground + dy * s, r * s, colour)
    return canvas


def marks(rng: Rng, canvas: Canvas, colours: tuple[Colour, ...], count: int = 18, high: tuple[float, float] = (158, 186)) -> Canvas:
    """Stones, tufts or prints on the ground: they show how it moves."""
    for x in spread(rng, count):
        a = rng.uniform(4, 9)
        canvas.ellipse(x, rng.uniform(*high), a, a * rng.uniform(0.35, 0.55), colours[int(rng.integers(len(colours)))])
    return canvas


def dots(rng: Rng, count: int, size: tuple[float, float], colour: Colour, alpha: float, low: float = HEIGHT) -> Canvas:
    canvas = Canvas()
    for _ in range(count):
        canvas.circle(rng.uniform(0, PERIOD), rng.uniform(2, low - 2), rng.uniform(*size), colour, alpha)
    return canvas
