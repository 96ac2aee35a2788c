"""A clip: one subject that moves through one scene, with its caption. No two are the same."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from scenes import HEIGHT, PERIOD, SCENES, WIDTH, Rng, Scene
from sprites import SUBJECTS, Subject, load

FRAME_RATE = 16

# What it does → verbs; {dir} is filled with the direction or left away.
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


@dataclass(frozen=True)
class Spec:
    """Everything that is said of a clip."""

    subject: Subject
    motion: str
    direction: int  # -1 to the left, 1 to the right
    caption: str


class Clip:
    """Draws its frames one by one."""

    def __init__(self, rng: Rng, icons: Path, allow=lambda subject, scene: True, scene: Scene | None = None) -> None:
        self.rng = rng
        self.scene = SCENES[rng.integers(len(SCENES))](rng) if scene is None else scene
        self.camera = 0.0 if scene is None else rng.uniform(0, PERIOD)
        # Mostly where it belongs, sometimes where it does not.
        fitting = [s for s in SUBJECTS if allow(s.icon, self.scene.name)]
        at_home = [s for s in fitting if s.element in self.scene.elements]
        pool = at_home if at_home and rng.random() < 0.75 else fitting
        subject = pool[rng.integers(len(pool))]
        motion = "travel" if rng.random() < 0.4 else str(rng.choice(list(MOTIONS)))
        self.sprite = load(icons)[subject.icon]
        self.direction = int(rng.choice((-1, 1)))
        self.size = HEIGHT * rng.uniform(0.5, 0.7)
        self.speed = rng.uniform(50, 110)
        self.rate = rng.uniform(0.7, 1.3)
        self.phase = rng.uniform(0, 1)
        self.x = WIDTH * (0.5 + rng.uniform(-0.12, 0.12))
        flies = subject.element in ("air", "space", "water") and self.scene.name != "sea" or self.scene.name in ("space", "underwater")
        low = self.scene.ground + rng.uniform(4, 18) - self.size / 2
        self.y = HEIGHT * rng.uniform(0.42, 0.56) if flies else low
        self.bob = 3.0 if flies else 5.0
        self.spec = Spec(subject, motion, self.direction, caption(rng, subject, motion, self.direction, self.scene))

    def frame(self, t: float) -> np.ndarray:
        """RGB f32 [HEIGHT, WIDTH, 3] in [0, 1] at `t` seconds."""
        beat = 2 * np.pi * (self.rate * t + self.phase)
        x, y, angle, scale, facing, camera = self.x, self.y, 0.0, 1.0, self.direction, self.camera
        match self.spec.motion:
            case "travel":
                camera += self.direction * self.speed * t
                y -= self.bob * abs(np.sin(1.6 * beat))
                x += 8 * np.sin(0.5 * beat)
                angle = 4 * np.sin(1.6 * beat)
            case "jump":
                y -= 44 * abs(np.sin(0.8 * beat))
            case "stand":
                scale = 1 + 0.015 * np.sin(beat)
            case "spin":
                angle = -self.direction * 360 * 0.4 * self.rate * t
            case "dance":
                angle = 16 * np.sin(beat)
                x += 8 * np.sin(beat)
            case "pace":
                swing = 2 * np.pi * (0.22 * self.rate * t + self.phase)
                x += 82 * np.sin(swing)
                facing = 1 if np.cos(swing) > 0 else -1
                y -= 3 * abs(np.sin(1.6 * beat))
            case "approach":
                scale = 0.85 + 0.35 * np.sin(0.45 * beat)
            case "float":
                y -= 26 * np.sin(0.6 * beat) + 8
        view = self.scene.paint(t, camera)
        self.shadow(view, x, y, scale)
        return self.paste(view, x, y, angle, self.size * scale, facing)

    def shadow(self, view: np.ndarray, x: float, y: float, scale: float) -> None:
        """On the ground, fainter the higher the subject is: it tells jumping from standing."""
        if self.bob != 5.0 or self.scene.name == "sea":
            return
        ground = self.y + self.size * 0.46
        height = max(ground - (y + self.size * scale * 0.46), 0)
        width = self.size * scale * 0.34 * max(1 - height / 120, 0.4)
        mask = np.zeros((HEIGHT, WIDTH), np.float32)
        cv2.ellipse(mask, (int(x * 8), int(ground * 8)), (int(width * 8), int(width * 1.4)), 0, 0, 360, 1.0, -1, cv2.LINE_AA, 3)
        view *= 1 - 0.25 * mask[..., None]

    def paste(self, view: np.ndarray, x: float, y: float, angle: float, size: float, facing: int) -> np.ndarray:
        side = self.sprite.shape[0]
        zoom = size / side
        # The drawings look to the left.
        turn = cv2.getRotationMatrix2D((0, 0), angle, 1.0)[:, :2] @ np.diag([-facing * zoom, zoom])
        centre = np.array([x, y]) - turn @ np.array([side / 2, side / 2])
        matrix = np.concatenate([turn, centre[:, None]], 1).astype(np.float32)
        sprite = cv2.warpAffine(self.sprite, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)
        return view * (1 - sprite[..., 3:]) + sprite[..., :3]


def choose(rng: Rng, options: tuple[str, ...]) -> str:
    return str(options[rng.integers(len(options))])


def action(rng: Rng, subject: Subject, motion: str, direction: int) -> str:
    """A verb for what `subject` does, now and then with where to."""
    way = ""
    if rng.random() < 0.5:
        way = " to the left" if direction < 0 else " to the right"
    return choose(rng, MOTIONS[motion].get(subject.element) or MOTIONS[motion]["*"]).format(dir=way)


def caption(rng: Rng, subject: Subject, motion: str, direction: int, scene: Scene) -> str:
    """In varied words; sometimes without the motion, the colour or the place."""
    pick = partial(choose, rng)

    name = pick(subject.names)
    if subject.colour not in name and rng.random() < 0.4:
        name = f"{subject.colour} {name}"
    if rng.random() < 0.15:
        name = f"{pick(('big', 'large', 'little', 'small', 'cute', 'funny'))} {name}"
    article = pick(("a", "a", "the", "one")) if name[0] not in "aeiou" else pick(("an", "an", "the", "one"))
    verb = action(rng, subject, motion, direction)
    place = pick(scene.phrases)
    form = rng.random()
    if form < 0.55:
        text = f"{article} {name} {verb} {place}"
    elif form < 0.65:
        text = f"{place}, {article} {name} {verb}"
    elif form < 0.75:
        text = f"{pick(('a video of', 'a cartoon of', 'an animation of', 'a picture of'))} {article} {name} that {verb} {place}"
    elif form < 0.87:
        text = f"{article} {name} {place}"
    elif form < 0.93:
        text = f"{name}, {scene.name}, {verb}"
    else:
        text = f"{article} {name} {verb}"
    return text.capitalize() if rng.random() < 0.3 else text
