"""Trains the transformer on drawn clips and stills, then distills guidance into its weights, then distills the number of steps.

    python train_transformer.py clips --state DIR --seconds 3600
    python train_transformer.py guided --state DIR --seconds 1200
    python train_transformer.py few --state DIR --seconds 800

`guided` (https://arxiv.org/abs/2210.03142): the model learns to predict without guidance what it predicted with guidance at
the start of the stage. `few`: four steps give a blurred first frame, so the model learns to reach the result of sixteen steps
in four; later frames are trained as in `guided`.

All stages resume from `DIR/transformer.pt`, else from the milestone, else from the shipped weights. `guided` and `few` add the
weight change of guidance and write `DIR/guided.pt`, which is shipped. The learning rate decays at the end; the result is an average over
the last steps.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import sample
from autoencoder import Autoencoder
from checkpoint import guide, load, save
from few_steps import landings
from footage import Footage
from latents import TOKENS, Batch, Latents, length_in_frames
from muon import Muon
from options import leave, mixed, parser, threads
from sheet import sheet
from text import TextEncoder
from transformer import SINK, WINDOW, Transformer
from world import World

DROP_TEXT = 0.1
GUIDANCE = 3.0
# Probability that the past is predicted by the model from a noisy clip, but treated as clean, as in sampling.
# And probability that its own past was an earlier prediction, and so on: uncorrected errors accumulate
# (https://arxiv.org/abs/2510.09212).
OWN_PAST, OWN_PAST_OF_OWN = 0.8, 0.8
# Probability in the last stages that the past of a start is predicted from noise alone. A noisy clip still shows its motion, so
# that its prediction moves even if the model would start no motion itself. Later than a start the position in the clip is
# unpredictable, which trains a blur; in scrolling clips already after KNOWN latent frames.
FROM_NOISE = 0.8
KNOWN = 4
# Latent frames of a clip (its first, and later a window with the frames after it) and of its start.
LENGTH, START = WINDOW + 6, SINK + WINDOW + 1
# Order of the data sources.
TURNS = ("clips", "starts", "stills", "starts")
FEW_TURNS = ("starts", "stills", "starts", "clips", "starts")
# Noise levels of sampling.
STEPS, SHIFT = 4, 5.0
SAVE_EVERY = 600  # seconds
LOOK_AT = (
    "a red fox runs over the snow", "a whale swims to the left under water", "a yellow taxi drives through the city",
    "a rocket flies among the stars", "a penguin jumps on the grass", "a sailing boat on the sea",
    "a green dragon floats up and down at night", "a cat spins around in the desert",
)


@dataclass
class Data:
    """Stills teach appearance, clips teach how motions continue, and starts teach how they begin. Later frames can be predicted
    from earlier ones; only starts need the motion in the text."""

    clips: Latents
    starts: Latents
    stills: Latents
    text: TextEncoder
    vae: Autoencoder
    clips_batch: int
    stills_batch: int

    def __post_init__(self) -> None:
        self.nothing = self.text([""], TOKENS)
        self.worth = worth(self.vae, self.clips.video[:16, :3].float())
        # Starts have about as many frames in total as clips.
        self.sources = {
            "clips": (self.clips, self.clips_batch), "starts": (self.starts, 3 * self.clips_batch // 2),
            "stills": (self.stills, self.stills_batch),
        }

    @classmethod
    def of(cls, footage: list[Footage], state: Path, **sizes: int) -> Data:
        """Clips, starts and stills as the autoencoder in `state` has them."""
        device = footage[0].frames.device
        vae, text = Autoencoder(), TextEncoder(device)
        load(vae, state, "autoencoder")
        vae = vae.eval().to(device, memory_format=torch.channels_last)
        return cls(*(Latents.of(some, vae, text) for some in footage), text, vae, **sizes)

    def batch(self, name: str, drop: float) -> Batch:
        source, size = self.sources[name]
        batch = source.batch(size)
        dropped = torch.rand(len(batch.features), 1, 1, device=batch.features.device) < drop
        batch.features = torch.where(dropped, self.nothing, batch.features)
        return batch


def draw(world: World, clips: int, starts: int, stills: int, seed: int) -> list[Footage]:
    """Draws clips of the training length, starts of other clips, and first frames of further clips as stills."""
    long, short = length_in_frames(LENGTH), length_in_frames(START)
    wanted = ((clips, long, (clips + 1) // 2), (starts, short, starts), (stills, 1, stills))
    return [Footage.draw(world, count, length, seed + i, begins) for i, (count, length, begins) in enumerate(wanted)]


@torch.no_grad()
def worth(vae: Autoencoder, latents: Tensor) -> Tensor:
    """Visibility of errors per channel, `[C, 1, 1]` with mean 1: the root of the change of the image."""
    seen, picture = [], vae.decode(latents)
    for channel in range(latents.shape[2]):
        other = latents.clone()
        other[:, :, channel] += 0.3 * torch.randn_like(other[:, :, channel])
        seen.append((vae.decode(other) - picture).square().mean().sqrt())
    each = torch.stack(seen)
    return (each / each.mean())[:, None, None]


def importance(height: int, width: int, device: torch.device) -> Tensor:
    """Error weights that are higher in the centre, where subjects are. Mean 1, the same for every sample."""
    y, x = torch.linspace(0, 1, height, device=device)[:, None], torch.linspace(0, 1, width, device=device)
    weight = 0.35 + torch.exp(-(((x - 0.5) / 0.3) ** 2) - ((y - 0.6) / 0.35) ** 2)
    return weight / weight.mean()


def movement(latents: Tensor, start: int) -> Tensor:
    """Error weights that are higher where something moves, or details would be learned before motion: `[B, F, 1, H, W]`, with
    mean 1 over the frames from `start` on of each clip."""
    change = latents.diff(dim=1).square().mean(2).sqrt()
    change = F.avg_pool2d(torch.cat([change[:, :1], change], 1), 3, 1, 1, count_include_pad=False)
    mean = change[:, start:].mean((1, 2, 3), keepdim=True).clamp_min(1e-6)
    return 0.4 + 0.6 * (change / mean)[:, :, None]


def noise_levels(shape: tuple[int, ...], shift: float, device: torch.device) -> Tensor:
    """Random noise levels, mostly medium, shifted towards noise."""
    sigma = torch.sigmoid(1.2 * torch.randn(shape, device=device))
    return shift * sigma / (1 + (shift - 1) * sigma)


def steps_taken(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """The noise levels of the few steps, and sometimes any other."""
    levels = torch.tensor(sample.schedule(STEPS, SHIFT), device=device) / 1000
    few = levels[torch.randint(STEPS, shape, device=device)]
    return torch.where(torch.rand(shape, device=device) < 0.7, few, noise_levels(shape, 1.5, device))


def made_before(batch: Batch, clean: Tensor) -> tuple[Tensor, Tensor]:
    """The model's last predictions or the given clips as the past, and which `[B, 1]` are predictions."""
    again = torch.rand(len(clean), 1, device=clean.device) < OWN_PAST_OF_OWN
    return torch.where(again[..., None, None, None], batch.own, clean), again


