"""The places: simple landscapes in layers with parallax, most of them animated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np

WIDTH, HEIGHT = 320, 192
PERIOD = 640  # period of a layer in pixels
LAYERS = 6  # maximum layers per scene
# Wavelength in pixels. At twice the camera movement per latent frame the direction would be ambiguous.
WAVE = 80

Colour = tuple[float, float, float]
Rng = np.random.Generator


@dataclass
class Layer:
    """A periodic strip, RGBA f32 [HEIGHT, PERIOD, 4], premultiplied."""

    strip: np.ndarray | None
    depth: float  # scrolled pixels per pixel of camera movement
    drift: float = 0.0  # own horizontal speed in pixels per second
    sway: float = 0.0  # vertical amplitude in pixels
    fall: float = 0.0  # falling speed in pixels per second, periodic


@dataclass
class Scene:
    """A place with its captions and the y position of its ground, from the top."""

    name: str
    phrases: tuple[str, ...]
    elements: tuple[str, ...]
    ground: float
    layers: list[Layer] = field(default_factory=list)


def rgb(text: str) -> Colour:
    return tuple(int(text[i : i + 2], 16) / 255 for i in (0, 2, 4))


def vary(rng: Rng, text: str, amount: float = 0.05) -> Colour:
    """A random variation of the colour."""
    c = np.array(rgb(text)) * (1 + rng.normal(0, amount)) + rng.normal(0, amount / 3, 3)
    return tuple(np.clip(c, 0, 1))


class Canvas:
    """Draws antialiased shapes on a periodic strip."""

    SCALE = 2

    def __init__(self) -> None:
        self.pixels = np.zeros((HEIGHT * self.SCALE, PERIOD * self.SCALE, 4), np.float32)

    def polygon(self, points: list[tuple[float, float]], colour: Colour, alpha: float = 1.0) -> Canvas:
        for offset in (-PERIOD, 0, PERIOD):
            moved = [((x + offset) * self.SCALE * 8, y * self.SCALE * 8) for x, y in points]
            cv2.fillPoly(self.pixels, [np.int32(np.round(moved))], (*(c * alpha for c in colour), alpha), shift=3)
        return self

    def circle(self, x: float, y: float, r: float, colour: Colour, alpha: float = 1.0) -> Canvas:
        turn = np.linspace(0, 2 * np.pi, 40)
        return self.polygon(list(zip(x + r * np.cos(turn), y + r * np.sin(turn))), colour, alpha)

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

    def layer(self, depth: float, **motion: float) -> Layer:
        strip = cv2.resize(self.pixels, (PERIOD, HEIGHT), interpolation=cv2.INTER_AREA)
        return Layer(np.ascontiguousarray(strip), depth, **motion)


def spread(rng: Rng, count: int, margin: float = 0.1) -> Iterator[float]:
    """Positions of objects along a strip, about evenly spaced."""
    for i in range(count):
        yield (i + rng.uniform(margin, 1 - margin)) * PERIOD / count


def gradient(top: Colour, bottom: Colour) -> Layer:
    mix = np.linspace(0, 1, HEIGHT, dtype=np.float32)[:, None, None]
    strip = np.ones((HEIGHT, PERIOD, 4), np.float32)
    strip[..., :3] = np.array(top, np.float32) * (1 - mix) + np.array(bottom, np.float32) * mix
    return Layer(strip, 0)


def clouds(rng: Rng, colour: Colour, count: int = 5, low: float = 60, alpha: float = 0.9) -> Layer:
    canvas = Canvas()
    for x in spread(rng, count):
        y, s = rng.uniform(12, low), rng.uniform(0.7, 1.4)
        for dx, dy, r in ((-18, 3, 11), (0, 0, 16), (17, 4, 10)):
            canvas.circle(x + dx * s, y + dy * s, r * s, colour, alpha)
        canvas.rectangle(x - 22 * s, y + 3 * s, 44 * s, 11 * s, colour, alpha)
    return canvas.layer(0.1, drift=float(rng.uniform(4, 10)) * rng.choice((-1, 1)))


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


def dots(rng: Rng, count: int, size: tuple[float, float], colour: Colour, alpha: float, low: float = HEIGHT) -> Canvas:
    canvas = Canvas()
    for _ in range(count):
        canvas.circle(rng.uniform(0, PERIOD), rng.uniform(2, low - 2), rng.uniform(*size), colour, alpha)
    return canvas


def meadow(rng: Rng) -> Scene:
    scene = Scene("meadow", ("in a green meadow", "on the grass", "over the green hills", "in a field", "in the countryside"),
                  ("land", "road", "air"), 158)
    canvas = Canvas().circle(rng.uniform(40, 280), 34, 18, vary(rng, "ffd93b"))
    flowers = Canvas()
    for _ in range(40):
        x, y = rng.uniform(0, PERIOD), rng.uniform(158, 188)
        flowers.circle(x, y, 2.4, rgb(rng.choice(("ffffff", "ff6fa8", "ffe04d"))))
    scene.layers = [gradient(vary(rng, "6cc4ff"), vary(rng, "d4f1ff")), canvas.layer(0), clouds(rng, (1, 1, 1)),
                    Canvas().hills(rng, 118, 14, vary(rng, "8ed16a")).layer(0.3),
                    Canvas().hills(rng, 142, 6, vary(rng, "5fb648")).layer(1), flowers.layer(1)]
    return scene


def snow(rng: Rng) -> Scene:
    scene = Scene("snow", ("over the snow", "in the snow", "in winter", "in a snowy field", "through a snowy forest"),
                  ("land", "road", "air"), 160)
    scene.layers = [gradient(vary(rng, "9db9d6"), vary(rng, "e3edf7")),
                    Canvas().hills(rng, 112, 16, vary(rng, "c9d9ea", 0.03)).layer(0.25),
                    trees(rng, 138, 9, vary(rng, "2f6b57"), rgb("5b4636"), True).layer(0.5),
                    Canvas().hills(rng, 142, 6, vary(rng, "f6fafe", 0.02)).layer(1),
                    dots(rng, 60, (1.2, 2.6), (1, 1, 1), 0.95).layer(0.7, fall=float(rng.uniform(25, 45)), drift=8)]
    return scene


def night(rng: Rng) -> Scene:
    scene = Scene("night", ("at night", "under the moon", "under the stars", "in the moonlight", "on a starry night"),
                  ("land", "road", "air"), 160)
    moon_x = rng.uniform(40, 280)
    sky = dots(rng, 70, (0.8, 1.7), (1, 1, 0.9), 0.95, 120)
    moon = Canvas().circle(moon_x, 38, 20, rgb("fff3c4")).circle(moon_x - 6, 33, 4, rgb("e8d9a0")).circle(moon_x + 7, 43, 3, rgb("e8d9a0"))
    scene.layers = [gradient(vary(rng, "0d1440"), vary(rng, "34408a")), sky.layer(0), moon.layer(0),
                    Canvas().hills(rng, 124, 16, vary(rng, "20306b")).layer(0.3),
                    Canvas().hills(rng, 146, 6, vary(rng, "1a2450")).layer(1)]
    return scene


def sea(rng: Rng) -> Scene:
    scene = Scene("sea", ("on the sea", "over the ocean", "on the water", "on the waves", "at sea"), ("water", "air"), 150)
    sun = Canvas().circle(rng.uniform(40, 280), 36, 17, vary(rng, "ffdf5a"))
    layers = [gradient(vary(rng, "7fd0ff"), vary(rng, "e9f9ff")), sun.layer(0), clouds(rng, (1, 1, 1), 4)]
    for i, colour in enumerate(("2f9fe0", "2188cf", "1670b4")):
        x = np.arange(0, PERIOD + 1, 4).astype(float)
        y = 112 + 20 * i + 7 * np.abs(np.sin(np.pi * x / WAVE + i))
        canvas = Canvas().polygon([*zip(x, y), (PERIOD, HEIGHT + 20), (0, HEIGHT + 20)], vary(rng, colour, 0.03))
        for at in spread(rng, 5):
            canvas.ellipse(at, 128 + 20 * i + rng.uniform(-3, 3), rng.uniform(9, 16), 2.2, (1, 1, 1), 0.6)
        layers.append(canvas.layer(0.5 + 0.25 * i, drift=12.0 * (1 if i % 2 else -1), sway=2.0))
    scene.layers = layers
    return scene


def desert(rng: Rng) -> Scene:
    scene = Scene("desert", ("in the desert", "over the sand", "on the dunes", "among cacti", "in a hot desert"),
                  ("land", "road", "air"), 160)
    sun = Canvas().circle(rng.uniform(40, 280), 36, 22, vary(rng, "fff0a0"))
    cacti, green = Canvas(), vary(rng, "3d9a50")
    for x in spread(rng, 5, 0.2):
        s = rng.uniform(0.8, 1.2)
        cacti.rectangle(x - 5 * s, 150 - 44 * s, 10 * s, 46 * s, green).circle(x, 150 - 44 * s, 5 * s, green)
        cacti.rectangle(x - 17 * s, 150 - 26 * s, 14 * s, 6 * s, green).rectangle(x - 17 * s, 150 - 38 * s, 6 * s, 14 * s, green)
        cacti.rectangle(x + 3 * s, 150 - 20 * s, 14 * s, 6 * s, green).rectangle(x + 11 * s, 150 - 32 * s, 6 * s, 14 * s, green)
    scene.layers = [gradient(vary(rng, "ffb35c"), vary(rng, "ffe9b8")), sun.layer(0),
                    Canvas().hills(rng, 116, 14, vary(rng, "e9b368"), (1, 2)).layer(0.3), cacti.layer(0.7),
                    Canvas().hills(rng, 144, 6, vary(rng, "f2cb82")).layer(1)]
    return scene


def city(rng: Rng) -> Scene:
    scene = Scene("city", ("in the city", "through the city", "down the street", "on a road", "past tall buildings"),
                  ("land", "road", "air"), 166)

    def skyline(low: float, high: float, colours: tuple[str, ...], windows: str) -> Canvas:
        canvas, x = Canvas(), 0.0
        while x < PERIOD - 30:
            w, h = rng.uniform(34, 60), rng.uniform(low, high)
            w = min(w, PERIOD - x)
            canvas.rectangle(x, 148 - h, w - 3, h + 10, vary(rng, str(rng.choice(colours))))
            for wy in np.arange(148 - h + 8, 140, 15):
                for wx in np.arange(x + 6, x + w - 12, 13):
                    canvas.rectangle(wx, wy, 7, 8, rgb(windows), 1.0)
            x += w
        return canvas

    far = skyline(60, 110, ("9fb4cc", "aabdd3"), "c3d3e4")
    near = skyline(30, 75, ("d9776a", "6f8fc9", "e0b06a", "8bb08a"), "fff2bd")
    road = Canvas().rectangle(0, 146, PERIOD, 50, rgb("5b5f6b")).rectangle(0, 146, PERIOD, 6, rgb("b9bcc6"))
    for x in range(0, PERIOD, 64):
        road.rectangle(x, 178, 32, 4, rgb("f4f4f4"))
    scene.layers = [gradient(vary(rng, "8fcdf5"), vary(rng, "e8f4fb")), clouds(rng, (1, 1, 1), 3, 40),
                    far.layer(0.25), near.layer(0.6), road.layer(1)]
    return scene


def space(rng: Rng) -> Scene:
    scene = Scene("space", ("in space", "among the stars", "in outer space", "past a planet", "through the galaxy"),
                  ("space", "air", "land"), 128)
    x, y = rng.uniform(50, 270), rng.uniform(40, 80)
    colour = vary(rng, str(rng.choice(("e58a4f", "c85a8a", "5aa7c8"))))
    planet = Canvas().circle(x, y, 26, colour).ellipse(x, y, 42, 7, vary(rng, "f4dfb0"), 0.9)
    planet.polygon([(x - 26, y), (x + 26, y), (x + 22, y - 14), (x, y - 26), (x - 22, y - 14)], colour)
    rocks = Canvas()
    for x in spread(rng, 7, 0.2):
        y, r, grey = rng.uniform(14, HEIGHT - 14), rng.uniform(6, 11), vary(rng, "8d86a8")
        rocks.circle(x, y, r, grey).circle(x + 0.7 * r, y + 0.2 * r, 0.7 * r, grey).circle(x - 0.3 * r, y - 0.2 * r, 0.25 * r, rgb("6a6385"))
    scene.layers = [gradient(vary(rng, "0a0822"), vary(rng, "2a1650")), dots(rng, 80, (0.7, 1.3), (1, 1, 1), 0.8).layer(0.2, drift=3),
                    planet.layer(0.1), dots(rng, 40, (1.2, 2.2), (1, 0.97, 0.85), 1).layer(0.8, drift=10), rocks.layer(1)]
    return scene


def sunset(rng: Rng) -> Scene:
    scene = Scene("sunset", ("at sunset", "in the evening light", "before the setting sun", "at dusk", "in the golden hour"),
                  ("land", "road", "air"), 160)
    sun = Canvas().circle(rng.uniform(90, 230), 108, 34, rgb("fff0b0"))
    dark = vary(rng, "4a2248")
    scene.layers = [gradient(vary(rng, "5b2a86"), vary(rng, "ff9a4a")), sun.layer(0), clouds(rng, vary(rng, "ff8f7a"), 5, 70, 0.7),
                    Canvas().hills(rng, 126, 14, vary(rng, "8a3a63")).layer(0.3),
                    bushes(rng, 148, dark).hills(rng, 146, 6, dark).layer(1)]
    return scene


def mountains(rng: Rng) -> Scene:
    scene = Scene("mountains", ("in the mountains", "below snowy peaks", "among high mountains", "in the alps", "on a mountain meadow"),
                  ("land", "road", "air"), 160)
    peaks, colour = Canvas(), vary(rng, "7185a3")
    for x in spread(rng, 6, 0.3):
        h = rng.uniform(70, 105)
        peaks.polygon([(x - 80, 140), (x, 140 - h), (x + 80, 140)], colour)
        peaks.polygon([(x - 80 * 0.32, 140 - h * 0.68), (x, 140 - h), (x + 80 * 0.32, 140 - h * 0.68), (x + 8, 140 - h * 0.6), (x - 8, 140 - h * 0.6)], (1, 1, 1))
    scene.layers = [gradient(vary(rng, "86c8f2"), vary(rng, "e6f4fb")), clouds(rng, (1, 1, 1), 3, 40), peaks.layer(0.2),
                    trees(rng, 146, 10, vary(rng, "3f7d4c"), rgb("6b4b35"), True).layer(0.6),
                    Canvas().hills(rng, 146, 5, vary(rng, "7fbf5e")).layer(1)]
    return scene


def underwater(rng: Rng) -> Scene:
    scene = Scene("underwater", ("under water", "under the sea", "in the deep sea", "over a coral reef", "in an aquarium"),
                  ("water",), 128)
    weeds = Canvas()
    for x in spread(rng, 12):
        h = rng.uniform(30, 70)
        y = np.linspace(0, h, 12)
        line = x + 6 * np.sin(y / 8)
        weeds.polygon([*zip(line - 4, 186 - y), *zip(line[::-1] + 4, 186 - y[::-1])], vary(rng, "2fa36b"))
    coral = Canvas().hills(rng, 174, 5, vary(rng, "e8d39a"))
    for x in spread(rng, 6, 0):
        c = vary(rng, str(rng.choice(("ff7f6e", "ff9fc4", "ffb44d"))))
        for dx in (-9, 0, 9):
            coral.circle(x + dx, 168 - (6 if dx == 0 else 0), 8, c)
    scene.layers = [gradient(vary(rng, "2bb3dd"), vary(rng, "0b4f8f")), weeds.layer(0.6, sway=1.5), coral.layer(1),
                    dots(rng, 34, (1.5, 4), rgb("d8f6ff"), 0.7).layer(0.8, fall=-float(rng.uniform(20, 35)))]
    return scene


def forest(rng: Rng) -> Scene:
    scene = Scene("forest", ("in the forest", "through the woods", "among the trees", "in a dark forest", "between tall trees"),
                  ("land", "air"), 162)
    scene.layers = [gradient(vary(rng, "a9dca0"), vary(rng, "dff2c8")),
                    trees(rng, 132, 14, vary(rng, "7fb77a"), rgb("8a7358"), False).layer(0.3),
                    Canvas().hills(rng, 134, 5, vary(rng, "78ad5c")).layer(0.5),
                    trees(rng, 148, 8, vary(rng, "3c8a46"), rgb("6b4b35"), False).layer(0.7),
                    Canvas().hills(rng, 148, 5, vary(rng, "4f8f3f")).layer(1)]
    return scene


def rain(rng: Rng) -> Scene:
    scene = Scene("rain", ("in the rain", "on a rainy day", "in bad weather", "in a storm", "under grey clouds"),
                  ("land", "road", "air", "water"), 160)
    drops = Canvas()
    for _ in range(110):
        x, y = rng.uniform(0, PERIOD), rng.uniform(12, HEIGHT - 2)
        drops.polygon([(x, y - 10), (x + 1.6, y - 10), (x - 0.6, y), (x - 2.2, y)], rgb("dbe9f5"), 0.8)
    ground, water = vary(rng, "56745a"), vary(rng, "93a9b8")
    wet = bushes(rng, 148, ground).hills(rng, 146, 5, ground)
    for x in spread(rng, 7):
        wet.ellipse(x, rng.uniform(166, 184), rng.uniform(16, 28), rng.uniform(3, 4.5), water)
    scene.layers = [gradient(vary(rng, "5f7183"), vary(rng, "a9b8c4")), clouds(rng, vary(rng, "7f8d9b"), 8, 44, 1),
                    Canvas().hills(rng, 122, 12, vary(rng, "6f8a72")).layer(0.3), wet.layer(1), drops.layer(0.9, fall=300.0)]
    return scene


SCENES: list[Callable[[Rng], Scene]] = [
    meadow, snow, night, sea, desert, city, space, sunset, mountains, underwater, forest, rain,
]


def draw_one(job: tuple[str, tuple[int, ...], int, int]) -> Scene:
    """The scene without its strips, which are stored in the file."""
    file, shape, seed, index = job
    cv2.setNumThreads(1)
    rng = np.random.default_rng([seed, index])
    scene = SCENES[index % len(SCENES)](rng)
    strips = np.memmap(file, np.uint8, "r+", shape=shape)
    for i, layer in enumerate(scene.layers):
        strips[index, i] = np.round(layer.strip * 255).clip(0, 255)
        layer.strip = None
    return scene
