"""Evaluates the built-in model: whether its videos match the prompt, also over time.

    python evaluate.py learn
    python evaluate.py judge --soragen ../../target/release/soragen
    python evaluate.py motions --soragen ../../target/release/soragen
    python evaluate.py drift --soragen ../../target/release/soragen
    python evaluate.py images --soragen ../../target/release/soragen

`learn` trains a classifier on drawn clips, independent of the model. `judge` renders prompts with held-out pairs and
wordings with `soragen` and classifies them; as an upper bound it also classifies drawn clips of the same kind that went
through the autoencoder. `motions` renders the same number of prompts for each motion, and also classifies later seconds.
`drift` evaluates every ten seconds of a minute, for one prompt and for six shots. `images` starts from the first frames
of unseen clips.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from autoencoder import Autoencoder
from checkpoint import MILESTONES, NOWHERE, load
from clips import FRAME_RATE, HELD_OUT, MOTIONS, Clip, action, choose
from options import mixed, parser, threads
from scenes import SCENES
from sheet import sheet
from sprites import SUBJECTS
from world import World

# Input of the classifier: two seconds at eight frames per second, downscaled.
APART, FRAMES = 2, 17
LENGTH = APART * (FRAMES - 1) + 1
SIZE = (80, 48)
NAMES = {
    "subject": [subject.icon for subject in SUBJECTS],
    "scene": [scene(np.random.default_rng(0)).name for scene in SCENES],
    "motion": list(MOTIONS),
}
# None of these wordings is in the training captions.
FORMS = (
    "show {a} {name} as it {verb} {place}", "{place} there is {a} {name} that {verb}",
    "look, {a} {name} {verb} {place}", "a short film: {place} {a} {name} {verb}", "{a} {name}, it {verb} {place}",
)


class Classifier(nn.Module):
    """Classifies `[N, T, 3, H, W]` in [0, 1]; returns a score for every name. Subject and place are classified from single
    frames, the motion from all frames and their differences."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 160)
        layers: list[nn.Module] = []
        for n, m in zip(widths, widths[1:]):
            layers += [nn.Conv2d(n, m, 3, 2, 1), nn.BatchNorm2d(m), nn.ReLU()]
            layers += [nn.Conv2d(m, m, 3, 1, 1), nn.BatchNorm2d(m), nn.ReLU()]
        self.frame = nn.Sequential(*layers, nn.Dropout(0.1))
        self.still = nn.ModuleDict({kind: nn.Linear(160, len(NAMES[kind])) for kind in ("subject", "scene")})
        moving: list[nn.Module] = []
        for n, m, stride in ((6, 24, (1, 2, 2)), (24, 48, (1, 2, 2)), (48, 96, (2, 2, 2)), (96, 160, (2, 2, 2))):
            moving += [nn.Conv3d(n, m, 3, stride, 1), nn.BatchNorm3d(m), nn.ReLU()]
        self.moving = nn.Sequential(*moving, nn.Flatten(), nn.Dropout(0.2), nn.Linear(160 * 5 * 3 * 5, len(MOTIONS)))

    def forward(self, video: Tensor) -> dict[str, Tensor]:
        pooled = self.frame(video.flatten(0, 1)).mean((2, 3))
        out = {kind: head(pooled).unflatten(0, (-1, FRAMES)).mean(1) for kind, head in self.still.items()}
        change = F.pad(video.diff(dim=1), (0, 0, 0, 0, 0, 0, 1, 0)) * 4
        out["motion"] = self.moving(torch.cat([video, change], 2).transpose(1, 2))
        return out


def small(video: Tensor) -> Tensor:
    """Downscales to `[N, T, 3, 48, 80]` from RGB f32 `[N, T, 3, H, W]` in [0, 1]."""
    made = F.interpolate(video.flatten(0, 1), SIZE[::-1], mode="area")
    return (made.clamp(0, 1) * 255).round().unflatten(0, video.shape[:2]) / 255


def label(clip: Clip) -> list[int]:
    names = (clip.actors[0].subject.icon, clip.scene.name, clip.actors[0].motion)
    return [NAMES[kind].index(name) for kind, name in zip(NAMES, names)]


def one(world: World, rng: np.random.Generator, motion: str, **options) -> Clip:
    return next(clip for clip in iter(lambda: world.clip(rng, plain=True, **options), None) if clip.actors[0].motion == motion)


