"""Random clips: one or two subjects that move through a scene, with captions, references, and places of the subjects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bank import SIDE
from canvas import HEIGHT, WIDTH, Rng
from motions import BESIDE, CAMERA_PAN, MOTIONS, OFTEN, Motion
from pictures import Picture
from scenes import LATENT, PER_LATENT, Scene

FRAME_RATE = 16
SUBJECTS = 2  # most references of a clip
FLOATS = {"space": True, "underwater": True, "sea": False}  # whether everything floats; elsewhere what is at home in air, space or water does
HEIGHTS = (16, 40)  # least and greatest upper edge of what floats, in pixels
PAIR, PAN = 0.2, 0.06  # probabilities
# Probability that the caption may name a subject, but the clip shows only the place: without a reference there is no subject.
ABSENT = 0.1
FOLLOW = 0.5  # probability that the camera follows one subject that runs or walks; it follows two
FOLLOWS = (", the camera follows it", ", followed by the camera", "; the camera follows", ", the camera moves with it")
CAMERA = (", the camera pans{dir}", "; the camera moves{dir}", ", seen from a camera that moves{dir}")
# Held-out pairs of subject and place, to test generalization.
HELD_OUT = {("fox", "city"), ("horse", "sea"), ("penguin", "desert"), ("automobile", "snow"), ("rocket", "meadow"),
            ("whale", "sea"), ("swan", "forest"), ("balloon", "beach"), ("elephant", "forest"), ("cat", "mountains")}


def choose(rng: Rng, options: tuple[str, ...]) -> str:
    return str(options[rng.integers(len(options))])


def way(facing: int) -> str:
    return " to the right" if facing > 0 else " to the left"


def standing(ground: int) -> int:
    """Upper edge of a picture whose subject stands on this line: whole latents."""
    return LATENT * ((ground - SIDE + 12) // LATENT)


@dataclass
class Actor:
    """A subject and its motion. Places are the upper left corner of its picture in pixels."""

    picture: Picture
    motion: str
    facing: int  # first; -1 is left, 1 is right
    x: int
    y: int
    floats: bool  # does not stand on the ground
    followed: bool  # by the camera

    @property
    def path(self) -> Motion:
        motion = MOTIONS[self.motion]
        return motion.followed() if self.followed else motion

    def at(self, latent: int) -> tuple[int, int, int]:
        """x, y, and facing at a latent frame."""
        dx, dy, facing = self.path.place(latent, self.facing)
        return self.x + dx, self.y + dy, facing

    def between(self, frame: int) -> tuple[int, int, int]:
        """x, y and facing at a video frame. Latent frame n ends with frame 4 n, so the way from n to n + 1 is drawn before n + 1."""
        before, part = divmod(frame, PER_LATENT)
        (x, y, facing), (x1, y1, facing1) = self.at(before), self.at(before + 1)
        return x + (x1 - x) * part // PER_LATENT, y + (y1 - y) * part // PER_LATENT, facing1 if part else facing


class Clip:
    """Content and caption of a clip. `plain` means one subject and a still camera, or one that `follows`; places are whole latents if
    `aligned`."""

    def __init__(
        self, rng: Rng, scene: Scene, pool: list[list[Picture]], weights: tuple[float, ...], plain: bool = False, aligned: bool = True,
        follows: bool = False,
    ) -> None:
        self.scene = scene
        self.offset = LATENT * int(rng.integers(0, 80))
        pair = not plain and rng.random() < PAIR
        self.follows = pair or follows or not plain and rng.random() < FOLLOW
        self.actors = [self.actor(rng, pool, weights, slot) for slot in ((0, 1) if pair else (None,))]
        if pair and self.actors[0].motion in ("run", "walk"):  # there is one camera
            self.actors[1].motion, self.actors[1].facing = self.actors[0].motion, self.actors[0].facing
        elif pair and self.actors[1].motion in ("run", "walk"):
            self.actors[1].motion = "stand"
        self.absent = not plain and rng.random() < ABSENT
        first = self.actors[0]
        self.pan = 0
        if not plain and first.motion == "stand" and rng.random() < PAN * len(OFTEN):
            self.pan = int(rng.choice((-CAMERA_PAN, CAMERA_PAN)))
        self.speed = self.pan or self.follows * first.facing * first.path.camera
        if not aligned:
            self.offset += int(rng.integers(LATENT))
            for actor in self.actors:
                actor.x, actor.y = actor.x + int(rng.integers(LATENT)), actor.y + int(rng.integers(LATENT))

    def actor(self, rng: Rng, pool: list[list[Picture]], weights: tuple[float, ...], slot: int | None) -> Actor:
        place = self.scene.place
        while True:
            group = pool[int(rng.choice(len(pool), p=weights))]
            picture = group[int(rng.integers(len(group)))]
            # Mostly in a matching place, sometimes in another.
            at_home = picture.element in place.elements or rng.random() < 0.4
            if at_home and (picture.key, place.name) not in HELD_OUT:
                break
        motion = choose(rng, OFTEN if slot is None else BESIDE)
        facing = 1 if rng.random() < 0.5 else -1
        floats = FLOATS.get(place.name, picture.element in ("air", "space", "water"))
        ground = standing(place.ground) + LATENT * int(rng.integers(0, 2))
        y = LATENT * int(rng.integers(HEIGHTS[0] // LATENT, HEIGHTS[1] // LATENT + 1)) if floats else ground
        least, most = {None: (48, 144), 0: (0, 32), 1: (160, 192)}[slot]
        path = MOTIONS[motion].followed() if self.follows else MOTIONS[motion]
        if motion == "cross":
            least, most = (-32, 48) if facing > 0 else (144, 224)
        elif path.turn:
            way = path.turn * path.dx[0]
            least, most = (0, WIDTH - SIDE - way) if facing > 0 else (way, WIDTH - SIDE)
        x = LATENT * int(rng.integers(least // LATENT, most // LATENT + 1))
        return Actor(picture, motion, facing, x, y, floats, self.follows)

    @property
    def visible(self) -> list[Actor]:
        """The subjects that the clip shows."""
        return [] if self.absent else self.actors

    @property
    def references(self) -> list[tuple[Picture, int]]:
        """At most `SUBJECTS` pictures with the side that they face."""
        made = [(actor.picture, actor.facing) for actor in self.visible]
        return made + [(a.picture, -a.facing) for a in self.visible if a.path.turn][: SUBJECTS - len(made)]

    def where(self, frame: int, between: bool) -> list[tuple[int, int, int]]:
        """x, y and facing of all subjects in a video frame, or in a latent frame."""
        shift = self.pan * frame // (PER_LATENT if between else 1)
        found = (actor.between(frame) if between else actor.at(frame) for actor in self.actors)
        return [(x - shift, y, facing) for x, y, facing in found]

    def places(self, latents: int) -> tuple[np.ndarray, np.ndarray]:
        """Places of the references in latent frames, i64 `[latents, SUBJECTS, 2]` (row, column) in latents, and which are to be
        seen, bool `[latents, SUBJECTS]`."""
        places, seen = np.zeros((latents, SUBJECTS, 2), np.int64), np.zeros((latents, SUBJECTS), bool)
        for i in range(latents):
            for actor, (x, y, facing) in zip(self.visible, self.where(i, False)):
                slot = self.references.index((actor.picture, facing))
                places[i, slot], seen[i, slot] = (y // LATENT, x // LATENT), -SIDE < x < WIDTH
        return places, seen

    def frames(self, count: int) -> np.ndarray:
        """u8 `[count, HEIGHT, WIDTH, 3]`."""
        made = np.empty((count, HEIGHT, WIDTH, 3), np.uint8)
        for i in range(count):
            picture = self.scene.background(self.offset, self.speed, i)
            for actor, (x, y, facing) in zip(self.visible, self.where(i, True)):
                if not actor.floats and self.scene.place.name != "sea":
                    shade(picture, x + SIDE / 2, actor.y + 0.96 * SIDE, actor.y - y)
                put(picture, actor.picture.rgba, x, y, facing)
            made[i] = picture.round()
        return made

    def caption(self, rng: Rng) -> str:
        """A caption in varied words; sometimes without motion or place."""
        a, place, form = self.actors[0], self.scene.phrase(rng), rng.random()
        name, verb = named(rng, a), action(rng, a)
        if len(self.actors) == 2:
            other, its_verb = named(rng, self.actors[1]), action(rng, self.actors[1])
            text = f"{name} {verb} and {other} {its_verb} {place}" if form < 0.4 else f"{name} and {other} {place}"
            if form > 0.85:
                text = f"{name} {verb} next to {other} {place}"
        elif self.absent and form < 0.5:
            text = place
        elif form < 0.6:
            text = f"{name} {verb} {place}"
        elif form < 0.7:
            text = f"{place}, {name} {verb}"
        elif form < 0.8:
            text = f"{choose(rng, ('a video of', 'a cartoon of', 'an animation of', 'a picture of'))} {name} that {verb} {place}"
        elif form < 0.9:
            text = f"{name} {place}"
        elif form < 0.95:
            text = f"{name.split(' ', 1)[1]}, {place}, {verb}"
        else:
            text = f"{name} {verb}"
        if self.speed and not self.pan and len(self.actors) == 1:
            text += choose(rng, FOLLOWS)
        if self.pan:
            text += choose(rng, CAMERA).format(dir=way(self.pan))
        return text.capitalize() if rng.random() < 0.3 else text


def named(rng: Rng, actor: Actor) -> str:
    """The noun with an article."""
    name = choose(rng, actor.picture.names)
    if rng.random() < 0.08:
        name = f"{choose(rng, ('cute', 'funny', 'nice', 'big', 'little'))} {name}"
    return f"{choose(rng, ('an', 'an', 'the', 'one') if name[0] in 'aeiou' else ('a', 'a', 'the', 'one'))} {name}"


def action(rng: Rng, actor: Actor) -> str:
    """A verb for the motion, sometimes with the direction."""
    verbs = actor.path.verbs
    words = verbs[actor.picture.element] if actor.picture.element in verbs else verbs.get("*") or verbs["land"]
    return choose(rng, words).format(dir=way(actor.facing) if rng.random() < 0.6 else "")


def turned(rgba: np.ndarray, facing: int) -> np.ndarray:
    """Pictures face to the left."""
    return rgba if facing < 0 else rgba[:, ::-1]


def put(picture: np.ndarray, rgba: np.ndarray, x: int, y: int, facing: int) -> None:
    """Draws a subject over `picture`, f32 `[HEIGHT, WIDTH, 3]` in [0, 255]."""
    top, bottom, left, right = max(y, 0), min(y + SIDE, HEIGHT), max(x, 0), min(x + SIDE, WIDTH)
    if top >= bottom or left >= right:
        return
    part = turned(rgba, facing)[top - y : bottom - y, left - x : right - x]
    under = picture[top:bottom, left:right]
    under *= 1 - part[..., 3:]
    under += 255 * part[..., :3]


def shade(picture: np.ndarray, middle: float, ground: float, height: float) -> None:
    """Draws a shadow, fainter the higher the subject is, so that jumping differs from standing."""
    width = SIDE * 0.34 * max(1 - height / 120, 0.4)
    top = max(int(ground - 12), 0)
    y, x = np.mgrid[top:HEIGHT, :WIDTH].astype(np.float32)
    far = np.sqrt(((x + 0.5 - middle) / width) ** 2 + ((y + 0.5 - ground) / (width * 0.175)) ** 2)
    picture[top:] *= 1 - 0.25 * np.clip((1 - far) * width * 0.175 + 0.5, 0, 1)[..., None]
