"""All training on a GPU with 100 GB or more: draws clips, trains the autoencoder, then the transformer with its guidance stage.

    python train.py --state DIR --out DIR --within 760

Each part resumes from the state in DIR or from the shipped weights; 0 seconds skip it. The rest of `--within` is for
the clips stage. Each part is exported before the next one starts.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import torch

import export
import train_autoencoder
import train_transformer
from autoencoder import Autoencoder
from fused import fused
from footage import CAPTIONS
from latents import TOKENS, Latents
from options import leave, parser, threads
from sample import HEIGHT, WIDTH
from text import TextEncoder
from train_autoencoder import CUT, FRAMES, reconstruct
from train_transformer import LENGTH, RATES, START, TURNS, Data, loss_of
from transformer import CHANNELS, TEXT_DIM, Transformer
from world import World

PARTS = ("autoencoder", "transformer")
# Seconds reserved for export and evaluation.
SPARE = 15


def rehearse(part: str, args) -> None:
    """Runs a few steps on noise, to fill the compiler's cache for the training process."""
    if part == "autoencoder":
        model = Autoencoder().to(args.device, memory_format=torch.channels_last)
        video = torch.rand(args.autoencoder_batch, FRAMES, 3, *CUT, device=args.device)
        fused(reconstruct)(model, video)[0].backward()
        return
    model, teacher = Transformer().to(args.device), Transformer().to(args.device).eval()
    each = torch.randn(8, 1, TOKENS, TEXT_DIM, device=args.device).half().expand(-1, CAPTIONS, -1, -1)
    still = torch.zeros(8, dtype=torch.bool, device=args.device)
    clips, starts, stills = (
        Latents(torch.randn(8, length, CHANNELS, HEIGHT, WIDTH, device=args.device).half(), each, scrolls=still)
        for length in (LENGTH, START, 1)
    )
    data = Data(clips, starts, stills, TextEncoder(args.device), Autoencoder().to(args.device), args.batch, args.stills_batch)
    for source in 4 * TURNS:
        for guide in (None, teacher):
            loss_of(model, data, source, guide).backward()


def heard(rehearsal: subprocess.Popen | None) -> None:
    """Waits with a timeout; without the cache, everything is compiled in this process."""
    try:
        if rehearsal:
            rehearsal.wait(timeout=100)
    except subprocess.TimeoutExpired:
        rehearsal.kill()


def main() -> None:
    args = parser(
        __doc__, autoencoder=270, guided=100, within=760, scenes=3000, clips=4000, starts=3300, stills=30000,
        autoencoder_batch=48, batch=48, stills_batch=288, autoencoder_rate=2e-3, rate=1.5e-3,
    )
    args.add_argument("--out", type=Path, required=True)
    args.add_argument("--rehearse", choices=PARTS, help="only fill the compiler's cache for this part")
    args = args.parse_args()
    began, cuda = time.time(), args.device.type == "cuda"
    threads()
    torch.manual_seed(args.seed)
    if args.rehearse:
        rehearse(args.rehearse, args)
        leave()

    def done(what: str) -> None:
        export.parts(args.state, args.out)
        used = torch.cuda.max_memory_allocated() / 2**30 if cuda else 0
        print(f"{what} after {time.time() - began:.0f} s, {used:.1f} GiB", flush=True)

    rehearsals = {part: subprocess.Popen([sys.executable, *sys.argv, "--rehearse", part]) for part in PARTS if cuda}
    world = World.draw(args.scenes, args.seed, args.device, args.processes)
    done("scenes")
    footage = train_transformer.draw(world, args.clips, args.starts, args.stills, args.seed)
    del world
    done("clips drawn")
    heard(rehearsals.get("autoencoder"))
    done("compiled")
    if args.autoencoder:
        train_autoencoder.train(footage[0], args.state, args.autoencoder, args.autoencoder_batch, args.autoencoder_rate)
        done("autoencoder")
    heard(rehearsals.get("transformer"))
    data = Data.of(footage, args.state, clips_batch=args.batch, stills_batch=args.stills_batch)
    del footage
    done("latents")
    seconds = args.within - (time.time() - began) - args.guided - SPARE
    if seconds > 0:
        train_transformer.train("clips", data, args.state, seconds, args.rate)
        done("transformer")
    if args.guided:
        train_transformer.train("guided", data, args.state, args.guided, RATES["guided"])
        done("guided")
    leave()


if __name__ == "__main__":
    main()
