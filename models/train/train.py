"""Everything in one go, on a GPU of 80 GB: draws scenes, trains the autoencoder, then the transformer, and guides it.

    python train.py --state DIR --out DIR --autoencoder 165 --clips 255 --guided 80

Ten minutes on an H100. Each part goes on from what is in DIR or shipped; 0 seconds leave it out, and the last gives way
where `--within` would be exceeded. What a part has trained is written out as it is shipped before the next begins.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

import export
import train_autoencoder
import train_transformer
from options import leave, parser, threads
from train_transformer import RATES, Data
from world import World


def main() -> None:
    args = parser(
        __doc__, autoencoder=165, clips=255, guided=80, within=10**6, scenes=3000, clips_drawn=6500,
        stills_drawn=40000, autoencoder_batch=64, batch=96, autoencoder_rate=2e-3, rate=1.5e-3,
    )
    args.add_argument("--out", type=Path, required=True)
    args = args.parse_args()
    threads()
    torch.manual_seed(args.seed)
    began = time.time()

    def done(what: str) -> None:
        export.parts(args.state, args.out)
        print(f"{what} after {time.time() - began:.0f} s, {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB", flush=True)

    world = World.draw(args.scenes, args.seed, args.device, args.processes)
    done("scenes")
    if args.autoencoder:
        train_autoencoder.train(
            world, args.state, args.autoencoder, args.autoencoder_batch, args.autoencoder_rate, args.seed, short=0.5
        )
        done("autoencoder")
    sizes = {"clips_batch": args.batch, "stills_batch": 6 * args.batch, "turns": 1}
    data = Data.draw(world, args.state, args.clips_drawn, args.stills_drawn, args.seed, **sizes)
    del world
    done("latents")
    if args.clips:
        train_transformer.train("clips", data, args.state, args.clips, args.rate)
        done("clips")
    left = args.within - (time.time() - began) - 12
    if min(args.guided, left) > 0:
        train_transformer.train("guided", data, args.state, min(args.guided, left), RATES["guided"])
        done("guided")
    leave()


if __name__ == "__main__":
    main()
