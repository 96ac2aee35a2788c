"""Trains the autoencoder on cuttings of clips and textures.

    python train_autoencoder.py --state DIR --seconds 150

Goes on from `DIR/autoencoder.pt`, or from the shipped weights. The learning rate falls to zero at the
end of the time; what is kept is an average over the last steps.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autoencoder import Autoencoder
from checkpoint import load, save
from clips import FRAME_RATE
from muon import Muon
from options import leave, parser, threads
from scenes import HEIGHT, WIDTH
from sheet import sheet
from textures import textures
from world import Window, World

CUT = (96, 160)  # height, width of a training sample
TEXTURES = 0.15
SAVE_EVERY = 120  # seconds


def sample(rng: np.random.Generator, world: World, count: int, frames: int) -> Tensor:
    """f32 [count, frames, 3, *CUT]: cuttings of clips, and a few of textures."""
    clips = [world.clip(rng) for _ in range(count - round(TEXTURES * count))]
    # Mostly around the middle, where the subject is.
    y = (rng.normal(0.6, 0.3, len(clips)).clip(0, 1) * (HEIGHT - CUT[0])).astype(int)
    x = (rng.normal(0.5, 0.3, len(clips)).clip(0, 1) * (WIDTH - CUT[1])).astype(int)
    times = np.arange(frames) / FRAME_RATE
    drawn = world.frames(clips, rng.uniform(0, 6, (len(clips), 1)) + times, [Window(int(b), int(a), *CUT) for b, a in zip(y, x)])
    if len(clips) == count:
        return drawn
    return torch.cat([drawn, textures(count - len(clips), world.tensor(times), *CUT)])


def loss_of(video: Tensor, decoded: Tensor, latents: Tensor) -> Tensor:
    difference = decoded - video
    # Near the end small errors everywhere are what is left, and few of them are large.
    pixels = difference.abs().mean() + 4 * difference.square().mean()
    edges = sum(difference.diff(dim=d).abs().mean() for d in (-1, -2))
    flicker = difference.diff(dim=1).abs().mean() if video.shape[1] > 1 else 0.0
    mean, std = latents.float().mean((0, 1, 3, 4)), latents.float().std((0, 1, 3, 4))
    spread = (mean**2).mean() + ((std - 1) ** 2).mean()
    return pixels + 0.5 * edges + 0.3 * flicker + 0.003 * spread


def psnr(a: Tensor, b: Tensor) -> Tensor:
    return -10 * torch.log10(((a - b.detach().clamp(0, 1)) ** 2).mean())


@torch.no_grad()
def show(model: Autoencoder, state: Path) -> str:
    """PSNR of stills and of clips never seen, whole frames; writes a contact sheet."""
    world, rng = World.draw(12, 10**6, next(model.parameters()).device), np.random.default_rng(10**6)
    clips = [world.clip(rng, index=i) for i in range(12)]
    video = world.frames(clips, rng.uniform(0, 6, (12, 1)) + np.arange(9) / FRAME_RATE)
    with torch.autocast(world.device.type, torch.bfloat16):
        decoded = model.decode(model.encode(video)).float()
    stills, videos = ([float(psnr(a, b)) for a, b in zip(video[:, :n], decoded[:, :n])] for n in (1, 9))
    rows = [torch.cat([v[::4], d[::4].clamp(0, 1)]).permute(0, 2, 3, 1).cpu().numpy() for v, d in zip(video, decoded)]
    sheet(state / "autoencoder.png", rows, [f"{s:.1f} {v:.1f} dB" for s, v in zip(stills, videos)])
    return f"held out: stills {np.mean(stills):.2f} dB, clips {np.mean(videos):.2f} dB"


def train(
    world: World, state: Path, seconds: float, batch: int, rate: float, seed: int, short: float = 0.6, decoder: bool = False
) -> Autoencoder:
    """`short` of the time is spent on clips of 5 frames, then they are of 9. With `decoder` latents stay what they are."""
    device = world.device
    torch.manual_seed(seed)
    model = Autoencoder()
    load(model, state, "autoencoder")
    model = model.to(device, memory_format=torch.channels_last)
    model.encoder.requires_grad_(not decoder)
    average = copy.deepcopy(model)
    learning = [p for p in model.parameters() if p.requires_grad]
    hidden = [p for p in learning if p.ndim == 4 and p.shape[2] == 3]
    others = [p for p in learning if p.ndim < 4 or p.shape[2] == 1]
    optimizers = [Muon(hidden, rate), torch.optim.AdamW(others, rate, betas=(0.9, 0.98), weight_decay=0.0)]
    rng = np.random.default_rng([5, seed])
    began = saved = time.time()
    step, recent = 0, []
    while (part := (time.time() - began) / seconds) < 1:
        frames = 5 if part < short else 9
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1, (step + 1) / 20) * (0.5 + 0.5 * np.cos(np.pi * part))
        video = sample(rng, world, batch * 9 // frames, frames)
        with torch.autocast(device.type, torch.bfloat16):
            latents = model.encode(video)
            # What a transformer makes is never exact.
            decoded = model.decode(latents + 0.05 * torch.randn_like(latents))
        loss = loss_of(video, decoded.float(), latents)
        model.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        keep = min(0.99, 1 - 1 / (step + 1))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - keep)
        recent.append(psnr(video, decoded))
        if step % 20 == 0:
            print(
                f"{time.time() - began:.0f}s step {step} frames {frames} loss {loss.item():.4f} "
                f"psnr {torch.stack(recent[-20:]).mean().item():.2f}", flush=True,
            )
        if time.time() - saved > SAVE_EVERY:
            saved = time.time()
            save(average.state_dict(), state, "autoencoder")
            print(show(average, state), flush=True)
    save(average.state_dict(), state, "autoencoder")
    print(show(average, state), flush=True)
    return average.eval()


def main() -> None:
    args = parser(__doc__, seconds=2400, batch=6, scenes=120)
    args.add_argument("--rate", type=float, default=1.5e-3)
    args.add_argument("--decoder", action="store_true", help="only the decoder learns")
    args = args.parse_args()
    threads()
    world = World.draw(args.scenes, args.seed, args.device, args.processes)
    train(world, args.state, args.seconds, args.batch, args.rate, args.seed, decoder=args.decoder)
    leave()


if __name__ == "__main__":
    main()