def noised(video: Tensor, t: Tensor) -> Tensor:
    """Adds noise to `[B, F, C, H, W]` at the levels `t` `[B, F]` or `[B, 1]`."""
    sigma = t[..., None, None, None]
    return (1 - sigma) * video + sigma * torch.randn_like(video)


def error_of(video: Tensor, target: Tensor, t: Tensor, data: Data) -> Tensor:
    """Perceptually weighted error `[B, F, 1, H, W]` of predictions at the noise levels `t` `[B, F]`.

    An error of the clean prediction is σ times the error of the velocity. The clamp limits the weight of low noise levels.
    """
    square = (video - target).square() * importance(*target.shape[-2:], target.device) * data.worth
    return square.mean(2, keepdim=True) / t.clamp_min(0.2).square()[..., None, None, None]


@torch.no_grad()
def own_past(model: Transformer, batch: Batch, clean: Tensor, context_t: Tensor) -> Tensor:
    """Predicts clips from noisy ones, with earlier predictions as the past."""
    size, frames, device = *clean.shape[:2], clean.device
    past, again = made_before(batch, clean)
    t = noise_levels((size, 1), 3.0, device).expand(size, frames)
    own = model(past, noised(batch.video, t), context_t * ~again, 1000 * t, batch.features).float()
    own[:, : batch.start] = past[:, : batch.start]
    if batch.begins:
        # Except the image that the clip may start with.
        image = torch.rand(size, 1, 1, 1, device=device) < 0.5
        own[:, 0] = torch.where(image, clean[:, 0], own[:, 0])
    return own


def past_from_noise(model: Transformer, batch: Batch, clean: Tensor) -> Tensor:
    """Samples continuations of the first frames of clips (https://arxiv.org/abs/2506.08009)."""
    first, seed = made_before(batch, clean)[0][:, :1], int(torch.randint(2**31, ()))
    steps = sample.schedule(STEPS, SHIFT)
    return sample.latents(model, batch.features, batch.features, clean.shape[1], steps, 1.0, seed=seed, first=first)


def loss_of(model: Transformer, data: Data, source: str, teacher: Transformer | None = None, after: int = 0) -> Tensor:
    """The loss of a batch, over the frames from `after` on."""
    batch = data.batch(source, 0.0 if teacher else DROP_TEXT)
    latents, features, start = batch.video, batch.features, max(after, batch.start)
    size, frames, device = *latents.shape[:2], latents.device
    t = steps_taken((size, frames), device) if teacher else noise_levels((size, frames), 1.5, device)
    noisy = noised(latents, t)
    if frames == 1:
        clean, context_t, moves = None, t, 1.0
    else:
        moves = movement(latents, start)
        # In sampling, the past is predicted by the model and has errors.
        level = torch.rand(size, 1, device=device) * 0.3 * (torch.rand(size, 1, device=device) < 0.6)
        clean = noised(latents, level)
        context_t = 1000 * level.expand(size, frames)
    inputs, known = (clean, noisy, context_t, 1000 * t), torch.ones_like(t)
    with mixed(device):
        own = clean is not None and bool(torch.rand(()) < OWN_PAST)
        if own:
            alone = teacher is not None and source == "starts" and bool(torch.rand(()) < FROM_NOISE)
            past = past_from_noise(model, batch, clean) if alone else own_past(model, batch, clean, context_t)
            batch.remember(past)
            if alone:
                known[:, KNOWN:] *= ~batch.scrolls[:, None]
            inputs = (past, noisy, torch.zeros_like(context_t), 1000 * t)
        video = model(*inputs, features)
        if teacher is not None:
            with torch.no_grad():
                said = teacher(*inputs, features)
                guidance = (GUIDANCE - 1) * (said - teacher(*inputs, data.nothing.repeat(size, 1, 1)))
                # After errors in the past the teacher continues them; the clip shows the correction.
                latents = (latents if own else said) + guidance
    error = error_of(video, latents, t, data) * moves
    return (error.mean((2, 3, 4)) * known)[:, start:].mean()


