"""The bank: about a thousand flat drawings with names and keywords, which references are taken from.

Drawings: Fluent Emoji (Microsoft, MIT licence), as packed in the npm package `@iconify-json/fluent-emoji-flat`.

    npm pack @iconify-json/fluent-emoji-flat    # and extract it
    python bank.py FLUENT/package --out DIR

Without flags, symbols, letters, clocks, and doubles that differ only in skin tone or gender. Every drawing is a lossless WebP
picture of `SIDE` × `SIDE` pixels with alpha. `drawings.bin` has the pictures one after the other, `index.json` a list of
`{"name", "names", "keywords", "element", "at": [offset, length]}`, sorted by name. `features.bin` has the mean of the text
encoder's features of each name, of length 127, i8 `[drawings, TEXT_DIM]`: for prompts that name no drawing, but a similar thing.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 128  # pixels; 16 × 16 latents
HELD_OUT = 100  # drawings that are never trained
# Never trained in the experiments either, so that results can be compared.
ALWAYS_HELD_OUT = ("owl", "duck", "tractor", "helicopter", "t-rex", "unicorn", "snowman", "fish", "parrot", "bus")
FOLDER = Path(os.environ.get("SORAGEN_BANK", Path(__file__).parent.parent / "builtin" / "bank"))

# Drawings that are asked for often.
CORE = (
    "fox", "cat", "dog", "horse", "rabbit", "pig", "elephant", "tiger", "black-cat", "penguin", "swan", "bird", "butterfly", "turtle",
    "dragon", "whale", "octopus", "shark", "automobile", "taxi", "locomotive", "sailboat", "rocket", "airplane", "flying-saucer",
    "balloon", "robot", "ghost", "soccer-ball", "teddy-bear",
)

CATEGORIES = (
    "Activities", "Animals & Nature", "Food & Drink", "Objects", "People & Body", "Smileys & Emotion", "Travel & Places",
)
TONES = ("-light", "-medium", "-dark")
# Parts of the names of letters, signs, clocks, gestures and of drawings without a shape of their own.
NOT = (
    "oclock", "thirty", "flag", "button", "keycap", "arrow", "hand-", "-hand", "hands", "pointing", "finger", "fist", "footprints",
    "speech", "bubble", "anger", "dashing", "zzz", "hundred", "collision", "dizzy", "hole", "input", "bust", "speaking", "silhouette",
    "sunrise", "sunset", "cityscape", "night-with-stars", "milky-way", "foggy", "bridge-at-night", "national-park", "kiss-mark", "pregnant", "breast",
    "couple", "family", "facing-right", "stop-sign", "placard", "thumbs", "gesture", "people", "men-", "women-", "vulcan", "palms", "mark",
)
# More names for drawings that are asked for often.
NAMES = {
    "black-cat": ("dark cat",), "duck": ("drake",), "turtle": ("tortoise",), "t-rex": ("dinosaur", "tyrannosaurus"),
    "automobile": ("car",), "taxi": ("cab",), "bus": ("coach",), "locomotive": ("train", "steam train"),
    "sailboat": ("sailing boat", "boat"), "rocket": ("spaceship",), "airplane": ("plane", "aeroplane"), "flying-saucer": ("ufo",),
    "balloon": ("red balloon",), "soccer-ball": ("ball", "football"), "teddy-bear": ("toy bear",), "fox": ("red fox",),
    "spouting-whale": ("whale that spouts",), "fire-engine": ("fire truck",), "sport-utility-vehicle": ("suv", "jeep"),
    "person-running": ("runner",), "front-facing-baby-chick": ("chick",), "water-buffalo": ("buffalo",),
    "two-hump-camel": ("bactrian camel",), "oncoming-police-car": ("police car",), "delivery-truck": ("truck", "lorry"),
}
# Other nouns for drawings. Captions do not have them; the engine looks them up where a prompt has no name of a drawing.
KEYWORDS = {
    "alien": "extraterrestrial", "alien-monster": "space invader", "amphora": "jug, vase", "artist": "painter", "astronaut": "cosmonaut, spaceman",
    "baby": "infant, newborn, toddler", "baby-angel": "cherub, angel", "backpack": "rucksack", "bicycle": "bike", "blackbird": "crow, raven",
    "blowfish": "pufferfish", "boar": "warthog", "bouquet": "flowers", "carousel-horse": "merry go round", "cat": "kitten, kitty, tomcat",
    "cherry-blossom": "sakura", "chicken": "hen", "cloud-with-lightning": "thundercloud, thunderstorm",
    "coat": "jacket", "cocktail-glass": "cocktail", "coffin": "casket", "construction-worker": "builder", "cook": "chef", "cow": "cattle",
    "crocodile": "alligator", "cut-of-meat": "steak", "deciduous-tree": "tree, oak", "deer": "stag, reindeer, buck",
    "delivery-truck": "van", "derelict-house": "haunted house", "detective": "spy, sleuth", "diving-mask": "snorkel", "dog": "puppy, hound, doggo",
    "donkey": "mule", "doughnut": "donut", "dove": "pigeon", "duck": "mallard, duckling", "dumpling": "gyoza",
    "eggplant": "aubergine", "evergreen-tree": "pine, pine tree, fir, fir tree", "ewe": "sheep, lamb",
    "fire": "flame, campfire, bonfire", "flying-disc": "frisbee", "french-fries": "fries", "frog": "toad", "full-moon": "moon",
    "gem-stone": "gem, jewel, diamond, ruby", "glasses": "spectacles, eyeglasses", "globe-showing-europe-africa": "earth, globe, world",
    "guard": "guardsman", "hamburger": "burger, cheeseburger", "headphone": "headphones, earphones",
    "headstone": "gravestone, tombstone, grave", "hippopotamus": "hippo", "honeybee": "bee, bumblebee", "hot-beverage": "coffee, tea, espresso",
    "hot-dog": "hotdog, sausage", "hut": "cabin, yurt", "ice": "iceberg, ice cube", "ice-cream": "icecream, sundae",
    "jack-o-lantern": "pumpkin, halloween pumpkin", "lady-beetle": "ladybug, ladybird", "laptop": "notebook computer", "leopard": "jaguar, cheetah",
    "light-bulb": "lamp, lightbulb", "lizard": "gecko", "llama": "alpaca", "loudspeaker": "speaker", "man": "guy, dad, father",
    "manual-wheelchair": "wheelchair", "metro": "subway", "minibus": "minivan", "mobile-phone": "phone, smartphone, iphone",
    "motor-boat": "motorboat", "motor-scooter": "scooter, vespa, moped", "motorcycle": "motorbike", "motorway": "highway",
    "musical-keyboard": "piano", "oil-drum": "barrel", "old-man": "grandpa, grandfather", "old-woman": "grandma, grandmother",
    "orangutan": "ape", "package": "parcel, box", "person-biking": "cyclist, biker", "person-elf": "elf",
    "person-fairy": "fairy", "person-genie": "genie", "person-juggling": "juggler", "person-mage": "wizard, witch, sorcerer, mage, magician",
    "person-superhero": "superhero, hero", "person-supervillain": "supervillain, villain", "person-surfing": "surfer",
    "person-swimming": "swimmer", "person-vampire": "vampire", "person-walking": "walker, pedestrian", "person-zombie": "zombie",
    "phoenix-bird": "phoenix", "piata": "pinata", "pickup-truck": "pickup", "pile-of-poo": "poop", "police-officer": "policeman, policewoman, cop",
    "postbox": "mailbox", "potted-plant": "plant, houseplant", "rabbit": "bunny, hare", "racing-car": "race car",
    "rhinoceros": "rhino", "ring-buoy": "lifebuoy", "ringed-planet": "planet, saturn", "robot": "bot, android", "rock": "boulder, stone",
    "rooster": "cock", "running-shoe": "sneaker, trainer, shoe", "sailboat": "yacht", "santa-claus": "santa, father christmas",
    "satellite": "space station", "sauropod": "brontosaurus, brachiosaurus, diplodocus", "scientist": "physicist", "seal": "sea lion",
    "shooting-star": "meteor, falling star", "shrimp": "prawn", "singer": "rockstar", "skull": "skeleton", "sled": "sleigh, sledge",
    "snake": "serpent, python, cobra", "spaghetti": "pasta", "spiral-shell": "seashell", "spouting-whale": "blue whale",
    "steaming-bowl": "noodles, soup, ramen", "student": "pupil", "swan": "cygnet", "t-rex": "trex, dino",
    "t-shirt": "tshirt, shirt", "teacher": "professor", "teapot": "kettle", "teddy-bear": "teddy", "television": "tv",
    "tornado": "whirlwind, twister", "tram": "streetcar", "tropical-fish": "clownfish, goldfish",
    "video-game": "gamepad", "watch": "wristwatch", "water-pistol": "squirt gun",
    "wastebasket": "trash can", "water-wave": "wave, tsunami", "womans-boot": "boot", "womans-clothes": "blouse", "wrapped-gift": "gift, present",
   
}
# Where a drawing is at home; elsewhere it is on land.
ELEMENTS = {
    "air": "airplane bat bee bird butterfly dove dragon eagle fairy feather fly ghost goose helicopter honeybee kite ladybug "
    "mosquito owl parachute parrot phoenix balloon small-airplane wing angel cloud superhero mage hummingbird",
    "water": "anchor blowfish boat canoe coral crab crocodile dolphin duck ferry fish jellyfish lobster octopus oyster sailboat seal "
    "shark ship shrimp speedboat squid swan whale swimming surfing mermaid merman merperson rowing fishing",
    "space": "alien astronaut comet earth flying-saucer globe moon planet rocket ringed satellite star stars sun telescope",
    "road": "ambulance automobile bicycle bus car engine locomotive metro minibus motorcycle motorway pickup police-car racing "
    "railway scooter skateboard taxi tractor train tram trolleybus truck vehicle wheel wheelchair rickshaw biking",
}

# The drawing is only a face; this body lets it run. The head is on the left, as in the others.
FOX_BODY = """
<path d="M24 19c3-1 6-5 5.500-9 2.500 4 2 11-3.500 14z" fill="#FF822D"/><path d="M29.500 10c1 1.600 1.400 3.800 1 6l-2.200-.8z" fill="#FFDEA7"/>
<rect x="10" y="23" width="2.600" height="7" rx="1.200" fill="#6D4534"/><rect x="14" y="23" width="2.600" height="7" rx="1.200" fill="#FF822D"/>
<rect x="21" y="23" width="2.600" height="7" rx="1.200" fill="#FF822D"/><rect x="24.400" y="23" width="2.600" height="7" rx="1.200" fill="#6D4534"/>
<rect x="8" y="16" width="19.500" height="9.500" rx="4.700" fill="#FF822D"/><path d="M10 23.500h14c-2 2.500-12 2.500-14 0" fill="#FFDEA7"/>
<g transform="translate(-.5 3.500) scale(.56)">{face}</g>
"""


@dataclass(frozen=True)
class Drawing:
    """A drawing of the bank. It faces to the left."""

    name: str
    names: tuple[str, ...]  # nouns that captions use
    keywords: tuple[str, ...]  # other nouns, see `KEYWORDS`
    element: str  # land, road, air, water or space
    at: tuple[int, int]  # offset and length in the file

    @property
    def held_out(self) -> bool:
        return self.name in held_out()


@cache
def drawings() -> list[Drawing]:
    found = json.loads((FOLDER / "index.json").read_text())
    return [Drawing(d["name"], tuple(d["names"]), tuple(d["keywords"]), d["element"], tuple(d["at"])) for d in found]


@cache
def held_out() -> frozenset[str]:
    """`ALWAYS_HELD_OUT`, and of those that are not asked for often, the drawings with the lowest digests of their names."""
    names = [d.name for d in drawings() if d.name not in (*ALWAYS_HELD_OUT, *CORE)]
    names.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
    return frozenset([*ALWAYS_HELD_OUT, *names[: HELD_OUT - len(ALWAYS_HELD_OUT)]])


@cache
def picture(name: str) -> np.ndarray:
    """f32 `[SIDE, SIDE, 4]` in [0, 1], premultiplied."""
    offset, length = next(d.at for d in drawings() if d.name == name)
    data = (FOLDER / "drawings.bin").read_bytes()[offset : offset + length]
    return premultiplied(np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"), np.float32) / 255)


def premultiplied(rgba: np.ndarray) -> np.ndarray:
    return np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], -1)


def wanted(name: str, every: frozenset[str]) -> bool:
    """Whether a drawing of one of the `CATEGORIES` belongs to the bank."""
    if any(name.endswith(tone) or f"{tone}-" in name for tone in TONES) or any(part in name for part in NOT):
        return False
    # A man or a woman who has a neutral double.
    who, _, what = name.partition("-")
    return not (who in ("man", "woman") and (what in every or f"person-{what}" in every))


def element(name: str) -> str:
    words = set(name.split("-"))
    return next((kind for kind, known in ELEMENTS.items() if any(k in words or k == name for k in known.split())), "land")


def svg(body: str) -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{SIDE}" height="{SIDE}" viewBox="0 0 32 32">{body}</svg>'


def drawn(body: str) -> Image.Image:
    import resvg_py

    image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg(body))))).convert("RGBA")
    return image.resize((SIDE, SIDE)) if image.size != (SIDE, SIDE) else image


def keywords(name: str) -> list[str]:
    return [word.strip() for word in KEYWORDS.get(name, "").split(",") if word]


def features(names: list[str]) -> np.ndarray:
    """i8 `[N, TEXT_DIM]`."""
    from text import TextEncoder

    mean = TextEncoder()(names).sum(1).numpy()
    return np.round(127 * mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.int8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fluent", type=Path)
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
    icons = json.loads((args.fluent / "icons.json").read_text())["icons"]
    categories = json.loads((args.fluent / "metadata.json").read_text())["categories"]
    every = frozenset(name for names in categories.values() for name in names)
    chosen = sorted({n for c in CATEGORIES for n in categories[c] if n in icons and wanted(n, every)})
    index, data = [], bytearray()
    for name in chosen:
        body = icons[name]["body"]
        image = drawn(FOX_BODY.format(face=body) if name == "fox" else body)
        # Too thin for the autoencoder.
        if (np.asarray(image)[..., 3] > 127).mean() < 0.1:
            continue
        packed = io.BytesIO()
        image.save(packed, "WEBP", lossless=True, quality=100, method=4)
        plain = name.replace("-", " ")
        index.append({
            "name": name, "names": [plain, *NAMES.get(name, ())], "keywords": keywords(name),
            "element": element(name), "at": [len(data), packed.tell()],
        })
        data += packed.getvalue()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "drawings.bin").write_bytes(data)
    (args.out / "features.bin").write_bytes(features([entry["names"][0] for entry in index]).tobytes())
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in index)
    (args.out / "index.json").write_text(f"[\n{lines}\n]\n")
    print(f"{len(index)} drawings, {len(data) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
