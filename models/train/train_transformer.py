"""Trains the transformer on latents that `encode.py` made: stills first, then clips, then clips as its own teacher.

    torchrun --nproc-per-node 2 train_transformer.py stills --state DIR --seconds 1800
    torchrun --nproc-per-node 2 train_transformer.py clips --state DIR --seconds 3600
    torchrun --nproc-per-node 2 train_transformer.py guided --state DIR --seconds 1200

The last makes guidance part of the weights (https://arxiv.org/abs/2210.03142): what the model at the start of the
stage predicts with guidance is what it learns to predict without.

Goes on from `DIR/transformer.pt`, or from the shipped weights if they are of the same shape. The learning
rate falls at the end of the time; what is kept is an average over the last steps.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

import autoencoder
import sample
from checkpoint import load, save
from muon import Muon
from parallel import agreed_time, average_gradients
from sheet import sheet
from text import kept
from transformer import MAX_TOKENS, TEXT_DIM, WINDOW, Transformer

DROP_TEXT = 0.1
GUIDANCE = 3.0
# How often the past is what the model itself makes of a noisy clip, and passes for clean: when sampling it is no better,
# and faults that are not mended add up.
OWN_PAST = 0.5
# Of each kind of training: how many steps in a row are on stills for one on clips, and of how many stills a process.
STILLS = {"stills": (1, 48), "clips": (3, 48), "guided": (2, 24)}
LOOK_AT = (
    "a red fox runs over the snow", "a whale swims to the left under water", "a yellow taxi drives through the city",
    "a rocket flies among the stars", "a penguin jumps on the grass", "a sailing boat on the sea",
    "a green dragon floats up and down at night", "a cat spins around in the desert",
)


@dataclass
class Data:
    """Latents with the prompts that fit them."""

    latents: np.ndarray  # f16 [N, F, C, H, W]
    captions: np.ndarray  # str [N, captions of each]
    features: dict[str, np.ndarray]

    @classmethod
    def read(cls, state: Path, kind: str) -> Data:
        shards = [np.load(file) for file in sorted((state / kind).glob("*.npz"))]
        latents = np.concatenate([shard["latents"] for shard in shards])
        captions = np.concatenate([shard["captions"] for shard in shards])
        prompts, file = [*captions.flatten().tolist(), "", *LOOK_AT], state / kind / "features.text"
        # One process reads what was not read before, the others what it has left.
        for rank in range(dist.get_world_size()):
            if rank == dist.get_rank():
                features = kept(file, prompts)
            dist.barrier()
        return cls(latents, captions, features)

    def text(self, prompts: list[str]) -> Tensor:
        """f32 [N, S, TEXT_DIM], zero after each prompt's last token; S is one more than the longest has, so that the last
        row stands for all that are left away."""
        longest = max(len(self.features[prompt]) for prompt in prompts)
        out = np.zeros((len(prompts), min(longest + 1, MAX_TOKENS), TEXT_DIM), np.float32)
        for row, prompt in zip(out, prompts):
            hidden = self.features[prompt]
            row[: len(hidden)] = hidden
        return torch.tensor(out)

    def batch(self, rng: np.random.Generator, size: int, drop: float) -> tuple[Tensor, Tensor, bool]:
        """Latents [size, F, C, H, W] of up to a window and one frame, features, and whether they begin the clip."""
        rows = rng.integers(len(self.latents), size=size)
        prompts = ["" if rng.random() < drop else str(rng.choice(self.captions[row])) for row in rows]
        length = self.latents.shape[1]
        begins = length == 1 or rng.random() < 0.5
        first = 0 if begins else int(rng.integers(1, length - WINDOW))
        part = self.latents[rows, first : first + WINDOW + 1].astype(np.float32)
        return torch.tensor(part), self.text(prompts), begins


def importance(height: int, width: int) -> Tensor:
    """Where subjects are an error counts more than at the edges. Of mean 1, and the same for every sample."""
    y, x = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)
    weight = 0.35 + torch.exp(-(((x - 0.5) / 0.22) ** 2) - ((y - 0.6) / 0.35) ** 2)
    return weight / weight.mean()


def noise_levels(shape: tuple[int, ...], shift: float) -> Tensor:
    """Most often in the middle, moved towards noise."""
    sigma = torch.sigmoid(1.2 * torch.randn(shape))
    return shift * sigma / (1 + (shift - 1) * sigma)


@torch.no_grad()
def guided(teacher: Transformer, *inputs: Tensor, empty: Tensor) -> Tensor:
    """What `teacher` predicts with guidance; the last of the inputs is the text."""
    with torch.autocast("cpu", torch.bfloat16):
        prompt, none = teacher(*inputs), teacher(*inputs[:-1], empty.expand(len(inputs[-1]), -1, -1))
    return none + GUIDANCE * (prompt - none)


def loss_of(
    model: Transformer, latents: Tensor, features: Tensor, begins: bool,
    teacher: Transformer | None = None, empty: Tensor | None = None,
) -> Tensor:
    size, frames = latents.shape[:2]
    t = noise_levels((size, frames), 1.5)
    sigma, noise = t[..., None, None, None], torch.randn_like(latents)
    noisy = (1 - sigma) * latents + sigma * noise
    if frames == 1:
        clean, context_t = None, t
    else:
        # When sampling, the past is what the model made and not without faults.
        level = torch.rand(size, 1) * 0.3 * (torch.rand(size, 1) < 0.6)
        rough = level[..., None, None, None]
        clean = (1 - rough) * latents + rough * torch.randn_like(latents)
        context_t = 1000 * level.expand(size, frames)
    inputs = (clean, noisy, context_t, 1000 * t, features)
    if clean is not None and torch.rand(()) < OWN_PAST:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            clean = model(*inputs).float()
        inputs = (clean, noisy, torch.zeros_like(context_t), 1000 * t, features)
    with torch.autocast("cpu", torch.bfloat16):
        video = model(*inputs)
    if teacher is not None:
        latents = guided(teacher, *inputs, empty=empty)
    # An error of the video is one of the velocity σ times as large; with little noise left there is little to learn.
    square = (video - latents).square() * importance(*latents.shape[-2:])
    error = square.mean((2, 3, 4)) / t.clamp_min(0.2).square()
    # A clip's later frames are never made without a past.
    return (error if begins else error[:, 1:]).mean()


def look(model: Transformer, data: Data, state: Path, kind: str) -> None:
    vae = autoencoder.Autoencoder().eval()
    load(vae, state, "autoencoder")
    frames, steps, guidance = {"stills": (1, 10, GUIDANCE), "clips": (13, 10, GUIDANCE), "guided": (13, 4, 1.0)}[kind]
    schedule = sample.schedule(steps, 2.0)
    made = sample.latents(model, data.text(list(LOOK_AT)), data.text([""]), frames, schedule, guidance)
    videos = sample.decode(vae, made).numpy()
    sheet(state / f"{kind}.png", [v[:: 8 if frames > 1 else 1] for v in videos], list(LOOK_AT))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("stills", "clips", "guided"))
    parser.add_argument("--state", type=Path, default=Path(__file__).parent.parent / ".state")
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--rate", type=float, help="where it does not fall yet")
    args = parser.parse_args()
    # What is its own teacher is soon led astray.
    args.rate = args.rate or {"stills": 1.5e-3, "clips": 1.5e-3, "guided": 4e-4}[args.kind]
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    stills_in_a_row, stills_batch = STILLS[args.kind]
    clips_batch = {"stills": 0, "clips": 8, "guided": 4}[args.kind]

    torch.manual_seed(0)
    model = Transformer()
    load(model, args.state, "transformer")
    torch.manual_seed(time.time_ns() + rank)
    average = copy.deepcopy(model)
    teacher = copy.deepcopy(model).eval() if args.kind == "guided" else None
    # What a thing looks like is learned from many more stills than there are clips.
    stills = Data.read(args.state, "stills")
    clips = Data.read(args.state, "clips") if clips_batch else stills
    drop = 0.0 if teacher else DROP_TEXT
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and name.startswith("blocks.")]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or not name.startswith("blocks.")]
    optimizers = [Muon(hidden, args.rate, 0.95), torch.optim.AdamW(others, args.rate, betas=(0.9, 0.98), weight_decay=0.0)]
    rng = np.random.default_rng([time.time_ns(), rank])
    began = saved = time.time()
    step, recent = 0, ([], [])
    while True:
        elapsed = agreed_time(began)
        part = elapsed / args.seconds
        if part >= 1:
            break
        rate = args.rate * min(1, (step + 1) / 50) * (1 if part < 0.6 else 0.05 + 0.95 * (1 - part) / 0.4)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        still = not clips_batch or step % (stills_in_a_row + 1) > 0
        data, size = (stills, stills_batch) if still else (clips, clips_batch)
        loss = loss_of(model, *data.batch(rng, size, drop), teacher, data.text([""]))
        model.zero_grad()
        loss.backward()
        norm = average_gradients(model, most=1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        keep = min(0.995, 1 - 1 / (step + 1))
        with torch.no_grad():
            for a, p in zip(average.parameters(), model.parameters()):
                a.lerp_(p, 1 - keep)
        recent[still].append(loss.item())
        if rank == 0 and step % 50 == 0:
            clip_loss, still_loss = (np.mean(losses[-50:]) if losses else float("nan") for losses in recent)
            print(
                f"{elapsed:.0f}s step {step} loss of clips {clip_loss:.4f}, of stills {still_loss:.4f}, "
                f"rate {rate:.1e} norm {norm:.2f}", flush=True,
            )
        if rank == 0 and time.time() - saved > 600:
            saved = time.time()
            save(average.state_dict(), args.state, "transformer")
            look(average, clips, args.state, args.kind)
    if rank == 0:
        save(average.state_dict(), args.state, "transformer")
        look(average, clips, args.state, args.kind)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
