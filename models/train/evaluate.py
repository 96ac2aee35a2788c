"""Judges the built-in model: do its videos show what the prompt says?

    python evaluate.py learn --icons ICONS.json
    python evaluate.py judge --icons ICONS.json --soragen ../../target/release/soragen

The first trains a classifier on drawn clips, which has nothing of the model. The second has `soragen` render prompts
of pairs and wordings that were never trained on, and classifies them; and, as a ceiling, drawn clips of the same kind
that went through the autoencoder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import autoencoder
from checkpoint import NOWHERE, load
from clips import FRAME_RATE, MOTIONS, Clip, action, choose
from encode import HELD_OUT
from scenes import SCENES
from sprites import SUBJECTS

FRAMES, APART = 8, 4  # what is looked at: frames of two seconds
LENGTH = 1 + (FRAMES - 1) * APART
SIZE = (80, 48)
NAMES = {
    "subject": [subject.icon for subject in SUBJECTS],
    "scene": [scene(np.random.default_rng(0)).name for scene in SCENES],
    "motion": list(MOTIONS),
}
# Not one of these forms is in the captions that were trained on.
FORMS = (
    "show {a} {name} as it {verb} {place}", "{place} there is {a} {name} that {verb}",
    "look, {a} {name} {verb} {place}", "a short film: {place} {a} {name} {verb}", "{a} {name}, it {verb} {place}",
)


class Classifier(nn.Module):
    """Frames one by one, then together: `[N, 3 * FRAMES, H, W]` in [0, 1] to a score for every name."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 128)
        layers: list[nn.Module] = []
        for n, m in zip(widths, widths[1:]):
            layers += [nn.Conv2d(n, m, 3, 2, 1), nn.BatchNorm2d(m), nn.ReLU()]
            layers += [nn.Conv2d(m, m, 3, 1, 1), nn.BatchNorm2d(m), nn.ReLU()]
        self.frame = nn.Sequential(*layers, nn.Dropout(0.1))
        # Where things are in each frame tells the motion.
        self.place = nn.Sequential(nn.Conv2d(128, 16, 1), nn.ReLU(), nn.Flatten())
        self.still = nn.ModuleDict({kind: nn.Linear(128, len(NAMES[kind])) for kind in ("subject", "scene")})
        self.motion = nn.Sequential(nn.Linear(FRAMES * (16 * 15 + 128), 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, len(MOTIONS)))

    def forward(self, video: Tensor) -> dict[str, Tensor]:
        """`[N, FRAMES, 3, H, W]`."""
        x = self.frame(video.flatten(0, 1))
        pooled = x.mean((2, 3))
        out = {kind: head(pooled).unflatten(0, (-1, FRAMES)).mean(1) for kind, head in self.still.items()}
        seen = torch.cat([self.place(x), pooled], 1)
        out["motion"] = self.motion(seen.unflatten(0, (-1, FRAMES)).flatten(1))
        return out


def small(frames: np.ndarray) -> np.ndarray:
    """uint8 `[T, 48, 80, 3]` of RGB f32 frames in [0, 1]."""
    return np.stack([(cv2.resize(f, SIZE, interpolation=cv2.INTER_AREA).clip(0, 1) * 255).round().astype(np.uint8) for f in frames])


def label(clip: Clip) -> list[int]:
    return [NAMES[kind].index(name) for kind, name in zip(NAMES, (clip.spec.subject.icon, clip.scene.name, clip.spec.motion))]


