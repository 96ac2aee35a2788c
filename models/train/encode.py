"""Draws clips and keeps them as latents with their captions, in shards that training reads.

    python encode.py --icons ICONS.json --state DIR --clips 3000 --worker 0
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch

from autoencoder import Autoencoder
from clips import FRAME_RATE, Clip, caption

LATENTS = 17
CAPTIONS = 6
SHARD = 50

# Pairs of subject and scene that are never shown, to judge what was understood rather than remembered.
HELD_OUT = {("fox", "city"), ("horse", "sea"), ("penguin", "desert"), ("automobile", "snow"), ("rocket", "night"),
            ("whale", "sea"), ("duck", "meadow"), ("balloon", "sunset"), ("elephant", "forest"), ("cat", "mountains")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--icons", type=Path, required=True)
    parser.add_argument("--state", type=Path, default=Path(__file__).parent.parent / ".state")
    parser.add_argument("--clips", type=int, default=1500)
    parser.add_argument("--worker", type=int, default=0, help="each draws other clips")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    folder = args.state / "clips"
    folder.mkdir(parents=True, exist_ok=True)
    model = Autoencoder().to(memory_format=torch.channels_last).eval()
    model.load_state_dict(torch.load(args.state / "autoencoder.pt"))
    for shard in range(args.clips // SHARD):
        file = folder / f"{args.worker:02}-{shard:04}.npz"
        if file.exists():
            continue
        rng = np.random.default_rng([7, args.worker, shard])
        latents, captions, starts = [], [], []
        for _ in range(SHARD):
            clip = Clip(rng, args.icons, lambda subject, scene: (subject, scene) not in HELD_OUT)
            start = rng.uniform(0, 8)
            frames = np.stack([clip.frame(start + i / FRAME_RATE) for i in range(4 * LATENTS - 3)])
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                z = model.encode(torch.tensor(frames).permute(0, 3, 1, 2)[None])[0]
            latents.append(z.half().numpy())
            spec = clip.spec
            captions.append([caption(rng, spec.subject, spec.motion, spec.direction, clip.scene) for _ in range(CAPTIONS)])
            starts.append(start)
        partial = file.with_suffix(".part.npz")
        np.savez(partial, latents=np.stack(latents), captions=np.array(captions), starts=np.array(starts))
        partial.rename(file)
        print(file.name, flush=True)


if __name__ == "__main__":
    main()
