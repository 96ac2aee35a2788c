"""Random clips: one or two subjects that move through a scene, with captions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from scenes import HEIGHT, PERIOD, WIDTH, Rng, Scene
from sprites import SUBJECTS, Subject

FRAME_RATE = 16

# Motion → verbs; {dir} becomes the direction or is removed.
MOTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "travel": {
        "land": ("runs{dir}", "is running{dir}", "walks{dir}", "races{dir}", "wanders{dir}"),
        "road": ("drives{dir}", "is driving{dir}", "races{dir}", "rolls{dir}", "goes{dir}"),
        "air": ("flies{dir}", "is flying{dir}", "glides{dir}", "soars{dir}"),
        "water": ("swims{dir}", "is swimming{dir}", "glides{dir}", "travels{dir}"),
        "space": ("flies{dir}", "is flying{dir}", "travels{dir}", "drifts{dir}"),
    },
    "jump": {"*": ("jumps", "jumps up and down", "hops", "is jumping", "bounces")},
    "stand": {"*": ("stands still", "rests", "waits", "is waiting", "stays in one place")},
    "spin": {"*": ("spins around", "turns round and round", "is spinning", "rolls over and over")},
    "dance": {"*": ("dances", "sways from side to side", "is dancing", "wobbles", "rocks to and fro")},
    "pace": {"*": ("goes back and forth", "paces to and fro", "moves from side to side", "goes left and right")},
    "approach": {"*": ("comes closer and goes away", "grows and shrinks", "comes near", "gets bigger and smaller")},
    "float": {"*": ("floats up and down", "rises and sinks", "hovers", "is floating in the air")},
}
# Sampling weights in training: difficult motions and common prompts are drawn more often.
OFTEN = (*4 * ("approach", "dance", "travel"), *3 * ("spin",), "jump", "float")
# Beats per second of all motions, and pixels per second of the camera. They are fixed, so that the first frame and the text
# determine every later position; this is learned in far fewer steps.
RATE, SPEED = 0.82, 80
# Motions that fit two subjects side by side.
BESIDE = ("jump", "stand", "spin", "dance", "float")
# Size as a fraction of the frame height, and its word in captions.
SIZES = {
    "huge": ((0.86, 1.02), ("huge", "giant", "enormous", "very big")),
    "tiny": ((0.26, 0.34), ("tiny", "very small", "little", "mini")),
}
CAMERA = {
    "zoom": (", the camera zooms in and out", "; zooming in and out", ", seen from near and far"),
    "pan": (", the camera pans from side to side", "; panning left and right", ", the camera looks around"),
}
# Held-out pairs of subject and scene, to test generalization.
HELD_OUT = {("fox", "city"), ("horse", "sea"), ("penguin", "desert"), ("automobile", "snow"), ("rocket", "night"),
            ("whale", "sea"), ("duck", "meadow"), ("balloon", "sunset"), ("elephant", "forest"), ("cat", "mountains")}

# Values of a subject in one frame: its index (-1: none), position of the centre, rotation in degrees, side in pixels,
# 1 if it looks to the right and -1 to the left, and half width and y position (from the top) of its shadow.
ACTOR = ("kind", "x", "y", "angle", "size", "facing", "shadow", "ground")


@dataclass
class Actor:
    """A subject and its motion."""

    subject: Subject
    motion: str
    direction: int  # -1 is left, 1 is right
    measure: str | None  # a key of SIZES
    size: float
    x: float
    y: float
    floats: bool  # does not stand on the ground

    def numbers(self, t: np.ndarray, shadows: bool) -> tuple[np.ndarray, np.ndarray]:
        """`[T, len(ACTOR)]` at `t` `[T]` seconds, and the movement of the camera.

        The subject starts upright and in place, and looks in the direction of its motion, so that the first frame determines
        the motion.
        """
        beat = 2 * np.pi * RATE * t
        still = np.zeros_like(t)
        x, y, angle, scale, facing, camera = self.x + still, self.y + still, still, 1 + still, self.direction + still, still
        match self.motion:
            case "travel":
                camera = self.direction * SPEED * t
                y = y - (3.0 if self.floats else 5.0) * np.abs(np.sin(1.6 * beat))
                x = x + 8 * np.sin(0.5 * beat)
                angle = 4 * np.sin(1.6 * beat)
            case "jump":
                y = y - 44 * np.abs(np.sin(0.8 * beat))
            case "stand":
                scale = 1 + 0.015 * np.sin(beat)
            case "spin":
                angle = -self.direction * 360 * 0.33 * RATE * t
            case "dance":
                angle = 22 * self.direction * np.sin(0.6 * beat)
                x = x + 14 * self.direction * np.sin(0.6 * beat)
            case "pace":
                swing = 0.22 * beat
                x = x + 82 * self.direction * np.sin(swing)
                facing = self.direction * np.where(np.cos(swing) > 0, 1, -1)
                y = y - 3 * np.abs(np.sin(1.6 * beat))
            case "approach":
                scale = 0.85 + 0.45 * np.sin(0.6 * beat)
            case "float":
                y = y - 26 * np.sin(0.6 * beat) - 8
        size = self.size * scale
        # On the ground, fainter the higher the subject is, so that jumping differs from standing.
        ground = self.y + self.size * 0.46
        height = np.maximum(ground - (y + size * 0.46), 0)
        shadow = size * 0.34 * np.maximum(1 - height / 120, 0.4) if shadows and not self.floats else still
        kind = SUBJECTS.index(self.subject) + still
        return np.stack([kind, x, y, angle, size, facing, shadow, ground + still], 1), camera


@dataclass
class Numbers:
    """The geometry of a clip: position and zoom of the camera `[T, 2]`, and its subjects `[1 or 2, T, len(ACTOR)]`."""

    view: np.ndarray
    actors: np.ndarray


def choose(rng: Rng, options: tuple[str, ...]) -> str:
    return str(options[rng.integers(len(options))])


class Clip:
    """Content and caption of a clip. `plain` means one subject of medium size and a still camera."""

    def __init__(self, rng: Rng, scene: Scene, index: int, allow=None, plain: bool = False) -> None:
        allow = allow or (lambda subject, place: (subject, place) not in HELD_OUT)
        self.scene, self.index = scene, index
        self.offset = rng.uniform(0, PERIOD)
        fitting = [s for s in SUBJECTS if allow(s.icon, scene.name)]
        pair = not plain and rng.random() < 0.12
        self.camera = choose(rng, tuple(CAMERA)) if not plain and not pair and rng.random() < 0.08 else None
        self.rate = rng.uniform(0.1, 0.16)
        self.actors = [self.actor(rng, fitting, place, plain) for place in (("left", "right") if pair else ("middle",))]
        # Both travel or neither does, since there is one camera.
        if pair and self.actors[0].motion == "travel":
            for name in ("motion", "direction"):
                setattr(self.actors[1], name, getattr(self.actors[0], name))

    def actor(self, rng: Rng, fitting: list[Subject], place: str, plain: bool) -> Actor:
        # Mostly in a matching place, sometimes in another.
        at_home = [s for s in fitting if s.element in self.scene.elements]
        pool = at_home if at_home and rng.random() < 0.75 else fitting
        subject = pool[rng.integers(len(pool))]
        if place == "middle":
            travels = plain and rng.random() < 0.4
            motion = "travel" if travels else choose(rng, tuple(MOTIONS) + (() if plain else OFTEN))
        else:
            motion = "travel" if place == "left" and rng.random() < 0.4 else choose(rng, BESIDE)
        if self.camera == "pan" and motion == "travel":
            motion = "stand"
        measure = choose(rng, tuple(SIZES)) if not plain and place == "middle" and rng.random() < 0.15 else None
        least, most = SIZES[measure][0] if measure else (0.5, 0.7) if place == "middle" else (0.38, 0.5)
        size = HEIGHT * rng.uniform(least, most)
        middle = {"middle": 0.5, "left": 0.26, "right": 0.74}[place]
        floats = (
            subject.element in ("air", "space", "water") and self.scene.name != "sea" or self.scene.name in ("space", "underwater")
        )
        high = HEIGHT * rng.uniform(0.42, 0.56)
        low = self.scene.ground + rng.uniform(4, 18) - size / 2
        return Actor(
            subject, motion, int(rng.choice((-1, 1))), measure, size,
            x=WIDTH * (middle + rng.uniform(-0.12, 0.12) * (1 if place == "middle" else 0.3)), y=high if floats else low,
            floats=floats,
        )

    @property
    def scrolls(self) -> bool:
        """Whether new content scrolls into view."""
        return self.camera == "pan" or self.actors[0].motion == "travel"

    def numbers(self, t: np.ndarray) -> Numbers:
        """The geometry at `t` `[T]` seconds."""
        made = [actor.numbers(t, self.scene.name != "sea") for actor in self.actors]
        swing = 2 * np.pi * self.rate * t
        pan, zoom = 0.0, np.ones_like(t)
        if self.camera == "pan":
            pan = 84 * np.sin(swing)
        elif self.camera == "zoom":
            zoom = 1.35 - 0.35 * np.cos(swing)
        for numbers, _ in made:
            numbers[:, 1] -= pan
        actors = np.stack([numbers for numbers, _ in made])
        nobody = np.full((2 - len(actors), *actors.shape[1:]), -1.0)
        return Numbers(np.stack([self.offset + made[0][1] + pan, zoom], 1), np.concatenate([actors, nobody]))

    def caption(self, rng: Rng) -> str:
        """A caption in varied words; sometimes without motion, colour or place."""
        pick = partial(choose, rng)
        a = self.actors[0]
        name, verb, place = named(rng, a), action(rng, a), pick(self.scene.phrases)
        form = rng.random()
        if len(self.actors) == 2:
            other, its_verb = named(rng, self.actors[1]), action(rng, self.actors[1])
            if form < 0.4:
                text = f"{name} and {other} {place}"
            elif form < 0.55:
                text = f"{place}, {name} and {other}"
            elif form < 0.75:
                text = f"{name} {verb} and {other} {its_verb} {place}"
            elif form < 0.87:
                text = f"{name} {verb} next to {other} {place}"
            else:
                text = f"{name} with {other}"
        elif form < 0.55:
            text = f"{name} {verb} {place}"
        elif form < 0.65:
            text = f"{place}, {name} {verb}"
        elif form < 0.75:
            text = f"{pick(('a video of', 'a cartoon of', 'an animation of', 'a picture of'))} {name} that {verb} {place}"
        elif form < 0.87:
            text = f"{name} {place}"
        elif form < 0.93:
            text = f"{name.split(' ', 1)[1]}, {self.scene.name}, {verb}"
        else:
            text = f"{name} {verb}"
        if self.camera:
            text += pick(CAMERA[self.camera])
        return text.capitalize() if rng.random() < 0.3 else text


def named(rng: Rng, actor: Actor) -> str:
    """The noun with an article, an unusual size, and sometimes the colour."""
    name = choose(rng, actor.subject.names)
    if actor.subject.colour not in name and rng.random() < 0.4:
        name = f"{actor.subject.colour} {name}"
    if actor.measure:
        name = f"{choose(rng, SIZES[actor.measure][1])} {name}"
    elif rng.random() < 0.08:
        name = f"{choose(rng, ('cute', 'funny', 'nice'))} {name}"
    article = choose(rng, ("an", "an", "the", "one") if name[0] in "aeiou" else ("a", "a", "the", "one"))
    return f"{article} {name}"


def action(rng: Rng, actor: Actor) -> str:
    """A verb for the motion, sometimes with the direction."""
    way = ""
    if rng.random() < 0.5:
        way = " to the left" if actor.direction < 0 else " to the right"
    return choose(rng, MOTIONS[actor.motion].get(actor.subject.element) or MOTIONS[actor.motion]["*"]).format(dir=way)