def draw(icons: Path, count: int, seed: int, shared: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng, clip = np.random.default_rng([11, seed]), None
    videos, labels = [], []
    for i in range(count):
        clip = Clip(rng, icons, scene=clip.scene if clip and i % shared else None)
        start = rng.uniform(0, 6)
        videos.append(small(np.stack([clip.frame(start + APART * j / FRAME_RATE) for j in range(FRAMES)])))
        labels.append(label(clip))
    return np.stack(videos), np.array(labels)


def tensor(videos: np.ndarray) -> Tensor:
    return torch.tensor(videos).permute(0, 1, 4, 2, 3).float() / 255


def rough(video: Tensor) -> Tensor:
    """Blurred, noisy and shifted in colour, each as it happens: the model's pictures are not so clean."""
    n = len(video)
    soft = F.avg_pool2d(video.flatten(0, 1), 3, 1, 1).view_as(video)
    mix = torch.rand(n, 1, 1, 1, 1)
    video = video * (1 - mix) + soft * mix
    video = video + 0.06 * torch.rand(n, 1, 1, 1, 1) * torch.randn_like(video)
    return (video * (1 + 0.1 * torch.randn(n, 1, 3, 1, 1)) + 0.03 * torch.randn(n, 1, 3, 1, 1)).clamp(0, 1)


def right(model: Classifier, videos: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    with torch.no_grad():
        out = model.eval()(tensor(videos))
    return {kind: (out[kind].argmax(1).numpy() == labels[:, i]) for i, kind in enumerate(NAMES)}


def learn(args: argparse.Namespace) -> None:
    torch.manual_seed(0)
    videos, labels = draw(args.icons, args.clips, 0)
    held_videos, held_labels = draw(args.icons, 200, 1, shared=1)
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, args.steps)
    for step in range(args.steps):
        rows = torch.randint(len(videos), (32,))
        out = model.train()(rough(tensor(videos[rows])))
        target = torch.tensor(labels)[rows]
        loss = sum(F.cross_entropy(out[kind], target[:, i], label_smoothing=0.05) for i, kind in enumerate(NAMES))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            found = {kind: f"{hits.mean():.3f}" for kind, hits in right(model, held_videos, held_labels).items()}
            print(f"step {step + 1} loss {loss.item():.3f}, drawn clips never seen: {found}", flush=True)
    torch.save(model.state_dict(), args.state / "classifier.pt")


def prompts(icons: Path, count: int) -> list[tuple[str, list[int]]]:
    """Half of pairs that were never shown, all in words that were never read."""
    rng, made = np.random.default_rng(12), []
    while len(made) < count:
        clip = Clip(rng, icons) if len(made) % 2 else unseen(rng, icons)
        spec = clip.spec
        name = choose(rng, spec.subject.names)
        words = {"a": "an" if name[0] in "aeiou" else "a", "name": name, "place": choose(rng, clip.scene.phrases)}
        words["verb"] = action(rng, spec.subject, spec.motion, spec.direction)
        made.append((choose(rng, FORMS).format(**words), label(clip)))
    return made


def unseen(rng: np.random.Generator, icons: Path) -> Clip:
    """A clip of a pair of subject and scene that no training clip has."""
    while True:
        scene = SCENES[rng.integers(len(SCENES))](rng)
        if any(place == scene.name for _, place in HELD_OUT):
            return Clip(rng, icons, lambda subject, place: (subject, place) in HELD_OUT, scene)


def render(soragen: Path, prompt: str, seed: int, options: list[str]) -> np.ndarray:
    """f32 `[LENGTH, H, W, 3]`."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "frames.safetensors"
        command = [soragen, "render", prompt, "-o", out, "--frames", str(LENGTH), "--seed", str(seed), "--cache-dir", ""]
        subprocess.run([*command, *options], check=True, capture_output=True)
        return load_file(out)["frames"].numpy()


def judge(args: argparse.Namespace) -> None:
    model = Classifier()
    model.load_state_dict(torch.load(args.state / "classifier.pt"))
    asked = prompts(args.icons, args.count)
    videos = np.stack([small(render(args.soragen, text, i, args.options)[::APART]) for i, (text, _) in enumerate(asked)])
    labels = np.array([label for _, label in asked])
    made = right(model, videos, labels)
    vae = autoencoder.Autoencoder().eval()
    load(vae, NOWHERE, "autoencoder")
    rng, real, real_labels = np.random.default_rng(13), [], []
    for _ in range(args.ceiling):
        clip = Clip(rng, args.icons)
        video = torch.tensor(np.stack([clip.frame(i / FRAME_RATE) for i in range(LENGTH)])).permute(0, 3, 1, 2)[None]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            decoded = vae.decode(vae.encode(video)).float().clamp(0, 1)
        real.append(small(decoded[0, ::APART].permute(0, 2, 3, 1).numpy()))
        real_labels.append(label(clip))
    best = right(model, np.stack(real), np.array(real_labels))
    report = {kind: {"made": float(made[kind].mean()), "ceiling": float(best[kind].mean())} for kind in NAMES}
    report["prompts"] = len(asked)
    for kind in ("scene", "subject"):
        report[kind]["pairs never shown"] = float(made[kind][::2].mean())
    wrong = [(text, kind) for i, (text, _) in enumerate(asked) for kind in NAMES if not made[kind][i]]
    (args.state / "evaluation.json").write_text(json.dumps({**report, "wrong": wrong}, indent=1) + "\n")
    print(json.dumps(report, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("learn", "judge"))
    parser.add_argument("--icons", type=Path, required=True)
    parser.add_argument("--state", type=Path, default=Path(__file__).parent.parent / ".state")
    parser.add_argument("--clips", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--soragen", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--ceiling", type=int, default=100)
    parser.add_argument("--options", nargs="*", default=[], help="more for soragen render, as --model=FOLDER")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    {"learn": learn, "judge": judge}[args.what](args)


if __name__ == "__main__":
    main()