def loss_of_few(model: Transformer, data: Data, teacher: Transformer) -> Tensor:
    """The loss of `few` on first frames; as many frames as in the other stages."""
    features = data.batch("stills", 0.0).features[::STEPS]
    with mixed(features.device):
        noisy, t, target = landings(teacher, features, STEPS, SHIFT)
        video = model(None, noisy, 1000 * t, 1000 * t, features.repeat(STEPS, 1, 1))
    return error_of(video, target, t, data).mean()


def look(model: Transformer, data: Data, file: Path, guided: bool) -> None:
    timesteps = sample.schedule(STEPS if guided else 10, SHIFT)
    made = sample.latents(model, data.text(list(LOOK_AT)), data.text([""]), 13, timesteps, 1.0 if guided else GUIDANCE)
    videos = sample.decode(data.vae, made).cpu().numpy()
    sheet(file, [v[::8] for v in videos], list(LOOK_AT))


def train(kind: str, data: Data, state: Path, seconds: float, rate: float) -> Transformer:
    device = data.clips.video.device
    model = Transformer()
    load(model, state, "transformer")
    model = model.to(device)
    # The next clips stage must not start from guided weights, and guidance must not be added twice.
    name = "transformer" if kind == "clips" else "guided"
    teacher = None
    if kind != "clips":
        teacher = copy.deepcopy(model).eval()
        guide(model, state)
    # The teacher, with sixteen steps instead of four.
    slow = copy.deepcopy(model).eval() if kind == "few" else None
    turns = FEW_TURNS if slow else TURNS
    average = copy.deepcopy(model)
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and name.startswith("blocks.")]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or not name.startswith("blocks.")]
    optimizers = [Muon(hidden, rate, 0.95), torch.optim.AdamW(others, rate, betas=(0.9, 0.98), weight_decay=0.0)]
    began = saved = time.time()
    step, recent = 0, {name: [] for name in data.sources}
    while (part := (time.time() - began) / seconds) < 1:
        now = rate * min(1, (step + 1) / 50) * (1 if part < 0.5 else 0.02 + 0.98 * (1 - part) / 0.5)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = now
        source = turns[step % len(turns)]
        if slow and source == "stills":
            loss = loss_of_few(model, data, slow)
        else:
            loss = loss_of(model, data, source, teacher, after=1 if slow else 0)
        recent[source].append(loss.detach())
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        keep = min(0.998, 1 - 4 / (step + 4))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - keep)
        if step % 25 == 0:
            losses = ", ".join(f"of {name} {torch.stack(some).mean():.4f}" for name, some in recent.items() if some)
            recent = {name: [] for name in recent}
            print(f"{time.time() - began:.0f}s step {step} loss {losses}, rate {now:.1e}", flush=True)
        if time.time() - saved > SAVE_EVERY:
            saved = time.time()
            save(average.state_dict(), state, name)
            look(average, data, state / f"{kind}.png", kind != "clips")
    save(average.state_dict(), state, name)
    if teacher is not None:
        unguided = teacher.state_dict()
        save({key: weight - unguided[key] for key, weight in average.state_dict().items()}, state, "guidance")
    look(average, data, state / f"{kind}.png", kind != "clips")
    return average


# A model that is its own teacher soon diverges.
RATES = {"clips": 1.5e-3, "guided": 4e-4, "few": 2e-4}


def main() -> None:
    args = parser(__doc__, seconds=1800, scenes=240, clips=240, starts=640, stills=3000, batch=8)
    args.add_argument("kind", choices=RATES)
    args.add_argument("--rate", type=float, help="learning rate before the decay")
    args = args.parse_args()
    threads()
    torch.manual_seed(args.seed)
    world = World.draw(args.scenes, args.seed, args.device, args.processes)
    sizes = {"clips_batch": args.batch, "stills_batch": 6 * args.batch}
    footage = draw(world, args.clips, args.starts, args.stills, args.seed)
    data = Data.of(footage, args.state, **sizes)
    del world, footage
    train(args.kind, data, args.state, args.seconds, args.rate or RATES[args.kind])
    leave()


if __name__ == "__main__":
    main()
