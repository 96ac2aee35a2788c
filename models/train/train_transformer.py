"""Trains the transformer on the pieces of `latents.py`, then distills guidance into its weights, then distills the number of steps.

    python train_transformer.py stills --seconds 7200
    python train_transformer.py clips --seconds 20000
    python train_transformer.py guided --seconds 3600
    python train_transformer.py few --seconds 3600

Each stage starts from the result of the one before and may be ended at any minute: every five minutes, and at SIGINT or SIGTERM, it writes
`STATE/STAGE.training.pt` with all that it needs to continue with the same command. `--seconds` are all seconds of the stage, of all
its runs, while it computes (`options.seconds_at_work`). The learning rate decays at the end. The result, `STATE/STAGE.pt`, is an average over the last steps.

`guided` (https://arxiv.org/abs/2210.03142): the model learns to predict without guidance what it predicted with guidance at
the start of the stage. `few`: few steps give a blurred first frame, so the model learns to reach the result of sixteen steps
in four; later frames are trained as in `guided`.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

import sample
from checkpoint import autoencoder, read, save, weights
from data import Batch, Source, pictures_of
from few_steps import landings
from latents import TOKENS, referred
from losses import emphasis, error_of, movement, noise_levels, noised, steps_taken, worth
from muon import Muon
from options import parser, seconds_at_work, threads
from overlay import Overlays
from pictures import trained
from sheet import sheet
from text import TextEncoder
from transformer import References, Transformer

DROP_TEXT = 0.1
GUIDANCE = 2.0
# Probability that the past is predicted by the model from a noisy clip, but treated as clean, as in sampling; it rises over the first
# half of `clips`. And probability that its own past was an earlier prediction, and so on: uncorrected errors accumulate
# (https://arxiv.org/abs/2510.09212).
OWN_PAST, OWN_PAST_OF_OWN = 0.8, 0.7
# Probability in the last stages that the past of a start is predicted from noise alone, as in Self Forcing
# (https://arxiv.org/abs/2506.08009). With references and places the clip shows what should have come.
FROM_NOISE = 0.5
# Sources of a step and samples of each, in turn. Stills in every step keep the appearance while motion is learned.
TURNS = {
    "stills": ((("stills", 8),) * 4,),
    "clips": ((("starts", 3), ("stills", 8)), (("clips", 3), ("stills", 8))),
    "guided": ((("starts", 3), ("stills", 8)), (("clips", 3), ("stills", 8))),
    "few": ((("starts", 3), ("first", 8)), (("clips", 3), ("first", 8))),
}
STAGES = tuple(TURNS)
# A model that is its own teacher soon diverges.
RATES = {"stills": 1e-3, "clips": 1e-3, "guided": 3e-4, "few": 2e-4}
OVERLAY_RATE = 4  # times the rate: one of these layers starts at zero
DECAY = 0.6  # part of the stage after which the rate decays
SAVE_EVERY = 300  # seconds


def starting_weights(state: Path, stage: str, file: Path | None) -> dict[str, Tensor]:
    """Of a file, else of the stages before, else the shipped ones."""
    before = [state / f"{name}.pt" for name in STAGES[: STAGES.index(stage)]]
    found = next((path for path in [file, *reversed(before)] if path and path.exists()), None)
    if found is None:
        return weights(state, "transformer") or Transformer().state_dict()
    return read(found)


class Training:
    def __init__(self, args) -> None:
        self.stage, self.state, self.seconds, self.rate = args.stage, args.state, args.seconds, args.rate or RATES[args.stage]
        self.no_reference, self.no_place = args.no_reference, args.no_place
        torch.manual_seed(args.seed)
        folder = args.data or args.state / "data"
        pictures = pictures_of(folder / "references")
        wanted = {name for turn in TURNS[self.stage] for name, _ in turn}
        folders = {"stills": args.stills, "first": args.stills}
        self.text, self.vae = TextEncoder(), autoencoder(args.state)
        overlays = Overlays(self.vae, referred(trained()))
        self.sources = {name: Source(folder / folders.get(name, name), pictures, overlays) for name in wanted}
        self.nothing = self.text([""], TOKENS)
        self.worth = self.visibility(next(iter(self.sources.values())).video[:2, :1].float())
        self.model, self.average = Transformer(), Transformer().eval()
        start = starting_weights(self.state, self.stage, args.start)
        for model in (self.model, self.average):
            missing = model.load_state_dict(start, strict=False)
            assert not missing.unexpected_keys and all(name.startswith(("reference_embedding", "overlay_")) for name in missing.missing_keys), missing
        self.teacher = None
        if self.stage in ("guided", "few"):
            self.teacher = Transformer().eval()
            self.teacher.load_state_dict(self.model.state_dict())
        hidden = [p for name, p in self.model.named_parameters() if p.ndim == 2 and name.startswith("blocks.")]
        overlay = [p for name, p in self.model.named_parameters() if name.startswith("overlay_")]
        others = [p for name, p in self.model.named_parameters() if not name.startswith("overlay_") and (p.ndim != 2 or not name.startswith("blocks."))]
        groups = [{"params": others}, {"params": overlay, "times": OVERLAY_RATE}]
        self.optimizers = [Muon(hidden, self.rate, 0.95), torch.optim.AdamW(groups, self.rate, betas=(0.9, 0.98), weight_decay=0.0)]
        self.step, self.elapsed = 0, 0.0
        self.resume()

    def visibility(self, latents: Tensor) -> Tensor:
        """`losses.worth`, which is kept, since it takes a minute."""
        file = self.state / "worth.pt"
        if not file.exists():
            save(worth(self.vae, latents), self.state, "worth")
        return torch.load(file)

    @property
    def file(self) -> Path:
        return self.state / f"{self.stage}.training.pt"

    def resume(self) -> None:
        if not self.file.exists():
            return
        kept = torch.load(self.file)
        self.model.load_state_dict(kept["model"])
        self.average.load_state_dict(kept["average"])
        if self.teacher:
            self.teacher.load_state_dict(kept["teacher"])
        for optimizer, state in zip(self.optimizers, kept["optimizers"]):
            optimizer.load_state_dict(state)
        self.step, self.elapsed = kept["step"], kept["elapsed"]
        print(f"continues at step {self.step}, {self.elapsed:.0f} s", flush=True)

    def keep(self) -> None:
        kept = {
            "model": self.model.state_dict(), "average": self.average.state_dict(), "step": self.step, "elapsed": self.elapsed,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "teacher": self.teacher.state_dict() if self.teacher else None,
        }
        save(kept, self.state, f"{self.stage}.training")
        save(self.average.state_dict(), self.state, self.stage)

    @property
    def part(self) -> float:
        """Of the stage that is done."""
        return self.elapsed / self.seconds

    def run(self) -> None:
        stopped, before, saved = [], seconds_at_work(), time.time()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.append(True))
        losses: dict[str, list[float]] = {}
        while self.part < 1 and not stopped:
            for name, loss in self.one_step():
                losses.setdefault(name, []).append(loss)
            self.elapsed += seconds_at_work() - before
            before = seconds_at_work()
            if self.step % 20 == 0:
                told = ", ".join(f"{name} {sum(some) / len(some):.4f}" for name, some in losses.items())
                print(f"{self.elapsed:.0f} s, step {self.step}, loss of {told}", flush=True)
                losses = {}
            if time.time() - saved > SAVE_EVERY:
                saved = time.time()
                self.keep()
        self.keep()
        self.look()

    def one_step(self) -> Iterator[tuple[str, float]]:
        rate = self.rate * min(1, (self.step + 1) / 30) * (1 if self.part < DECAY else 0.02 + 0.98 * (1 - self.part) / (1 - DECAY))
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = rate * group.get("times", 1)
        turns = TURNS[self.stage]
        turn = turns[self.step % len(turns)]
        self.model.zero_grad()
        for name, size in turn:
            loss = self.loss_of_few(size) if name == "first" else self.loss_of(name, size)
            (loss / len(turn)).backward()
            yield name, loss.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        with torch.no_grad():
            keep = min(0.998, 1 - 4 / (self.step + 4))
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - keep)

    def batch(self, name: str, size: int) -> Batch:
        drop = DROP_TEXT if self.teacher is None else 0.0
        batch = self.sources[name].batch(size, self.no_reference, self.no_place)
        batch.features = torch.where(torch.rand(size, 1, 1) < drop, self.nothing, batch.features)
        return batch

    def loss_of(self, name: str, size: int) -> Tensor:
        batch = self.batch(name, size)
        latents = batch.frames_of(batch.of.video)
        frames = latents.shape[1]
        weight = self.worth * emphasis(batch, *latents.shape[-2:])
        t = steps_taken((size, frames))
        noisy, clean, context_t, corrected = noised(latents, t), None, None, False
        if frames > 1:
            weight = weight * movement(latents, batch.start)
            # In sampling, the past is predicted by the model and has errors.
            level = torch.rand(size, 1) * 0.3 * (torch.rand(size, 1) < 0.6)
            clean, context_t = noised(latents, level), 1000 * level.expand(size, frames - 1)
            corrected = bool(torch.rand(()) < OWN_PAST * (min(1, 2 * self.part) if self.teacher is None else 1))
            if corrected:
                alone = self.teacher is not None and name == "starts" and bool(torch.rand(()) < FROM_NOISE)
                clean = self.past_from_noise(batch, clean) if alone else self.own_past(batch, latents, clean)
                batch.remember(clean)
                context_t = torch.zeros_like(context_t)
            clean = clean[:, :-1]
        inputs = (clean, noisy, context_t, 1000 * t)
        made, target = self.model(*inputs, batch.features, batch.references, batch.camera), latents
        if self.teacher is not None:
            with torch.no_grad():
                said = self.teacher(*inputs, batch.features, batch.references, batch.camera)
                guidance = (GUIDANCE - 1) * (said - self.teacher(*inputs, self.nothing.repeat(size, 1, 1), batch.references, batch.camera))
            # After errors in the past the teacher continues them; the clip shows the correction.
            target = (latents if corrected else said) + guidance
        return error_of(made, target, t, weight)[:, batch.start :].mean()

    @torch.no_grad()
    def own_past(self, batch: Batch, latents: Tensor, clean: Tensor) -> Tensor:
        """Predicts clips `[B, F, C, H, W]` from noisy ones, with earlier predictions as the past."""
        size, frames = latents.shape[:2]
        again = torch.rand(size, 1, 1, 1, 1) < OWN_PAST_OF_OWN
        past = torch.where(again, batch.frames_of(batch.of.own), clean)
        t = noise_levels((size, 1), 3.0).expand(size, frames)
        context_t = torch.zeros(size, frames - 1)
        own = self.model(past[:, :-1], noised(latents, t), context_t, 1000 * t, batch.features, batch.references, batch.camera)
        own[:, : batch.start] = past[:, : batch.start]
        if batch.begins:
            # Except the image that the clip may start with.
            own[:, 0] = torch.where(torch.rand(size, 1, 1, 1) < 0.5, latents[:, 0], own[:, 0])
        return own

    def past_from_noise(self, batch: Batch, clean: Tensor) -> Tensor:
        """Samples continuations of the first frames of clips."""
        seed = int(torch.randint(2**31, ()))
        return sample.latents(self.model, batch.features, clean.shape[1], batch.references, seed, first=clean[:, :1], camera=batch.camera)

    def loss_of_few(self, size: int) -> Tensor:
        """The loss of `few` on first frames."""
        batch = self.batch("first", size)
        noisy, t, target = landings(self.teacher, batch.features, batch.references)
        made = self.model(None, noisy, None, 1000 * t, batch.features, batch.references)
        return error_of(made, target, t, self.worth * emphasis(batch, *target.shape[-2:])).mean()

    def look(self) -> None:
        """Draws a contact sheet of samples of the training data, with their references."""
        name = "starts" if "starts" in self.sources else "stills"
        torch.manual_seed(0)
        batch = self.batch(name, 8)
        batch.references = References(*(x[:8] for x in vars(batch.references).values()))
        frames = len(batch.frames)
        made = sample.latents(
            self.average, batch.features, frames, batch.references, steps=(8, 8) if self.teacher is None else (3, 4), camera=batch.camera,
        )
        videos = sample.decode(self.vae, torch.cat([made, batch.frames_of(batch.of.video)], 0)).numpy()
        rows = [videos[i][::8] for pair in zip(range(8), range(8, 16)) for i in pair]
        sheet(self.state / f"{self.stage}.png", rows, ["sampled", "drawn"] * 8)


def main() -> None:
    args = parser(__doc__, seconds=3600)
    args.add_argument("stage", choices=STAGES)
    args.add_argument("--rate", type=float, help="learning rate before the decay")
    args.add_argument("--start", type=Path, help="weights to start from, instead of the stage before")
    args.add_argument("--data", type=Path, help="folder of the pieces, else STATE/data")
    args.add_argument("--stills", default="stills", help="folder of the stills in it")
    args.add_argument("--no-reference", type=float, default=0.0, help="share of the samples whose reference is hidden")
    args.add_argument("--no-place", type=float, default=0.15, help="share of the samples whose references have no place")
    args = args.parse_args()
    threads(args)
    Training(args).run()


if __name__ == "__main__":
    main()
