"""Trains the autoencoder on crops of drawn clips and on textures.

    python train_autoencoder.py --state DIR --seconds 150

Resumes from `DIR/autoencoder.pt`, or from the shipped weights. The learning rate decays to zero at the
end; the result is an average over the last steps.
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
from footage import Footage
from fused import fused
from muon import Muon
from options import leave, mixed, parser, threads
from sheet import sheet
from textures import textures
from world import World

CUT = (96, 160)  # height, width of a training sample
FRAMES = 9
TEXTURES = 0.15
SAVE_EVERY = 120  # seconds
LOOK_EVERY = {"cpu": 20, "cuda": 200}  # steps
LENGTH = 41  # frames of a source clip
# Noise that is added to latents before decoding, since latents of the transformer are not exact.
ROUGH = 0.04


def sample(footage: Footage, count: int) -> Tensor:
    """f32 [count, FRAMES, 3, *CUT]: crops of clips, and a few textures."""
    meaningless = max(1, round(TEXTURES * count))
    times = torch.arange(FRAMES, device=footage.frames.device) / FRAME_RATE
    return torch.cat([footage.cuttings(count - meaningless, FRAMES, *CUT), textures(meaningless, times, *CUT)])


def loss_of(video: Tensor, decoded: Tensor, latents: Tensor) -> Tensor:
    difference = decoded - video
    # Near the end most errors are small and few are large.
    pixels = difference.abs().mean() + 10 * difference.square().mean()
    edges = sum(difference.diff(dim=d).abs().mean() for d in (-1, -2))
    flicker = difference.diff(dim=1).abs().mean()
    mean, std = latents.float().mean((0, 1, 3, 4)), latents.float().std((0, 1, 3, 4))
    spread = (mean**2).mean() + ((std - 1) ** 2).mean()
    return pixels + 0.5 * edges + 0.3 * flicker + 0.003 * spread


def square_error(video: Tensor, decoded: Tensor) -> Tensor:
    """Mean squared error of the clamped frames."""
    return (decoded.detach().clamp(0, 1) - video).square().mean()


def reconstruct(model: Autoencoder, video: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and the mean squared error."""
    with mixed(video.device):
        latents = model.encode(video)
        decoded = model.decode(latents + ROUGH * torch.randn_like(latents)).float()
    return loss_of(video, decoded, latents), square_error(video, decoded)


def psnr(square: Tensor) -> Tensor:
    return -10 * torch.log10(square)


@torch.no_grad()
def show(model: Autoencoder, state: Path) -> str:
    """PSNR of unseen stills and clips, full frames; writes a contact sheet."""
    world, rng = World.draw(12, 10**6, next(model.parameters()).device), np.random.default_rng(10**6)
    clips = [world.clip(rng, index=i) for i in range(12)]
    video = world.frames(clips, rng.uniform(0, 6, (12, 1)) + np.arange(9) / FRAME_RATE)
    with mixed(world.device):
        decoded = model.decode(model.encode(video)).float()
    stills, videos = ([float(psnr(square_error(a, b))) for a, b in zip(video[:, :n], decoded[:, :n])] for n in (1, 9))
    rows = [torch.cat([v[::4], d[::4].clamp(0, 1)]).permute(0, 2, 3, 1).cpu().numpy() for v, d in zip(video, decoded)]
    sheet(state / "autoencoder.png", rows, [f"{s:.1f} {v:.1f} dB" for s, v in zip(stills, videos)])
    return f"held out: stills {np.mean(stills):.2f} dB, clips {np.mean(videos):.2f} dB"


def train(footage: Footage, state: Path, seconds: float, batch: int, rate: float, decoder: bool = False) -> Autoencoder:
    """With `decoder` only the decoder is trained, so that latents do not change."""
    device = footage.frames.device
    model = Autoencoder()
    load(model, state, "autoencoder")
    model = model.to(device, memory_format=torch.channels_last)
    model.encoder.requires_grad_(not decoder)
    average = copy.deepcopy(model)
    learning = [p for p in model.parameters() if p.requires_grad]
    hidden = [p for p in learning if p.ndim == 4 and p.shape[2] == 3]
    others = [p for p in learning if p.ndim < 4 or p.shape[2] == 1]
    optimizers = [Muon(hidden, rate), torch.optim.AdamW(others, rate, betas=(0.9, 0.98), weight_decay=0.0)]
    # On a CPU, compiling takes longer than it saves.
    step_of = fused(reconstruct) if device.type == "cuda" else reconstruct
    began = saved = time.time()
    step, recent = 0, []
    while (part := (time.time() - began) / seconds) < 1:
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1, (step + 1) / 20) * (0.5 + 0.5 * np.cos(np.pi * part))
        loss, square = step_of(model, sample(footage, batch))
        model.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        keep = min(0.995, 1 - 1 / (step + 1))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - keep)
        recent.append(square)
        if step % LOOK_EVERY[device.type] == 0:
            found = psnr(torch.stack(recent[-LOOK_EVERY[device.type] :]).mean())
            print(f"{time.time() - began:.0f}s step {step} loss {loss.item():.4f} psnr {found:.2f}", flush=True)
        if time.time() - saved > SAVE_EVERY:
            saved = time.time()
            save(average.state_dict(), state, "autoencoder")
            print(show(average, state), flush=True)
    save(average.state_dict(), state, "autoencoder")
    print(show(average, state), flush=True)
    return average.eval()


def main() -> None:
    args = parser(__doc__, seconds=2400, batch=6, scenes=120, clips=300)
    args.add_argument("--rate", type=float, default=1.5e-3)
    args.add_argument("--decoder", action="store_true", help="train only the decoder")
    args = args.parse_args()
    threads()
    torch.manual_seed(args.seed)
    world = World.draw(args.scenes, args.seed, args.device, args.processes)
    footage = Footage.draw(world, args.clips, LENGTH, args.seed, begins=0)
    train(footage, args.state, args.seconds, args.batch, args.rate, args.decoder)
    leave()


if __name__ == "__main__":
    main()
