"""Trains the decoder of the autoencoder on crops of drawn clips and on textures. Latents stay the same.

    python train_autoencoder.py --seconds 7200

Starts from the shipped weights without the residual blocks that are not wanted, and continues from
`STATE/decoder.training.pt` with the same command; `--seconds` are those of all runs. The learning rate decays to zero at the
end; the result `STATE/decoder.pt` is an average over the last steps.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import pictures
from autoencoder import DECODER_BLOCKS, Autoencoder, with_fewer_blocks
from canvas import HEIGHT, WIDTH
from checkpoint import NOWHERE, save, weights
from clips import FRAME_RATE, Clip
from latents import SHARES
from muon import Muon
from options import parser, seconds_at_work, threads
from scenes import Scene
from sheet import sheet
from textures import textures

CUT = (96, 160)  # height, width of a training sample
FRAMES = 9
TEXTURES = 0.15
SAVE_EVERY = 300  # seconds
SCENES = 40
CROPS = 4  # of a drawn clip
# Noise that is added to latents before decoding, since latents of the transformer are not exact.
ROUGH = 0.04


class Footage:
    """Draws clips of random scenes for ever."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([51, seed])
        self.pool = pictures.trained()
        self.scenes = [Scene.draw(self.rng) for _ in range(SCENES)]

    def clip(self, length: int) -> Tensor:
        """f32 `[length, 3, HEIGHT, WIDTH]` in [0, 1]."""
        scene = self.scenes[int(self.rng.integers(SCENES))]
        frames = Clip(self.rng, scene, self.pool, SHARES).frames(length)
        return torch.from_numpy(frames).permute(0, 3, 1, 2) / 255

    def sample(self, count: int) -> Tensor:
        """f32 [count, FRAMES, 3, *CUT]: crops of clips, mostly near the centre, where the subject is, and a few textures."""
        meaningless, found = max(1, round(TEXTURES * count)), []
        while len(found) < count - meaningless:
            clip = self.clip(FRAMES)
            for _ in range(CROPS):
                y, x = (int(np.clip(self.rng.normal(m, 0.3), 0, 1) * room) for m, room in ((0.6, HEIGHT - CUT[0]), (0.5, WIDTH - CUT[1])))
                found.append(clip[:, :, y : y + CUT[0], x : x + CUT[1]])
        times = torch.arange(FRAMES) / FRAME_RATE
        return torch.cat([torch.stack(found[: count - meaningless]), textures(meaningless, times, *CUT)])


def loss_of(video: Tensor, decoded: Tensor) -> Tensor:
    difference = decoded - video
    # Near the end most errors are small and few are large.
    pixels = difference.abs().mean() + 10 * difference.square().mean()
    edges = sum(difference.diff(dim=d).abs().mean() for d in (-1, -2))
    flicker = difference.diff(dim=1).abs().mean()
    return pixels + 0.5 * edges + 0.3 * flicker


def square_error(video: Tensor, decoded: Tensor) -> Tensor:
    """Mean squared error of the clamped frames."""
    return (decoded.detach().clamp(0, 1) - video).square().mean()


def psnr(square: Tensor) -> float:
    return float(-10 * torch.log10(square))


@torch.no_grad()
def show(model: Autoencoder, state: Path) -> str:
    """PSNR of unseen stills and clips, full frames; writes a contact sheet."""
    footage, rows, found = Footage(10**6), [], []
    for _ in range(8):
        video = footage.clip(9)[None]
        decoded = model.decode(model.encode(video))
        found.append([psnr(square_error(video[:, :n], decoded[:, :n])) for n in (1, 9)])
        rows.append(torch.cat([video[0, ::4], decoded[0, ::4].clamp(0, 1)]).permute(0, 2, 3, 1).numpy())
    sheet(state / "decoder.png", rows, [f"{still:.1f} {clip:.1f} dB" for still, clip in found])
    still, clip = np.mean(found, 0)
    return f"held out: stills {still:.2f} dB, clips {clip:.2f} dB"


def train(state: Path, seconds: float, batch: int, rate: float, blocks: tuple[int, ...], seed: int) -> None:
    model, average = Autoencoder(blocks), Autoencoder(blocks)
    start = with_fewer_blocks(weights(NOWHERE, "autoencoder"), blocks)
    for one in (model, average):
        one.load_state_dict(start)
        one.to(memory_format=torch.channels_last)
    hidden = [p for p in model.decoder.parameters() if p.ndim == 4 and p.shape[2] == 3]
    others = [p for p in model.decoder.parameters() if p.ndim < 4 or p.shape[2] == 1]
    optimizers = [Muon(hidden, rate), torch.optim.AdamW(others, rate, betas=(0.9, 0.98), weight_decay=0.0)]
    step, elapsed, file = 0, 0.0, state / "decoder.training.pt"
    if file.exists():
        kept = torch.load(file)
        model.load_state_dict(kept["model"])
        average.load_state_dict(kept["average"])
        step, elapsed = kept["step"], kept["elapsed"]
        for optimizer, known in zip(optimizers, kept["optimizers"]):
            optimizer.load_state_dict(known)

    def keep() -> None:
        save({
            "model": model.state_dict(), "average": average.state_dict(), "step": step, "elapsed": elapsed,
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        }, state, "decoder.training")
        save(average.state_dict(), state, "decoder")

    footage, before, saved, recent = Footage(seed), seconds_at_work(), time.time(), []
    while elapsed < seconds:
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = rate * min(1, (step + 1) / 20) * (0.5 + 0.5 * math.cos(math.pi * elapsed / seconds))
        video = footage.sample(batch)
        with torch.no_grad():
            latents = model.encode(video)
        decoded = model.decode(latents + ROUGH * torch.randn_like(latents))
        model.zero_grad()
        loss_of(video, decoded).backward()
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), max(0.005, 1 / (step + 1)))
        recent.append(square_error(video, decoded))
        now = seconds_at_work()
        elapsed, before = elapsed + now - before, now
        if step % 20 == 0:
            print(f"{elapsed:.0f} s, step {step}, {psnr(torch.stack(recent).mean()):.2f} dB", flush=True)
            recent = []
        if time.time() - saved > SAVE_EVERY:
            saved = time.time()
            keep()
    keep()
    print(show(average, state), flush=True)


def main() -> None:
    args = parser(__doc__, seconds=7200, batch=6)
    args.add_argument("--rate", type=float, default=1e-3)
    args.add_argument("--blocks", type=int, nargs=3, default=DECODER_BLOCKS, help="residual blocks of each stage of the decoder")
    args = args.parse_args()
    threads(args)
    torch.manual_seed(args.seed)
    train(args.state, args.seconds, args.batch, args.rate, tuple(args.blocks), args.seed)


if __name__ == "__main__":
    main()
