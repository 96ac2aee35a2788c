"""Draws training data and encodes it, in pieces on disk, so that a run that ends early loses at most one piece.

    python latents.py references
    python latents.py stills --count 4000
    python latents.py clips --count 1200
    python latents.py starts --count 1200

Existing pieces are kept, so a larger `--count` adds to them. Several processes may share the work: `--part 0 --parts 2` and
`--part 1 --parts 2`. `references` are the latents of all pictures of subjects, to the left and to the right. `unaligned` are
stills with subjects at any pixel, for comparison.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import pictures
from autoencoder import TIME_FACTOR, Autoencoder
from checkpoint import autoencoder
from clips import SUBJECTS, Clip, turned
from options import parser, threads
from pictures import Picture
from scenes import LATENT, Scene
from text import TextEncoder
from transformer import ALPHA, SINK, WINDOW

CAPTIONS = 3  # per clip
# No caption is longer; the last token stands for all padding tokens.
TOKENS = 48
GROUND = 0.5  # grey behind a reference
# Shares of the groups of `pictures.trained`.
SHARES = (0.25, 0.4, 0.2, 0.15)
# Latent frames: as many as the attention window, or more for later windows.
START, LENGTH = SINK + WINDOW + 1, SINK + WINDOW + 5
# Latent frames, samples in a piece, scenes in a piece, number of the seed.
KINDS = {"stills": (1, 64, 16, 1), "starts": (START, 8, 4, 2), "clips": (LENGTH, 8, 4, 3), "unaligned": (1, 64, 16, 4)}
REFERENCES_IN_PIECE = 64


def length_in_frames(latents: int) -> int:
    """Number of frames of this many latent frames."""
    return 1 + TIME_FACTOR * (latents - 1)


@torch.no_grad()
def encode(vae: Autoencoder, frames: np.ndarray) -> Tensor:
    """f16 `[N, F, C, h, w]` of `[N, T, H, W, 3]`, u8 or f32 in [0, 1]."""
    video = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 1, 4, 2, 3)
    video = video / 255 if video.dtype == torch.uint8 else video
    # Small batches fit the caches of a CPU.
    return torch.cat([vae.encode(some).half() for some in video.split(max(1, 16 // video.shape[1]))])


def on_grey(rgba: np.ndarray) -> np.ndarray:
    """f32 `[SIDE, SIDE, 3]`: the picture of a reference."""
    return GROUND * (1 - rgba[..., 3:]) + rgba[..., :3]


def alpha_of(rgba: np.ndarray) -> Tensor:
    """f16 `[ALPHA values, SIDE / 8, SIDE / 8]`."""
    size = LATENT // ALPHA[0]
    alpha = torch.from_numpy(np.ascontiguousarray(rgba[..., 3]))[None]
    return torch.nn.functional.pixel_unshuffle(torch.nn.functional.avg_pool2d(alpha, size), ALPHA[0]).half()


def references(vae: Autoencoder, wanted: list[Picture]) -> tuple[Tensor, Tensor]:
    """Latents `[N, 2, C, h, w]` and alpha `[N, 2, 4, h, w]`, f16, of pictures that look to the left and to the right."""
    rgba = [turned(picture.rgba, facing) for picture in wanted for facing in (-1, 1)]
    latents = encode(vae, np.stack([on_grey(picture) for picture in rgba])[:, None])[:, 0]
    return latents.unflatten(0, (-1, 2)), torch.stack([alpha_of(picture) for picture in rgba]).unflatten(0, (-1, 2))


def referred(pool: list[list[Picture]]) -> list[Picture]:
    """All pictures, in the order of their numbers."""
    return list({picture.key: picture for group in pool for picture in group}.values())


def draw(kind: str, index: int, pool: list[list[Picture]], shares: tuple[float, ...]) -> tuple[list[Clip], np.random.Generator]:
    """The clips of a piece."""
    _, count, scenes, number = KINDS[kind]
    rng = np.random.default_rng([31, number, index])
    drawn = [Scene.draw(rng) for _ in range(scenes)]
    return [Clip(rng, drawn[i % scenes], pool, shares, aligned=kind != "unaligned") for i in range(count)], rng


def piece(kind: str, index: int, vae: Autoencoder, text: TextEncoder, pool: list[list[Picture]], numbers: dict[str, int]) -> dict[str, Tensor]:
    """`video` f16 `[N, F, C, h, w]`, `features` f16 `[N, CAPTIONS, TOKENS, TEXT_DIM]`, `references` i64 `[N, SUBJECTS]` (twice the
    number of the picture, plus 1 if it looks to the right, or -1), `places` i64 `[N, F, SUBJECTS, 2]`, `shown` bool `[N, F, SUBJECTS]`,
    `speed` i64 `[N]` of the camera in pixels per latent frame."""
    latents = KINDS[kind][0]
    clips, rng = draw(kind, index, pool, SHARES)
    captions = [clip.caption(rng) for clip in clips for _ in range(CAPTIONS)]
    tokens = text.tokens(captions, TOKENS)
    assert (tokens[:, -1] == 0).all(), "a caption is too long"
    which = torch.full((len(clips), SUBJECTS), -1)
    for row, clip in zip(which, clips):
        for slot, (picture, facing) in enumerate(clip.references):
            row[slot] = 2 * numbers[picture.key] + (facing > 0)
    places, shown = zip(*(clip.places(latents) for clip in clips))
    return {
        "video": torch.cat([encode(vae, clip.frames(length_in_frames(latents))[None]) for clip in clips]),
        "features": text.features(tokens).half().unflatten(0, (-1, CAPTIONS)), "references": which,
        "places": torch.from_numpy(np.stack(places)), "shown": torch.from_numpy(np.stack(shown)),
        "speed": torch.tensor([clip.speed for clip in clips]),
    }


def write(file: Path, made: dict) -> None:
    partial = file.with_suffix(".part")
    torch.save(made, partial)
    partial.rename(file)


def main() -> None:
    args = parser(__doc__, count=4000, part=0, parts=1)
    args.add_argument("kind", choices=("references", *KINDS))
    args = args.parse_args()
    threads(args)
    folder = args.state / "data" / args.kind
    folder.mkdir(parents=True, exist_ok=True)
    vae = autoencoder(args.state)
    pool = pictures.trained()
    known = referred(pool)
    text = None if args.kind == "references" else TextEncoder()
    each = REFERENCES_IN_PIECE if text is None else KINDS[args.kind][1]
    total = len(known) if text is None else args.count
    for index in range(args.part, -(-total // each), args.parts):
        file = folder / f"{index:05}.pt"
        if file.exists():
            continue
        if text is None:
            some = known[index * each : (index + 1) * each]
            latents, alpha = references(vae, some)
            write(file, {"keys": [picture.key for picture in some], "latents": latents, "alpha": alpha})
        else:
            write(file, piece(args.kind, index, vae, text, pool, {picture.key: i for i, picture in enumerate(known)}))
        print(file, flush=True)


if __name__ == "__main__":
    main()