def draw(world: World, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Downscaled clips and their labels, with the same number of each motion, so that the classifier has no bias."""
    rng, videos, labels, motions = np.random.default_rng([11, seed]), [], [], NAMES["motion"]
    for start in range(0, count, 32):
        wanted = [motions[i % len(motions)] for i in range(start, min(start + 32, count))]
        clips = [one(world, rng, motion, allow=lambda *_: True) for motion in wanted]
        times = rng.uniform(0, 6, (len(clips), 1)) + np.arange(0, LENGTH, APART) / FRAME_RATE
        videos.append(small(world.frames(clips, times)).half())
        labels += [label(clip) for clip in clips]
    return torch.cat(videos), torch.tensor(labels, device=world.device)


def warped(video: Tensor, place: Tensor, size: Tensor) -> Tensor:
    """Transforms `video` by `place` `[N, 2, 3]`, and displaces edges by about `size` `[N, 1, 1, 1, 1]` downscaled pixels,
    differently in each frame."""
    (n, t, _, h, w), device = video.shape, video.device
    coarse = ((2, 3), (5, 8))[int(torch.randint(2, ()))]
    astray = torch.randn(n, t, 2, *coarse, device=device)
    for i in range(1, t):
        astray[:, i] = 0.7 * (astray[:, i - 1] + astray[:, i])
    astray = astray * size / torch.tensor((w / 2, h / 2), device=device)[:, None, None]
    astray = F.interpolate(astray.flatten(0, 1), (h, w), mode="bicubic").permute(0, 2, 3, 1)
    grid = F.affine_grid(place.repeat_interleave(t, 0), (n * t, 1, h, w), align_corners=False)
    return F.grid_sample(video.flatten(0, 1), grid + astray, padding_mode="border", align_corners=False).view_as(video)


def rough(video: Tensor) -> Tensor:
    """Augments clips with random trembling, blur, noise, colour shift, zoom, translation and mirroring, because generated
    frames are less clean than drawn ones."""
    n, device = len(video), video.device
    zoom, mirror = 0.85 + 0.3 * torch.rand(n, device=device), torch.randint(2, (n,), device=device) * 2 - 1
    place = torch.zeros(n, 2, 3, device=device)
    place[:, 0, 0], place[:, 1, 1], place[:, :, 2] = zoom * mirror, zoom, 0.2 * torch.rand(n, 2, device=device) - 0.1
    video = warped(video, place, 2 * torch.rand(n, 1, 1, 1, 1, device=device))
    soft = F.avg_pool2d(video.flatten(0, 1), 3, 1, 1).view_as(video)
    mix = torch.rand(n, 1, 1, 1, 1, device=device)
    video = video * (1 - mix) + soft * mix
    video = video + 0.06 * torch.rand(n, 1, 1, 1, 1, device=device) * torch.randn_like(video)
    tint = torch.randn(2, n, 1, 3, 1, 1, device=device)
    return (video * (1 + 0.1 * tint[0]) + 0.03 * tint[1]).clamp(0, 1)


def windows(video: Tensor, starts: list[int]) -> Tensor:
    """Inputs of the classifier from `[T, 3, H, W]`, one from each of these frames on."""
    return torch.stack([small(video[None, s : s + LENGTH : APART])[0] for s in starts])


@torch.no_grad()
def guess(model: Classifier, videos: Tensor) -> dict[str, Tensor]:
    parts = [model.eval()(part.float()) for part in videos.split(64)]
    return {kind: torch.cat([part[kind].argmax(1) for part in parts]) for kind in NAMES}


def right(model: Classifier, videos: Tensor, labels: Tensor) -> dict[str, np.ndarray]:
    found = guess(model, videos)
    return {kind: (found[kind] == labels[:, i]).cpu().numpy() for i, kind in enumerate(NAMES)}


def learn(args: argparse.Namespace) -> None:
    torch.manual_seed(0)
    videos, labels = draw(World.draw(args.scenes, 11, args.device, args.processes), args.clips, 0)
    held_videos, held_labels = draw(World.draw(60, 12, args.device, args.processes), 400, 1)
    model = Classifier().to(args.device)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, args.steps)
    for step in range(args.steps):
        rows = torch.randint(len(videos), (48,), device=args.device)
        target = labels[rows]
        with mixed(args.device):
            out = model.train()(rough(videos[rows].float()))
        loss = sum(F.cross_entropy(out[kind].float(), target[:, i], label_smoothing=0.05) for i, kind in enumerate(NAMES))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            found = {kind: f"{hits.mean():.3f}" for kind, hits in right(model, held_videos, held_labels).items()}
            print(f"step {step + 1} loss {loss.item():.3f}, drawn clips never seen: {found}", flush=True)
    torch.save(model.cpu().state_dict(), args.state / "classifier.pt")


def prompts(world: World, count: int) -> list[tuple[str, list[int]]]:
    """Prompts in unseen wordings, half of them with held-out pairs."""
    rng, made = np.random.default_rng(12), []
    places = {place for _, place in HELD_OUT}
    while len(made) < count:
        if len(made) % 2:
            clip = world.clip(rng, plain=True)
        else:
            index = choose_index(rng, [i for i, scene in enumerate(world.scenes) if scene.name in places])
            clip = world.clip(rng, index, plain=True, allow=lambda subject, place: (subject, place) in HELD_OUT)
        actor = clip.actors[0]
        name = choose(rng, actor.subject.names)
        words = {"a": "an" if name[0] in "aeiou" else "a", "name": name, "place": choose(rng, clip.scene.phrases)}
        made.append((choose(rng, FORMS).format(**words, verb=action(rng, actor)), label(clip)))
    return made


def plain(rng: np.random.Generator, clip: Clip) -> str:
    """Prints all results of the classifier."""
    actor = clip.actors[0]
    return f"a {choose(rng, actor.subject.names)} {action(rng, actor)} {choose(rng, clip.scene.phrases)}"


def choose_index(rng: np.random.Generator, options: list[int]) -> int:
    return options[int(rng.integers(len(options)))]


def classifier(args: argparse.Namespace) -> Classifier:
    """The classifier of `learn`, else the one in `milestone`."""
    model, own = Classifier(), args.state / "classifier.pt"
    weights = torch.load(own, map_location="cpu") if own.exists() else load_file(MILESTONES / "classifier.safetensors")
    model.load_state_dict(weights)
    return model.eval()


def render(args: argparse.Namespace, frames: int, seed: int, *options: str | Path) -> Tensor:
    """Renders a prompt; returns f32 `[frames, 3, H, W]`."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "frames.safetensors"
        command = [args.soragen, "render", "-o", out, "--frames", str(frames), "--seed", str(seed), "--cache-dir", ""]
        subprocess.run([*command, *args.options, *options], check=True, capture_output=True)
        return load_file(out)["frames"].permute(0, 3, 1, 2)


def report(args: argparse.Namespace, name: str, found: dict) -> None:
    (args.state / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({key: value for key, value in found.items() if key != "wrong"}, indent=1))


def judge(args: argparse.Namespace) -> None:
    model, world = classifier(args), World.draw(60, 13, torch.device("cpu"), args.processes)
    asked = prompts(world, args.count)
    videos = torch.cat([small(render(args, LENGTH, i, text)[None, ::APART]) for i, (text, _) in enumerate(asked)])
    made = right(model, videos, torch.tensor([label for _, label in asked]))
    vae = Autoencoder().eval()
    load(vae, NOWHERE, "autoencoder")
    rng, real, labels = np.random.default_rng(13), [], []
    for _ in range(args.ceiling):
        clip = world.clip(rng, plain=True)
        video = world.frames([clip], np.arange(LENGTH)[None] / FRAME_RATE)
        with torch.no_grad():
            real.append(small(vae.decode(vae.encode(video)).float()[:, ::APART]))
        labels.append(label(clip))
    best = right(model, torch.cat(real), torch.tensor(labels))
    found = {kind: {"made": float(made[kind].mean()), "ceiling": float(best[kind].mean())} for kind in NAMES}
    for kind in ("scene", "subject"):
        found[kind]["pairs never shown"] = float(made[kind][::2].mean())
    wrong = [(text, kind) for i, (text, _) in enumerate(asked) for kind in NAMES if not made[kind][i]]
    report(args, "judge", {**found, "prompts": len(asked), "wrong": wrong})


def motions(args: argparse.Namespace) -> None:
    """Evaluates the same number of prompts for each motion, the same for all weights, from these seconds on."""
    model, rng = classifier(args), np.random.default_rng(16)
    world, at = World.draw(60, 16, torch.device("cpu"), args.processes), (0, 3, 6.5)
    starts = [round(FRAME_RATE * second) for second in at]
    hits = {name: np.zeros((len(at), len(NAMES)), int) for name in MOTIONS}
    for i in range(args.each * len(MOTIONS)):
        motion = NAMES["motion"][i % len(MOTIONS)]
        clip = one(world, rng, motion)
        video = render(args, starts[-1] + LENGTH, i, plain(rng, clip))
        hits[motion] += np.stack(list(right(model, windows(video, starts), torch.tensor([label(clip)] * len(at))).values()), 1)
    total = {name: (sum(hits.values())[:, i] / args.each / len(MOTIONS)).round(3).tolist() for i, name in enumerate(NAMES)}
    report(args, "motions", {"of each": args.each} | total | {name: found[:, -1].tolist() for name, found in hits.items()})


def colours(video: Tensor) -> dict[str, float]:
    """Statistics that reveal fading, overexposure, flat or frozen frames."""
    return {
        "mean": float(video.mean()), "deviation": float(video.std((2, 3)).mean()),
        "change": float(video.diff(dim=0).abs().mean()),
    }


def drift(args: argparse.Namespace) -> None:
    """Accuracy in the second half of every ten seconds of a minute, and colour statistics."""
    model, seconds = classifier(args), 60
    rng, world = np.random.default_rng(14), World.draw(60, 14, torch.device("cpu"), args.processes)
    found: dict = {}
    for kind in ("one prompt", "six shots"):
        hits, seen, rows = [[] for _ in range(6)], [[] for _ in range(6)], []
        for i in range(args.minutes):
            clips = [world.clip(rng, plain=True) for _ in range(1 if kind == "one prompt" else 6)]
            texts = [plain(rng, clip) for clip in clips]
            with tempfile.TemporaryDirectory() as folder:
                board = Path(folder) / "film.toml"
                each = seconds / len(texts)
                shots = [f'[[shot]]\nprompt = {json.dumps(text)}\nduration = {each}\ntransition = "cut"\n' for text in texts]
                board.write_text("\n".join(shots))
                options = ["--storyboard", board] if len(texts) > 1 else [texts[0]]
                video = render(args, seconds * FRAME_RATE, i, *options)
            rows.append(video[:: 5 * FRAME_RATE].clone().permute(0, 2, 3, 1).numpy())
            for part in range(6):
                frames = video[part * 10 * FRAME_RATE :][: 10 * FRAME_RATE]
                target = label(clips[part % len(clips)])
                # The second half, after a cut has settled.
                answers = guess(model, windows(frames, [80, 100, 120]))
                hits[part].append([float((answers[name] == target[n]).float().mean()) for n, name in enumerate(NAMES)])
                seen[part].append(colours(frames))
        sheet(args.state / f"drift-{kind.replace(' ', '-')}.png", rows, [f"{kind} {i}" for i in range(len(rows))])
        found[kind] = [
            dict(zip(NAMES, np.mean(h, 0).round(3).tolist())) | {n: round(float(np.mean([c[n] for c in s])), 4) for n in s[0]}
            for h, s in zip(hits, seen)
        ]
    report(args, "drift", found)


def images(args: argparse.Namespace) -> None:
    """Accuracy at frames 1, 33 and 81 of videos that start from an image."""
    model, rng = classifier(args), np.random.default_rng(15)
    world = World.draw(60, 15, torch.device("cpu"), args.processes)
    at, rows, hits = [0, 32, 80], [], []
    for i in range(args.count // 4):
        clip = world.clip(rng, plain=True)
        with tempfile.TemporaryDirectory() as folder:
            first = world.frames([clip], np.array([[0.0]]))[0, 0].permute(1, 2, 0).numpy()
            image = Path(folder) / "first.png"
            Image.fromarray((first * 255).round().astype(np.uint8)).save(image)
            video = render(args, 81 + LENGTH, i, plain(rng, clip), "--image", image)
        answers = guess(model, windows(video, at))
        hits.append([[float(answers[name][j] == label(clip)[n]) for n, name in enumerate(NAMES)] for j in range(len(at))])
        if i < 12:
            rows.append(np.concatenate([first[None], video[[0, 16, 32, 48, 64, 80]].permute(0, 2, 3, 1).numpy()]))
    sheet(args.state / "images.png", rows, ["the image, then frames 1, 17, 33, 49, 65, 81"] * len(rows))
    mean = np.mean(hits, 0)
    report(args, "images", {f"frame {a + 1}": dict(zip(NAMES, mean[j].round(3).tolist())) for j, a in enumerate(at)})


def main() -> None:
    args = parser(__doc__, clips=3000, steps=1500, scenes=400, count=200, ceiling=100, each=4, minutes=8)
    args.add_argument("what", choices=("learn", "judge", "motions", "drift", "images"))
    args.add_argument("--soragen", type=Path)
    args.add_argument("--options", action="append", default=[], help="additional option of soragen render, such as --options=--precision=int8")
    args = args.parse_args()
    threads()
    args.state.mkdir(parents=True, exist_ok=True)
    {"learn": learn, "judge": judge, "motions": motions, "drift": drift, "images": images}[args.what](args)


if __name__ == "__main__":
    main()
