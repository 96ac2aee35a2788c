"""Scenes: a place at a time of day in a weather, as layers that scroll at their own speed.

All speeds are whole pixels per frame, and whole latents (8 pixels) per latent frame for everything with edges, so that the latents
of a moving layer are those of the layer at rest, moved (`../README.md`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from canvas import HEIGHT, PERIOD, WIDTH, Canvas, Colour, Rng, bushes, clouds, dots, marks, rgb, spread, trees, vary

LATENT = 8  # pixels
PER_LATENT = 4  # frames in a latent frame
# Wavelength in pixels. At twice the movement per latent frame the direction would be ambiguous.
WAVE = 80


@dataclass
class Layer:
    """A periodic strip, RGBA u8 `[HEIGHT, PERIOD, 4]`, premultiplied."""

    strip: np.ndarray
    depth: float  # scrolled pixels per pixel of camera movement, one of `transformer.DEPTHS`
    drift: int = 0  # own horizontal movement in pixels per latent frame
    fall: int = 0  # vertical movement in pixels per latent frame, periodic

    def shift(self, speed: int) -> int:
        """Pixels per latent frame at a camera speed of `speed` pixels per latent frame: whole latents."""
        return self.drift + round(self.depth * speed)


@dataclass
class Place:
    """A place in daylight: the colours of its sky, its layers from far to near, and where its ground is."""

    name: str
    phrases: tuple[str, ...]
    elements: tuple[str, ...]  # of the drawings that are at home here
    sky: tuple[str, str]
    layers: list[Layer]
    ground: int = 160  # y position of the feet of what stands, in pixels from the top
    outside: bool = True  # has a sky, so times of day and weathers


@dataclass
class Time:
    """A time of day: the sky, and the factors of all colours below it."""

    phrases: tuple[str, ...]
    sky: tuple[str, str] | None
    light: Colour


@dataclass
class Weather:
    phrases: tuple[str, ...]
    light: Colour
    cloud: str | None = None  # colour of the clouds
    layer: Callable[[Rng], Layer] | None = None


def strip(canvas: Canvas, depth: float, **motion: int) -> Layer:
    return Layer(canvas.strip(), depth, **motion)


def meadow(rng: Rng) -> Place:
    flowers = Canvas().hills(rng, 142, 6, vary(rng, "5fb648"))
    marks(rng, flowers, (vary(rng, "4a9e38"), vary(rng, "84d46c")))
    for _ in range(24):
        flowers.circle(rng.uniform(0, PERIOD), rng.uniform(160, 188), 3.2, rgb(rng.choice(("ffffff", "ff6fa8", "ffe04d"))))
    return Place("meadow", ("in a green meadow", "on the grass", "over the green hills", "in a field", "in the countryside"),
                 ("land", "road", "air"), ("6cc4ff", "d4f1ff"),
                 [strip(Canvas().hills(rng, 118, 14, vary(rng, "8ed16a")), 0.5), strip(flowers, 1)])


def snow(rng: Rng) -> Place:
    return Place("snow", ("over the snow", "in the snow", "in winter", "in a snowy field", "through a snowy forest"),
                 ("land", "road", "air"), ("9db9d6", "e3edf7"),
                 [strip(Canvas().hills(rng, 112, 16, vary(rng, "c9d9ea", 0.03)), 0),
                  strip(trees(rng, 138, 9, vary(rng, "2f6b57"), rgb("5b4636"), True), 0.5),
                  strip(marks(rng, bushes(rng, 150, vary(rng, "dfe9f5", 0.02)).hills(rng, 142, 6, vary(rng, "f6fafe", 0.02)),
                              (vary(rng, "c3d4ea", 0.02),)), 1)])


def sea(rng: Rng) -> Place:
    layers = []
    for i, colour in enumerate(("2f9fe0", "2188cf", "1670b4")):
        x = np.arange(0, PERIOD + 1, 4).astype(float)
        y = 112 + 20 * i + 7 * np.abs(np.sin(np.pi * x / WAVE + i))
        canvas = Canvas().polygon([*zip(x, y), (PERIOD, HEIGHT + 20), (0, HEIGHT + 20)], vary(rng, colour, 0.03))
        for at in spread(rng, 5):
            canvas.ellipse(at, 128 + 20 * i + rng.uniform(-3, 3), rng.uniform(9, 16), 2.2, (1, 1, 1), 0.6)
        layers.append(strip(canvas, (0.5, 0.5, 1)[i], drift=LATENT * (1 if i % 2 else -1)))
    return Place("sea", ("on the sea", "over the ocean", "on the water", "on the waves", "at sea"), ("water", "air"),
                 ("7fd0ff", "e9f9ff"), layers, ground=152)


def desert(rng: Rng) -> Place:
    cacti, green = Canvas(), vary(rng, "3d9a50")
    for x in spread(rng, 5, 0.2):
        s = rng.uniform(0.8, 1.2)
        cacti.rectangle(x - 5 * s, 150 - 44 * s, 10 * s, 46 * s, green).circle(x, 150 - 44 * s, 5 * s, green)
        cacti.rectangle(x - 17 * s, 150 - 26 * s, 14 * s, 6 * s, green).rectangle(x - 17 * s, 150 - 38 * s, 6 * s, 14 * s, green)
        cacti.rectangle(x + 3 * s, 150 - 20 * s, 14 * s, 6 * s, green).rectangle(x + 11 * s, 150 - 32 * s, 6 * s, 14 * s, green)
    return Place("desert", ("in the desert", "over the sand", "on the dunes", "among cacti", "in a hot desert"),
                 ("land", "road", "air"), ("ffb35c", "ffe9b8"),
                 [strip(Canvas().hills(rng, 116, 14, vary(rng, "e9b368"), (1, 2)), 0.5), strip(cacti, 1),
                  strip(marks(rng, Canvas().hills(rng, 144, 6, vary(rng, "f2cb82")), (vary(rng, "b98a54"), vary(rng, "d8a860"))), 1)])


def city(rng: Rng) -> Place:
    def skyline(low: float, high: float, colours: tuple[str, ...], windows: str) -> Canvas:
        canvas, x = Canvas(), 0.0
        while x < PERIOD - 30:
            w, h = min(rng.uniform(34, 60), PERIOD - x), rng.uniform(low, high)
            canvas.rectangle(x, 148 - h, w - 3, h + 10, vary(rng, str(rng.choice(colours))))
            for wy in np.arange(148 - h + 8, 140, 15):
                for wx in np.arange(x + 6, x + w - 12, 13):
                    canvas.rectangle(wx, wy, 7, 8, rgb(windows))
            x += w
        return canvas

    far = skyline(60, 110, ("9fb4cc", "aabdd3"), "c3d3e4")
    near = skyline(30, 75, ("d9776a", "6f8fc9", "e0b06a", "8bb08a"), "fff2bd")
    road = Canvas().rectangle(0, 146, PERIOD, 50, rgb("5b5f6b")).rectangle(0, 146, PERIOD, 6, rgb("b9bcc6"))
    for x in range(0, PERIOD, 64):
        road.rectangle(x, 178, 32, 4, rgb("f4f4f4"))
    return Place("city", ("in the city", "through the city", "down the street", "on a road", "past tall buildings"),
                 ("land", "road", "air"), ("8fcdf5", "e8f4fb"), [strip(far, 0), strip(near, 0.5), strip(road, 1)], ground=166)


def space(rng: Rng) -> Place:
    x, y = rng.uniform(50, 270), rng.uniform(40, 80)
    colour = vary(rng, str(rng.choice(("e58a4f", "c85a8a", "5aa7c8"))))
    planet = dots(rng, 80, (0.7, 1.3), (1, 1, 1), 0.8).circle(x, y, 26, colour).ellipse(x, y, 42, 7, vary(rng, "f4dfb0"), 0.9)
    planet.polygon([(x - 26, y), (x + 26, y), (x + 22, y - 14), (x, y - 26), (x - 22, y - 14)], colour)
    rocks = dots(rng, 30, (1.2, 2.2), (1, 0.97, 0.85), 1)
    for x in spread(rng, 7, 0.2):
        y, r, grey = rng.uniform(14, HEIGHT - 14), rng.uniform(6, 11), vary(rng, "8d86a8")
        rocks.circle(x, y, r, grey).circle(x + 0.7 * r, y + 0.2 * r, 0.7 * r, grey)
        rocks.circle(x - 0.3 * r, y - 0.2 * r, 0.25 * r, rgb("6a6385"))
    return Place("space", ("in space", "among the stars", "in outer space", "past a planet", "through the galaxy"),
                 ("space", "air", "land"), ("0a0822", "2a1650"), [strip(planet, 0), strip(rocks, 1, drift=-LATENT)], 136, False)


def mountains(rng: Rng) -> Place:
    peaks, colour = Canvas(), vary(rng, "7185a3")
    for x in spread(rng, 6, 0.3):
        h = rng.uniform(70, 105)
        left, right, snow_line = x - 80 * 0.32, x + 80 * 0.32, 140 - h * 0.68
        peaks.polygon([(x - 80, 140), (x, 140 - h), (x + 80, 140)], colour)
        peaks.polygon([(left, snow_line), (x, 140 - h), (right, snow_line), (x + 8, 140 - h * 0.6), (x - 8, 140 - h * 0.6)], (1, 1, 1))
    return Place("mountains", ("in the mountains", "below snowy peaks", "among high mountains", "in the alps", "on a mountain meadow"),
                 ("land", "road", "air"), ("86c8f2", "e6f4fb"),
                 [strip(peaks, 0), strip(trees(rng, 146, 10, vary(rng, "3f7d4c"), rgb("6b4b35"), True), 0.5),
                  strip(marks(rng, bushes(rng, 150, vary(rng, "6aa84f")).hills(rng, 146, 5, vary(rng, "7fbf5e")),
                              (vary(rng, "8f9499"), vary(rng, "5c9a45"))), 1)])


def underwater(rng: Rng) -> Place:
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
    bubbles = dots(rng, 34, (1.5, 4), rgb("d8f6ff"), 0.7)
    return Place("underwater", ("under water", "under the sea", "in the deep sea", "over a coral reef", "in an aquarium"),
                 ("water",), ("2bb3dd", "0b4f8f"),
                 [strip(weeds, 0.5), strip(coral, 1), strip(bubbles, 0.5, fall=-LATENT)], 136, False)


def forest(rng: Rng) -> Place:
    far = trees(rng, 132, 14, vary(rng, "7fb77a"), rgb("8a7358"), False).hills(rng, 134, 5, vary(rng, "78ad5c"))
    near = trees(rng, 148, 8, vary(rng, "3c8a46"), rgb("6b4b35"), False)
    return Place("forest", ("in the forest", "through the woods", "among the trees", "in a dark forest", "between tall trees"),
                 ("land", "air"), ("a9dca0", "dff2c8"),
                 [strip(far, 0.5), strip(near, 1),
                  strip(marks(rng, bushes(rng, 150, vary(rng, "478a3a")).hills(rng, 148, 5, vary(rng, "4f8f3f")),
                              (vary(rng, "8a5a34"), vary(rng, "6fb255"))), 1)], 162)


def beach(rng: Rng) -> Place:
    water = Canvas().rectangle(0, 112, PERIOD, 40, vary(rng, "35b6d8"))
    for x in spread(rng, 8):
        water.ellipse(x, rng.uniform(118, 134), rng.uniform(10, 20), 1.8, (1, 1, 1), 0.7)
    sand = Canvas().hills(rng, 140, 4, vary(rng, "f3dba0"), (1, 2))
    for x in spread(rng, 7):
        sand.ellipse(x, rng.uniform(164, 186), rng.uniform(4, 8), 3, vary(rng, "e0b978"))
    palms = Canvas()
    for x in spread(rng, 4, 0.2):
        s = rng.uniform(0.9, 1.2)
        palms.polygon([(x - 3, 146), (x + 3, 146), (x + 9 * s, 146 - 60 * s), (x + 6 * s, 146 - 60 * s)], rgb("8a6242"))
        for dx, dy in ((-26, -50), (-20, -72), (10, -80), (32, -66), (34, -48)):
            palms.polygon([(x + 8 * s, 146 - 64 * s), (x + dx * s, 146 + dy * s), (x + 8 * s, 146 - 57 * s)], vary(rng, "3f9b4f"))
    return Place("beach", ("on the beach", "by the sea", "on a sandy beach", "under palm trees"), ("land", "water", "air"),
                 ("66c6f5", "e2f6fd"), [strip(water, 0), strip(palms, 1), strip(sand, 1)])


# Phrases that the model takes for another place, and what it reads instead: most of `by the sea` became the open sea.
REWORDED = {"by the sea": "on the beach"}
PLACES: list[Callable[[Rng], Place]] = [meadow, snow, sea, desert, city, space, mountains, underwater, forest, beach]

TIMES = {
    "day": Time(("", "", "", "in the sunshine", "on a bright day"), None, (1, 1, 1)),
    "sunset": Time(("at sunset", "in the evening light", "before the setting sun", "at dusk", "in the golden hour"), ("5b2a86", "ff9a4a"),
                   (0.78, 0.55, 0.6)),
    "night": Time(("at night", "under the moon", "under the stars", "in the moonlight", "on a starry night"), ("0d1440", "34408a"),
                  (0.34, 0.4, 0.62)),
    "morning": Time(("in the morning", "at sunrise", "early in the morning"), ("8fb7e8", "ffd9b0"), (0.98, 0.86, 0.8)),
}


def drops(rng: Rng) -> Layer:
    canvas = Canvas()
    for _ in range(110):
        x, y = rng.uniform(0, PERIOD), rng.uniform(12, HEIGHT - 2)
        canvas.polygon([(x, y - 10), (x + 1.6, y - 10), (x - 0.6, y), (x - 2.2, y)], rgb("dbe9f5"), 0.8)
    return strip(canvas, 1, fall=8 * LATENT)


def flakes(rng: Rng) -> Layer:
    return strip(dots(rng, 60, (1.2, 2.6), (1, 1, 1), 0.95), 0.5, fall=LATENT)


def mist(rng: Rng) -> Layer:
    canvas = Canvas()
    for x in spread(rng, 6):
        canvas.ellipse(x, rng.uniform(100, 150), rng.uniform(80, 140), rng.uniform(10, 22), (0.93, 0.95, 0.97), 0.3)
    return strip(canvas, 0.5)


WEATHERS = {
    "clear": Weather(("",), (1, 1, 1), "ffffff"),
    "rain": Weather(("in the rain", "on a rainy day", "in bad weather", "in a storm", "under grey clouds"), (0.66, 0.7, 0.74), "7f8d9b", drops),
    "snowfall": Weather(("in falling snow", "while it snows", "in a snowstorm"), (0.9, 0.93, 0.98), "e4ebf2", flakes),
    "fog": Weather(("in the fog", "in the mist", "on a foggy day"), (0.88, 0.9, 0.93), None, mist),
}


@dataclass
class Scene:
    """A place at a time of day in a weather."""

    place: Place
    time: str
    weather: str
    layers: list[Layer] = field(repr=False)

    @classmethod
    def draw(cls, rng: Rng, index: int | None = None) -> Scene:
        place = PLACES[int(rng.integers(len(PLACES))) if index is None else index % len(PLACES)](rng)
        if not place.outside:
            return cls(place, "day", "clear", [Layer(sky(rng, place.sky, "day", False), 0), *place.layers])
        time = str(rng.choice(list(TIMES), p=(0.5, 0.18, 0.22, 0.1)))
        weather = str(rng.choice(list(WEATHERS), p=(0.7, 0.14, 0.08, 0.08)))
        light = np.array(TIMES[time].light) * WEATHERS[weather].light
        colours = TIMES[time].sky or place.sky
        cover = WEATHERS[weather].cloud
        layers = [Layer(sky(rng, colours, time, weather == "clear", WEATHERS[weather].light), 0)]
        if cover and (weather != "clear" or rng.random() < 0.6):
            tint = vary(rng, cover) if time == "day" else tuple(np.array(rgb(cover)) * (np.array(light) + 0.15).clip(0, 1))
            amount = 8 if weather == "rain" else 4
            layers.append(Layer(clouds(rng, tint, amount).strip(), 0, drift=int(rng.choice((-4, 0, 0, 4)))))
        for layer in place.layers:
            lit = layer.strip.astype(np.float32) * (*light, 1)
            if time == "night" and place.name == "city":  # the windows are lit
                window = (layer.strip[..., :3] == np.round(255 * np.array(rgb("fff2bd")))).all(-1)
                lit[window] = layer.strip[window]
            layers.append(Layer(lit.astype(np.uint8), layer.depth, layer.drift, layer.fall))
        if make := WEATHERS[weather].layer:
            layers.append(make(rng))
        return cls(place, time, weather, layers)

    def background(self, offset: int, speed: int, frame: int) -> np.ndarray:
        """f32 `[HEIGHT, WIDTH, 3]` in [0, 255]; the camera starts at `offset` pixels and moves `speed` pixels per latent frame."""
        picture = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        for layer in self.layers:
            x = round(layer.depth * offset) + layer.shift(speed) * frame // PER_LATENT
            seen = layer.strip[:, (x + np.arange(WIDTH)) % PERIOD]
            if layer.fall:
                seen = np.roll(seen, layer.fall * frame // PER_LATENT, 0)
            picture = picture * (1 - seen[..., 3:].astype(np.float32) / 255) + seen[..., :3]
        return picture

    def phrase(self, rng: Rng) -> str:
        """Where and when, in varied words; the place or the time may be left out if the other is told."""
        where, when = str(rng.choice(self.place.phrases)), []
        if self.place.outside:
            when = [str(rng.choice(kind.phrases)) for kind in (TIMES[self.time], WEATHERS[self.weather])]
            when = [words for words in when if words]
        if when and rng.random() < 0.2:
            where = ""
        return " ".join(words for words in (where, *when) if words)


def sky(rng: Rng, colours: tuple[str, str], time: str, clear: bool, light: Colour = (1, 1, 1)) -> np.ndarray:
    """RGBA u8 `[HEIGHT, PERIOD, 4]`: a gradient with sun, or moon and stars."""
    mix = np.linspace(0, 1, HEIGHT, dtype=np.float32)[:, None, None]
    top, bottom = (np.array(vary(rng, colour), np.float32) * light for colour in colours)
    painted = (np.ones((HEIGHT, PERIOD, 3), np.float32) * (top * (1 - mix) + bottom * mix)).clip(0, 1)
    above = Canvas()
    x = float(rng.uniform(40, 280))
    if clear and time == "night":
        above = dots(rng, 70, (0.8, 1.7), (1, 1, 0.9), 0.95, 120)
        above.circle(x, 38, 20, rgb("fff3c4")).circle(x - 6, 33, 4, rgb("e8d9a0")).circle(x + 7, 43, 3, rgb("e8d9a0"))
    elif clear and time in ("sunset", "morning"):
        above.circle(x, 104, 32, rgb("fff0b0"))
    elif clear and rng.random() < 0.6:
        above.circle(x, 36, 18, vary(rng, "ffd93b"))
    over = above.strip().astype(np.float32) / 255
    painted = painted * (1 - over[..., 3:]) + over[..., :3]
    return np.concatenate([np.round(255 * painted), np.full((HEIGHT, PERIOD, 1), 255)], -1).astype(np.uint8)
