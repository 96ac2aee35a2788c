"""Draws clips or stills and keeps them as latents with their captions, in shards that training reads.

    python encode.py stills --icons ICONS.json --state DIR --count 4000 --worker 0
    python encode.py clips --icons ICONS.json --state DIR --count 800 --worker 0
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch

import autoencoder
from checkpoint import load
from clips import FRAME_RATE, Clip, caption

# Latent frames of a sample, and samples in a shard.
KINDS = {"stills": (1, 200), "clips": (9, 50)}
CAPTIONS = 6
# Samples that share a scene, each at another place in it: to draw a scene costs more than all else.
SHARED = {"stills": 5, "clips": 1}

# Pairs of subject and scene that are never shown, to judge what was understood rather than remembered.
HELD_OUT = {("fox", "city"), ("horse", "sea"), ("penguin", "desert"), ("automobile", "snow"), ("rocket", "night"),
            ("whale", "sea"), ("duck", "meadow"), ("balloon", "sunset"), ("elephant", "forest"), ("cat", "mountains")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--icons", type=Path, required=True)
    parser.add_argument("--state", type=Path, default=Path(__file__).parent.parent / ".state")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--worker", type=int, default=0, help="each draws other clips")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    latents_each, shard_size = KINDS[args.kind]
    folder = args.state / args.kind
    folder.mkdir(parents=True, exist_ok=True)
    model = autoencoder.Autoencoder().to(memory_format=torch.channels_last).eval()
    load(model, args.state, "autoencoder")
    for shard in range(args.count // shard_size):
        file = folder / f"{args.worker:02}-{shard:04}.npz"
        if file.exists():
            continue
        rng = np.random.default_rng([7, list(KINDS).index(args.kind), args.worker, shard])
        latents, captions, starts = [], [], []
        clip = None
        for i in range(shard_size):
            scene = clip.scene if clip and i % SHARED[args.kind] else None
            clip = Clip(rng, args.icons, lambda subject, scene: (subject, scene) not in HELD_OUT, scene)
            start = rng.uniform(0, 8)
            frames = np.stack([clip.frame(start + i / FRAME_RATE) for i in range(4 * latents_each - 3)])
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                z = model.encode(torch.tensor(frames).permute(0, 3, 1, 2)[None])[0]
            latents.append(z.half().numpy())
            spec = clip.spec
            captions.append([caption(rng, spec.subject, spec.motion, spec.direction, clip.scene) for _ in range(CAPTIONS)])
            starts.append(start)
        partial = file.with_suffix(".part")
        with partial.open("wb") as out:
            np.savez(out, latents=np.stack(latents), captions=np.array(captions), starts=np.array(starts))
        partial.rename(file)
        print(file.name, flush=True)


if __name__ == "__main__":
    main()
