"""The subjects: flat drawings, rasterized once.

From Fluent Emoji (Microsoft, MIT licence), as packed in the npm package `@iconify-json/fluent-emoji-flat`:

    npm pack @iconify-json/fluent-emoji-flat; tar xf iconify-json-*.tgz; python sprites.py package/icons.json
"""

from __future__ import annotations

import argparse
import io
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 192  # side of a rasterized sprite in pixels
DRAWN = Path(__file__).parent / "sprites.npz"


@dataclass(frozen=True)
class Subject:
    """A drawing, its names, and its verbs of motion."""

    icon: str
    names: tuple[str, ...]
    colour: str
    element: str  # "land", "air", "water", "road", "space"


SUBJECTS = [
    Subject("fox", ("fox", "vixen"), "red", "land"),
    Subject("cat", ("cat", "kitten"), "orange", "land"),
    Subject("dog", ("dog", "puppy"), "yellow", "land"),
    Subject("horse", ("horse", "pony"), "brown", "land"),
    Subject("rabbit", ("rabbit", "bunny"), "white", "land"),
    Subject("pig", ("pig", "piglet"), "pink", "land"),
    Subject("elephant", ("elephant",), "grey", "land"),
    Subject("tiger", ("tiger",), "striped", "land"),
    Subject("black-cat", ("black cat", "dark cat"), "purple", "land"),
    Subject("penguin", ("penguin",), "black and white", "land"),
    Subject("duck", ("duck", "drake"), "green-headed", "water"),
    Subject("swan", ("swan",), "white", "water"),
    Subject("parrot", ("parrot",), "pink", "air"),
    Subject("bird", ("bird",), "red", "air"),
    Subject("butterfly", ("butterfly",), "orange", "air"),
    Subject("owl", ("owl",), "brown", "air"),
    Subject("turtle", ("turtle", "tortoise"), "green", "land"),
    Subject("t-rex", ("dinosaur", "t-rex", "tyrannosaurus"), "green", "land"),
    Subject("dragon", ("dragon",), "green", "air"),
    Subject("whale", ("whale",), "blue", "water"),
    Subject("fish", ("fish",), "blue", "water"),
    Subject("octopus", ("octopus",), "orange", "water"),
    Subject("shark", ("shark",), "grey", "water"),
    Subject("automobile", ("car", "automobile"), "red", "road"),
    Subject("taxi", ("taxi", "cab"), "yellow", "road"),
    Subject("bus", ("bus", "coach"), "yellow", "road"),
    Subject("tractor", ("tractor",), "green", "road"),
    Subject("locomotive", ("train", "locomotive", "steam train"), "red", "road"),
    Subject("sailboat", ("sailboat", "sailing boat", "boat"), "yellow", "water"),
    Subject("rocket", ("rocket", "spaceship"), "white and red", "space"),
    Subject("airplane", ("plane", "airplane", "aeroplane"), "grey", "air"),
    Subject("helicopter", ("helicopter",), "orange", "air"),
    Subject("flying-saucer", ("flying saucer", "ufo"), "grey", "space"),
    Subject("balloon", ("balloon",), "red", "air"),
    Subject("snowman", ("snowman",), "white", "land"),
    Subject("robot", ("robot",), "grey", "land"),
    Subject("ghost", ("ghost",), "white", "air"),
    Subject("soccer-ball", ("ball", "football", "soccer ball"), "white", "land"),
    Subject("teddy-bear", ("teddy bear", "bear", "toy bear"), "brown", "land"),
    Subject("unicorn", ("unicorn",), "pink", "land"),
]

# The emoji is only a face; this body lets it run. The head is on the left, as in the others.
FOX_BODY = """
<path d="M24 19c3-1 6-5 5.500-9 2.500 4 2 11-3.500 14z" fill="#FF822D"/><path d="M29.500 10c1 1.600 1.400 3.800 1 6l-2.200-.8z" fill="#FFDEA7"/>
<rect x="10" y="23" width="2.600" height="7" rx="1.200" fill="#6D4534"/><rect x="14" y="23" width="2.600" height="7" rx="1.200" fill="#FF822D"/>
<rect x="21" y="23" width="2.600" height="7" rx="1.200" fill="#FF822D"/><rect x="24.400" y="23" width="2.600" height="7" rx="1.200" fill="#6D4534"/>
<rect x="8" y="16" width="19.500" height="9.500" rx="4.700" fill="#FF822D"/><path d="M10 23.500h14c-2 2.500-12 2.500-14 0" fill="#FFDEA7"/>
<g transform="translate(-.5 3.500) scale(.56)">{face}</g>
"""


def svg(icons: dict[str, dict[str, str]], name: str) -> str:
    body = icons[name]["body"]
    if name == "fox":
        body = FOX_BODY.format(face=body)
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{SIZE}" height="{SIZE}" viewBox="0 0 32 32">{body}</svg>'


@cache
def load() -> dict[str, np.ndarray]:
    """Rasterizes an icon to RGBA u8 [SIZE + 4, SIZE + 4, 4], premultiplied."""
    with np.load(DRAWN) as drawn:
        return dict(drawn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("icons", type=Path, help="path of icons.json in the npm package")
    args = parser.parse_args()
    import resvg_py

    icons = json.loads(args.icons.read_text())["icons"]
    sprites = {}
    for subject in SUBJECTS:
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg(icons, subject.icon)))
        rgba = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"), np.float32)
        rgba = np.concatenate([rgba[..., :3] * rgba[..., 3:] / 255, rgba[..., 3:]], -1)
        sprites[subject.icon] = np.pad(np.round(rgba).astype(np.uint8), ((2, 2), (2, 2), (0, 0)))
    np.savez_compressed(DRAWN, **sprites)


if __name__ == "__main__":
    main()
