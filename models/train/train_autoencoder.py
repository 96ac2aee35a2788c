"""Trains the autoencoder on small cuttings of clips and textures.

    python train_autoencoder.py --icons ICONS.json --state DIR --seconds 2400

Goes on from `DIR/autoencoder.pt`, or from the shipped weights. The learning rate falls to zero at the
end of the time; what is kept is an average over the last steps.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from autoencoder import Autoencoder
from checkpoint import load, save
from clips import FRAME_RATE, Clip
from muon import Muon
from parallel import agreed_time, average_gradients
from scenes import HEIGHT, WIDTH
from sheet import sheet
from textures import Texture

CUT = (96, 160)  # height, width of a training sample


def sample(rng: np.random.Generator, icons: Path, frames: int) -> np.ndarray:
    """f32 [T, H, W, 3]: a cutting of a clip, or now and then of a texture."""
    clip = Texture(rng) if rng.random() < 0.15 else Clip(rng, icons)
    start = rng.uniform(0, 6)
    # Mostly around the middle, where the subject is.
    y = int(np.clip(rng.normal(0.6, 0.3) * (HEIGHT - CUT[0]), 0, HEIGHT - CUT[0]))
    x = int(np.clip(rng.normal(0.5, 0.3) * (WIDTH - CUT[1]), 0, WIDTH - CUT[1]))
    cut = np.s_[y : y + CUT[0], x : x + CUT[1]]
    return np.stack([clip.frame(start + i / FRAME_RATE)[cut] for i in range(frames)])


def loss_of(video: Tensor, decoded: Tensor, latents: Tensor) -> Tensor:
    pixels = (decoded - video).abs().mean()
    edges = sum(((decoded - video).diff(dim=d)).abs().mean() for d in (-1, -2))
    flicker = (decoded - video).diff(dim=1).abs().mean() if video.shape[1] > 1 else 0.0
    mean, std = latents.float().mean((0, 1, 3, 4)), latents.float().std((0, 1, 3, 4))
    spread = (mean**2).mean() + ((std - 1) ** 2).mean()
    return pixels + 0.5 * edges + 0.3 * flicker + 0.003 * spread


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * torch.log10(((a - b.detach().clamp(0, 1)) ** 2).mean()))


def show(model: Autoencoder, icons: Path, state: Path) -> tuple[float, float]:
    """PSNR of stills and of clips never seen, whole frames; writes a contact sheet."""
    stills, videos, rows = [], [], []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for seed in range(8):
            clip = Clip(np.random.default_rng(10**6 + seed), icons)
            video = torch.tensor(np.stack([clip.frame(i / FRAME_RATE) for i in range(9)])).permute(0, 3, 1, 2)[None]
            decoded = model.decode(model.encode(video)).float()
            stills.append(psnr(video[:, 0], decoded[:, 0]))
            videos.append(psnr(video, decoded))
            pair = torch.cat([video[0, ::4], decoded[0, ::4].clamp(0, 1)])
            rows.append(pair.permute(0, 2, 3, 1).numpy())
    sheet(state / "autoencoder.png", rows, [f"{s:.1f} {v:.1f} dB" for s, v in zip(stills, videos)])
    return float(np.mean(stills)), float(np.mean(videos))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--icons", type=Path, required=True)
    parser.add_argument("--state", type=Path, default=Path(__file__).parent.parent / ".state")
    parser.add_argument("--seconds", type=float, default=2400)
    parser.add_argument("--batch", type=int, default=8, help="a process")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--decoder", action="store_true", help="only the decoder learns: latents stay what they are")
    parser.add_argument("--short", type=float, default=0.6, help="part of the time that is spent on clips of 5 frames")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    args.state.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(0)
    model = Autoencoder().to(memory_format=torch.channels_last)
    load(model, args.state, "autoencoder")
    model.encoder.requires_grad_(not args.decoder)
    average = copy.deepcopy(model)
    learning = [p for p in model.parameters() if p.requires_grad]
    hidden = [p for p in learning if p.ndim == 4 and p.shape[2] == 3]
    others = [p for p in learning if p.ndim < 4 or p.shape[2] == 1]
    optimizers = [Muon(hidden, args.rate), torch.optim.AdamW(others, args.rate, betas=(0.9, 0.98), weight_decay=0.0)]
    rng = np.random.default_rng([int(time.time()), rank])
    began = time.time()
    saved, step, recent = began, 0, []
    while True:
        elapsed = agreed_time(began)
        part = elapsed / args.seconds
        if part >= 1:
            break
        frames = 5 if part < args.short else 9
        batch = {1: 5, 5: 2, 9: 1}[frames] * args.batch // 2
        rate = args.rate * min(1, (step + 1) / 20) * (0.5 + 0.5 * np.cos(np.pi * part))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        video = np.stack([sample(rng, args.icons, frames) for _ in range(batch)])
        video = torch.tensor(video).permute(0, 1, 4, 2, 3)
        with torch.autocast("cpu", torch.bfloat16):
            latents = model.encode(video)
            # What a transformer makes is never exact.
            decoded = model.decode(latents + 0.05 * torch.randn_like(latents))
        loss = loss_of(video, decoded.float(), latents)
        model.zero_grad()
        loss.backward()
        average_gradients(model)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        keep = min(0.99, 1 - 1 / (step + 1))
        with torch.no_grad():
            for a, p in zip(average.parameters(), model.parameters()):
                a.lerp_(p, 1 - keep)
        recent.append(psnr(video, decoded.float()))
        if rank == 0 and step % 20 == 0:
            print(f"{elapsed:.0f}s step {step} frames {frames} loss {loss.item():.4f} psnr {np.mean(recent[-20:]):.2f}", flush=True)
        if rank == 0 and time.time() - saved > 150:
            saved = time.time()
            save(average.state_dict(), args.state, "autoencoder")
            print("held out: stills %.2f dB, clips %.2f dB" % show(average, args.icons, args.state), flush=True)
    if rank == 0:
        save(average.state_dict(), args.state, "autoencoder")
        print("held out: stills %.2f dB, clips %.2f dB" % show(average, args.icons, args.state), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
